# SPDX-License-Identifier: Apache-2.0
"""The audit on the mirror's host, against a real server: identity from files, gate, accepted address space, unfinished audit."""
from __future__ import annotations

import datetime
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate
from opcua_stand import CLIENT_URI, PLANT, WRITING, Stand, collecting, mirrors_host

from ansible_collections.hnai.platform.plugins.module_utils import credentials
from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_host
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import RESUME_S, Audit, Options, State
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import USER_ACCESS_LEVEL
from ansible_collections.hnai.platform.plugins.module_utils.opcua.fidelity import Tag
from ansible_collections.hnai.platform.plugins.module_utils.opcua.fidelity_host import Recorder
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    one = Stand(tmp_path_factory.mktemp("stand")).start()
    one.grow(20, 7)
    yield one
    one.stop()


@pytest.fixture
def site(stand: Stand, tmp_path: Path) -> Iterator[Any]:
    """(places, source, host, now): a mirror's host."""
    yield from mirrors_host(stand, tmp_path, [{"node": "nsu=%s;s=n7_3" % PLANT}])


def audit(stood: Any, waits: list[float] | None = None, write: bool = True, **change: Any) -> tuple[dict[str, str], dict[str, Any]]:
    places, source, host, now = stood
    values: dict[str, Any] = dict(application_uri=CLIENT_URI, environment="test", exceptions=[], accept_drift=[], deadline_s=120.0, write_state=write)
    report = Report("ot_collector", deadline_s=None)
    records = Audit(report, places, Options(**{**values, **change}), host, now=lambda: now, wait=(waits if waits is not None else []).append,
                    verify=lambda _approver, _key, _text, signature: signature == "good").run(
        [{"id": "m", "protocol": "modbus"}, source])
    return {check.id: check.status + (": " + check.reason if check.reason else "") for check in report.checks}, records["plc-1"]


def test_an_audit_keeps_what_the_next_one_needs(site: Any, stand: Stand) -> None:
    places = site[0]
    status, record = audit(site, write=False)
    assert record["verdict"] == "claimed" and not places.state.exists(), "check mode leaves nothing"
    status, record = audit(site)
    assert record["verdict"] == "claimed" and status["OA6"] == "pass" and record["coverage"]["declared_tags"] == 1
    folder = places.state / "plc-1"
    assert folder.stat().st_mode & 0o777 == 0o700 and {path.name for path in folder.iterdir()} == {
        "baseline.json.gz", "last.json.gz", "dials.json.gz"}
    stand.set("ns=%d;s=n7_4" % stand.index, 6, 1, ua.VariantType.UInt32)
    status, record = audit(site)
    assert "n7_4" in status["OA19"] and status["OA19"].startswith("fail") and record["verdict"] == "claimed"
    status, _ = audit(site)
    assert status["OA19"].startswith("fail"), "seen once is not accepted"
    status, _ = audit(site, accept_drift=["plc-1"])
    assert status["OA19"] == "pass"
    status, _ = audit(site)
    assert status["OA19"] == "pass"


def test_of_two_pins_the_audit_takes_the_one_that_the_collector_met(site: Any, stand: Stand) -> None:
    """While a server changes its certificate two are pinned; one of them is not what the file holds first."""
    places, _source, _host, now = site
    (places.servers / "plc-1.pem").write_bytes(stand.client_pair[0] + stand.server_pair[0])
    old, new = (load_pem_x509_certificate(pair[0]).fingerprint(SHA256()).hex() for pair in (stand.client_pair, stand.server_pair))
    for met in ("", old, "f" * 64):
        collecting(places, now, met)
        assert audit(site)[1]["verdict"] == "inconclusive", met
    collecting(places, now, new)
    status, record = audit(site)
    assert (record["verdict"], status["OA6"], record["scope"]["server_certificate_sha256"]) == ("claimed", "pass", new)
    # What the collector says of itself pins nothing.
    (places.servers / "plc-1.pem").write_bytes(stand.client_pair[0])
    assert audit(site)[1]["verdict"] == "inconclusive"


def test_a_refuted_address_space_is_not_accepted(site: Any, stand: Stand) -> None:
    stand.set("ns=%d;s=n7_4" % stand.index, 18, 3, ua.VariantType.Byte)
    _, record = audit(site)
    assert record["verdict"] == "refuted"
    assert not (site[0].state / "plc-1" / "baseline.json.gz").exists()


def test_an_unfinished_audit_goes_on(site: Any, stand: Stand) -> None:
    stand.spoil.drop_after = 45
    status, record = audit(site)
    assert record["verdict"] == "inconclusive" and (site[0].state / "plc-1" / "resume.json.gz").exists()
    stand.spoil.drop_after = 0
    status, record = audit(site)
    assert record["verdict"] == "claimed" and status["OA18"] == "pass"
    assert not (site[0].state / "plc-1" / "resume.json.gz").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_session_before_the_run(site: Any, stand: Stand, number: signal.Signals) -> None:
    site[1]["audit"]["per_second"] = 20
    earlier = signal.signal(number, lambda *_given: None)
    timer = threading.Timer(2.0, os.kill, (os.getpid(), number))
    timer.start()
    try:
        with pytest.raises(SystemExit) as ended:
            audit(site)
    finally:
        timer.join()
        signal.signal(number, earlier)
    assert ended.value.code == 128 + number and stand.services["CloseSession"] == 1 and not stand.left()


def test_what_was_asked_for_a_day_ago_is_asked_for_again(site: Any, stand: Stand) -> None:
    state = State(site[0].state, "plc-1", True)

    def aged(by_s: float) -> Any:
        kept = state.read("resume")
        kept["asked_at"] -= by_s
        state.write("resume", kept)
        return kept

    stand.spoil.drop_after = 70
    audit(site)
    first = aged(RESUME_S / 2)
    stand.spoil.drop_after = stand.requests + 5
    audit(site)
    assert state.read("resume")["asked_at"] == first["asked_at"], "to go on makes no answer younger"
    read = next(node for node, rows in first["readings"].items() if node.startswith("ns=%d;" % stand.index) and USER_ACCESS_LEVEL in [row[0] for row in rows])
    aged(RESUME_S / 2 + 1)
    stand.spoil.drop_after = 0
    stand.set(read, USER_ACCESS_LEVEL, 3, ua.VariantType.Byte)
    _, record = audit(site)
    assert record["verdict"] == "refuted", "a right that was given meanwhile is seen"


def test_what_is_missing_is_named_and_nothing_is_dialled(site: Any, stand: Stand) -> None:
    places, _source, host, _now = site
    secret = Path(host.at(credentials.path_of("ot_collector", "opcua_plc_1_password")))
    for path, words in ((places.pki / "key.pem", "key.pem is missing"), (places.servers / "plc-1.pem", "plc-1.pem is missing"),
                        (secret, "cannot be decrypted"), (places.status, "is not known")):
        kept = path.read_bytes()
        path.unlink()
        status, record = audit(site)
        assert record["verdict"] == "inconclusive" and words in status["OA0"]
        assert status["OA8"].startswith("inconclusive") and status["OA1"].startswith("inconclusive")
        path.write_bytes(kept)
    (places.proc / "tcp6").write_text((places.proc / "tcp").read_text())
    (places.proc / "tcp").write_text((places.proc / "tcp").read_text() * 2)
    status, record = audit(site)
    assert record["verdict"] == "inconclusive" and "none is free" in status["OA0"]
    assert not stand.services


def test_it_waits_for_the_conduit(site: Any) -> None:
    places, source, _host, now = site
    source["limits"] = {"connections": 2, "new_per_minute": 2}
    State(places.state, "plc-1", True).write("dials", [now - 20])
    waits: list[float] = []
    _, record = audit(site, waits)
    assert record["verdict"] == "claimed" and 30 < waits[0] <= 41
    status, record = audit(site, waits, deadline_s=10.0)
    assert record["verdict"] == "inconclusive" and "next connection" in status["OA0"]


def test_the_credential_is_the_collectors() -> None:
    assert audit_host.credential_name("plc-1.a") == "opcua_plc_1_a_password"


def allowed(stood: Any, **change: str) -> dict[str, Any]:
    """Options of an audit under a token; the signature is judged by *audit*."""
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    begin, end = (time.strftime(stamp, time.gmtime(stood[3] + seconds)) for seconds in (-60, 600))
    token = {"site": "lab", "endpoint": stood[1]["endpoint"], "from": begin, "to": end, "approver": "j.doe", "signature": "good", **change}
    return {"site": "lab", "tokens": [token], "approvers": {"j.doe": "key"}}


@pytest.fixture
def known_only(stand: Stand) -> Iterator[list[str]]:
    """The server trusts the mirror's certificate and no other; what it refused."""
    refused: list[str] = []
    mine = load_pem_x509_certificate(stand.client_pair[0])

    async def trust(certificate: Any, application: Any) -> None:
        if certificate != mine:
            refused.append(certificate.subject.rfc4514_string())
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    stand.server.set_certificate_validator(trust)
    yield refused
    stand.server.set_certificate_validator(None)


def test_under_a_token_one_anonymous_login_and_one_stranger_are_tried_and_refused(site: Any, stand: Stand, known_only: list[str]) -> None:
    waits: list[float] = []
    status, record = audit(site, waits, **allowed(site))
    assert status["OA4"] == status["OA5"] == "pass" and record["verdict"] == "claimed", status
    assert known_only == ["CN=throw-away,O=hnai audit"], "tried once"
    assert len(waits) == 3 and len(State(site[0].state, "plc-1", True).read("dials")) == 3, "each waits for its turn at the conduit"
    assert not {"OA4", "OA5"} & {one.split(" ")[0] for one in record["not_tested"]}
    assert set(stand.services) & {"WriteRequest", "CallRequest"} == set() and not stand.left()
    assert ["OA4" in one or "OA5" in one for one in site[2].said] == [True, True], "announced"


def test_a_server_that_lets_strangers_in_is_named(site: Any, stand: Stand) -> None:
    status, _record = audit(site, **allowed(site))
    assert status["OA5"].startswith("fail") and "opened the session" in status["OA5"]
    assert not stand.left(), "what should not have been opened is closed"


@pytest.mark.parametrize("change", [{"signature": "bad"}, {"endpoint": "opc.tcp://other:4840/"}, {"site": "other"}, {"to": "2020-01-01T00:00:00Z"}])
def test_without_a_valid_token_no_login_is_tried(site: Any, stand: Stand, known_only: list[str], change: dict[str, str]) -> None:
    status, record = audit(site, **allowed(site, **change))
    assert status["OA4"].startswith("skipped: not authorised") and status["OA5"].startswith("skipped: not authorised") and not known_only
    assert any(one.startswith("OA5") for one in record["not_tested"])


def test_check_mode_and_an_audit_that_did_not_end_try_no_login(site: Any, stand: Stand, known_only: list[str]) -> None:
    status, _record = audit(site, write=False, **allowed(site))
    assert status["OA5"] == "skipped: not authorised: check mode sends nothing"
    stand.spoil.drop_after = 45
    status, _record = audit(site, **allowed(site))
    assert status["OA5"].startswith("skipped: not tried") and not known_only


def test_a_refuted_source_that_says_stop_is_marked(site: Any, stand: Stand) -> None:
    mark = site[0].state / "plc-1" / "stop"
    stand.set("ns=%d;s=n7_4" % stand.index, 18, 3, ua.VariantType.Byte)
    audit(site)
    assert not mark.exists(), "go_on is the default"
    site[1]["on_refuted"] = "stop"
    audit(site, write=False)
    assert not mark.exists(), "check mode leaves nothing"
    audit(site)
    assert mark.exists()
    kept = site[0].status.read_text()
    site[0].status.unlink()
    _, record = audit(site)
    assert record["verdict"] == "inconclusive" and mark.exists(), "nobody said that the right was taken away"
    site[0].status.write_text(kept)
    stand.set("ns=%d;s=n7_4" % stand.index, 18, 1, ua.VariantType.Byte)
    _, record = audit(site)
    assert record["verdict"] == "claimed" and not mark.exists()


def test_a_source_that_nobody_reads_yet_is_audited_before_it_is_deployed(site: Any, stand: Stand) -> None:
    site[0].status.unlink()
    (site[0].proc / "tcp").write_text("")
    _, record = audit(site)
    assert record["verdict"] == "inconclusive"
    _, record = audit(site, unread=True)
    assert record["verdict"] == "claimed"


def test_the_recorder_reads_with_one_session_and_the_servers_own_times(site: Any, stand: Stand) -> None:
    places, source, host, now = site
    (text,) = [one["node"] for one in source["tags"]]
    options = Options(application_uri=CLIENT_URI, environment="", exceptions=[], accept_drift=[], deadline_s=60.0, write_state=True)
    at = datetime.datetime(2026, 3, 1, 12, 0, 0, 123999, tzinfo=datetime.timezone.utc)
    node = stand.server.get_node(ua.NodeId("n7_3", stand.index))
    for value, status in ((4.5, 0), (None, 0x808C0000)):
        moment = at if value else at + datetime.timedelta(seconds=1)
        variant = None if value is None else ua.Variant(value, ua.VariantType.Double)
        stand.call(node.write_value(ua.DataValue(variant, ua.StatusCode(status), SourceTimestamp=moment)))
        found = Recorder(Report("x", deadline_s=None), places, options, host, now=lambda: now, wait=lambda _s: None).take(
            source, [Tag("level", text, 200.0)], 0.3, 100.0)
        assert not found.error and found.reads >= 2
        assert found.samples == {"level": [[int(moment.timestamp() * 1000), value, status]]}, "a time is cut, not rounded"
    assert not WRITING & set(stand.services) and not stand.left()
    places.status.unlink()
    before = stand.services.total()
    recorder = Recorder(Report("x", deadline_s=None), places, options, host, now=lambda: now, wait=lambda _s: None)
    refused = recorder.take(source, [Tag("l", text, 200.0)], 1.0, 9.0)
    assert "is not known" in refused.error and stand.services.total() == before


def test_the_recorder_keeps_to_the_load_budget_and_leaves_a_busy_server(site: Any, stand: Stand) -> None:
    places, source, host, now = site
    options = Options(application_uri=CLIENT_URI, environment="", exceptions=[], accept_drift=[], deadline_s=60.0, write_state=True)
    recorder = Recorder(Report("x", deadline_s=None), places, options, host, now=lambda: now, wait=lambda _s: None)
    tags = [Tag("t%d" % number, "nsu=%s;s=n7_%d" % (PLANT, number), 200.0) for number in range(4)]
    stand.operations.clear()
    found = recorder.take(source, tags, 3.0, 8.0)
    assert not found.error and found.reads >= 3
    for begin, _ in stand.operations:
        assert sum(count for moment, count in stand.operations if begin <= moment < begin + 1.0) <= 8
    stand.spoil.busy_every = 1
    assert recorder.take(source, tags, 3.0, 8.0).error.count("BadResourceUnavailable") == 2 and not stand.left()
