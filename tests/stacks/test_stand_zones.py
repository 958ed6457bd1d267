# SPDX-License-Identifier: Apache-2.0
"""Faults of a network and of a host's rules, on a site in network namespaces: the verdict of conduit_verify names each, and passes after repair.

What the probe matrix sees (ZC) and what a host's own ruleset, routes and addresses say (ZS), by the parts of the module as they run on a host. The
rulesets are the project's, in this machine's kernel. Scenario stand-zones; needs root.
"""
from __future__ import annotations

import copy
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

UNIT = Path(__file__).resolve().parents[1] / "unit"
sys.path.insert(0, str(UNIT))

from namespaces import lacks
from stands import Asked, Checks, Fault, ask, exercise, faults
from zones_stand import Stand, _set

from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.expectation import expectation
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.modules import conduit_verify

pytestmark = pytest.mark.scenario("stand-zones")
#: The host whose rules are judged, and what role host sets there.
HOST = "edge1"
SETTINGS = {"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/eth0/rp_filter": "1", "net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0",
            "net/ipv6/conf/all/accept_ra": "0"}
#: A table of somebody else's that the site knows.
DECLARED = ("inet other",)
TIMEOUT_S = 2.5
ESTABLISHED = "    ct state established,related accept\n"


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    assert not lacks(), f"this machine lacks {lacks()}"
    data = copy.deepcopy(yaml.safe_load((UNIT / "fixtures/site/site.yml").read_text(encoding="utf-8")))
    data["assets"]["plc1"]["canary"] = True
    with Stand(Site.from_dict(data)) as made:
        made.inside(HOST, lambda: _set(SETTINGS))
        yield made


# -- the rules of a host --------------------------------------------------------------------------------------
@contextmanager
def rules(stand: Stand, text: str) -> Iterator[None]:
    """Rules by hand on the host; then the model's alone."""
    stand.nft(HOST, text)
    try:
        yield
    finally:
        stand.nft(HOST, "flush ruleset")
        stand.load([HOST])


def answers_are_not_let_in(stand: Stand) -> AbstractContextManager[None]:
    """Connections that the host opens carry no answer."""
    return rules(stand, nft.ruleset(stand.site, HOST).replace(ESTABLISHED, "", 1))


def somebody_hides_behind_it(stand: Stand) -> AbstractContextManager[None]:
    return rules(stand, "table ip strange {\n  chain after {\n    type nat hook postrouting priority 100;\n    masquerade\n  }\n}\n")


def chance_decides(stand: Stand) -> AbstractContextManager[None]:
    """In the table that the site declared, of packets that are refused anyway."""
    return rules(stand, "table inet other {\n  chain f {\n    type filter hook forward priority -10;\n    numgen random mod 4 0 drop\n  }\n}\n")


@contextmanager
def another_way(stand: Stand) -> Iterator[None]:
    """Past the router, by a neighbour."""
    stand.ip(HOST, "route add 10.0.35.11/32 via 10.0.3.66")
    try:
        yield
    finally:
        stand.ip(HOST, "route del 10.0.35.11/32")


@faults(
    Fault(answers_are_not_let_in, {"ZS2": "^fail : .*state established"}),
    # A table of its own is one too many by itself.
    Fault(somebody_hides_behind_it, {"ZS3": "^fail : .*masquerade"}, "ZS4"),
    Fault(chance_decides, {"ZS5": "^inconclusive : .*numgen"}),
    Fault(another_way, {"ZS6": "^fail : .*10.0.35.11.*10.0.3.66"}),
)
def test_a_fault_of_a_hosts_rules_fails_its_own_check_and_passes_after_repair(stand: Stand, fault: Fault) -> None:
    work = {"part": "static", "work": {"managed": True, "expected": expectation(stand.site, HOST)}, "foreign": DECLARED, "collect": True}

    exercise(Asked(lambda: stand.inside(HOST, lambda: ask(conduit_verify, work)["checks"])), fault, stand)


# -- what the network does ------------------------------------------------------------------------------------
@contextmanager
def session(stand: Stand, source: str, target: str, port: int) -> Iterator[None]:
    """A TCP session that stays open."""
    address = stand.site.nodes[target].v4

    def hold() -> None:
        with socket.create_connection((address, port), 10):
            os.write(told, b"1")
            time.sleep(600)

    ready, told = os.pipe()
    child, pipe = stand.start(source, hold)
    os.close(told)
    try:
        assert os.read(ready, 1) == b"1", f"{source} cannot connect to {target}"
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(pipe)
        os.close(ready)


@contextmanager
def opened(stand: Stand, *at: tuple[str, str, str]) -> Iterator[None]:
    """One rule more at the head of a chain, on each of these hosts: (host, chain, what it lets through)."""
    for host, chain, what in at:
        stand.nft(host, f"insert rule inet hnai {chain} {what} accept")
    try:
        yield
    finally:
        stand.load(sorted({host for host, _chain, _what in at}))


def time_between_brokers(stand: Stand) -> AbstractContextManager[None]:
    """A datagram gets from one broker to the next, which no conduit says."""
    return opened(stand, ("kafka1", "output", "udp dport 123"), ("kafka2", "input", "udp dport 123"))


@contextmanager
def what_was_opened_once(stand: Stand) -> Iterator[None]:
    """A session from the time when every rule on its way was open; they are closed again, and let go on what has begun."""
    with ExitStack() as over:
        with opened(stand, ("data1", "output", "tcp dport 8883"), ("router", "forward", "tcp dport 8883"), (HOST, "input", "tcp dport 8883")):
            over.enter_context(session(stand, "data1", HOST, 8883))
        yield


@contextmanager
def a_device_is_left_out(stand: Stand) -> Iterator[None]:
    """The run has a limit: what this device could reach nobody tries."""
    every = stand.nodes
    stand.nodes = [node for node in every if node.name != "plc1"]
    try:
        yield
    finally:
        stand.nodes = every


def network(stand: Stand) -> Checks:
    """What is said while the site does its work: its collector holds a session to a broker."""
    with session(stand, HOST, "kafka1", 9094):
        return stand.verify(timeout=TIMEOUT_S).result()["checks"]


@faults(
    # Who let it out and who let it in are named by themselves.
    Fault(time_between_brokers, {"ZC3": r"^fail : kafka1 10.0.35.11 → kafka2 10.0.35.12 udp/123 .*it got there"}, "ZC5"),
    Fault(what_was_opened_once, {"ZC4": r"^fail : .*10.0.4.12:\d+ → 10.0.3.11:8883 \(data1 → edge1\): no conduit"}),
    Fault(a_device_is_left_out, {"ZC6": "^inconclusive : plc1: not part of this run$"}),
)
def test_a_fault_of_the_network_fails_its_own_check_and_passes_after_repair(stand: Stand, fault: Fault) -> None:
    exercise(Asked(lambda: network(stand)), fault, stand)
