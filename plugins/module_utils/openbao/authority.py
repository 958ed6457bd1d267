# SPDX-License-Identifier: Apache-2.0
"""Rotation of the site's certificate authorities: trust both, then issue, then drop. Pure; the PKI, the journal's store and the clock are parameters.

Two scopes. ``pki/intermediate``: a new intermediate under the same root, which every host trusts already. ``pki/root``: a new root, and a new
intermediate under it. The journal is that of every rotation (``rotation.py``): KV v2, check-and-set, its version is lock and fence. What each
state says here::

    PREPARED     the new authority exists beside the old one (OpenBao holds several issuers in a mount); nothing is signed by it
    PROVISIONED  every host's trust bundles hold the new root beside the old one
    PROVEN       every host has verified the new chain and the old one with them, and has refused a foreign one
    PUBLISHED    the new authority is the one that signs
    DISTRIBUTED  every listener of every host serves a certificate of the new one
    DRAINED      the grace time is over
    COMMITTED    from here only forward: the old one is retired (it signs nothing, stands on a revocation list), then leaves the bundles
    IDLE         proven: no bundle holds it, no listener serves it, OpenBao signs nothing with it

A new issuer bears the run's name, so a run that was killed finds its own again and makes no second one. Authorities are chosen *by name*, and
retiring one takes its name away: a choice that arrives late, out of a run that is over, finds nothing to choose. Rollback until COMMITTED is
the same way with the roles exchanged: choose the old one, let every host serve it, retire the new one, take it out of the bundles.

No key of an authority ever leaves OpenBao; the journal holds names, fingerprints of certificates and hosts.

The root may be the site's own (`openbao_root_ca: site`): the root's mount then holds its certificate without a key, the intermediate is a request that
the site's CA signs, and `Unsigned` says that it has not. ``pki/root`` then takes over the root that the new chain ends in, beside the one that hosts
trust; so it also leads from a root of ours to the site's, and back.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..x509 import public_key
from .client import Api, BaoError, NotFound
from .rotation import BACK, COMMITTED, PREPARED, PROVEN, PROVISIONED, PUBLISHED, Rotation, RotationError, View

INTERMEDIATE, ROOT = "pki/intermediate", "pki/root"
SCOPES = (INTERMEDIATE, ROOT)
RETIRED = "retired-"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
#: An issuer with this left signs revocation lists, and nothing else.
CLOSED_USAGE = "read-only,crl-signing"
ISSUING = "issuing-certificates"
#: Name of the key of the first intermediate under a root of the site's own.
FIRST = "intermediate-first"


class Unsigned(RotationError):
    """The site's CA has not signed our intermediate, or what was given is for another key. *csr*: what it gets; *in_force*: the one that signs now, or ""."""

    def __init__(self, csr: str, in_force: str) -> None:
        super().__init__("the site's CA has not signed the request for our intermediate")
        self.csr = csr
        self.in_force = in_force


def certificate_print(pem: str) -> str:
    """The first 16 hex digits of the sha256 of a certificate. Public."""
    found = _PEM.search(pem)
    if not found:
        raise RotationError("there is no certificate where an authority's was expected")
    return hashlib.sha256(base64.b64decode("".join(found.group(1).split()))).hexdigest()[:16]


@dataclass(frozen=True)
class Ca:
    """An intermediate and the root above it: their ids in OpenBao, and their certificates (PEM). *between*: those of a site's CA that stand between them."""

    issuer: str
    root_issuer: str
    pem: str
    root_pem: str
    between: str = ""

    def anchor(self, scope: str) -> str:
        """The certificate that the scope is about."""
        return self.root_pem if scope == ROOT else self.pem

    def print_of(self, scope: str) -> str:
        """Fingerprint of that."""
        return certificate_print(self.anchor(scope))


class Authorities(Protocol):
    """The PKI as far as it is needed. `Pki` is the real one. Everything may be repeated."""

    def current(self) -> Ca:
        """The one that signs now."""

    def load(self, issuer: str, root_issuer: str) -> Ca:
        """One by its ids."""

    def make(self, scope: str, run_id: str) -> Ca:
        """The run's own new one; made once, found again later. Does not become the one that signs."""

    def choose(self, ca: Ca) -> None:
        """It signs from now on. Raises RotationError where it was retired."""

    def retire(self, scope: str, ca: Ca) -> None:
        """It signs nothing any more, loses its name, and stands on its parent's revocation list. Its root too where the scope is the root."""

    def signs(self, ca: Ca) -> bool:
        """Whether OpenBao would sign with it if asked to."""

    def roots(self) -> str:
        """PEM bundle of the roots that are not retired: what hosts shall trust. In a stable order."""


class Authority(Rotation):
    """The steps. Each may be repeated; each looks before it writes."""

    def __init__(self, pki: Authorities, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._pki = pki
        if self._path not in SCOPES:
            raise RotationError("%s: is no authority; say one of %s" % (self._path, ", ".join(SCOPES)))

    # -- looking ------------------------------------------------------------------------------------------------------
    def pair(self, view: View) -> tuple[Ca, Ca]:
        """(old, new) of an open run that has come to PREPARED."""
        found = []
        for which, wanted in (("old", view.fp_old), ("new", view.fp_new)):
            ca = self._pki.load(str(view.proof[which + "_issuer"]), str(view.proof[which + "_root"]))
            if ca.print_of(self._path) != wanted:
                raise RotationError("%s: run %s: the %s authority is not the one that the journal names" % (self._path, view.run_id, which))
            found.append(ca)
        return found[0], found[1]

    def sides(self, view: View) -> tuple[Ca, Ca]:
        """(the one that shall stay, the one that shall go): on the way back they are exchanged."""
        old, new = self.pair(view)
        return (old, new) if view.direction == BACK else (new, old)

    def staying_print(self, view: View) -> str:
        """Fingerprint that a host's acknowledgement must have."""
        return view.fp_old if view.direction == BACK else view.fp_new

    # -- moving -------------------------------------------------------------------------------------------------------
    def start(
        self, run_id: str, reason: str = "age", expected: Sequence[str] = (), grace_s: float = 0.0, dead: Sequence[str] = (), resume: str = "",
        rollback: str = "",
    ) -> View:
        """Take the authority, or go on with the run that holds it. Raises Busy, Lost, RotationError."""
        # A root and an intermediate at once would choose against each other.
        other = View.of("", *self._store.read((INTERMEDIATE if self._path == ROOT else ROOT) + "/_rotation"))
        if other.open and not self.look().open:
            raise RotationError("run %s of the other authority is open (%s): finish it first" % (other.run_id, other.state))
        return self.begin("authority", lambda current: current, run_id, reason, expected, grace_s, dead, resume, rollback)

    def _prepare(self, view: View, make: Callable[[Mapping[str, Any]], Mapping[str, Any]], next_version: int) -> View:
        if view.direction == BACK or view.reached(PREPARED):
            return view
        old = self._pki.current()
        new = self._pki.make(self._path, view.run_id)
        if new.issuer == old.issuer:
            raise RotationError("%s: run %s: the new authority signs already, and nobody has proven that it is trusted" % (self._path, view.run_id))
        return self._move(
            view, state=PREPARED, fp_old=old.print_of(self._path), fp_new=new.print_of(self._path),
            proof={"old_issuer": old.issuer, "old_root": old.root_issuer, "new_issuer": new.issuer, "new_root": new.root_issuer},
        )  # fmt: skip

    def trusted(self, view: View, acks: Mapping[str, str], proof: Mapping[str, Any]) -> View:
        """PROVISIONED and PROVEN, on every host's word ({host: fingerprint that it trusts})."""
        self._forward(view)
        self._must_stand(view, PREPARED)
        if view.reached(PROVEN):
            return view
        self._everybody(view, acks, view.fp_new, "does not trust the new authority. Nothing was signed by it")
        if not view.reached(PROVISIONED):
            view = self._move(view, state=PROVISIONED)
        return self.proven(view, proof)

    def publish(self, view: View) -> View:
        """PUBLISHED: the new authority signs."""
        self._forward(view)
        self._must_stand(view, PROVEN)
        self._pki.choose(self.pair(view)[1])
        return view if view.reached(PUBLISHED) else self._move(view, state=PUBLISHED, acks={})

    def acknowledge(self, view: View, acks: Mapping[str, str]) -> View:
        """DISTRIBUTED once every host serves the new authority's certificates on all its listeners."""
        self._must_stand(view, PUBLISHED)
        # A choice of a run that is over may have arrived since.
        self._pki.choose(self.pair(view)[1])
        return super().acknowledge(view, acks)

    def drop(self, view: View) -> str:
        """After the decision: the one that shall go is retired. Returns the bundle that hosts shall trust from now on. May be repeated."""
        if view.direction != BACK:
            self._must_stand(view, COMMITTED)
        stays, goes = self.sides(view)
        self._pki.choose(stays)
        self._pki.retire(self._path, goes)
        # Until it had lost its name a late choice could still have found it.
        self._pki.choose(stays)
        return self._pki.roots()

    def close(self, view: View, proof: Mapping[str, Any], acks: Mapping[str, str] | None = None) -> View:
        """IDLE, with what was proven. *acks*: hosts whose bundles hold no retired root and whose listeners serve the new authority."""
        self._must_stand(view, COMMITTED)
        self._everybody(view, acks or {}, view.fp_new, "may still trust or serve the old authority. It is COMMITTED: run it again")
        self._missing(view, dict(proof, old_refused=not self._pki.signs(self.pair(view)[0])), ("new_works", "old_unused", "old_refused"))
        return self._finish(view, "rotated", 0, view.fp_new, dict(proof, old_refused=True))

    # -- rolling back -------------------------------------------------------------------------------------------------
    def turn_back(self, view: View) -> View:
        """Also a run that died while it made its authority: what it made is found, so that it can be retired."""
        try:
            view = self._prepare(view, lambda current: current, 0)
        except Unsigned as error:
            self._finish(view, "rolled back", 0, certificate_print(error.in_force), {"unsigned": True})
            raise RotationError("%s: run %s is given up: the site's CA had signed nothing, and nothing has changed" % (self._path, view.run_id)) from error
        return super().turn_back(view)

    def restore(self, view: View) -> View:
        """The old authority signs again."""
        if view.direction != BACK:
            raise RotationError("%s: run %s goes forward" % (self._path, view.run_id))
        self._pki.choose(self.pair(view)[0])
        return view

    def exposed(self, view: View) -> bool:
        """Whether a listener may serve the new authority's certificates: an ordinary run of the site signs with whatever is chosen."""
        return view.reached(PROVEN)

    def back_in_force(self, view: View, acks: Mapping[str, str], proof: Mapping[str, Any]) -> View:
        """The end of a rollback; *acks* as for `close`, with the old authority."""
        if view.direction != BACK:
            raise RotationError("%s: run %s goes forward" % (self._path, view.run_id))
        self._everybody(view, acks, view.fp_old, "may still trust or serve the new authority. Run the rollback again")
        self._missing(view, dict(proof, new_refused=not self._pki.signs(self.pair(view)[1])), ("old_works", "new_unused", "new_refused"))
        return self._finish(view, "rolled back", 0, view.fp_old, dict(proof, new_refused=True))

    # -- guards -------------------------------------------------------------------------------------------------------
    def _everybody(self, view: View, acks: Mapping[str, str], wanted: str, what: str) -> None:
        missing = sorted(host for host in view.expected if acks.get(host) != wanted)
        if missing:
            raise RotationError("%s: run %s (%s): %s %s" % (self._path, view.run_id, view.state, ", ".join(missing), what))

    def _missing(self, view: View, proof: Mapping[str, Any], wanted: Sequence[str]) -> None:
        missing = [key for key in wanted if proof.get(key) is not True]
        if missing:
            raise RotationError("%s: run %s (%s) is not done: %s. Run it again; it goes on from here" % (
                self._path, view.run_id, view.state, ", ".join(missing)))  # fmt: skip


def plan(view: View, scope: str, left_s: float, hosts: Sequence[str], foreign: bool = False) -> list[str]:
    """What a run would do, one line a step. *left_s*: how long the authority in force is valid yet. *foreign*: the site's CA signs the new intermediate."""
    if view.open:
        return ["go on with run %s: %s, %s, held by %s" % (view.run_id, view.state, view.direction, view.owner)]
    made = "root, and an intermediate under it" if scope == ROOT else "intermediate under the same root"
    if foreign:
        made = "intermediate, for which the site's CA has to sign the request (a run stops there)%s" % (", and take over its root" if scope == ROOT else "")
    return [
        "the authority in force is valid for %.0f d more" % (left_s / 86400.0),
        "make a new %s beside the old one" % made,
        "%s, prove on each of %s that its bundles verify both chains and refuse a foreign one"
        % ("put the new root into every bundle beside the old one" if scope == ROOT else "touch no bundle", ", ".join(hosts) or "no host"),
        "let the new one sign, replace every listener's certificate, one host after the other, OpenBao's own last",
        "commit: retire the old one (it signs nothing, stands on the revocation list)%s, prove it" % (", take it out of every bundle" if scope == ROOT else ""),
    ]


class Pki:
    """The two mounts of the site. *token* is of the identity ``hnai-authority``. https://openbao.org/api-docs/secret/pki/ (issuers, keys).

    *names*: {"root": common name, "intermediate": common name}; *ttl*: seconds of each. *chain*: what the site's CA has signed, our intermediate first,
    its root last (PEM each); empty: nothing yet. *site*: a new root is the one that the chain ends in, not one of ours.
    """

    def __init__(
        self, api: Api, token: str, root: str, intermediate: str, names: Mapping[str, str] | None = None, ttl: Mapping[str, int] | None = None,
        chain: Sequence[str] = (), site: bool = False,
    ) -> None:
        self._api = api
        self._token = token
        self._root = root
        self._int = intermediate
        self._names = names or {}
        self._ttl = ttl or {}
        self._chain = [pem.strip() for pem in chain]
        self._site = site

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return dict(self._api.call(method, path, body, token=self._token).get("data") or {})

    def _issuers(self, mount: str) -> dict[str, dict[str, Any]]:
        try:
            return dict(self._call("LIST", mount + "/issuers")["key_info"])
        except NotFound:
            return {}

    def _default(self, mount: str) -> str:
        return str(self._call("GET", mount + "/config/issuers").get("default") or "")

    def _issuer(self, mount: str, issuer: str) -> dict[str, Any]:
        return self._call("GET", "%s/issuer/%s" % (mount, issuer))

    def _named(self, mount: str, name: str) -> str:
        return next((issuer for issuer, info in self._issuers(mount).items() if info.get("issuer_name") == name), "")

    # -- looking ------------------------------------------------------------------------------------------------------
    def current(self) -> Ca:
        """The default issuer, and the root in the root's mount that it chains to. Both have a name afterwards, by which they can be chosen."""
        issuer = self._default(self._int)
        if not issuer:
            raise RotationError("%s has no issuer: run playbooks/components/openbao.yml, which makes the first one" % self._int)
        root = self._above(issuer)
        if not root:
            raise RotationError(
                "%s: its issuer chains to no root of %s, so nobody knows what hosts shall trust: an authority that a site's CA signs comes in by "
                "openbao_root_ca: site (docs/openbao-ceremony.md)" % (self._int, self._root)
            )
        for mount, item in ((self._int, issuer), (self._root, root)):
            if not self._issuer(mount, item).get("issuer_name"):
                self._call("POST", "%s/issuer/%s" % (mount, item), {"issuer_name": "first-" + item[:8]})
        return self.load(issuer, root)

    def _above(self, issuer: str) -> str:
        """The root that hosts trust and that an intermediate chains to, ""."""
        chain = [pem.strip() for pem in self._issuer(self._int, issuer).get("ca_chain") or []]
        return next((item for item in living(self._api, self._root) if self._issuer(self._root, item)["certificate"].strip() in chain[1:]), "")

    def current_pem(self, scope: str) -> str:
        """The certificate of the authority in force; changes nothing. Raises RotationError where there is none."""
        mount = self._root if scope == ROOT else self._int
        issuer = self._default(mount)
        if not issuer:
            raise RotationError("%s has no issuer: run playbooks/components/openbao.yml, which makes the first one" % mount)
        return str(self._issuer(mount, issuer)["certificate"])

    def load(self, issuer: str, root_issuer: str) -> Ca:
        """By ids."""
        try:
            found = self._issuer(self._int, issuer)
            pem, root = (item["certificate"].strip() + "\n" for item in (found, self._issuer(self._root, root_issuer)))
            above = [item.strip() + "\n" for item in found.get("ca_chain") or []]
            return Ca(issuer, root_issuer, pem, root, "".join(item for item in above if item not in (pem, root)))
        except NotFound as error:
            raise RotationError("issuer %s or its root %s is gone from OpenBao: bring its snapshot back" % (issuer, root_issuer)) from error

    def signs(self, ca: Ca) -> bool:
        """By its usage; and it is chosen or can be asked for by id."""
        found = self._issuer(self._int, ca.issuer)
        return ISSUING in str(found.get("usage")) and not found.get("revoked")

    def roots(self) -> str:
        """See `trust_bundle`."""
        return trust_bundle(self._api, self._root)

    def foreign(self, scope: str) -> bool:
        """Whether the site's CA signs the next intermediate: the root in force has no key here, or the next root is to be the site's."""
        return self._site if scope == ROOT else not self._keyed(self._default(self._root))

    def _keyed(self, root: str) -> bool:
        return bool(self._issuer(self._root, root).get("key_id")) if root else True

    # -- making -------------------------------------------------------------------------------------------------------
    def make(self, scope: str, run_id: str) -> Ca:
        """Root first where one is to be made, then key, request, signature, import: each only where it is not there yet."""
        stamp = re.sub(r"[^A-Za-z0-9]", "", run_id)
        root = self._default(self._root)
        if scope == ROOT:
            root = "" if self._site else self._named(self._root, "root-" + stamp) or self._make_root(stamp)
        name = "intermediate-" + stamp
        issuer = self._named(self._int, name)
        if not issuer:
            issuer = self._make_intermediate(root, name, stamp)
        # The site's root comes after what it signed: a run that made no issuer has none to take back.
        return self.load(issuer, root or self._take_over(self._issuer(self._int, issuer)["ca_chain"][-1]))

    def _make_root(self, stamp: str) -> str:
        made = self._call(
            "POST", self._root + "/root/rotate/internal",
            {
                "common_name": "%s %s" % (self._names["root"], stamp), "issuer_name": "root-" + stamp, "key_name": "root-" + stamp, "key_type": "ec",
                "key_bits": 384, "ttl": "%ds" % self._ttl["root"], "max_path_length": 1,
            },
        )  # fmt: skip
        return str(made["issuer_id"])

    def _make_intermediate(self, root: str, name: str, stamp: str) -> str:
        """*root*: the issuer that signs it; the site's own where its key is not here; "": one that only the chain names."""
        common = ("%s %s" % (self._names["intermediate"], stamp)).strip()
        keys = self._call_list(self._int + "/keys")
        key = next((item for item, info in keys.items() if info.get("key_name") == name), "")
        # The issuer of a run that was killed before it could give it its name.
        issuer = next((item for item, info in self._issuers(self._int).items() if key and info.get("key_id") == key), "")
        if not issuer:
            # Who signs elsewhere copies what the request asks for.
            body: dict[str, Any] = {"common_name": common, "add_basic_constraints": True}
            if key:
                asked = self._call("POST", self._int + "/intermediate/generate/existing", dict(body, key_ref=key))
            else:
                asked = self._call("POST", self._int + "/intermediate/generate/internal", dict(body, key_type="ec", key_bits=256, key_name=name))
                key = str(asked["key_id"])
            signed = self._sign(root, asked["csr"], common) if root and self._keyed(root) else self._signed_elsewhere(asked["csr"], root)
            imported = self._call("POST", self._int + "/intermediate/set-signed", {"certificate": signed})
            issuer = next(item for item, of in imported["mapping"].items() if of == key)
        self._call("POST", "%s/issuer/%s" % (self._int, issuer), {"issuer_name": name, **self._served()})
        return issuer

    def _sign(self, root: str, csr: str, common: str) -> str:
        signed = self._call(
            "POST", "%s/issuer/%s/sign-intermediate" % (self._root, root),
            {"csr": csr, "common_name": common, "ttl": "%ds" % self._ttl["intermediate"], "max_path_length": 0},
        )  # fmt: skip
        return "%s\n%s" % (signed["certificate"], signed["issuing_ca"])

    # -- the site's own root ------------------------------------------------------------------------------------------
    def first(self) -> None:
        """The first intermediate under the site's root: key and request, then its root, then what it signed. Each only where it is not there yet.

        Raises Unsigned, the key made, as long as the chain is not there or is another one's.
        """
        issuer = self._make_intermediate("", FIRST, "")
        if not self._default(self._int):  # the first one with a key is chosen by OpenBao itself
            self._call("POST", self._int + "/config/issuers", {"default": issuer})

    def _signed_elsewhere(self, csr: str, root: str) -> str:
        """The chain that is for this request, as set-signed takes it. Raises Unsigned, RotationError."""
        in_force = self._default(self._int)
        # OpenBao would take a certificate of any other key as well, and keep it.
        if not self._chain or public_key(self._chain[0]) != public_key(csr):
            raise Unsigned(csr, str(self._issuer(self._int, in_force)["certificate"]) if in_force else "")
        trusted = next((item for item in living(self._api, self._root) if self._issuer(self._root, item)["certificate"].strip() == self._chain[-1]), "")
        if root and trusted != root:
            raise RotationError(
                "pki/intermediate: the chain that was given ends in another root than the one that hosts trust: have the request signed below that one, or "
                "give this run up (-e rotate_rollback) and take the other root over by -e rotate_secret=pki/root"
            )
        if not root and in_force and trusted and trusted == self._default(self._root):
            raise RotationError(
                "pki/root: the chain that was given ends in the root that hosts trust already: have the request signed below the new one, or give this run up "
                "(-e rotate_rollback) and take the intermediate alone by -e rotate_secret=pki/intermediate"
            )
        if not in_force:  # what is imported below is in force at once, so hosts have its root first
            trusted = self._take_over(self._chain[-1])
            self._call("POST", self._root + "/config/issuers", {"default": trusted})
            for other in set(living(self._api, self._root)) - {trusted}:
                self._close(self._root, other)  # out of another chain, by a run that was killed
        return "\n".join(self._chain)

    def _served(self) -> dict[str, list[str]]:
        """What stands above ours, as the chain has it: else certificates of one key that followed each other, the ended one too, are served together."""
        ids = {self._issuer(self._int, item)["certificate"].strip(): item for item in self._issuers(self._int)} if self._chain else {}
        return {"manual_chain": [ids[pem] for pem in self._chain]} if self._chain and set(self._chain) <= set(ids) else {}

    def _take_over(self, pem: str) -> str:
        """The site's root beside what is there: hosts are to trust it, again too. It has a name, by which it can be chosen."""
        taken = self._call("POST", self._root + "/issuers/import/cert", {"pem_bundle": pem})
        issuer = next(iter(taken["mapping"]))
        name = "site-" + issuer[:8]
        if self._issuer(self._root, issuer).get("issuer_name") != name:
            self._call("POST", "%s/issuer/%s" % (self._root, issuer), {"issuer_name": name})
        return issuer

    def _call_list(self, path: str) -> dict[str, dict[str, Any]]:
        try:
            return dict(self._call("LIST", path)["key_info"])
        except NotFound:
            return {}

    # -- moving -------------------------------------------------------------------------------------------------------
    def choose(self, ca: Ca) -> None:
        """Root and intermediate become the defaults of their mounts, by name."""
        for mount, issuer in ((self._root, ca.root_issuer), (self._int, ca.issuer)):
            if self._default(mount) == issuer:
                continue
            name = str(self._issuer(mount, issuer).get("issuer_name") or "")
            if not name or name.startswith(RETIRED):
                raise RotationError("%s: issuer %s is retired; it cannot sign again" % (mount, issuer))
            try:
                self._call("POST", mount + "/config/issuers", {"default": name})
            except BaoError as error:
                raise RotationError("%s: %s cannot be chosen (%s)" % (mount, name, error)) from error

    def retire(self, scope: str, ca: Ca) -> None:
        """Name and right to sign first (one write), then the revocation, then the lists."""
        self._close(self._int, ca.issuer)
        self._call("POST", "%s/issuer/%s/revoke" % (self._int, ca.issuer), {})
        ours = self._keyed(ca.root_issuer)  # what a site's CA has signed it revokes
        if ours:
            self._call("POST", self._root + "/revoke", {"certificate": ca.pem})
        if scope == ROOT:
            self._close(self._root, ca.root_issuer)
            if ours:
                self._call("POST", "%s/issuer/%s/revoke" % (self._root, ca.root_issuer), {})
        if ours:
            self._call("GET", self._root + "/crl/rotate")

    def _close(self, mount: str, issuer: str) -> None:
        name = str(self._issuer(mount, issuer).get("issuer_name") or "")
        if not name.startswith(RETIRED):
            self._call("POST", "%s/issuer/%s" % (mount, issuer), {"issuer_name": RETIRED + issuer[:8], "usage": CLOSED_USAGE})


def living(api: Api, mount: str) -> dict[str, dict[str, Any]]:
    """{id: issuer_name, key_id, …} of the issuers of a mount that are not retired. A site's own root has no key_id. Needs no token."""
    try:
        listed = api.call("LIST", mount + "/issuers")["data"]["key_info"]
    except NotFound:
        return {}
    return {issuer: info for issuer, info in listed.items() if not str(info.get("issuer_name") or "").startswith(RETIRED)}


def trust_bundle(api: Api, mount: str) -> str:
    """PEM of the roots of a mount that are not retired, in the order of their names; "" where there is none. Needs no token."""
    found = []
    for issuer, info in living(api, mount).items():
        pem = str(api.call("GET", "%s/issuer/%s/json" % (mount, issuer))["data"]["certificate"]).strip() + "\n"
        found.append((str(info.get("issuer_name") or ""), pem))
    return "".join(pem for _name, pem in sorted(found))
