# SPDX-License-Identifier: Apache-2.0
"""Health of OpenBao, judged on what it answers and on what lies on its host's disks."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report
from ansible_collections.hnai.platform.plugins.module_utils.x509 import read_pem

from . import component, loosened, policies, strangers
from .authority import living
from .client import Api, BaoError, Forbidden, Foreign, NotFound, leave, login

#: Bytes at the end of an audit file in which the check's own request must stand: some 5 000 entries, so that it is found behind those of busy clients.
TAIL = 1 << 24
#: Most token accessors that are looked at; more live tokens than that is a finding of its own.
MAX_ACCESSORS = 500
#: Seconds between the list of accessors and the look at one. A login writes its token before its lease, and a look at a token without
#: lease revokes it (OpenBao 2.7.2, internal/vault/token_store.go, lookupInternal): without the pause a verdict can end the login of somebody else.
LOGIN_S = 2.0
#: A version that no secret has: who may read is told that it is not there, and nobody's value leaves the store.
NO_VERSION = 999_999_999


@dataclass(frozen=True)
class Wanted:
    """What is expected. Fractions 0..1, times in days. Space is enough when ``free`` or ``free_mib`` is there. ``secrets``: paths below ``kv``.
    ``threshold``: how many key shares must be needed at least (0: not judged). ``own``: what is the site's, and without it BAO13 is not made;
    ``audit_files``: where its audit devices write. ``spec``: what the site declares (site.py), and without it BAO14 is not made. ``owner``: who runs it,
    where nothing but its API can be reached."""

    version: str = ""
    voters: int = 1
    audit_devices: int = 2
    free: float = 0.30
    free_mib: int = 4096
    days: float = 14.0
    ca_days: float = 180.0
    kv: str = "hnai"
    pki: str = "pki_int"
    pki_root: str = "pki_root"
    secrets: Sequence[str] = ()
    threshold: int = 0
    own: strangers.Own | None = None
    audit_files: Sequence[str] = ()
    spec: Mapping[str, Any] | None = None
    owner: str = ""


@dataclass
class Host:
    """What the checks read on the host; tests give their own functions."""

    stat: Callable[[str], os.stat_result] = os.stat
    statvfs: Callable[[str], os.statvfs_result] = os.statvfs
    served: Callable[[], Mapping[str, Any]] = dict
    serial_on_disk: Callable[[], str] = str
    now: Callable[[], float] = time.time
    wait: Callable[[float], None] = time.sleep


@dataclass
class Visit:
    """What one visit as ``hnai-openbao`` found."""

    audit: dict[str, Any] = field(default_factory=dict)
    request_id: str = ""
    raft: list[dict[str, Any]] = field(default_factory=list)
    autopilot: dict[str, Any] = field(default_factory=dict)
    kv_config: dict[str, Any] = field(default_factory=dict)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    accessors: int = 0
    beside: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    ours: loosened.Loosened = field(default_factory=loosened.Loosened)
    error: str = ""


def tokens(api: Api, token: str, wait: Callable[[float], None] = time.sleep, most: int | None = None) -> tuple[int, list[dict[str, Any]]]:
    """(how many tokens live, what each of the first *most* is, without it of all). *token*: of the identity ``hnai-openbao``."""
    accessors = api.call("LIST", "auth/token/accessors", token=token)["data"]["keys"]
    found, refused = [], False
    if len(accessors) > 1:  # One is this visit's own.
        wait(LOGIN_S)
    for accessor in accessors[:most]:
        try:
            found.append(dict(api.call("POST", "auth/token/lookup-accessor", {"accessor": accessor}, token=token)["data"]))
        except BaoError as error:
            # It ended between the list and the look: itself (403), or with its accessor (400).
            if not isinstance(error, Forbidden) and "invalid accessor" not in str(error):
                raise
            refused = refused or isinstance(error, Forbidden)
    if refused:
        # So does OpenBao answer of every one where the token that asks has ended.
        api.call("LIST", "auth/token/accessors", token=token)
    return len(accessors), found


def visit(api: Api, deploy: Mapping[str, str], want: Wanted, wait: Callable[[float], None] = time.sleep) -> Visit:
    """Everything that needs a login, in one visit; its failure is told by ``error``."""
    found = Visit()
    if not deploy.get("secret_id"):
        found.error = "no deploy identity was given (hnai_openbao_deploy)"
        return found
    try:
        token = component.enter(api, policies.SELF, deploy)
    except component.VisitError as error:
        found.error = str(error)
        return found
    try:
        found.accessors, found.tokens = tokens(api, token, wait, MAX_ACCESSORS)
        if not want.owner:
            audit = api.call("GET", "sys/audit", token=token)
            found.audit, found.request_id = dict(audit["data"]), str(audit["request_id"])
            found.raft = list(api.call("GET", "sys/storage/raft/configuration", token=token)["data"]["config"]["servers"])
            found.autopilot = dict(api.call("GET", "sys/storage/raft/autopilot/state", token=token).get("data") or {})
        found.kv_config = dict(api.call("GET", want.kv + "/config", token=token)["data"])
        listing = strangers.Listing(lambda method, path, body: api.call(method, path, body, token=token), found.unseen)
        if want.own:
            found.beside = [*strangers.said(strangers.beside(listing, want.own)), *strangers.holders(listing, found.tokens, want.own)]
        if want.spec:
            found.ours = loosened.look(replace(listing, unseen=[]), want.spec, found.audit, want.audit_files, bool(want.own and want.own.shared))
    finally:
        leave(api, token)
    return found


def version_tuple(text: str) -> tuple[int, ...]:
    """(2, 7, 2) of "2.7.2"; what is no number ends it."""
    return tuple(int(part) for part in re.findall(r"^v?(\d+)\.(\d+)\.(\d+)", text)[0]) if re.match(r"^v?\d+\.\d+\.\d+", text) else ()


def recorded(path: str, request_id: str) -> bool:
    """Whether the audit file's end holds the answer to this request."""
    with open(path, "rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - TAIL))
        return request_id.encode() in stream.read()


def audit_paths(devices: Mapping[str, Any]) -> dict[str, str]:
    """{device: file path, or type for one that is no file}."""
    return {name.rstrip("/"): str(device["options"]["file_path"] if device["type"] == "file" else device["type"]) for name, device in sorted(devices.items())}


def run(report: Report, api: Api, deploy: Mapping[str, str], want: Wanted, host: Host) -> dict[str, Any]:
    """All checks into *report*. Returns the facts that the module hands out: sealed, leader, audit, voters."""
    facts: dict[str, Any] = {"sealed": None, "leader": "", "audit": {}, "voters": 0, "days_left": None}
    status: dict[str, Any] = {}

    with report.check(
        "BAO01",
        "initialised and unsealed",
        expected="initialised, unsealed",
        controls=["SR 4.1"],
        hint="lab: run playbooks/components/openbao.yml; production: the key holders unseal (docs/openbao-ceremony.md)",
        explain="bao status -address=https://127.0.0.1:8200",
    ) as check:
        status.update(api.call("GET", "sys/seal-status"))
        facts["sealed"] = bool(status["sealed"])
        check.observed = "%s, %s" % (
            "initialised" if status["initialized"] else "not initialised",
            "sealed" if status["sealed"] else "unsealed",
        )
        check.raw("seal-status.json", json.dumps(status, sort_keys=True, indent=1))
        check.passed(status["initialized"] and not status["sealed"])

    def known() -> dict[str, Any]:
        """What BAO01 was told."""
        if not status:
            raise RuntimeError("the state of the seal is not known (BAO01)")
        return status

    with report.check(
        "BAO02",
        "runs the declared version",
        expected=want.version or "any",
        hint="the unit runs another binary than /opt/hnai/openbao/current: run the openbao play",
    ) as check:
        check.observed = str(known()["version"])
        report.version = check.observed
        check.passed(not want.version or version_tuple(check.observed) == version_tuple(want.version))

    found = Visit(error="sealed or unreachable")

    def logged_in(check: Check) -> bool:
        if found.error:
            check.inconclusive(found.error)
        return not found.error

    with report.check(
        "BAO03",
        "one leader, every raft voter healthy",
        expected=want.voters,
        unit="voters",
        controls=["SR 7.1"],
        hint="bao operator raft list-peers; bao operator raft autopilot state",
        explain="bao operator raft autopilot state -address=https://127.0.0.1:8200",
    ) as check:
        if status and not status.get("sealed", True):
            # The one visit, under this check's deadline; where it ends early the others say why.
            found.error = "the visit as %s did not end" % policies.SELF
            found = visit(api, deploy, want, host.wait)
        leader = api.call("GET", "sys/leader")
        facts["leader"] = str(leader.get("leader_address") or "")
        if logged_in(check) and want.owner:
            # The visit wrote a token, which the active node alone does. How many stand beside it is the owner's.
            check.observed, check.expected, check.unit = "an active node", "an active node", ""
            check.passed(True)
        elif not found.error:
            voters = [server for server in found.raft if server["voter"]]
            facts["voters"] = len(voters)
            check.observed = len(voters)
            check.raw("raft.json", json.dumps({"servers": found.raft, "autopilot": found.autopilot}, sort_keys=True, indent=1))
            check.evidence |= {
                "leader": facts["leader"],
                "healthy": found.autopilot.get("healthy"),
                "failure_tolerance": found.autopilot.get("failure_tolerance"),
            }
            leaders = [server for server in found.raft if server["leader"]]
            # It has the whole store, and counts for nothing: who joined it?
            copies = sorted(str(server.get("node_id")) for server in found.raft if not server["voter"])
            check.passed(len(voters) == want.voters and len(leaders) == 1 and found.autopilot["healthy"] is True and not copies,
                         "%s has a copy of the store, and no vote" % ", ".join(copies) if copies else "")

    files: dict[str, str] = {}
    with report.check(
        "BAO04",
        "audit devices on different file systems",
        expected=want.audit_devices,
        unit="independent devices",
        controls=["SR 2.8", "SR 2.9"],
        hint="two devices on one file system are one failure: openbao_audit_devices",
        explain="bao audit list -detailed; stat -c '%d %n' <each path>",
    ) as check:
        if want.owner:
            check.skip("external: %s" % want.owner)
        elif logged_in(check):
            paths = audit_paths(found.audit)
            files.update({name: path for name, path in paths.items() if path.startswith("/")})
            places: dict[str, str] = {}
            gone = []
            for name, path in paths.items():
                try:
                    places[name] = "device %d" % host.stat(path).st_dev if path.startswith("/") else path
                except FileNotFoundError:
                    gone.append(path)
            facts["audit"] = paths
            check.observed = len(set(places.values()))
            check.evidence = {"paths": paths, "places": places}
            check.passed(check.observed >= want.audit_devices, "%s is not there" % ", ".join(gone) if gone else "")

    plain = {name.rstrip("/") for name, device in found.audit.items() if str((device.get("options") or {}).get("log_raw", "")).lower() in ("true", "1")}
    for name, path in sorted(files.items()):
        with report.check(
            "BAO05",
            "the audit device records",
            subject=name,
            expected="this check's own request, its secrets as HMAC",
            controls=["SR 2.8"],
            hint="the file was moved and not reopened: systemctl reload hnai-openbao.service",
            explain="tail -n1 %s" % path,
        ) as check:
            check.evidence = {"path": path, "request_id": found.request_id}
            try:
                there = recorded(path, found.request_id)
            except FileNotFoundError:
                check.observed = "no such file"
                check.fail("%s is not there: what is recorded goes to a file that nobody can find" % path)
            else:
                check.observed = "recorded" if there else "not recorded"
                check.passed(there and name not in plain, "in the clear (log_raw): every secret that was read stands in it" if name in plain else "")
        with report.check(
            "BAO06",
            "space for the audit log",
            subject=name,
            expected=round(want.free * 100),
            unit="% free",
            controls=["SR 2.9"],
            hint="OpenBao answers nothing when no device can write: rotate, or enlarge the file system",
            explain="df %s" % path,
        ) as check:
            room = host.statvfs(path)
            free = room.f_bavail / room.f_blocks if room.f_blocks else 0.0
            free_mib = room.f_bavail * room.f_frsize // 1048576
            check.observed = round(free * 100)
            check.evidence = {"path": path, "free_mib": free_mib, "enough_mib": want.free_mib}
            check.passed(free >= want.free or free_mib >= want.free_mib)

    with report.check(
        "BAO07",
        "no root token is alive",
        expected=0,
        unit="root tokens",
        controls=["SR 1.5"],
        hint="bao token revoke -accessor <accessor>; root is made by a quorum when needed (docs/openbao-ceremony.md)",
        explain="bao list auth/token/accessors; bao token lookup -accessor <each>",
    ) as check:
        if logged_in(check):
            roots = [token for token in found.tokens if "root" in (token["policies"] or [])]
            check.observed = len(roots)
            check.evidence = {"tokens": found.accessors, "accessors": [token.get("accessor") for token in roots]}
            if not found.tokens:
                # Its own one is alive: who sees not even that may not look.
                check.inconclusive("%d tokens are alive, and %s could look at none" % (found.accessors, policies.SELF))
            elif found.accessors > MAX_ACCESSORS and not roots:
                check.inconclusive("%d tokens are alive, only %d were looked at" % (found.accessors, MAX_ACCESSORS))
            else:
                check.passed(not roots)

    with report.check(
        "BAO08",
        "serves a certificate of %s, long enough" % ("openbao_external.ca" if want.owner else "the site's own PKI"),
        expected=want.days,
        unit="days left",
        controls=["SR 4.1"],
        hint="%s renews it" % want.owner if want.owner else "run the openbao play: it renews the certificate and reloads the server",
        explain="openssl s_client -connect 127.0.0.1:8200 -CAfile /etc/hnai/openbao/tls/ca.pem -verify_return_error",
    ) as check:
        served = host.served()
        left = (float(served["not_after"]) - host.now()) / 86400.0
        facts["days_left"] = round(left, 1)
        on_disk = host.serial_on_disk()
        check.observed = round(left, 1)
        check.evidence = {
            "served_serial": served["serial"],
            "serial_on_disk": on_disk,
            "subject": served["subject"],
            "sans": served["sans"],
            "protocol": served["protocol"],
        }
        same = bool(want.owner) or (bool(on_disk) and int(str(served["serial"]), 16) == int(on_disk, 16))
        check.passed(left >= want.days and same, "" if same else "the server has not taken up the certificate on disk")

    with report.check(
        "BAO09",
        "every write to a secret needs check-and-set, and versions stay",
        expected=policies.KV_CONFIG,
        hint="%s/config; needs root or a ceremony" % want.kv,
        explain="bao read %s/config" % want.kv,
    ) as check:
        if logged_in(check):
            check.observed = {key: found.kv_config.get(key) for key in policies.KV_CONFIG}
            off = ["%s=%s instead of %s" % (key, check.observed[key], wanted) for key, wanted in policies.KV_CONFIG.items() if check.observed[key] != wanted]
            check.passed(not off, ", ".join(off))

    with report.check(
        "BAO10",
        "the deploy identity reads no secret by itself",
        expected="refused (403)",
        controls=["SR 2.1"],
        hint="policy deploy differs from the collection's: run the openbao play with a root token (ceremony)",
        explain="log in as deploy, then: bao kv get %s/…" % want.kv,
    ) as check:
        if logged_in(check):
            token = str(login(api, policies.IDENTITY_AUTH, deploy["role_id"], deploy["secret_id"])["client_token"])
            allowed = []
            try:
                for path in ("%s/hnai-canary" % policies.SELF, *("%s?version=%d" % (secret, NO_VERSION) for secret in want.secrets)):
                    try:
                        api.call("GET", "%s/data/%s" % (want.kv, path), token=token)
                        allowed.append(path)
                    except NotFound:
                        # Nothing lies there: whoever is told so may read what does.
                        allowed.append(path)
                    except Forbidden:
                        continue
            finally:
                leave(api, token)
            check.observed = "allowed" if allowed else "refused (403)"
            check.evidence = {"tried": 1 + len(want.secrets), "allowed": [path.partition("?")[0] for path in allowed]}
            check.passed(not allowed, "allowed: %s" % ", ".join(check.evidence["allowed"][:5]))
    with report.check(
        "BAO11",
        "root is not made without a login, nor by fewer key holders than declared",
        expected="refused",
        controls=["SR 1.5"],
        hint="openbao_generate_root is for the time of one ceremony: unset it and run the openbao play; shares: playbooks/rotate.yml of the key shares",
        explain="curl --cacert /etc/hnai/openbao/tls/ca.pem https://127.0.0.1:8200/v1/sys/generate-root/attempt",
    ) as check:
        if want.owner:
            check.skip("external: %s" % want.owner)
        else:
            try:
                api.call("GET", "sys/generate-root/attempt")
                check.observed = "allowed"
            except BaoError as error:
                if isinstance(error, Foreign) or error.status not in (403, 404, 405):
                    raise
                check.observed = "refused"
            needed, shares = (int(known()[key]) for key in ("t", "n")) if want.threshold else (0, 0)
            few = needed < want.threshold
            check.evidence = {"shares": shares, "needed": needed, "declared": want.threshold}
            said = "%d of %d key shares make root, declared are %d" % (needed, shares, want.threshold) if few else ""
            check.passed(check.observed == "refused" and not few, said)
    with report.check(
        "BAO12",
        "the authorities that certificates stand on live long enough",
        expected=want.ca_days,
        unit="days left",
        controls=["SR 1.8"],
        hint="every certificate of the site ends with them: playbooks/rotate.yml -e rotate_secret=pki/intermediate or pki/root (docs/rotation.md)",
        explain="curl --cacert /etc/hnai/openbao/tls/ca.pem https://127.0.0.1:8200/v1/%s/ca_chain "
        "| openssl crl2pkcs7 -nocrl -certfile /dev/stdin | openssl pkcs7 -print_certs -noout -text" % want.pki,
    ) as check:
        # Unauthenticated, as every client that verifies a certificate may ask.
        chain = read_pem(str(api.call("GET", want.pki + "/cert/ca_chain")["data"]["certificate"]))
        names = ["the intermediate", *("CA %d above it" % number for number in range(1, len(chain)))]
        if chain[-1].root:
            names[-1] = "the root"
        ends = {name: round(((one.end or 0.0) - host.now()) / 86400.0, 1) for name, one in zip(names, chain)}
        first = min(ends, key=lambda name: ends[name])
        check.observed, check.evidence = ends[first], {"days_left": ends}
        theirs = any(not info.get("key_id") for info in living(api, want.pki_root).values())
        if ends[first] >= want.ca_days and not chain[-1].root:
            check.fail("nobody can tell when the root ends: the chain that %s gives stops below it; its owner adds the root's certificate" % want.pki)
        else:
            check.passed(ends[first] >= want.ca_days, _ends(first, ends[first], theirs))
    if want.own:
        with report.check(
            "BAO13",
            "nobody comes in or signs that no contract names",
            expected=[],
            controls=["SR 1.1", "SR 2.1"],
            hint="the audit log says who made it; take it away with a root token (docs/openbao-ceremony.md), or name it in a contract",
            explain="bao secrets list; bao auth list; bao list of sys/policies/acl, auth/hnai/role, identity/entity/id and the other paths of the evidence",
        ) as check:
            if logged_in(check):
                devices = ["audit device %s (%s)" % one for one in audit_paths(found.audit).items() if one[1] not in want.audit_files]
                check.observed = found.beside + (devices if want.audit_files and not want.own.shared else [])
                check.evidence = {"not_looked_at": found.unseen, "tokens": found.accessors}
                if found.accessors > MAX_ACCESSORS and not (check.observed or found.unseen):
                    check.inconclusive("nobody looked at all of %d tokens" % found.accessors)
                else:
                    _judged(check, found.unseen)
    if want.spec:
        with report.check(
            "BAO14",
            "what is the site's opens no more than declared",
            expected=[],
            controls=["SR 1.1", "SR 2.1"],
            hint="the audit log says who changed it; site.yml --tags openbao puts policies, AppRoles and PKI roles of components right, the rest needs root "
            "(docs/openbao-ceremony.md)",
            explain="bao read of sys/policies/acl/NAME, auth/hnai/role/NAME, %s/roles/NAME; bao secrets list -detailed; bao auth list -detailed" % want.pki,
        ) as check:
            if logged_in(check):
                check.observed = found.ours.found
                check.evidence = {"not_looked_at": found.ours.unseen, "waits_for_a_ceremony": found.ours.waiting}
                _judged(check, found.ours.unseen)
    return facts


def _judged(check: Check, unseen: Sequence[str]) -> None:
    """Of a list of findings: none is no pass where something was not seen."""
    if check.observed:
        check.fail("; ".join(check.observed[:5]))
    elif unseen:
        check.inconclusive("%s may not look at %s: site.yml --tags openbao gives it the policy of this release" % (policies.SELF, ", ".join(unseen)))
    else:
        check.passed(True)


def _ends(first: str, days: float, theirs: bool) -> str:
    """Which of the authorities ends first, and whose business that is. *theirs*: the root is the site's own."""
    said = "%s ends first (%.1f days)" % (first, days)
    if not theirs:
        return said
    if first == "the intermediate":
        return said + "; the site's CA signs the next one: playbooks/rotate.yml -e rotate_secret=pki/intermediate makes its request"
    return said + ", and it is the site's: whoever runs the site's CA renews it, no run from here does"


def pem_serial(text: str) -> str:
    """The serial (hex) in the output of ``openssl x509 -noout -serial``; "" if it is not there."""
    found = re.search(r"serial=([0-9A-Fa-f]+)", text)
    return found.group(1).lower() if found else ""
