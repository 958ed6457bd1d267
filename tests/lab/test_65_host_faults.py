# SPDX-License-Identifier: Apache-2.0
"""Faults of a host, a shipper, the collector, the observer and the MQTT broker's door: each turns its own check, and passes after repair.

Scenario host-faults. What lies on a host is changed as somebody on it would do it, and put back.
"""
from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from conftest import Lab
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from plant_view import until
from test_50_faults import systemctl
from test_64_checks import bad, edited, judged

pytestmark = pytest.mark.scenario("host-faults")
WRITE = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
DAY = datetime.timedelta(days=1)


def papers(days: int) -> tuple[str, str]:
    """(certificate, revocation list) of somebody unknown, both ending in so many days, as PEM."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hnai test")])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - 400 * DAY).not_valid_after(now + days * DAY).sign(key, hashes.SHA256())
    )  # fmt: skip
    listed = (
        x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now - 400 * DAY).next_update(now + days * DAY).sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem).decode(), listed.public_bytes(pem).decode()


@contextmanager
def extra_file(lab: Lab, host: str, path: str, content: str) -> Iterator[None]:
    """A file that nobody delivered."""
    lab.run(host, "/usr/bin/python3", "-c", WRITE, path, stdin=content)
    try:
        yield
    finally:
        lab.run(host, "rm", "-f", path)


@contextmanager
def stopped(lab: Lab, host: str, unit: str) -> Iterator[None]:
    """A unit of the site, or of the plant, stands still."""
    systemctl(lab, host, "stop", unit)
    try:
        yield
    finally:
        systemctl(lab, host, "start", unit)


def where(lab: Lab, component: str) -> str:
    """The host on which the faults of a component are made; of `host`, one that follows the site's time."""
    return lab.groups["canary" if component == "host" else component][0]


# -- the host -------------------------------------------------------------------------------------------------
@contextmanager
def a_unit_failed(lab: Lab) -> Iterator[None]:
    lab.run(where(lab, "host"), "systemd-run", "--unit=hnai-test-fails", "--service-type=oneshot", "/bin/false", check=False)
    try:
        yield
    finally:
        lab.run(where(lab, "host"), "systemctl", "reset-failed", "hnai-test-fails.service")


@contextmanager
def a_unit_ends_again_and_again(lab: Lab) -> Iterator[None]:
    policy = ("--property=Restart=always", "--property=RestartSec=5", "--property=StartLimitIntervalSec=0")
    lab.run(where(lab, "host"), "systemd-run", "--unit=hnai-test-loops", *policy, "/bin/false")
    try:
        yield
    finally:
        systemctl(lab, where(lab, "host"), "stop", "hnai-test-loops.service")


def a_restart_is_left_over(lab: Lab) -> AbstractContextManager[None]:
    return edited(lab, where(lab, "host"), "/etc/hnai/digests/chrony.service.restart", "'0' * 64 + t[64:]", "true")


def time_comes_from_nobody(lab: Lab) -> AbstractContextManager[None]:
    code = "__import__('re').sub(r'(?m)^server \\S+', 'server 192.0.2.1', t)"
    return edited(lab, where(lab, "host"), "/etc/chrony/chrony.conf", code, "systemctl", "restart", "chrony.service")


@contextmanager
def a_kernel_setting_differs(lab: Lab) -> Iterator[None]:
    key = "net.ipv6.conf.all.accept_ra"
    lab.run(where(lab, "host"), "sysctl", "-w", f"{key}=1")
    try:
        yield
    finally:
        lab.run(where(lab, "host"), "sysctl", "-w", f"{key}=0")


def a_certificate_ends_soon(lab: Lab) -> AbstractContextManager[None]:
    return extra_file(lab, where(lab, "mosquitto"), "/etc/hnai/mosquitto/tls/test.pem", papers(3)[0])


def a_revocation_list_is_over(lab: Lab) -> AbstractContextManager[None]:
    return extra_file(lab, where(lab, "mosquitto"), "/etc/hnai/mosquitto/tls/test.crl", papers(-1)[1])


@contextmanager
def a_unit_left_its_sandbox(lab: Lab) -> Iterator[None]:
    host, directory = where(lab, "canary"), "/run/systemd/system/hnai-canary.service.d"
    open_ = "[Service]\nProtectSystem=no\nPrivateDevices=no\nNoNewPrivileges=no\nSystemCallFilter=\nCapabilityBoundingSet=~\nRestrictAddressFamilies=\n"
    lab.run(host, "mkdir", "-p", directory)
    try:
        with extra_file(lab, host, f"{directory}/test.conf", open_):
            lab.run(host, "systemctl", "daemon-reload")
            yield
    finally:
        lab.run(host, "rmdir", directory)
        lab.run(host, "systemctl", "daemon-reload")


def a_jar_that_nobody_released(lab: Lab) -> AbstractContextManager[None]:
    """Kafka's class path has every jar of the folder."""
    return extra_file(lab, where(lab, "kafka"), "/opt/hnai/kafka/current/libs/zz-hnai-test.jar", "")


@contextmanager
def a_key_of_root(lab: Lab) -> Iterator[None]:
    host = where(lab, "host")
    lab.run(host, "mkdir", "-p", "-m", "0700", "/root/.ssh")
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43 + " by-hand-hnai-test\n"
    with extra_file(lab, host, "/root/.ssh/authorized_keys2", key):
        yield


# -- shippers, collector, observer ----------------------------------------------------------------------------
def the_line_is_silent(lab: Lab) -> AbstractContextManager[None]:
    return stopped(lab, "plc1", "hnai-ot-simulator-line.service")


def mqtt_is_away(lab: Lab) -> AbstractContextManager[None]:
    return stopped(lab, where(lab, "mosquitto"), "hnai-mosquitto.service")


def a_declared_tag_does_not_exist(lab: Lab) -> AbstractContextManager[None]:
    host, path = where(lab, "ot_collector"), "/etc/hnai/ot_collector/collector.json"
    config = json.loads(lab.run(host, "cat", path).stdout)
    source = next(one for one in config["sources"] if one["protocol"] == "opcua")
    node = source["tags"][-1]["node"]
    code = f"t.replace({json.dumps(node)}, {json.dumps(node + '_gone')}, 1)"
    return edited(lab, host, path, code, "systemctl", "restart", "hnai-telegraf-shipper.service")


# -- the filter, the stores, a broker, the JobManager ---------------------------------------------------------
def a_device_is_silent(lab: Lab) -> AbstractContextManager[None]:
    return stopped(lab, "plc1", "hnai-ot-simulator-modbus.service")


#: One order to write a register, as any user of the host could send it to the filter.
ORDER = """
import json, socket
with socket.create_connection(("127.0.1.1", 1502), 5) as one:
    one.sendall(bytes.fromhex("000100000006010600000001"))
    answer = one.recv(64)
print(json.dumps(answer.hex()))
"""


@contextmanager
def somebody_orders_a_write(lab: Lab) -> Iterator[None]:
    host = where(lab, "modbus_filter")
    # One of the two connections is the collector's.
    assert lab.python(host, ORDER) == "000100000003018601", "exception 01, and nothing reaches the device"
    try:
        yield
    finally:
        lab.run(host, "systemctl", "restart", "hnai-modbus_filter.service")


def the_mqtt_broker_is_down(lab: Lab) -> AbstractContextManager[None]:
    return stopped(lab, where(lab, "mosquitto"), "hnai-mosquitto.service")


@contextmanager
def a_store_repeats(lab: Lab) -> Iterator[None]:
    host, unit = where(lab, "victoriametrics"), "/etc/systemd/system/hnai-victoriametrics.service"
    with edited(lab, host, unit, "t.replace('-dedup.minScrapeInterval=1ms', '-dedup.minScrapeInterval=0s')", "systemctl", "daemon-reload"):
        systemctl(lab, host, "restart", "hnai-victoriametrics.service")
        yield
    systemctl(lab, host, "restart", "hnai-victoriametrics.service")


def a_broker_is_open_by_default(lab: Lab) -> AbstractContextManager[None]:
    code = "t.replace('allow.everyone.if.no.acl.found=false', 'allow.everyone.if.no.acl.found=true')"
    return edited(lab, where(lab, "kafka"), "/etc/hnai/kafka/server.properties", code, "systemctl", "restart", "hnai-kafka.service")


def the_jobmanager_is_down(lab: Lab) -> AbstractContextManager[None]:
    return stopped(lab, where(lab, "flink"), "hnai-flink-jobmanager.service")


def nobody_observes(lab: Lab) -> AbstractContextManager[None]:
    return stopped(lab, where(lab, "canary"), "hnai-canary.service")


def the_broker_lets_everybody_in(lab: Lab) -> AbstractContextManager[None]:
    code = "t.replace('allow_anonymous false', 'allow_anonymous true')"
    return edited(lab, where(lab, "mosquitto"), "/etc/hnai/mosquitto/mosquitto.conf", code, "systemctl", "restart", "hnai-mosquitto.service")


@dataclass(frozen=True)
class Fault:
    """`must` is not well within a minute, `may` with it; nothing else of that component on that host."""

    make: Callable[[Lab], AbstractContextManager[None]]
    component: str
    must: frozenset[str]
    may: frozenset[str] = frozenset()
    #: The group whose first host is asked, where it is not the component's own.
    of: str = ""
    profile: str = "quick"


def fault(make: Callable[[Lab], AbstractContextManager[None]], component: str, must: str, may: str = "", **others: str) -> object:
    """A parameter, named by what was broken."""
    return pytest.param(Fault(make, component, frozenset(must.split()), frozenset(may.split()), **others), id=make.__name__)


@pytest.mark.parametrize(
    "one",
    [
        fault(a_unit_failed, "host", "HO1"),
        fault(a_unit_ends_again_and_again, "host", "HO1"),
        fault(a_restart_is_left_over, "host", "HO2"),
        fault(time_comes_from_nobody, "host", "HO4"),
        fault(a_kernel_setting_differs, "host", "HO5"),
        fault(a_certificate_ends_soon, "host", "HO7", of="mosquitto"),
        fault(a_revocation_list_is_over, "host", "HO8", of="mosquitto"),
        fault(a_unit_left_its_sandbox, "host", "HO10", of="canary", profile="full"),
        fault(a_jar_that_nobody_released, "host", "HO11", of="kafka"),
        fault(a_key_of_root, "host", "HO12"),
        # What comes after it has nothing to deliver, which says nothing about it.
        fault(the_line_is_silent, "telegraf", "TG2", "TG3"),
        fault(mqtt_is_away, "telegraf", "TG3", "TG2"),
        fault(a_declared_tag_does_not_exist, "ot_collector", "OC3", "OC4"),
        fault(nobody_observes, "canary", "CN1", "CN2 CN3 CN4"),
        fault(a_device_is_silent, "modbus_filter", "MF2"),
        fault(somebody_orders_a_write, "modbus_filter", "MF3"),
        fault(the_mqtt_broker_is_down, "mosquitto", "MQ1", "MQ2 MQ3 MQ4 MQ5 MQ6 MQ7 MQ8 MQ9 MA0 MA1 MA2 MA3 MA4"),
        # It was away for the restart.
        fault(a_store_repeats, "victoriametrics", "VM3", "VM1 VM8 FR1 FR2 FR3"),
        # It comes back as a broker that catches up.
        fault(a_broker_is_open_by_default, "kafka", "S6", "Q1 Q2 Q3 Q4 Q5 Q6 F1 F2 F3 F4 B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11 L1 L2 C2 C3"),
        # Who is not there says nothing of the rest.
        fault(the_jobmanager_is_down, "flink", "H1", "H2 H3 H4 H5 H6 H7 H8 H9 H10"),
        fault(the_broker_lets_everybody_in, "mosquitto", "MQ2", "MQ6 MQ8 MQ9 MA0 MA1 MA4"),
    ],
)
def test_a_fault_fails_its_own_check_and_passes_after_repair(lab: Lab, one: Fault) -> None:
    host = where(lab, one.of or one.component)

    def look() -> set[str]:
        return bad(judged(lab, one.component, host, one.profile))

    until("not well to begin with", lambda: not look(), 120, 3)
    with one.make(lab):
        seen: set[str] = set()

        def told() -> bool:
            seen.clear()
            seen.update(look())
            # What is only just starting says more for a moment.
            return one.must <= seen <= one.must | one.may

        until(f"nobody says {sorted(one.must)} alone", told, 90, 3)
    until("not well again", lambda: not look(), 240, 3)
