# SPDX-License-Identifier: Apache-2.0
"""The line's Sparkplug B stream, decoded, is the line's own journal, whatever is killed: real broker, line and collector on loopback."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sparkplug_stand import Stand
from stands import Asked, Fault, ask, exercise, faults

from ansible_collections.hnai.platform.plugins.modules import ot_collector_health

pytestmark = pytest.mark.scenario("sparkplug")
CONNECT, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 4, 8, 12, 14
Key = tuple[str, int]
#: What the verdict is asked with, so that what is over is soon known to be; and a line that is slower than that.
GAP_WINDOW_S, MAX_LAG_S, SLOW_S = 5.0, 3.0, 6.0


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    made = Stand(tmp_path_factory.mktemp("sparkplug"))
    try:
        made.start_collector()
        made.until("no session", lambda: made.node().get("state") == "connected", 120)
        made.start_line()
        made.until("the node is not known", lambda: made.node().get("alive") and len(made.records()) > 20, 120)
        yield made
    finally:
        made.close()


def samples(stand: Stand) -> dict[Key, tuple[Any, int]]:
    """{(tag, time): (value, status)} of what was decoded; a sample that came twice must say the same twice."""
    found: dict[Key, tuple[Any, int]] = {}
    for record in stand.records():
        if record.get("gap") or record["ts_origin"] != "source":
            continue
        key, said = (record["tag"], record["source_ts"]), (record["value"], record["status"])
        assert found.setdefault(key, said) == said, record
    return found


def made(stand: Stand, lost: bool = False) -> dict[Key, tuple[Any, int]]:
    """The same of the line's journal: what it sent, or what a test made disappear."""
    lines = [line for line in stand.journal() if line.get("lost", False) is lost]
    keys = Counter((line["tag"], line["t"]) for line in lines)
    assert not [key for key, count in keys.items() if count > 1]
    return {(line["tag"], line["t"]): (line["value"], line["status"]) for line in lines}


def gaps(stand: Stand, reason: str) -> list[dict[str, Any]]:
    return [record for record in stand.records() if (record.get("gap") or {}).get("reason") == reason]


def silences(stand: Stand, first: int = 0) -> list[set[str]]:
    """After each record from the given one on: the tags whose newest record says that nothing is known, a gap that is not closed."""
    found, now = [], set[str]()
    for number, record in enumerate(stand.records()):
        bad = (record.get("gap") or {"to": 0})["to"] is None and record["status"] == 0x80310000 and record["value"] is None
        now = now | {record["tag"]} if bad else now - {record["tag"]}
        if number >= first:
            found.append(now)
    return found


def silent(stand: Stand) -> set[str]:
    """The last of them."""
    return silences(stand)[-1]


def equal(stand: Stand, more: int = 20) -> None:
    """After some more samples, everything that the line sent has been decoded, to the last bit, and nothing else."""
    wanted = len(stand.journal()) + more
    stand.until("the line says nothing", lambda: len(stand.journal()) >= wanted, 60)
    sent = made(stand)

    def whole() -> bool:
        return sent.keys() <= samples(stand).keys()

    stand.until("not everything arrived", whole, 60)
    decoded, sent = samples(stand), made(stand)
    assert {key: decoded[key] for key in decoded if key in sent} == {key: sent[key] for key in decoded if key in sent}
    assert not decoded.keys() - sent.keys()


def test_every_value_arrives_once_with_its_status_and_time(stand: Stand) -> None:
    equal(stand)
    told = Counter((r["tag"], r["source_ts"]) for r in stand.records() if not r.get("gap") and not r.get("repeat"))
    assert set(told.values()) == {1}
    assert {record["tag"] for record in stand.records()} == {tag["name"] for tag in stand.source["tags"]}
    assert {record["type"] for record in stand.records()} == {"int", "double", "enum", "bool", "float", "string"}


def test_ten_kills_of_the_decoder_lose_nothing(stand: Stand) -> None:
    """No gap either: the broker kept what was not acknowledged, and the births were kept here."""
    before = [record for record in stand.records() if record.get("gap")]
    for _ in range(10):
        stand.kill("collector")
        count = len(stand.journal())
        stand.until("the line says nothing", lambda count=count: len(stand.journal()) > count + 3, 60)
        stand.start_collector()
        known = len(stand.records())
        stand.until("nothing is decoded", lambda known=known: len(stand.records()) > known + 3, 60)
    equal(stand)
    assert [record for record in stand.records() if record.get("gap")] == before
    assert stand.node()["unknown"] == 0


def test_aliases_mean_something_else_after_each_birth(stand: Stand) -> None:
    births = stand.wish("rebirth")["births"]
    stand.until("no birth", lambda: stand.wish("")["births"] > births, 60)
    stand.kill("collector")
    stand.wish("rebirth")
    stand.until("no birth", lambda: stand.wish("")["births"] > births + 1, 60)
    stand.start_collector()
    equal(stand)
    assert stand.node()["jumps"] == 0


def test_an_alias_of_nobody_is_counted_and_changes_no_tag(stand: Stand) -> None:
    stand.wish("stranger")
    stand.until("it is not counted", lambda: stand.node().get("unknown_now"), 60)
    assert stand.node()["unknown_now"] == {"alias 4711 of the node": 1}
    equal(stand)
    stand.wish("rebirth")
    stand.until("a birth does not answer it", lambda: not stand.node()["unknown_now"], 60)


def test_a_number_left_out_is_a_gap_of_every_tag(stand: Stand) -> None:
    jumps = stand.node()["jumps"]
    stand.wish("lose")
    stand.until("nothing is missed", lambda: stand.node()["jumps"] > jumps, 60)
    stand.until("the gaps are not closed", lambda: [r for r in gaps(stand, "sequence_gap") if r["gap"]["to"]], 60)
    equal(stand)
    lost, found = made(stand, lost=True), gaps(stand, "sequence_gap")
    assert lost and not lost.keys() & samples(stand).keys()
    assert {record["tag"] for record in found} == {tag["name"] for tag in stand.source["tags"]}
    assert {(record["value"], record["status"]) for record in found} == {(None, 0x80310000)}
    for tag, at in lost:
        assert any(r["tag"] == tag and r["gap"]["to"] and r["gap"]["from"] < at < r["gap"]["to"] for r in found), (tag, at)
    assert stand.node()["lost_messages"] >= 1


def test_a_device_dies_alone(stand: Stand) -> None:
    first, deaths = len(stand.records()), stand.node()["deaths"]
    stand.wish("device_death")
    stand.until("no death", lambda: stand.node()["deaths"] > deaths, 60)
    mine = {tag["name"] for tag in stand.source["tags"] if tag.get("device")}
    stand.until("its tags are not told", lambda: mine in silences(stand, first), 60)
    assert gaps(stand, "device_death")
    stand.until("it is not born again", lambda: not stand.node()["dead_devices"], 60)
    equal(stand)


def test_a_killed_line_is_bad_at_once_and_the_old_will_kills_nobody(stand: Stand) -> None:
    for name in ("line", "collector"):
        deaths = len(gaps(stand, "node_death"))
        stand.until("the tags are not known", lambda: not silent(stand), 60)
        stand.kill("line")
        every = {tag["name"] for tag in stand.source["tags"]}
        stand.until("the tags are not bad", lambda every=every: silent(stand) == every, 60)
        assert {record["tag"] for record in gaps(stand, "node_death")[deaths:]} == every
        stand.until("the status does not say it", lambda: stand.node()["alive"] is False, 60)
        if name == "collector":
            # A new process knows that the node is dead, and that its births say nothing any more.
            stand.kill("collector")
            stand.start_collector()
            stand.until("it forgot", lambda: stand.node().get("state") == "connected" and stand.node()["alive"] is False, 60)
        stand.start_line()
        stand.until("it is not born again", lambda: stand.node()["alive"], 60)
        equal(stand)


def test_what_was_made_while_the_broker_was_away_comes_as_history(stand: Stand) -> None:
    """The broker is killed for some seconds; line and decoder come back by themselves, in any order."""
    stand.kill("broker")
    second = stand.wish("")["second"]
    stand.until("the line stands", lambda: stand.wish("")["second"] > second + 3, 60)
    stand.start_broker()
    stand.until("not born again", lambda: stand.node()["alive"] and stand.node()["state"] == "connected" and stand.wish("")["connected"], 60)
    stand.until("nothing arrives", lambda: [r for r in stand.records()[-5:] if r["tag"] == "sequence"], 60)
    wanted = len(stand.journal()) + 20
    stand.until("the line says nothing", lambda: len(stand.journal()) >= wanted, 60)
    # The last second before the kill may be on its way for ever; whatever is missing lies in a gap that was told.
    sent = made(stand)
    stand.until("not everything arrived", lambda: max(at for _tag, at in sent) in {at for _tag, at in samples(stand)}, 60)
    decoded, told = samples(stand), [record for record in stand.records() if record.get("gap")]
    missing = [key for key in sent if key not in decoded]
    for tag, at in missing:
        assert any(r["tag"] == tag and r["gap"]["from"] < at and (r["gap"]["to"] is None or at < r["gap"]["to"]) for r in told), (tag, at)
    assert len(missing) < 40
    assert {key: decoded[key] for key in sent if key in decoded} == {key: sent[key] for key in sent if key in decoded}
    sequence = sorted(value for (tag, _at), (value, _status) in decoded.items() if tag == "sequence" and value is not None)
    assert sequence[-1] > second


@contextmanager
def its_memory_is_lost(stand: Stand) -> Iterator[None]:
    """The collector's host is new: the broker has its session still, and births are not sent again by themselves."""
    stand.kill("collector")
    for name in ("state.json", "sparkplug.spb1.json", "status.json"):
        (stand.home / name).unlink()
    stand.start_collector()
    stand.until("nothing comes", lambda: stand.node().get("state") == "connected" and stand.node()["messages"], 60)
    yield
    stand.wish("rebirth")


@contextmanager
def a_number_is_left_out(stand: Stand) -> Iterator[None]:
    stand.wish("lose")
    yield


@contextmanager
def a_slow_line(stand: Stand) -> Iterator[None]:
    stand.tap.delay_s = SLOW_S
    try:
        yield
    finally:
        stand.tap.delay_s = 0.0


@faults(
    # What no birth tells is not there, not understood, not heard, and has no time.
    Fault(its_memory_is_lost, {"OC9": "^fail spb1: no birth was heard"}, "OC2 OC3 OC10 OC13"),
    # What is missed is a gap of every tag.
    Fault(a_number_is_left_out, {"OC11": r"^fail spb1: \d+ messages missed"}, "OC4"),
    Fault(a_slow_line, {"OC13": r"^fail spb1: [56]\.\d+ s"}),
)
def test_a_fault_fails_its_own_check_and_passes_after_repair(stand: Stand, fault: Fault) -> None:
    arguments = {
        "sources": ["spb1"], "status_file": str(stand.home / "status.json"), "gap_window": GAP_WINDOW_S, "max_lag": MAX_LAG_S, "collect": True}
    exercise(Asked(lambda: ask(ot_collector_health, arguments)["checks"], 90.0), fault, stand)


def test_not_one_packet_of_the_decoder_publishes(stand: Stand) -> None:
    stand.kill("collector", 60)
    assert set(stand.tap.sent) <= {CONNECT, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT}, stand.tap.sent
    assert stand.tap.sent[PUBACK] > 100 and stand.tap.sent[CONNECT] >= 12
    stand.start_collector()
