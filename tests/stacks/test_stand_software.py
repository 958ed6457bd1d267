# SPDX-License-Identifier: Apache-2.0
"""The mirror's software with a fault each: a running Telegraf, its collector and the kernel's rules, judged as collector_capability_audit does.

CA0 follows in every case: it says whether one of the others failed.
"""
from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest
from namespaces import PATHS
from software_stand import OTHER_PLC, PLC, SoftwareStand, own_network, silent_plc
from stands import Fault, exercise, faults

from ansible_collections.hnai.platform.plugins.module_utils.collector.proc import Proc

pytestmark = pytest.mark.scenario("stand-ot")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareStand]:
    with own_network():
        made = SoftwareStand(tmp_path_factory.mktemp("software"))
        try:
            made.start()
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def running(stand: SoftwareStand) -> Iterator[None]:
    """With what was changed before; afterwards the caller has put it back."""
    stand.start()
    try:
        yield
    finally:
        stand.stop()


@contextlib.contextmanager
def a_plugin_that_executes_is_built_in(stand: SoftwareStand) -> Iterator[None]:
    """The running program has one function's name more: that is where the audit reads what was linked."""
    program, aside = stand.telegraf.resolve(), stand.telegraf.resolve().with_name("aside")
    program.rename(aside)
    try:
        program.write_bytes(aside.read_bytes() + b"\0github.com/influxdata/telegraf/plugins/outputs/exec.init.0\0")
        program.chmod(0o755)
        with running(stand):
            yield
    finally:
        aside.replace(program)
        stand.start()


@contextlib.contextmanager
def telegraf_executes_something_else(stand: SoftwareStand) -> Iterator[None]:
    stand.loads('[[inputs.execd]]\n  command = ["/bin/sleep", "600"]\n  signal = "none"\n')
    try:
        with running(stand):
            yield
    finally:
        stand.loads("")
        stand.start()


@contextlib.contextmanager
def a_module_lies_in_the_environment(stand: SoftwareStand) -> Iterator[None]:
    (packages,) = stand.environment.glob("lib/python3*/site-packages")
    planted = packages / "sitecustomize.py"
    planted.write_text("pass\n", encoding="utf-8")
    try:
        yield
    finally:
        planted.unlink()


@contextlib.contextmanager
def the_deployed_collector_sends_writes(stand: SoftwareStand) -> Iterator[None]:
    """A release that lets a Write through, deployed everywhere: its digests are the declared ones."""
    path = stand.program / "hnai_ot_collector/ua_channel.py"
    text = path.read_text(encoding="utf-8")
    guard = "        check_reading(request)\n"
    assert guard in text
    path.write_text(text.replace(guard, "        if type(request).__name__ != 'WriteRequest':\n            check_reading(request)\n"), encoding="utf-8")
    stand.declare()
    try:
        with running(stand):
            yield
    finally:
        path.write_text(text, encoding="utf-8")
        stand.declare()
        stand.start()


@contextlib.contextmanager
def the_collector_dials_what_nobody_declared(stand: SoftwareStand) -> Iterator[None]:
    stand.collects("plc1", "plc2")
    try:
        with silent_plc(), running(stand):
            def dialled() -> bool:
                assert stand.process is not None
                return any(one.peer == OTHER_PLC for process in Proc().tree(stand.process.pid) for one in Proc().sockets(process.pid))

            stand.until("nobody dials", dialled)
            yield
    finally:
        stand.collects("plc1")
        stand.start()


@contextlib.contextmanager
def the_kernel_lets_out_more(stand: SoftwareStand) -> Iterator[None]:
    rule = f"insert rule inet hnai output ip daddr {PLC} tcp dport 502 accept"
    subprocess.run(["nft", *rule.split()], check=True, env={"PATH": PATHS}, timeout=20)
    try:
        yield
    finally:
        stand.rules()


FAULTS = [
    Fault(the_collector_dials_what_nobody_declared, {"CA6": f"^fail .*the collector: tcp to {OTHER_PLC} port 4840", "CA0": "^fail"}),
    Fault(the_kernel_lets_out_more, {"CA7": f"^fail .*beyond the conduits: tcp {PLC} port 502 as user", "CA0": "^fail"}),
    Fault(the_deployed_collector_sends_writes, {"CA5": "^fail .*OPC UA WriteRequest", "CA0": "^fail"}),
    Fault(a_module_lies_in_the_environment, {"CA4": "^fail .*sitecustomize.py was not deployed", "CA0": "^fail"}),
    Fault(telegraf_executes_something_else, {"CA3": "^fail .*inputs.execd in", "CA0": "^fail"}),
    Fault(a_plugin_that_executes_is_built_in, {"CA1": "^fail .*outputs.exec is built in: it executes programs", "CA0": "^fail"}),
]


@faults(*FAULTS)
def test_a_fault_of_the_mirrors_software_turns_its_own_check(fault: Fault, stand: SoftwareStand) -> None:
    exercise(stand, fault)


# -- other collectors on the host, by the files in which they keep what they were told --------------------------
@contextlib.contextmanager
def node_red_writes(stand: SoftwareStand) -> Iterator[None]:
    stand.flows({"id": "n1", "type": "modbus-write", "name": "out"})
    yield
    AT_REST["CA8"](stand)


@contextlib.contextmanager
def nifi_executes_scripts(stand: SoftwareStand) -> Iterator[None]:
    stand.processors("mqtt.ConsumeMQTT", "script.ExecuteScript")
    yield
    AT_REST["CA9"](stand)


@contextlib.contextmanager
def opc_publisher_takes_orders_by_mqtt(stand: SoftwareStand) -> Iterator[None]:
    stand.publishes("--pf=/pn.json -b 'HostName=broker;Port=8883'")
    yield
    AT_REST["CA10"](stand)


@contextlib.contextmanager
def neuron_takes_orders_by_mqtt(stand: SoftwareStand) -> Iterator[None]:
    stand.applications("Monitor", "MQTT")
    yield
    AT_REST["CA11"](stand)


OTHERS = [
    Fault(node_red_writes, {"CA8": r"^fail .*modbus-write out \(n1\) writes by Modbus", "CA0": "^fail"}),
    Fault(nifi_executes_scripts, {"CA9": r"^fail .*/NiFi Flow/line/p \(ExecuteScript\) executes programs or scripts", "CA0": "^fail"}),
    # Their own HTTP servers are left when all is well: for these two that is as good as it gets.
    Fault(opc_publisher_takes_orders_by_mqtt, {"CA10": r"^fail .*its API \(write value, call method\) is open to MQTT", "CA0": "^fail"},
          rest=dict.fromkeys(("CA10", "CA0"), "^inconclusive")),
    Fault(neuron_takes_orders_by_mqtt, {"CA11": r"^fail .*application mqtt \(MQTT\) takes write requests for plc", "CA0": "^fail"},
          rest=dict.fromkeys(("CA11", "CA0"), "^inconclusive")),
]


AT_REST = {
    "CA8": SoftwareStand.flows, "CA9": lambda stand: stand.processors("mqtt.ConsumeMQTT"),
    "CA10": lambda stand: stand.publishes("--pf=/pn.json"), "CA11": lambda stand: stand.applications("Monitor"),
}  # fmt: skip


@faults(*OTHERS)
def test_another_collector_that_writes_turns_its_own_check(fault: Fault, stand: SoftwareStand) -> None:
    stand.well = None
    (ident,) = fault.must.keys() & AT_REST.keys()
    AT_REST[ident](stand)
    exercise(stand, fault)
