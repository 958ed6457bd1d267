# SPDX-License-Identifier: Apache-2.0
"""verify --tags zones on the lab: the network is the model, told in seconds; a router or a host opened by hand is named, and put back."""
from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, SUDO, Lab
from opened import bad, opened, verify, without_rules
from test_70_outage import recovered
from test_94_outage import KAFKA, powerless, up

pytestmark = pytest.mark.scenario("zones")
RUNS = 20


def seconds_of_wait_for(lab: Lab) -> float:
    """What one pair costs with ansible.builtin.wait_for, of a sample: a denied pair, timeout 1 s, as a loop in a task would do it."""
    pairs = [("edge1", "10.77.35.11", 22), ("kafka1", "10.77.3.11", 22), ("stream1", "10.77.36.11", 8200)]
    begin = time.monotonic()
    for host, address, port in pairs:
        lab.adhoc(host, "ansible.builtin.wait_for", {"host": address, "port": port, "timeout": 1, "connect_timeout": 1})
    whole = (time.monotonic() - begin) / len(pairs)
    begin = time.monotonic()
    lab.adhoc("edge1", "ansible.builtin.ping", {})
    # Start and login are paid once in a loop; the module itself is paid for every pair.
    return max(1.2, whole - (time.monotonic() - begin) + 0.25)


def test_the_network_is_the_model_and_it_takes_seconds(lab: Lab) -> None:
    run, checks = verify(lab)
    assert run.rc == 0 and bad(checks) == {}, bad(checks)
    subjects = {ident: [subject for one, subject in checks if one == ident] for ident in ("ZC1", "ZC2", "ZC5")}
    assert len(subjects["ZC1"]) >= 16 and len(subjects["ZC2"]) >= 30
    assert set(subjects["ZC5"]) == set(lab.groups["managed"])
    rate = checks["ZC6", ""]["evidence"]["pairs_per_second"]
    single = seconds_of_wait_for(lab)
    print(f"{checks['ZC6', '']['observed']}; wait_for: {single:.2f} s a pair; {rate * single:.0f} times faster")
    assert rate * single >= 50
    assert "controller" in str(checks["ZC6", ""]["observed"])


def test_nothing_stays_behind(lab: Lab) -> None:
    def left(host: str) -> str:
        return lab.run(host, "grep", "-c", "hnai-zones-", "/proc/net/unix", check=False).stdout.strip()

    assert set(lab.each(lab.groups["managed"], left).values()) == {"0"}


@contextmanager
def busy(lab: Lab, *hosts: str) -> Iterator[None]:
    """Hosts with more work than processors."""
    try:
        for host in hosts:
            lab.run(host, "systemd-run", "--quiet", "--collect", "--unit=hnai-test-load", "--property=RuntimeMaxSec=90", "sh", "-c",
                    "for n in 1 2 3 4; do (while :; do :; done) & done; wait")
        yield
    finally:
        for host in hosts:
            lab.run(host, "systemctl", "stop", "hnai-test-load.service", check=False)


def test_no_false_result_in_many_runs(lab: Lab) -> None:
    """One of them while a host has all its processors busy."""
    wrong = []
    for number in range(RUNS - 1):
        loaded = number == RUNS // 2
        with busy(lab, *(["kafka1"] if loaded else [])):
            _run, checks = verify(lab)
        wrong += [(number, key, text) for key, text in bad(checks).items() if not (loaded and text.startswith("inconclusive"))]
    assert not wrong, wrong


def test_a_host_that_restarts_while_others_are_loaded_is_no_proof(lab: Lab) -> None:
    """The last of the runs: kafka3 goes down while the run listens and asks, and boots. What concerns it cannot be judged; nothing is accused."""
    with busy(lab, "kafka1", "stream1"), ThreadPoolExecutor(1) as pool:
        run = pool.submit(verify, lab)
        until_listening(lab, "kafka3", run.done)
        with powerless(lab, "kafka3"):
            time.sleep(1)
        _run, checks = run.result()
    found = bad(checks)
    assert not [key for key, text in found.items() if not text.startswith("inconclusive")], found
    assert ("ZC5", "kafka3") in found, found
    up(lab, "kafka3", KAFKA)
    _run, checks = verify(lab)
    assert bad(checks) == {}
    recovered(lab)


def until_listening(lab: Lab, host: str, ended: Callable[[], bool]) -> None:
    """Waits until a run's receivers listen on a host."""
    end = time.monotonic() + 120
    while lab.run(host, "grep", "-c", "hnai-zones-", "/proc/net/unix", check=False).stdout.strip() == "0":
        assert time.monotonic() < end and not ended(), "it never listened"
        time.sleep(0.3)


def test_a_host_that_is_away_is_no_proof(lab: Lab) -> None:
    link = lab.podman("exec", lab.container("kafka3"), "sh", "-c", "cat /sys/class/net/*/iflink | sort -u").stdout.split()
    index = next(one for one in link if one != "1")
    veth = next(path.parent.name for path in Path("/sys/class/net").glob("*/ifindex") if path.read_text().strip() == index)
    try:
        _set_link(veth, "down")
        _run, checks = verify(lab)
        found = bad(checks)
        about = {key: text for key, text in found.items() if "kafka3" in text or key in (("ZC5", "kafka3"), ("ZC6", ""))}
        assert about and not [key for key, text in found.items() if text.startswith("fail")], found
        assert checks["ZC2", "l4 → l35"]["status"] == "inconclusive"
    finally:
        _set_link(veth, "up")
        up(lab, "kafka3", KAFKA)


def _set_link(veth: str, state: str) -> None:
    subprocess.run([*SUDO, "ip", "link", "set", veth, state], check=True, timeout=30)


def test_a_router_opened_by_hand_is_named_while_hosts_still_refuse(lab: Lab) -> None:
    with opened(lab, "router", "forward", "tcp", "dport", "22"):
        run, checks = verify(lab)
    found = without_rules(bad(checks), {"router": "forward"})
    assert run.rc != 0 and found.pop(("ZC5", "router")).startswith("fail: router lets through")
    # The plant's device has no rules of its own: what the router lets in gets there.
    assert all(subject.endswith("→ l2") and text.startswith("fail") for (ident, subject), text in found.items()), found
    assert checks["ZC2", "l4 → l35"]["status"] == "pass"


def test_a_host_opened_by_hand_is_named_while_the_router_still_refuses(lab: Lab) -> None:
    with opened(lab, "kafka2", "input", "tcp", "dport", "8428"), opened(lab, "stream1", "output", "tcp", "dport", "8200"):
        run, checks = verify(lab)
    found = without_rules(bad(checks), {"kafka2": "input", "stream1": "output"})
    assert run.rc != 0 and found.pop(("ZC5", "kafka2")).startswith("fail: kafka2 lets through")
    assert found.pop(("ZC5", "stream1")).startswith("fail: stream1 lets through")
    reason = found.pop(("ZC2", "l35 → l35"))
    assert reason.startswith("fail") and re.search(r"kafka2 \S+ tcp/8428 \[no conduit\]", reason)
    assert found == {}


def test_a_killed_run_leaves_nothing_for_long(lab: Lab) -> None:
    """The controller's part dies between listening and asking: the receivers end at their own time."""
    command = [str(lab.python_path / "ansible-playbook"), "-i", str(lab.inventory), "playbooks/verify.yml", "--tags", "zones"]
    run = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_listening(lab, "sec1", lambda: run.poll() is not None)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    time.sleep(62)
    test_nothing_stays_behind(lab)
    _run, checks = verify(lab)
    assert bad(checks) == {}
