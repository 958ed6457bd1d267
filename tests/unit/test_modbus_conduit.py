# SPDX-License-Identifier: Apache-2.0
"""The audit of the Modbus conduit: a real filter before a real canary on loopback, then filters with a fault each, and what cannot be told."""
from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modbus_stand import ALLOW, FEW, Canary, FilterThread, Machine, adu, canary, config, device, free_port

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.modbus import conduit, conduit_host, filter_server
from ansible_collections.hnai.platform.plugins.module_utils.modbus import filter as core
from ansible_collections.hnai.platform.plugins.module_utils.modbus.conduit_live import Line
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

LIVE = conduit_host.LIVE
TOKEN = {"site": "lab", "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T10:00:00Z", "approver": "j.doe", "signature": "s"}
NOW = 1767225600.0 + 3600


class Stand:
    """Filter, canary and the files on the host."""

    def __init__(self, root: Path, one: Canary, allow: Any = FEW, make: Any = filter_server.Filter, port: int | None = None) -> None:
        self.canary, self.root = one, root
        self.devices = [device(502, id="sep1", host="192.0.2.1", allow=allow),
                        device(one.port if port is None else port, id="sep1-canary", allow=allow, canary=True, clients=8, timeout_s=20)]
        self.thread = FilterThread(config(*self.devices), make)
        self.machine = Machine(root)
        self.options: dict[str, Any] = {
            "declared": self.devices, "canaries": [conduit_host.Canary("sep1-canary", "127.0.0.1", one.record_port)],
            "mirror_users": ["hnai-telegraf"], "live": True, "site": "lab", "approvers": {"j.doe": "key"},
            "tokens": [{**TOKEN, "endpoint": "modbus://127.0.0.1:%d" % self.devices[1]["port"]}], "config": "/filter.json", "status": "/status.json"}
        self.write()

    def write(self, **change: Any) -> None:
        text = json.dumps({"status_file": "/status.json", "devices": self.devices})
        (self.root / "filter.json").write_text(text)
        status = {**self.thread.filter.status(), "now": NOW, "config_sha256": core.parse(text, "f").digest, **change}
        (self.root / "status.json").write_text(json.dumps(status))

    def audit(self, **change: Any) -> tuple[dict[str, str], Report, dict[str, Any]]:
        """Status per check of the canary (or of the whole), the report, the record."""
        report = Report("modbus_filter", deadline_s=300)
        options = conduit_host.Options(**{**self.options, **change})
        record = conduit_host.Audit(report, options, self.machine, lambda: NOW, lambda *_given: True, rng=random.Random(5), pace=lambda: None,
                                    connect=lambda host, port: Line(host, port, 20.0)).run()
        return {check.id: check.status for check in report.checks if check.subject in ("", "sep1-canary")}, report, record


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with canary() as one:
        made = Stand(tmp_path, one)
        try:
            yield made
        finally:
            made.thread.close()


def reason(report: Report, ident: str) -> str:
    return next(check.reason for check in report.checks if check.id == ident)


# -- the real filter ----------------------------------------------------------------------------------------
def test_the_filter_is_proven_and_every_probe_was_sent(stand: Stand) -> None:
    statuses, report, record = stand.audit()
    assert statuses == dict.fromkeys(("MF0", "MF1", *LIVE), "pass"), report.summary()
    assert record["verdict"] == "proven" and record["holds_for"]["devices"] == ["sep1", "sep1-canary"]
    evidence = {check.id: check.evidence for check in report.checks}
    assert evidence["MF4"]["sent"] == 266 and evidence["MF5"]["sent"] == 36 and evidence["MF6"]["sent"] > 20 and evidence["MF7"]["sent"] > 255
    assert evidence["MF4"]["controls"] > 60
    assert len(stand.machine.said) == 2 and "begins" in stand.machine.said[0] and "ends" in stand.machine.said[1]
    assert record["tokens"][0]["approver"] == "j.doe"
    # What may pass is the only thing that was written down, and there was something.
    rights = conduit.Rights(config(stand.devices[0]).devices[0].allow.as_dict())
    arrived = conduit.understand(bytes(stand.canary._servers[0].record.data)).arrived
    assert len(arrived) > 60 and all(rights.allows(unit, pdu) for _connection, unit, pdu in arrived)


def test_two_audits_of_one_canary_do_not_see_each_other(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: list(conduit.segments(rights, rng)))
    for _ in range(2):
        report = Report("modbus_filter", deadline_s=300)
        audit = conduit_host.Audit(report, conduit_host.Options(**stand.options), stand.machine, lambda: NOW, lambda *_given: True,
                                   rng=random.Random(5), pace=lambda: None, connect=lambda host, port: Line(host, port, 20.0))
        assert audit.run()["verdict"] == "proven", report.summary()


# -- filters with a fault -----------------------------------------------------------------------------------
class Raw(core.Ask):
    """A request that is sent on as it came."""

    def pdu(self) -> bytes:
        return self.body  # type: ignore[attr-defined, no-any-return]


def passing(pdu: bytes, unit: int) -> core.Ask:
    made = Raw(unit, pdu[0], 0, 1)
    object.__setattr__(made, "body", pdu)
    return made


@pytest.mark.parametrize("code", [5, 6, 8, 16, 90])
def test_one_function_more_is_refuted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real = filter_server.judge
    monkeypatch.setattr(filter_server, "judge", lambda frame, allow: passing(frame.pdu, frame.unit) if frame.pdu[0] == code else real(frame, allow))
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: list(conduit.functions(rights)))
    with canary() as one:
        made = Stand(tmp_path, one)
        try:
            statuses, report, record = made.audit()
        finally:
            made.thread.close()
    assert statuses["MF4"] == "fail" and statuses["MF0"] == "fail" and record["verdict"] == "refuted"
    assert "unit 1, %02x" % code in reason(report, "MF4") and "function %d," % code in reason(report, "MF4")
    assert statuses["MF1"] == "pass" and "fail" not in [statuses[one] for one in ("MF5", "MF6", "MF7")]


@pytest.mark.parametrize("code", [5, 6, 15, 16, 22, 23])
def test_a_write_that_passes_where_may_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The filter takes the function for that of a read, and looks at the address of what it would write."""
    real = filter_server.judge

    def judge(frame: core.Frame, allow: core.Allow) -> Any:
        body = frame.pdu[5:] if code == 23 else frame.pdu[1:]
        if frame.pdu[0] != code or not isinstance(real(core.Frame(frame.tid, frame.unit, b"\4" + body[:2] + b"\0\1"), allow), core.Ask):
            return real(frame, allow)
        return passing(frame.pdu, frame.unit)

    monkeypatch.setattr(filter_server, "judge", judge)
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: list(conduit.functions(rights)))
    with canary() as one:
        made = Stand(tmp_path, one, [{"unit": 1, "function": 4, "spans": [{"first": 300, "count": 4}]}])
        try:
            statuses, report, _ = made.audit()
        finally:
            made.thread.close()
    assert statuses["MF4"] == "fail" and "function %d," % code in reason(report, "MF4")


def test_a_function_that_passes_for_one_unit_only_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = filter_server.judge
    monkeypatch.setattr(filter_server, "judge",
                        lambda frame, allow: passing(frame.pdu, frame.unit) if (frame.unit, frame.pdu[0]) == (9, 16) else real(frame, allow))
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: list(conduit.functions(rights)))
    with canary() as one:
        made = Stand(tmp_path, one, [*FEW, {**FEW[0], "unit": 9}])
        try:
            statuses, report, _ = made.audit()
        finally:
            made.thread.close()
    assert statuses["MF4"] == "fail" and "unit 9, function 16," in reason(report, "MF4") and "and" not in reason(report, "MF4").split("(unit 9")[1]


@pytest.mark.parametrize(("change", "ident"), [
    # An address beyond the last one, another unit, trailing bytes that are cut off instead of refused.
    (lambda frame: core.Ask(1, 4, 33, 1) if frame.pdu[:3] == b"\4\0\x21" else None, "MF7"),
    (lambda frame: passing(frame.pdu, frame.unit) if frame.unit == 200 else None, "MF7"),
    (lambda frame: passing(frame.pdu, frame.unit) if frame.unit == 200 and frame.pdu[0] == 6 else None, "MF7"),
    (lambda frame: passing(frame.pdu, frame.unit) if len(frame.pdu) > 17 and frame.pdu[0] == 4 else None, "MF6"),
    (lambda frame: core.Ask(1, 4, 4, 4) if frame.pdu[0] == 4 and len(frame.pdu) == 6 else None, "MF9"),
])
def test_each_fault_turns_its_own_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, ident: str) -> None:
    real = filter_server.judge
    monkeypatch.setattr(filter_server, "judge", lambda frame, allow: change(frame) or real(frame, allow))
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: [*conduit.malformed(rights, rng), *conduit.others(rights)])
    with canary() as one:
        made = Stand(tmp_path, one)
        try:
            statuses, report, record = made.audit()
        finally:
            made.thread.close()
    assert {name for name, status in statuses.items() if status != "pass"} == {"MF0", ident}, report.summary()
    assert record["verdict"] == "refuted"


def test_a_filter_that_repeats_an_old_answer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[core.Ask, bytes] = {}
    real = filter_server.Link.ask

    async def ask(self: Any, one: core.Ask) -> bytes:
        made = await real(self, one)
        return kept.setdefault(one, made)

    monkeypatch.setattr(filter_server.Link, "ask", ask)
    with canary() as one:
        made = Stand(tmp_path, one, allow=[{"unit": 1, "function": 4, "spans": [{"first": 3, "count": 2}]}])
        try:
            statuses, report, _record = made.audit()
        finally:
            made.thread.close()
    assert statuses["MF9"] == "fail" and "otherwise than the canary" in reason(report, "MF9")


class Forwarder:
    """What most proxies are: it passes every byte."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                one, _peer = self._socket.accept()
            except OSError:
                return
            other = socket.create_connection(("127.0.0.1", self._port))
            for a, b in ((one, other), (other, one)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    @staticmethod
    def _pump(a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(4096):
                b.sendall(data)
        except OSError:
            pass
        for one in (a, b):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._socket.close()


def test_a_proxy_that_forwards_bytes_is_refuted(stand: Stand) -> None:
    forwarder = Forwarder(stand.canary.port)
    real = stand.thread.filter.status()
    real["devices"][1]["listen"] = ["127.0.0.1", forwarder.port]
    stand.devices[1]["listen"] = {"port": forwarder.port}
    stand.write(devices=real["devices"])
    try:
        statuses, _report, record = stand.audit()
    finally:
        forwarder.close()
    assert record["verdict"] == "refuted" and statuses["MF4"] == "fail" and statuses["MF6"] == "fail" and statuses["MF5"] == "fail"


# -- past the filter ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("outcome", "status"), [
    ("nothing came back", "pass"), ("not permitted", "pass"), ("connected", "fail"), ("refused", "fail"), ("error no route to host", "inconclusive")])
def test_whoever_reaches_the_canary_without_the_filter(stand: Stand, monkeypatch: pytest.MonkeyPatch, outcome: str, status: str) -> None:
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: [])
    stand.machine.dial = outcome
    statuses, _report, record = stand.audit()
    assert statuses["MF8"] == status
    assert record["verdict"] == {"pass": "proven", "fail": "refuted", "inconclusive": "inconclusive"}[status]


def test_the_canary_is_believed_more_than_the_dial(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing came back, but the packet arrived: an asymmetric way is a way."""
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: [])

    def dial(host: str, port: int) -> dict[str, Any]:
        with socket.create_connection((host, port)) as one:
            time.sleep(0.2)
            return {"port": one.getsockname()[1], "outcome": "nothing came back"}

    stand.machine.dial = dial
    assert stand.audit()[0]["MF8"] == "fail"


def test_the_dial_really_dials_as_another_user(tmp_path: Path) -> None:
    with canary() as one:
        done = Host().run([sys.executable, "-I", "-c", conduit_host.DIAL, "127.0.0.1", str(one.port), "3"])
        assert json.loads(done.text)["outcome"] == "connected"
        assert json.loads(Host().run([sys.executable, "-I", "-c", conduit_host.DIAL, "127.0.0.1", str(free_port()), "3"]).text)["outcome"] == "refused"


def test_no_user_of_the_mirror_is_no_answer(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: [])
    assert stand.audit(mirror_users=[])[0]["MF8"] == "inconclusive"
    assert stand.audit(mirror_users=["nobody-here"])[0]["MF8"] == "inconclusive"


# -- what cannot be told ------------------------------------------------------------------------------------
def live(statuses: dict[str, str]) -> set[str]:
    return {statuses[ident] for ident in LIVE}


@pytest.mark.parametrize(("change", "words"), [
    ({"tokens": []}, "not authorised"), ({"check_mode": True}, "check mode"), ({"site": "other"}, "it is for site lab")])
def test_without_leave_nothing_is_sent_and_the_verdict_is_claimed(stand: Stand, change: dict[str, Any], words: str) -> None:
    statuses, report, record = stand.audit(**change)
    assert live(statuses) == {"skipped"} and words in reason(report, "MF4")
    assert record["verdict"] == "claimed" and statuses["MF0"] == "pass" and any(words in one for one in record["not_tested"])
    assert stand.canary.lines() == [] and stand.machine.said == []


def test_what_nobody_asked_for_is_not_in_the_report(stand: Stand) -> None:
    """A quick verdict has no rows of the intrusive class; the record says so."""
    statuses, _report, record = stand.audit(live=False)
    assert set(statuses) == {"MF0", "MF1"} and record["verdict"] == "claimed" and any("not asked for" in one for one in record["not_tested"])
    assert stand.canary.lines() == []


def test_a_record_that_cannot_be_read_is_inconclusive_before_anything_is_sent(stand: Stand) -> None:
    statuses, _report, record = stand.audit(canaries=[conduit_host.Canary("sep1-canary", "127.0.0.1", free_port())])
    assert live(statuses) == {"inconclusive"} and record["verdict"] == "inconclusive" and statuses["MF0"] == "inconclusive"
    assert stand.canary.frames() == []
    # Another Modbus server at the record's address is no canary.
    statuses, report, _record = stand.audit(canaries=[conduit_host.Canary("sep1-canary", "127.0.0.1", stand.canary.port)])
    assert live(statuses) == {"inconclusive"} and "no canary of ours" in reason(report, "MF4")


def test_behind_the_filter_is_something_else_than_the_canary(tmp_path: Path) -> None:
    """The control is not in the record: it went to a device, and nothing more goes there."""
    with canary() as one, canary() as a_device:
        made = Stand(tmp_path, one, port=a_device.port)
        try:
            statuses, report, _record = made.audit()
        finally:
            made.thread.close()
        assert live(statuses) == {"inconclusive"} and "nothing more was sent" in reason(report, "MF4")
        assert len(a_device.frames()) == 1 and a_device.frames()[0][7] in (4, 43)


def test_a_canary_that_is_gone_half_way(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def some(rights: Any, rng: Any) -> Iterator[conduit.Probe]:
        for number, probe in enumerate(conduit.functions(rights)):
            if number == 30:
                stand.thread.filter.gates[1].link.close()
                stand.canary.close()
            yield probe

    class Lazy(list):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[conduit.Probe]:
            return some(conduit.Rights(config(stand.devices[0]).devices[0].allow.as_dict()), None)

    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: Lazy())
    statuses, _report, record = stand.audit()
    assert live(statuses) == {"inconclusive"} and record["verdict"] == "inconclusive"


def test_the_deadline_ends_it(stand: Stand) -> None:
    report = Report("modbus_filter", deadline_s=4.0)
    record = conduit_host.Audit(report, conduit_host.Options(**stand.options), stand.machine, lambda: NOW, lambda *_given: True, pace=lambda: None).run()
    assert record["verdict"] == "inconclusive" and "deadline" in record["reason"]


def test_a_canary_at_the_address_of_a_device(stand: Stand) -> None:
    status = stand.thread.filter.status()
    status["devices"][0]["device"] = status["devices"][1]["device"]
    stand.write(devices=status["devices"])
    statuses, report, _record = stand.audit()
    assert live(statuses) == {"inconclusive"} and "nothing is sent there" in reason(report, "MF4") and stand.canary.lines() == []
    with pytest.raises(core.ConfigError, match="where a device is"):
        config(device(502), device(502, id="c", canary=True))


# -- passive ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("change", "words"), [
    ({"now": NOW - 60}, "does not run"), ({"config_sha256": "x"}, "another file"), ({"devices": []}, "declared and not served")])
def test_a_filter_that_runs_otherwise_than_declared(stand: Stand, change: dict[str, Any], words: str) -> None:
    stand.write(**change)
    statuses, report, record = stand.audit(live=False)
    assert statuses["MF1"] == "fail" and words in reason(report, "MF1")
    assert record["verdict"] == ("inconclusive" if "now" in change else "refuted")


def test_one_right_more_is_named(stand: Stand) -> None:
    status = stand.thread.filter.status()
    status["devices"][0]["allow"]["reads"][0]["spans"] = [[3, 33]]
    stand.write(devices=status["devices"])
    statuses, report, _record = stand.audit(live=False)
    assert statuses["MF1"] == "fail" and "sep1 may be asked for" in reason(report, "MF1") and "[[3, 33]]" in reason(report, "MF1")


def test_no_status_is_no_filter(stand: Stand) -> None:
    (stand.root / "status.json").unlink()
    assert stand.audit()[0]["MF1"] == "fail"
    (stand.root / "status.json").write_text("{")
    assert stand.audit()[0]["MF1"] == "fail"


def test_what_a_device_answered_and_who_asked_for_more(stand: Stand) -> None:
    def seen(**change: Any) -> dict[str, tuple[str, str]]:
        status = stand.thread.filter.status()
        status["devices"][0].update(change)
        stand.write(devices=status["devices"])
        return {check.id: (check.status, check.reason) for check in stand.audit(live=False)[1].checks if check.subject == "sep1"}

    lost = {"at": NOW - 5, "reason": "device", "text": "no answer in 1 s"}
    assert seen()["MF2"][0] == "inconclusive"
    assert seen(served=5, last_served=NOW - 1, last_trouble=lost)["MF2"][0] == "pass"
    assert seen(served=5, last_served=NOW - 9, last_trouble=lost)["MF2"] == ("fail", "since the last answer: no answer in 1 s")
    assert seen(last_trouble=lost)["MF2"][0] == "fail"
    asked = {"at": NOW - 10, "reason": "function", "text": "unit 1, function 6"}
    assert seen()["MF3"][0] == "pass"
    assert seen(refused={"function": 2}, last_refusal=asked)["MF3"] == ("fail", "2 refused, the last one unit 1, function 6")
    assert seen(refused={"function": 2}, last_refusal={**asked, "at": NOW - 4000})["MF3"][0] == "pass"


def test_a_canary_with_other_rights_proves_nothing_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduit_host.conduit, "probes", lambda rights, rng: [])
    with canary() as one:
        made = Stand(tmp_path, one)
        made.thread.close()
        made.devices[0]["allow"] = ALLOW
        made.thread = FilterThread(config(*made.devices))
        made.write()
        try:
            statuses, _report, record = made.audit()
        finally:
            made.thread.close()
    assert statuses["MF4"] == "pass" and record["verdict"] == "claimed" and "no canary has the rights of sep1" in record["not_tested"]


# -- the record ---------------------------------------------------------------------------------------------
def test_the_record_is_read_whole_over_its_pages() -> None:
    data = bytes(range(256)) * 600

    def exchange(request: bytes) -> bytes:
        unit, first, count = request[6], int.from_bytes(request[8:10], "big"), int.from_bytes(request[10:12], "big")
        assert count <= 125 and first + count <= 32768
        found = (conduit.MAGIC + b"12345678" + len(data).to_bytes(8, "big"))[2 * first:][:2 * count] if unit == 255 else (
            data[unit * 65536 + 2 * first:][:2 * count])
        return adu(bytes((3, 2 * count)) + found.ljust(2 * count, b"\0"))

    reader = conduit.RecordReader(exchange)
    assert reader.header() == (b"12345678", len(data))
    for begin, end in ((0, len(data)), (1, 5), (65535, 65537), (65530, 140001), (7, 7)):
        assert reader.read(begin, end) == data[begin:end]


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"c": 1, "d": "xy"}', b'{"d": ""}', b'{"c": 1, "open": []}'])
def test_a_record_that_is_none(data: bytes) -> None:
    with pytest.raises(conduit.CannotTell):
        conduit.understand(data)


def test_bytes_that_are_no_frame_are_findings() -> None:
    lines = [{"c": 1, "d": "0001000100060104"}, {"c": 2, "d": "00010000"}, {"c": 3, "d": "000100"}, {"c": 3, "end": True}]
    record = conduit.understand("\n".join(json.dumps(one) for one in lines).encode())
    assert len(record.broken) == 3
    rights = conduit.Rights({"reads": [{"unit": 1, "function": 4, "spans": [[0, 1]]}], "identification": []})
    assert conduit.compare([], [], record, rights).passed == {"MF6": record.broken}


def test_what_the_judge_allows_is_what_the_filter_allows() -> None:
    """Two readings of one list, written apart."""
    allow = config(device(502)).devices[0].allow
    rights, rng = conduit.Rights(allow.as_dict()), random.Random(3)
    for _ in range(4000):
        unit, code = rng.choice((1, 1, 2, 3)), rng.choice((1, 2, 3, 4, 5, 43))
        first = rng.choice((rng.randrange(30), rng.randrange(95, 145), rng.randrange(65525, 65536), rng.randrange(65536)))
        pdu = bytes((code,)) + first.to_bytes(2, "big") + rng.randrange(0, 45).to_bytes(2, "big")
        if code == 43:
            pdu = bytes((43, 14, rng.randrange(6), 0))
        assert rights.allows(unit, pdu) == isinstance(core.judge(core.Frame(1, unit, pdu), allow), core.Ask)
