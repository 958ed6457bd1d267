# SPDX-License-Identifier: Apache-2.0
"""What the lab's plant cannot be made to do: servers, filters and collectors with a fault each, on loopback, judged as the modules judge.

Each fault turns its own check and what follows from it, nothing else; before and afterwards all is well. Tokens are signed and verified by OpenSSH.
"""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from cryptography import x509
from filter_stand import FilterStand
from modbus_stand import canary
from opcua_stand import CLIENT_URI, PLANT, SERVER_URI, Spoil, Stand, collecting, key_pair, mirrors_host
from stands import Checks, Fault, Judged, exercise, faults
from test_73_ot_probes import Approver
from trust_ca import Authority
from trust_stand import Site, crl, odd, present, servers
from write_stand import CANARY, Faults, mirror, now_at, plant, put

from ansible_collections.hnai.platform.plugins.module_utils.intrusive import ssh_verify
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Audit, Options
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust import Crypto
from ansible_collections.hnai.platform.plugins.module_utils.opcua.write_host import Leave, Probe
from ansible_collections.hnai.platform.plugins.module_utils.verdict import PASS, SKIPPED, Report

pytestmark = pytest.mark.scenario("stand-ot")
CLIENT, SERVER = x509.ExtendedKeyUsageOID.CLIENT_AUTH, x509.ExtendedKeyUsageOID.SERVER_AUTH


@pytest.fixture(scope="module")
def approver(tmp_path_factory: pytest.TempPathFactory) -> Approver:
    return Approver(tmp_path_factory.mktemp("approver"), "stand")


# -- the write probe ------------------------------------------------------------------------------------------
class Writing(Judged):
    """A server with a canary, and the leave to try one write for each judgement."""

    def __init__(self, server: Any, site: Any, approver: Approver) -> None:
        self.server, self.site, self.approver, self.mode = server, site, approver, "canary"

    def judge(self) -> Checks:
        time.sleep(1)  # two tokens of one second are one, and each is good for one attempt
        now = time.time()
        collecting(self.site.places, now)
        allowed = self.approver.allows(self.site.source["endpoint"])
        report = Report("ot_collector", deadline_s=None)
        options = Options(application_uri=CLIENT_URI, environment="test", exceptions=[], accept_drift=[], deadline_s=120.0, write_state=True)
        leave = Leave(self.mode, self.approver.site, allowed["hnai_intrusive_tokens"], allowed["hnai_intrusive_approvers"], {"plc-1": CANARY})
        Probe(report, self.site.places, options, leave, self.site.host, ssh_verify(self.site.host), now=lambda: now,
              wait=lambda _seconds: None).run([self.site.source])
        return report.result()["checks"]

    @contextlib.contextmanager
    def obeys(self, hook: Any) -> Iterator[None]:
        """*hook*(user, plain, params) answers each Write."""
        self.server.faults.write = hook
        try:
            yield
        finally:
            self.server.faults = Faults()
            self.server.call(put(self.server, 7.5))


@pytest.fixture(scope="module")
def writing(approver: Approver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writing]:
    with plant(tmp_path_factory.mktemp("server")) as server:
        yield Writing(server, mirror(server, tmp_path_factory.mktemp("mirror")), approver)


@contextlib.contextmanager
def the_server_takes_the_mirrors_write(stand: Writing) -> Iterator[None]:
    stand.server.call(stand.server.canary.set_writable())
    try:
        yield
    finally:
        stand.server.call(stand.server.canary.set_read_only())


def the_server_looks_at_the_value_before_the_rights(stand: Writing) -> contextlib.AbstractContextManager[None]:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        return [ua.StatusCode(ua.StatusCodes.BadTypeMismatch)] if user == "observer" else await plain()

    return stand.obeys(hook)


@contextlib.contextmanager
def the_engineer_lost_the_right(stand: Writing) -> Iterator[None]:
    kept = stand.server.users.engineer
    stand.server.users.engineer = type(kept).User
    try:
        yield
    finally:
        stand.server.users.engineer = kept


def the_value_cannot_be_put_back(stand: Writing) -> contextlib.AbstractContextManager[None]:
    writes: list[int] = []

    async def hook(user: str, plain: Any, params: Any) -> Any:
        writes.append(1)
        return await plain() if len(writes) == 1 else [ua.StatusCode(ua.StatusCodes.BadInternalError)]

    return stand.obeys(hook)


@contextlib.contextmanager
def the_canary_has_other_rights_than_the_tags(stand: Writing) -> Iterator[None]:
    stand.server.set("ns=%d;s=Pump" % stand.server.index, 18, 3, ua.VariantType.Byte)
    try:
        yield
    finally:
        stand.server.spoil = Spoil()


#: What is not known where the commissioning identity's own write failed.
UNKNOWN = dict.fromkeys(("OW0", "OW2", "OW3", "OW5"), "^inconclusive")
WRITES = [
    Fault(the_server_takes_the_mirrors_write, {"OW0": "^fail .*the mirror's write changed the value", "OW3": "^fail"}),
    Fault(the_server_looks_at_the_value_before_the_rights, {"OW3": "^fail .*reached what comes behind the rights", "OW0": "^fail"}),
    Fault(the_value_cannot_be_put_back, {"OW4": "^fail .*the value could not be put back", **UNKNOWN}),
    Fault(the_engineer_lost_the_right, {**UNKNOWN, "OW2": "^inconclusive .*the commissioning identity's write was refused: 0x801F0000"}),
    Fault(the_canary_has_other_rights_than_the_tags, {"OW5": "^skipped .*no declared tag has the canary's rights"}),
]


@faults(*WRITES)
def test_a_fault_of_a_write_turns_its_own_check(fault: Fault, writing: Writing) -> None:
    exercise(writing, fault)
    assert now_at(writing.server) == 7.5 and not writing.server.sessions()


@contextlib.contextmanager
def the_server_hangs_up_at_an_empty_request(stand: Writing) -> Iterator[None]:
    stand.server.faults.hangs_up = True
    try:
        yield
    finally:
        stand.server.faults.hangs_up = False


@faults(Fault(the_server_hangs_up_at_an_empty_request, {"OW6": "^inconclusive .*Write: ", "OW0": "^inconclusive"}))
def test_a_fault_of_the_services_turns_its_own_check(fault: Fault, writing: Writing) -> None:
    """Beside it: services that exist are no finding, and no proof."""
    writing.mode, writing.well, writing.server.faults.absent = "service", None, True
    try:
        exercise(writing, fault)
    finally:
        writing.server.faults.absent = False
    found = {one["id"]: (one["status"], one.get("reason", "")) for one in writing.judge()}
    assert found["OW6"][0] == SKIPPED and "Write" in found["OW6"][1] and found["OW0"][0] == PASS, found


# -- the way to the Modbus devices ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def modbus(approver: Approver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilterStand]:
    with canary() as one:
        stand = FilterStand(tmp_path_factory.mktemp("filter"), one, approver)
        try:
            yield stand
        finally:
            stand.close()


FIRST = "    if frame.unit not in allow.units:\n"


def a_function_passes(stand: FilterStand) -> contextlib.AbstractContextManager[None]:
    return stand.holed(("filter.py", FIRST, "    if function == 22:\n        return raw(frame)\n" + FIRST))


def a_write_passes_behind_another_frame(stand: FilterStand) -> contextlib.AbstractContextManager[None]:
    sent, asked = "            await asyncio.wait_for(writer.drain(), self._config.frame_s)\n", "        verdict = judge(frame, self.device.allow)\n"
    return stand.holed(
        ("filter_server.py", "    judge,\n", "    judge,\n    raw,\n"), ("filter_server.py", sent, sent + "            self.behind = True\n"),
        ("filter_server.py", "                framer.feed(data)\n", "                framer.feed(data)\n                self.behind = False\n"),
        ("filter_server.py", asked, asked + "        if self.behind and not isinstance(verdict, Ask):\n            verdict = raw(frame)\n"))


def bytes_behind_a_request_pass(stand: FilterStand) -> contextlib.AbstractContextManager[None]:
    return stand.holed(("filter.py", FIRST, "    if function == 4 and len(body) > 4:\n        return raw(frame)\n" + FIRST))


def one_address_more_passes(stand: FilterStand) -> contextlib.AbstractContextManager[None]:
    return stand.holed(("filter.py", "first + count - 1 <= span.last for span", "first + count - 2 <= span.last for span"))


def old_answers_are_repeated(stand: FilterStand) -> contextlib.AbstractContextManager[None]:
    ask, answers = "await self.link.ask(verdict)\n", "        self.answered_with: Counter[int] = Counter()\n"
    return stand.holed(("filter_server.py", answers, answers + "        self.kept: dict[tuple[int, int], bytes] = {}\n"),
                       ("filter_server.py", ask, "self.kept.setdefault((verdict.function, verdict.count), await self.link.ask(verdict))\n"))


#: The stand's device is nowhere, and nobody asks it.
QUIET = {"MF2": "^inconclusive sep1: nobody has asked for anything yet$"}
HOLES = [
    Fault(a_function_passes, {"MF4": "^fail .*function 22,", "MF0": "^fail"}, unknown="MF2", rest=QUIET),
    Fault(a_write_passes_behind_another_frame, {"MF5": "^fail .*one segment: ", "MF0": "^fail"}, may="MF7", unknown="MF2", rest=QUIET),
    Fault(bytes_behind_a_request_pass, {"MF6": "^fail .*behind the read, inside its length", "MF0": "^fail"}, unknown="MF2", rest=QUIET),
    Fault(one_address_more_passes, {"MF7": "^fail .*function 4, address 3, 31 values", "MF0": "^fail"}, unknown="MF2", rest=QUIET),
    Fault(old_answers_are_repeated, {"MF9": "^fail .*was answered otherwise than the canary did", "MF0": "^fail"}, unknown="MF2", rest=QUIET),
]


@faults(*HOLES)
def test_a_hole_in_the_filter_turns_its_own_check(fault: Fault, modbus: FilterStand) -> None:
    exercise(modbus, fault)


# -- the audit of the plant's servers -------------------------------------------------------------------------
OBSERVER, ENGINEER, READ_AND_BROWSE = 15668, 16036, 0x21
PRODUCT, RELEASE = "ns=0;i=2261", "ns=0;i=2264"
#: Whose objects write what messages say into variables (Part 14, 9.1.9.2).
TARGETS = ua.NodeId(ua.ObjectIds.TargetVariablesType)


class Auditing(Judged):
    """A server that tells roles, product and release, and trusts two certificates of the mirror; the audit may try the two logins."""

    def __init__(self, server: Stand, host: Any, approver: Approver) -> None:
        self.server, self.approver = server, approver
        self.places, self.source, self.host, _now = host
        self.tag = "ns=%d;s=n7_3" % server.index
        self.ending = key_pair(CLIENT_URI, usage=CLIENT, days=10)
        self.known = {x509.load_pem_x509_certificate(pair[0]) for pair in (server.client_pair, self.ending)}
        self.trusts_others = False
        server.roles(self.tag, 25, (OBSERVER, READ_AND_BROWSE))
        server.set(PRODUCT, 13, "opcua-asyncio", ua.VariantType.String)
        server.set(RELEASE, 13, version("asyncua"), ua.VariantType.String)
        server.server.set_certificate_validator(self._trust)
        server.call(self.add(ua.NodeClass.ObjectType, ua.NodeId(ua.ObjectIds.BaseObjectType), TARGETS, "TargetVariablesType", ua.ObjectIds.HasSubtype))

    async def add(self, node_class: Any, parent: Any, node: Any, name: str, reference: int, kind: Any = None) -> None:
        """A node of the server."""
        attributes = ua.ObjectTypeAttributes() if node_class == ua.NodeClass.ObjectType else ua.ObjectAttributes()
        item = ua.AddNodesItem(
            RequestedNewNodeId=node, BrowseName=ua.QualifiedName(name, node.NamespaceIndex), ParentNodeId=parent, ReferenceTypeId=ua.NodeId(reference),
            NodeClass=node_class, NodeAttributes=attributes, TypeDefinition=kind or ua.NodeId())
        (result,) = await self.server.server.iserver.isession.add_nodes([item])
        result.StatusCode.check()

    async def _trust(self, certificate: Any, _application: Any) -> None:
        if certificate not in self.known and not self.trusts_others:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    def judge(self) -> Checks:
        now = time.time()
        collecting(self.places, now)
        allowed = self.approver.allows(self.source["endpoint"])
        report = Report("ot_collector", deadline_s=None)
        options = Options(application_uri=CLIENT_URI, environment="test", exceptions=[], accept_drift=[], deadline_s=300.0, write_state=True,
                          site=self.approver.site, tokens=allowed["hnai_intrusive_tokens"], approvers=allowed["hnai_intrusive_approvers"])
        Audit(report, self.places, options, self.host, now=lambda: now, wait=lambda _seconds: None).run([self.source])
        return report.result()["checks"]


@pytest.fixture(scope="module")
def auditing(approver: Approver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Auditing]:
    server = Stand(tmp_path_factory.mktemp("server")).start()
    try:
        server.grow(20, 7)
        with contextlib.contextmanager(mirrors_host)(server, tmp_path_factory.mktemp("mirror"), [{"node": "nsu=%s;s=n7_3" % PLANT}]) as host:
            yield Auditing(server, host, approver)
    finally:
        server.stop()


@contextlib.contextmanager
def shown(stand: Auditing, node: str, attribute: int, answer: Any) -> Iterator[None]:
    """Whoever reads this attribute is answered so."""
    places = stand.server.spoil.attributes
    kept = places.get((node, attribute))
    places[node, attribute] = answer
    try:
        yield
    finally:
        del places[node, attribute]
        if kept is not None:
            places[node, attribute] = kept


@contextlib.contextmanager
def any_certificate_is_trusted(stand: Auditing) -> Iterator[None]:
    stand.trusts_others = True
    try:
        yield
    finally:
        stand.trusts_others = False


def our_certificate_ends(stand: Auditing) -> contextlib.AbstractContextManager[None]:
    return used(stand.places.pki, stand.ending)


@contextlib.contextmanager
def used(pki: Path, pair: tuple[bytes, bytes]) -> Iterator[None]:
    """The mirror has this certificate and key."""
    files = [pki / "cert.pem", pki / "key.pem"]
    kept = [path.read_bytes() for path in files]
    try:
        for path, data in zip(files, pair, strict=True):
            path.write_bytes(data)
        yield
    finally:
        for path, data in zip(files, kept, strict=True):
            path.write_bytes(data)


def the_session_is_an_engineers(stand: Auditing) -> contextlib.AbstractContextManager[None]:
    value = [ua.RolePermissionType(RoleId=ua.NodeId(ENGINEER), Permissions=ua.PermissionType(READ_AND_BROWSE))]
    return shown(stand, stand.tag, 25, ua.DataValue(ua.Variant(value, ua.VariantType.ExtensionObject)))


@contextlib.contextmanager
def messages_are_written_into_variables(stand: Auditing) -> Iterator[None]:
    node = ua.NodeId("Subscribed", stand.server.index)
    stand.server.call(stand.add(ua.NodeClass.Object, stand.server.plant.nodeid, node, "Subscribed", ua.ObjectIds.HasComponent, TARGETS))
    try:
        yield
    finally:
        stand.server.call(stand.server.server.get_node(node).delete())


def the_server_is_busy_once(stand: Auditing) -> contextlib.AbstractContextManager[None]:
    asked: list[int] = []

    def answer() -> Any:
        asked.append(1)
        if len(asked) == 1:
            raise ServiceError(ua.StatusCodes.BadResourceUnavailable)
        return ua.DataValue(ua.Variant(1, ua.VariantType.Byte))

    return shown(stand, stand.tag, 18, answer)


def the_release_has_a_known_hole(stand: Auditing) -> contextlib.AbstractContextManager[None]:
    return shown(stand, RELEASE, 13, ua.DataValue(ua.Variant("0.9.95", ua.VariantType.String)))


AUDITS = [
    Fault(any_certificate_is_trusted, {"OA5": "^fail .*the server opened the session"}),
    Fault(messages_are_written_into_variables, {"OA17": r"^fail .*writes variables out of received messages \(Part 14\)", "OA19": "^fail"}),
    Fault(the_session_is_an_engineers, {"OA13": "^fail .*role Engineer", "OA19": "^fail"}),
    Fault(our_certificate_ends, {"OA7": "^fail .*it expires in 10 days"}),
    Fault(the_release_has_a_known_hole, {"OA21": "^fail .*CVE-2022-25304"}),
    Fault(the_server_is_busy_once, {"OA20": "^fail .*backed off: "}),
]


@faults(*AUDITS)
def test_a_fault_of_a_server_turns_its_own_check(fault: Fault, auditing: Auditing) -> None:
    """A node more and another role are drift (OA19) as well."""
    exercise(auditing, fault)


# -- certificates between mirror and plant --------------------------------------------------------------------
class Trusting(Site, Judged):
    """The mirror's host before three servers; *revoked* is the site's revocation list, PEM."""

    revoked = ""

    def judge(self) -> Checks:
        return self.report({"site": self.revoked}).result()["checks"]


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusting]:
    with servers(tmp_path_factory.mktemp("servers")) as plc:
        stand = Trusting(tmp_path_factory.mktemp("mirror"), plc, Authority(CLIENT_URI, spare=0, now=time.time()))
        stand.revoked = crl(stand.now, 10.0, 62.0)
        yield stand


@contextlib.contextmanager
def presented(stand: Trusting, name: str, certificate: bytes, pinned: bool = True) -> Iterator[None]:
    """The server has another certificate, and the mirror knows of it."""
    endpoints, pin = stand.plant[name].server.iserver.endpoints, stand.places.servers / (name + ".pem")
    kept, text = bytes(endpoints[0].ServerCertificate), pin.read_bytes()
    present(stand, name, certificate)
    if pinned:
        pin.write_bytes(Crypto().pem_of(certificate))
    try:
        yield
    finally:
        present(stand, name, kept)
        pin.write_bytes(text)


def our_certificate_is_for_a_server(stand: Trusting) -> contextlib.AbstractContextManager[None]:
    return used(stand.places.pki, key_pair(CLIENT_URI, usage=SERVER))


def our_certificate_is_short_of_life(stand: Trusting) -> contextlib.AbstractContextManager[None]:
    return used(stand.places.pki, key_pair(CLIENT_URI, usage=CLIENT, days=20))


def a_server_shows_what_nobody_pinned(stand: Trusting) -> contextlib.AbstractContextManager[None]:
    return presented(stand, "plc1", odd(), pinned=False)


def a_server_has_anothers_certificate(stand: Trusting) -> contextlib.AbstractContextManager[None]:
    return presented(stand, "plc2", odd(uri="urn:somebody:else"))


def a_servers_certificate_is_short_of_life(stand: Trusting) -> contextlib.AbstractContextManager[None]:
    return presented(stand, "plc3", odd(days=20.0))


def two_servers_share_a_certificate(stand: Trusting) -> contextlib.AbstractContextManager[None]:
    return presented(stand, "plc2", bytes(stand.plant["plc1"].server.iserver.endpoints[0].ServerCertificate))


@contextlib.contextmanager
def the_revocation_list_is_over(stand: Trusting) -> Iterator[None]:
    kept, stand.revoked = stand.revoked, crl(stand.now, 80.0, -8.0)
    try:
        yield
    finally:
        stand.revoked = kept


CERTIFICATES = [
    Fault(a_server_shows_what_nobody_pinned, {"OT3": "^fail .*which nobody has pinned; it is kept for review"}),
    Fault(two_servers_share_a_certificate, {"OT6": "^fail .*plc1 and plc2: the same certificate"}),
    Fault(the_revocation_list_is_over, {"OT7": "^fail .*it ended 8 h ago"}),
    Fault(our_certificate_is_for_a_server, {"OT1": "^fail .*its extended key usage has no clientAuth"}),
    Fault(our_certificate_is_short_of_life, {"OT2": "^fail .*its change needs 60"}),
    Fault(a_server_has_anothers_certificate, {"OT4": "^fail .*its ApplicationUri is urn:somebody:else, %s was expected" % SERVER_URI}),
    Fault(a_servers_certificate_is_short_of_life, {"OT5": "^fail .*its change needs 60"}),
]


@faults(*CERTIFICATES)
def test_a_fault_of_a_certificate_turns_its_own_check(fault: Fault, trusting: Trusting) -> None:
    exercise(trusting, fault)
