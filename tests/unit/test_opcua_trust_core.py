# SPDX-License-Identifier: Apache-2.0
"""The change of the mirror's application certificate, killed before every single step: something that works is always in use, and the next run converges."""
from __future__ import annotations

import functools
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from own_files import OwnFiles
from trust_ca import PEM, Authority, build

from ansible_collections.hnai.platform.plugins.module_utils.opcua import trust_x509
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import AuditError, IdentityRejected, LinkLost, PinMismatch, Refused
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust import Crypto, Outcome, Statement, Trust, TrustError, Wanted, statements

URI = "urn:hnai:test:edge1:ot_collector"
WANTED = Wanted(URI, "edge1", ("edge1",), ("127.0.0.1",), group="g")
PKI, STATE = WANTED.pki, WANTED.state
SOURCES = ["plc1", "plc2", "plc3"]


class Killed(BaseException):
    """What a SIGKILL is to the code that runs."""


# Loading a private key checks its primes, every time: the same answers, once.
public_of_key = functools.lru_cache(None)(trust_x509.public_of_key)
request = functools.lru_cache(None)(trust_x509.request)


class Ready(Crypto):
    """Real certificates, but the keys were made before."""

    def __init__(self, keys: list[bytes]) -> None:
        super().__init__()
        self._keys = list(keys)
        self.made = 0
        self.make_key = self._next
        self.public_of_key, self.request = public_of_key, request

    def _next(self) -> bytes:
        self.made += 1
        return self._keys.pop(0)


@pytest.fixture(scope="module")
def ca() -> Authority:
    return Authority()


class Site:
    """One host with a self-signed certificate, three servers, and a clock."""

    def __init__(self, root: Path, ca: Authority) -> None:
        self.host, self.ca, self.now = OwnFiles(str(root)), ca, 1_800_000_000.0
        self.crypto = Ready(ca.keys)
        self.started = self.now - 86400
        pki = Path(self.host.at(PKI))
        pki.mkdir(parents=True)
        (pki / "key.pem").write_bytes(ca.old[1])
        (pki / "cert.pem").write_bytes(ca.old[0])
        self.trusting: set[str] = set()
        self.dialled: list[str] = []
        self.fault: dict[str, Exception] = {}

    def trust(self, check: bool = False, note: Callable[[str], None] = lambda step: None) -> Trust:
        return Trust(self.host, WANTED, self.crypto, lambda: self.now, check, self.started, note)

    def dial(self, name: str, certificate: bytes, key: bytes) -> None:
        self.dialled.append(name)
        if name in self.fault:
            raise self.fault[name]
        if name not in self.trusting:
            raise Refused("the server refuses: BadCertificateUntrusted (0x801A0000)")

    def sign(self, csr: str, **more: Any) -> str:
        return self.ca.sign(csr, self.now, **more)

    def prepared(self, note: Callable[[str], None] = lambda step: None, force: bool = False) -> Outcome:
        """First two steps, as the verb makes them."""
        told = self.trust(note=note).prepare(self.ca.root, force)
        return self.trust(note=note).install(self.sign(told.csr), self.ca.chain, self.ca.root) if told.csr else told

    def switched(self, said: list[Statement], again: tuple[str, ...] = (), note: Callable[[str], None] = lambda step: None, check: bool = False) -> Outcome:
        self.dialled.clear()
        return self.trust(check, note).switch(SOURCES, said, again, self.dial)

    def pair(self) -> tuple[bytes, bytes]:
        """What the collector would read now: it fits together, always."""
        pki = Path(self.host.at(PKI))
        certificate, key = (pki / "cert.pem").read_bytes(), (pki / "key.pem").read_bytes()
        assert self.crypto.public_of_key(key) == self.crypto.public_of_certificate(certificate)
        return certificate, key

    def said(self, outcome: Outcome, state: str = "trusted", sources: list[str] | None = None) -> list[Statement]:
        thumbprint = outcome.candidate["sha1"] if state == "trusted" else outcome.removals[0]["thumbprint"]
        return [Statement(name, thumbprint.upper(), state, "A. Engineer", "2026-11-20") for name in sources or SOURCES]


@pytest.fixture
def site(tmp_path: Path, ca: Authority) -> Site:
    return Site(tmp_path, ca)


def snapshot(site: Site) -> dict[str, bytes]:
    root = Path(site.host.root)
    return {str(path.relative_to(root)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            for path in sorted(root.rglob("*")) if path.is_symlink() or path.is_file()}


def test_a_certificate_that_lasts_is_left_alone_without_a_ca(site: Site) -> None:
    before = snapshot(site)
    told = site.trust().prepare("")
    assert (told.phase, told.csr, told.changed, told.plan) == ("current", "", False, []) and snapshot(site) == before
    assert told.in_use["sha256"] and "PRIVATE" not in str(told.as_dict())


def test_the_way_from_self_signed_to_the_sites_ca(site: Site) -> None:
    old = site.pair()
    first = site.trust().prepare(site.ca.root)
    assert first.phase == "candidate" and "BEGIN CERTIFICATE REQUEST" in first.csr and first.plan == [
        "make a key and have it signed by the site's CA: it is not signed by the site's CA"]
    told = site.trust().install(site.sign(first.csr), site.ca.chain, site.ca.root)
    assert told.phase == "candidate" and told.candidate["sha1"] and site.pair() == old
    # Nobody has said anything: nobody is asked.
    told = site.switched([])
    assert not site.dialled and [one["source"] for one in told.waiting] == SOURCES and "has not said" in told.waiting[0]["why"] and site.pair() == old
    # Two owners have; one of their servers lags behind.
    site.trusting = {"plc1"}
    said = site.said(told)
    told = site.switched(said[:2])
    assert site.dialled == ["plc1", "plc2"] and told.accepted == ["plc1"] and not told.switched and site.pair() == old
    why = {one["source"]: one["why"] for one in told.waiting}
    assert "BadCertificateUntrusted" in why["plc2"] and told.candidate["sha1"] in why["plc2"] and set(why) == {"plc2", "plc3"}
    # Neither the one that accepted nor the one that refused is asked again by itself.
    site.trusting = set(SOURCES)
    told = site.switched(said)
    assert site.dialled == ["plc3"] and [one["source"] for one in told.waiting] == ["plc2"] and "named" in told.waiting[0]["why"] and site.pair() == old
    told = site.switched(said, again=("plc2",))
    assert site.dialled == ["plc2"] and told.switched and told.restart_due and told.phase == "current" and not told.waiting
    assert site.pair()[0] != old[0] and told.in_use["sha256"] == site.crypto.describe(site.pair()[0]).sha256
    assert os.readlink(site.host.at(PKI + "/cert.pem")) == "current/cert.pem"
    assert not list(Path(site.host.at(STATE + "/candidate")).iterdir()), "no second copy of the key"
    # Until a named person says so, the removal of the old one is open at each server.
    assert {(one["source"], one["by"]) for one in told.removals} == {(name, "") for name in SOURCES}
    site.started = site.now + 5
    told = site.switched([*said, *site.said(told, "removed", ["plc1"])])
    assert not site.dialled and not told.changed and not told.restart_due
    assert {one["source"]: one["by"] for one in told.removals} == {"plc1": "A. Engineer", "plc2": "", "plc3": ""}
    old_key = Path(site.host.at(PKI)) / "g" / site.crypto.describe(old[0]).sha256[:16] / "key.pem"
    assert old_key.exists(), "the way back is open until the last removal"
    told = site.switched(site.said(told, "removed"))
    assert not old_key.exists() and all(one["by"] for one in told.removals)
    before = snapshot(site)
    assert not site.trust().prepare(site.ca.root).changed and not site.switched(site.said(told, "removed")).changed and snapshot(site) == before


def test_another_self_signed_one_goes_the_same_way(site: Site) -> None:
    old = site.pair()
    told = site.trust().prepare("", force=True)
    assert told.phase == "candidate" and not told.csr and "let it sign itself: asked for" in told.plan[0]
    one = site.crypto.describe(told.candidate["pem"].encode())
    assert one.self_signed and one.uris == (URI,) and set(one.extended) == {"clientAuth", "serverAuth"} and one.signature_hash == "sha256"
    assert site.trust().prepare("").candidate == told.candidate and site.pair() == old
    site.trusting = set(SOURCES)
    assert site.switched(site.said(told)).switched and site.pair()[0].decode() == told.candidate["pem"]


def runs(site: Site, kill_at: int) -> bool:
    """The whole change, killed before its *kill_at*-th durable step; True when there was none such any more."""
    left = [kill_at]

    def note(step: str) -> None:
        site.pair()
        if left[0] == 0:
            raise Killed(step)
        left[0] -= 1

    told = site.prepared(note)
    site.switched(site.said(told) if told.candidate else [], note=note)
    return True


def test_killed_before_every_step_something_works_and_the_next_run_converges(tmp_path: Path, ca: Authority) -> None:
    finished, steps = False, 0
    while not finished:
        site = Site(tmp_path / str(steps), ca)
        site.trusting = set(SOURCES)
        old = site.pair()
        try:
            finished = runs(site, steps)
        except Killed:
            asked = list(site.dialled)
            assert site.pair()[0] == old[0] or os.path.islink(site.host.at(PKI + "/cert.pem"))
            runs(site, -1)
            again = [name for name in site.dialled if name in asked]
            # Whoever was asked and noted is not asked again; only the one that the kill came to may be.
            assert len(again) <= 1, (asked, site.dialled)
        told = site.trust().status(SOURCES, [])
        assert told.phase == "current" and told.in_use["sha256"] != site.crypto.describe(old[0]).sha256 and site.pair()
        assert len(told.removals) == 3 and told.restart_due
        # A key that was not yet on the disk is made anew, no other.
        assert site.crypto.made == (2 if steps == 0 else 1)
        assert not list(Path(site.host.at(STATE + "/candidate")).iterdir())
        leftovers = list(Path(site.host.root).rglob("*hnai-new*"))
        assert not leftovers, leftovers
        steps += 1
    assert steps > 15, steps


def test_check_mode_says_the_plan_and_does_nothing(site: Site) -> None:
    before = snapshot(site)
    told = site.trust(check=True).prepare(site.ca.root)
    assert told.plan and not told.csr and not told.changed and snapshot(site) == before
    told = site.prepared()
    site.trusting = set(SOURCES)
    before = snapshot(site)
    told = site.switched(site.said(told), check=True)
    assert not site.dialled and snapshot(site) == before and not told.switched
    assert [one.split(" ")[1] for one in told.plan] == SOURCES and "A. Engineer" in told.plan[0]


def test_what_says_nothing_about_the_certificate_is_no_refusal(site: Site) -> None:
    told = site.prepared()
    said = site.said(told)
    site.fault = {"plc1": LinkLost("no connection"), "plc2": PinMismatch("not the pinned one"), "plc3": AuditError("none is free")}
    told = site.switched(said)
    assert [one["why"] for one in told.waiting] == ["no connection", "not the pinned one", "none is free"]
    site.fault, site.trusting = {}, set(SOURCES)
    assert site.switched(said).switched and site.dialled == SOURCES, "so each may be asked in the next run"


def test_a_server_that_is_full_has_not_refused_the_certificate(site: Site) -> None:
    said = site.said(site.prepared())
    site.fault = {name: Refused("BadTooManySessions", 0x80560000) for name in SOURCES[:2]}
    site.fault["plc3"] = Refused("BadSecurityPolicyRejected", 0x80550000)
    site.switched(said)
    site.fault, site.trusting = {}, set(SOURCES)
    told = site.switched(said)
    assert told.accepted == SOURCES[:2] and [one["source"] for one in told.waiting] == ["plc3"]


def test_a_rejected_identity_blocks_as_a_refusal(site: Site) -> None:
    told = site.prepared()
    site.fault = {"plc1": IdentityRejected("BadIdentityTokenRejected")}
    site.switched(site.said(told))
    site.switched(site.said(told))
    assert site.dialled == []


def test_the_way_back_and_forth(site: Site) -> None:
    old = site.pair()
    site.trusting = set(SOURCES)
    with pytest.raises(TrustError, match="nothing to go back to"):
        site.trust().back()
    told = site.prepared()
    new_sha = site.switched(site.said(told)).in_use["sha256"]
    site.now += 60
    told = site.trust().back()
    assert site.pair() == old and told.switched and told.restart_due
    # The one that is no longer in use is the one to be removed now; its key is still there for the way forth.
    (retired,) = {one["thumbprint"] for one in site.trust().status(SOURCES, []).removals}
    assert retired != told.in_use["sha1"]
    site.now += 60
    told = site.trust().back()
    assert site.crypto.describe(site.pair()[0]).sha256 == new_sha
    told = site.switched([])
    site.switched(site.said(told, "removed"))
    with pytest.raises(TrustError, match="was confirmed"):
        site.trust().back()


def test_the_way_back_killed_before_each_step_is_taken_up(site: Site) -> None:
    old = site.pair()
    site.trusting = set(SOURCES)
    site.switched(site.said(site.prepared()))
    for kill_at in range(2):
        left = [kill_at]

        def note(step: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed(step)
            left[0] -= 1

        with pytest.raises(Killed):
            site.trust(note=note).back()
        assert site.pair() != old and len(site.trust().status(SOURCES, []).removals) == 3
    site.now += 60
    assert site.trust().back().switched and site.pair() == old
    told = site.trust().status(SOURCES, [])
    assert told.restart_due and len(told.removals) == 3 and {one["thumbprint"] for one in told.removals} != {told.in_use["sha1"]}


@pytest.mark.parametrize(("more", "words"), [
    ({"uri": "urn:other"}, "ApplicationUri is urn:other"), ({"usage": "server"}, "lacks clientAuth"), ({"foreign_key": True}, "does not belong to the key"),
    ({"foreign_ca": True}, "no issuer"), ({"days": -1.0}, "not valid now"),
])
def test_what_the_ca_signed_wrongly_replaces_nothing(site: Site, more: dict[str, Any], words: str) -> None:
    old = site.pair()
    told = site.trust().prepare(site.ca.root)
    with pytest.raises(TrustError, match=words):
        site.trust().install(site.sign(told.csr, **more), site.ca.chain, site.ca.root)
    assert site.pair() == old and site.trust().status(SOURCES, []).candidate == {}
    # The key is kept: the next run signs it.
    assert site.prepared().candidate and site.crypto.made == 1


def test_one_way_to_a_root_is_enough(site: Site) -> None:
    """An authority that was renewed with its key is there twice, in any order."""
    ca, now = site.ca, site.now
    leaf = build("edge1", ca._other.public_key(), "between", ca._between, now=now).public_bytes(PEM)

    def signed(subject: str, key: Any, by: str, signer: Any, days: float = 99.0) -> bytes:
        made: bytes = build(subject, key.public_key(), by, signer, ca=True, days=days, now=now).public_bytes(PEM)
        return made

    roots = [signed("root", ca._root, "root", ca._root, days) for days in (-3.0, 99.0)]
    betweens = [signed("between", ca._between, "root", ca._root, days) for days in (-3.0, 99.0)]
    for way in (1, -1):
        assert trust_x509.chain_problem(leaf, betweens[::way], b"".join(roots[::way]), now) == ""
    assert "root has expired" in trust_x509.chain_problem(leaf, betweens[1:], roots[0], now)
    assert "CN=between is not valid now" in trust_x509.chain_problem(leaf, betweens[:1], roots[1], now)
    circle = [signed("between", ca._between, "other", ca._other), signed("other", ca._other, "between", ca._between)]
    assert "no issuer" in trust_x509.chain_problem(leaf, circle, roots[1], now)


def test_a_candidate_that_grew_old_is_dropped_and_made_anew(site: Site) -> None:
    told = site.prepared()
    first = told.candidate["sha256"]
    site.now += 800 * 86400
    with pytest.raises(TrustError, match="has expired"):
        site.switched(site.said(told))
    told = site.prepared()
    assert told.candidate["sha256"] != first


def test_less_life_than_a_change_takes_makes_a_new_one_due(site: Site) -> None:
    site.trusting = set(SOURCES)
    told = site.prepared()
    site.switched(site.said(told))
    assert site.prepared().plan == []
    site.now += 620 * 86400
    told = site.trust().prepare(site.ca.root)
    assert told.csr and "days of its life are left" in told.plan[0]


def test_a_ledger_that_cannot_be_read_stops_it(site: Site) -> None:
    told = site.prepared()
    Path(site.host.at(STATE + "/ledger.json")).write_text("{")
    with pytest.raises(TrustError, match=r"ledger\.json"):
        site.switched(site.said(told))


def test_statements_name_a_person_a_day_and_a_thumbprint() -> None:
    good = {"source": "plc1", "thumbprint": "AA:" * 19 + "AA", "state": "trusted", "by": "A. Engineer", "date": "2026-11-20"}
    today = date(2026, 11, 26)
    assert statements([good], today)[0].about("plc1", {"sha1": "aa" * 20, "sha256": ""}, "trusted")
    for change, words in (({"by": " "}, "by"), ({"date": "yesterday"}, "YYYY-MM-DD"), ({"date": "2026-12-24"}, "not come yet"),
                          ({"thumbprint": "aa"}, "SHA-1"), ({"state": "maybe"}, "trusted or removed"), ({"source": ""}, "source")):
        with pytest.raises(TrustError, match=words):
            statements([{**good, **change}], today)
