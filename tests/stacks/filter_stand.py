# SPDX-License-Identifier: Apache-2.0
"""The Modbus filter as its role puts it onto a host, running on loopback before a canary, and copies of it with a hole each."""
from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import kit  # puts tests/unit on the path
from modbus_stand import FEW, Canary, Machine, device
from put_programs import put_program
from stands import Checks, Judged
from test_73_ot_probes import APPROVER, Approver

from ansible_collections.hnai.platform.plugins.module_utils.intrusive import ssh_verify
from ansible_collections.hnai.platform.plugins.module_utils.modbus import conduit_host
from ansible_collections.hnai.platform.plugins.module_utils.modbus.conduit_live import Line
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

CORES = ("modbus/filter", "modbus/filter_server")
#: What a copy with a hole is given beside its hole.
RAW = '''
@dataclass(frozen=True)
class Raw(Ask):
    """A request that is sent on as it came."""

    body: bytes = b""

    def pdu(self) -> bytes:
        return self.body


def raw(frame: Frame) -> Raw:
    return Raw(frame.unit, frame.pdu[0], 0, 1, frame.pdu)


'''
REFUSAL = '@dataclass(frozen=True)\nclass Refusal:\n    """A request that may not pass'
#: And its answer: taken for a broken one it would cost the connection, and a device may be dialled only so often.
REPLY = "    if function == ask.function | 0x80:\n"
ANY_REPLY = "    if isinstance(ask, Raw):\n        return frame.pdu\n"
#: (file, what stands there, what a copy with this hole has).
Hole = tuple[str, str, str]
PASSED_ON: list[Hole] = [("filter.py", REFUSAL, RAW.lstrip("\n") + REFUSAL), ("filter.py", REPLY, ANY_REPLY + REPLY)]


class FilterStand(Judged):
    """Filter, canary, and the files of the mirror's host below *home*. How the mirror's users dial is scripted: on loopback nobody is kept from it."""

    def __init__(self, home: Path, canary: Canary, approver: Approver) -> None:
        self.home, self.canary, self.approver = home, canary, approver
        self.devices = [device(502, id="sep1", host="192.0.2.1", allow=FEW),
                        device(canary.port, id="sep1-canary", allow=FEW, canary=True, clients=8, timeout_s=20)]
        self.machine = Machine(home)
        self.config, self.status = home / "filter.json", home / "status.json"
        self.config.write_text(json.dumps({"status_file": str(self.status), "devices": self.devices}), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self.run()

    def run(self, *holes: Hole) -> None:
        """The filter anew, out of a fresh copy with *holes*, until it reports."""
        self.close()
        self.status.unlink(missing_ok=True)
        copy = self.home / ("program-%d" % time.monotonic_ns())
        copy.mkdir()
        program = put_program("modbus_filter", CORES, copy)
        for name, old, new in ([*PASSED_ON, *holes] if holes else []):
            path = program / "hnai_modbus_filter" / name
            text = path.read_text(encoding="utf-8")
            assert text.count(old) == 1, f"{name}: {old!r} stands there {text.count(old)} times"
            path.write_text(text.replace(old, new), encoding="utf-8")
        with (self.home / "filter.log").open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-I", str(program), "--config", str(self.config)], stdin=subprocess.DEVNULL, stderr=log)
        end = time.monotonic() + kit.START_S
        while not self.status.exists():
            log_text = (self.home / "filter.log").read_text(encoding="utf-8")
            assert self._process.poll() is None and time.monotonic() < end, f"the filter does not start: {log_text}"
            time.sleep(0.1)

    @contextlib.contextmanager
    def holed(self, *holes: Hole) -> Iterator[None]:
        """With holes; afterwards as delivered."""
        self.run(*holes)
        try:
            yield
        finally:
            self.run()

    def judge(self) -> Checks:
        """As module modbus_conduit_audit does, only not paced."""
        endpoint = "modbus://127.0.0.1:%d" % self.canary.port
        allowed = self.approver.allows(endpoint)
        assert list(allowed["hnai_intrusive_approvers"]) == [APPROVER]
        report = Report("modbus_filter", deadline_s=600)
        options = conduit_host.Options(
            declared=self.devices, canaries=[conduit_host.Canary("sep1-canary", "127.0.0.1", self.canary.record_port)], mirror_users=["hnai-telegraf"],
            live=True, site=self.approver.site, environment="test", tokens=allowed["hnai_intrusive_tokens"],
            approvers=allowed["hnai_intrusive_approvers"], config="/filter.json", status="/status.json")
        conduit_host.Audit(report, options, self.machine, time.time, ssh_verify(self.machine), connect=lambda host, port: Line(host, port, 60.0),
                           pace=lambda: None).run()
        return report.result()["checks"]

    def close(self) -> None:
        """Ends the filter."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
