# SPDX-License-Identifier: Apache-2.0
"""What lies in an OpenBao beside the contracts: who else could come in, or sign. Objects are asked for by name, entities, groups and tokens for their
policies; no value is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import policies
from .authority import RETIRED
from .client import Forbidden, NotFound

#: call(method, path, body) → an answer, with a login. Raises BaoError.
Call = Callable[[str, str, "Mapping[str, Any] | None"], Mapping[str, Any]]
APPROLE = "AppRole %s of no component of the site"
#: Names that roots are given: by the ceremony, by a rotation to what had none, by one to the site's CA, and by each run (site.py, authority.py).
OF_RUNS = re.compile(r"root|(first|site)-[0-9a-f]{8}|root-.+")
AUTH_MOUNTS = (policies.COMPONENT_AUTH, policies.IDENTITY_AUTH)
#: Of a token that wraps an answer for somebody, for seconds.
WRAPPING = frozenset({"response-wrapping", "default"})


@dataclass(frozen=True)
class Own:
    """What is the site's. *components*: whose AppRole and policy may be there; *signing*: whose PKI role. *shared*: somebody else runs the server, for
    others too: then only what bears a name of ours, or holds a policy of ours, counts."""

    kv: str
    pki_root: str
    pki_int: str
    ssh: str
    components: Sequence[str]
    signing: Sequence[str]
    shared: bool = False

    @property
    def policies(self) -> set[str]:
        """Names of the site's policies."""
        return {*policies.IDENTITIES.values(), *(policies.PREFIX + name for name in self.components)}


@dataclass
class Listing:
    """Names by path; *unseen*: the paths that this login may not read. *known*: what was answered, None where it may not: nothing is asked twice."""

    call: Call
    unseen: list[str]
    known: dict[tuple[str, str], dict[str, Any] | None] = field(default_factory=dict)

    def names(self, path: str) -> set[str]:
        """LIST."""
        found = self._ask("LIST", path)
        return set(found["keys"] if found else ())

    def issuers(self, mount: str) -> dict[str, str]:
        """{id: name} of the authorities of a mount that are not retired."""
        answer = self._ask("LIST", mount + "/issuers")
        found = answer["key_info"] if answer else {}
        names = {ident: str(one.get("issuer_name") or "") for ident, one in found.items()}
        return {ident: name for ident, name in names.items() if not name.startswith(RETIRED)}

    def types(self, path: str) -> dict[str, str]:
        """{mount: type}."""
        return {name.rstrip("/"): str(one["type"]) for name, one in self._ask("GET", path).items()}

    def read(self, path: str) -> dict[str, Any]:
        """GET."""
        return self._ask("GET", path)

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        if (method, path) not in self.known:
            try:
                self.known[method, path] = dict(self.call(method, path, None)["data"])
            except NotFound:
                self.known[method, path] = {}
            except Forbidden:
                self.known[method, path] = None
        found = self.known[method, path]
        if found is None and path not in self.unseen:
            self.unseen.append(path)
        return found or {}


def beside(listing: Listing, own: Own) -> dict[str, list[str]]:
    """{kind, with %s for the name: names} of the objects that no contract has."""
    ours = {policies.PREFIX + name for name in own.components}
    found: dict[str, Iterable[str]] = {}
    if not own.shared:
        engines = {own.kv, own.pki_root, own.pki_int, own.ssh, "cubbyhole", "identity", "sys"}
        for kind, path, known in (("secrets engine %s", "sys/mounts", engines), ("auth method %s", "sys/auth", {"token", *AUTH_MOUNTS})):
            found[kind] = ["%s (%s)" % one for one in listing.types(path).items() if one[0] not in known]
    found[APPROLE] = listing.names("auth/%s/role" % policies.COMPONENT_AUTH) - ours
    found["policy %s"] = {
        name for name in listing.names("sys/policies/acl") - {"default", "root", *own.policies} if not own.shared or name.startswith(policies.PREFIX)}
    if not own.shared:
        found["AppRole of an identity %s"] = listing.names("auth/%s/role" % policies.IDENTITY_AUTH) - set(policies.IDENTITIES.values())
    # Hosts are made to trust each of them (authority.trust_bundle). One is in force, and a rotation names what it puts beside it.
    roots = listing.issuers(own.pki_root)
    found["root CA of " + own.pki_root + ", which hosts are made to trust: %s"] = {
        name or ident for ident, name in roots.items() if len(roots) > 1 and not OF_RUNS.fullmatch(name)}
    found["PKI role of " + own.pki_root + ": %s"] = listing.names(own.pki_root + "/roles")
    found["PKI role of " + own.pki_int + ": %s"] = listing.names(own.pki_int + "/roles") - {policies.PREFIX + name for name in own.signing}
    if not own.shared:
        found["token role %s"] = listing.names("auth/token/roles")
        found["namespace %s"] = listing.names("sys/namespaces")
    return {kind: sorted(names) for kind, names in found.items()}


def said(found: Mapping[str, Sequence[str]]) -> list[str]:
    """One text each."""
    return [kind % name for kind, names in found.items() for name in names]


def holders(listing: Listing, tokens: Iterable[Mapping[str, Any]], own: Own) -> list[str]:
    """Entities, groups and tokens that hold policies without a login of the site's. *tokens*: as their lookup shows them; a root token is none of these
    (BAO07)."""
    found = []
    for kind in ("entity", "group"):
        for ident in sorted(listing.names("identity/%s/id" % kind)):
            one = listing.read("identity/%s/id/%s" % (kind, ident))
            held = set((one["policies"] if one else ()) or ())
            if held & own.policies if own.shared else held:
                found.append("%s %s with %s" % (kind, one.get("name") or ident, ", ".join(sorted(held))))
    logins = tuple("auth/%s/" % mount for mount in AUTH_MOUNTS)
    for token in tokens:
        held = {*(token["policies"] or ()), *(token.get("identity_policies") or ())}
        theirs = not held & own.policies if own.shared else held <= WRAPPING
        if "root" not in held and not theirs and not str(token["path"]).startswith(logins):
            found.append("token %s with %s (%s)" % (token.get("accessor"), ", ".join(sorted(held)), token.get("path")))
    return found
