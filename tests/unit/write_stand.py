# SPDX-License-Identifier: Apache-2.0
"""A server that can be made to take, lose or refuse a write, and a mirror's host with the leave to try one: for the write probe."""
from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server import uaprocessor
from asyncua.server.internal_session import InternalSession
from opcua_stand import CLIENT_URI, PLANT, SERVICES, WRITING, OneHost, Stand, Users, collecting, mirrors_places

from ansible_collections.hnai.platform.plugins.module_utils import credentials
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Options, State
from ansible_collections.hnai.platform.plugins.module_utils.opcua.write_host import Leave, Probe
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

PATH = ["nsu=%s;Plant" % PLANT, "nsu=%s;Commissioning" % PLANT, "nsu=%s;WriteCanary" % PLANT]
CANARY = {"path": PATH, "marker": "write canary of plc-1", "username": "engineer"}


class Everybody(Users):
    """The observer, and an engineer who may write."""

    engineer = UserRole.Admin

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        given = password.decode() if isinstance(password, bytes) else password
        if username == "engineer" and given == "e-secret":
            self.tries += 1
            return User(role=self.engineer, name=username)
        return super().get_user(iserver, username, password, certificate)


class Faults:
    """What the server does wrong now. *write*(session's user, plain) gives a write's results; changing services are *absent*, or it *hangs_up* at one."""

    write: Any = None
    absent = hangs_up = False


_plain_write = InternalSession.write
_plain_process = uaprocessor.UaProcessor._process_message


async def _write(self: Any, params: Any) -> Any:
    stand = getattr(self.iserver, "stand", None)
    hook = getattr(stand, "faults", Faults()).write
    if hook is None or not self.external:
        return await _plain_write(self, params)
    return await hook(self.user.name, lambda: _plain_write(self, params), params)


async def _process(self: Any, typeid: Any, requesthdr: Any, seqhdr: Any, body: Any) -> Any:
    stand = getattr(self.iserver, "stand", None)
    faults = getattr(stand, "faults", Faults())
    if (faults.absent or faults.hangs_up) and SERVICES.get(typeid.Identifier) in WRITING:
        stand.services[SERVICES[typeid.Identifier]] += 1
        if faults.hangs_up:
            self._transport.abort()
            return False
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)
    return await _plain_process(self, typeid, requesthdr, seqhdr, body)


@contextlib.contextmanager
def plant(folder: Path) -> Iterator[Any]:
    """The server, with a plant of one pump and one canary; *faults* says what it does wrong."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    patch = pytest.MonkeyPatch()
    patch.setattr(InternalSession, "write", _write)
    patch.setattr(uaprocessor.UaProcessor, "_process_message", _process)
    one: Any = Stand(folder)
    one.users = Everybody()
    one.faults = Faults()
    one.start()

    async def grown() -> Any:
        await one.plant.add_variable(ua.NodeId("Pump", one.index), "%d:Pump" % one.index, 1.0)
        room = await one.plant.add_object(ua.NodeId("Commissioning", one.index), "%d:Commissioning" % one.index)
        node = await room.add_variable(ua.NodeId("Canary", one.index), "%d:WriteCanary" % one.index, 7.5)
        await node.add_property(ua.NodeId("Mark", one.index), "%d:HnaiWriteCanary" % one.index, CANARY["marker"])
        return room, node

    one.folder, one.canary = one.call(grown())
    try:
        yield one
    finally:
        one.stop()
        patch.undo()


def mirror(stand: Any, folder: Path) -> Any:
    """A mirror's host whose collector is connected for ten minutes; the server is clean."""
    places = mirrors_places(stand, folder)
    now = time.time()
    collecting(places, now)
    host = OneHost(str(folder / "root"))
    for component, name, text in (("ot_collector", "opcua_plc_1_password", "secret"), ("ot_audit", "opcua_plc_1_commissioning", "e-secret")):
        secret = Path(host.at(credentials.path_of(component, name)))
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text(text)
    stand.faults = Faults()
    stand.users.engineer = UserRole.Admin
    stand.call(stand.canary.set_read_only())
    stand.call(put(stand, 7.5))
    stand.services.clear()
    return SimpleNamespace(places=places, host=host, now=now, state=State(places.state, "plc-1", True), source={
        "id": "plc-1", "protocol": "opcua", "endpoint": stand.url, "identity": {"username": "observer"}, "limits": {"connections": 2, "new_per_minute": 600},
        "tags": [{"node": "nsu=%s;s=Pump" % PLANT}]})


async def put(stand: Any, value: float) -> None:
    await stand.canary.write_value(value)


def now_at(stand: Any) -> float:
    return float(stand.call(stand.canary.read_value()))


def probe(site: Any, mode: str = "canary", canary: Any = None, **change: Any) -> tuple[dict[str, str], dict[str, Any], Report]:
    report = Report("ot_collector", deadline_s=None)
    token = {"site": "lab", "endpoint": site.source["endpoint"], "from": stamp(site.now - 60), "to": stamp(site.now + 600), "approver": "j.doe",
             "signature": change.pop("signature", "s")}
    values: dict[str, Any] = dict(mode=mode, site=change.pop("of_site", "lab"), tokens=[token], approvers={"j.doe": "key"},
                                  canaries={"plc-1": canary or CANARY})
    options = Options(application_uri=CLIENT_URI, environment="test", exceptions=[], accept_drift=[], deadline_s=60.0, write_state=True)
    records = Probe(report, site.places, options, Leave(**{**values, **change}), site.host, lambda *_given: True, now=lambda: site.now,
                    wait=lambda _seconds: None).run([{"id": "m", "protocol": "modbus"}, site.source])
    return {check.id: check.status + (": " + check.reason if check.reason else "") for check in report.checks}, records["plc-1"], report


def stamp(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
