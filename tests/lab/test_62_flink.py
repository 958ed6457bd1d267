# SPDX-License-Identifier: Apache-2.0
"""Flink on the deployed site: every message adds up, alerts keep their time, a changed statement is carried over or goes back, each fault
turns its own check. What the tests write comes from `drill`, which is no source of the plant. Scenario flink.
"""
from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import counter
import pytest
import yaml
from conftest import Lab, Run
from journals import TICKS_PER_MS
from plant_view import now_ms, program, stored, until
from stands import artifact

pytestmark = pytest.mark.scenario("flink")
SOURCE = "drill"
HOUR_MS = 3_600_000

Message = tuple["str | None", bytes]


def record(tag: str, value: float, at_ms: int, seq: int) -> Message:
    """One canonical record of the drill."""
    body = {"source": SOURCE, "tag": tag, "value": value, "type": "double", "status": 0, "source_ts": at_ms * TICKS_PER_MS, "server_ts": None,
            "observed_ts": now_ms() * TICKS_PER_MS, "ts_origin": "source", "seq": seq}
    return f"{SOURCE}/{tag}", json.dumps(body, separators=(",", ":")).encode()


def write(lab: Lab, messages: list[Message]) -> None:
    """Into ot.raw, acknowledged by all replicas."""
    broker = lab.groups["kafka"][0]
    body = json.dumps([[key, base64.b64encode(value).decode()] for key, value in messages])
    assert lab.python(broker, program("host_topic"), "write", f"{broker}:9091", "ot.raw", body) == len(messages)


def read(lab: Lab, topic: str, since_ms: int) -> list[dict[str, Any]]:
    """What arrived in a topic."""
    broker = lab.groups["kafka"][0]
    return lab.python(broker, program("host_topic"), "read", f"{broker}:9091", topic, str(since_ms))


def bodies(lab: Lab, topic: str, since_ms: int) -> list[dict[str, Any]]:
    """The drill's records of a topic of JSON."""
    found = [json.loads(base64.b64decode(one["value"])) for one in read(lab, topic, since_ms)]
    return [one for one in found if one["source"] == SOURCE]


def test_late_doubled_and_broken_records_add_up(lab: Lab) -> None:
    """Sent = stored + copies + dead letters, each exactly once; the counters say the same."""
    begin = now_ms() - 1_000
    tag = f"sum_{begin}"
    fresh = [record(tag, number, begin + 10 * number, number) for number in range(20)]
    late = [record(tag, number, begin - 2 * HOUR_MS + 10 * number, 100 + number) for number in range(5)]
    future = [record(tag, number, begin + 40 * 60_000 + number, 200 + number) for number in range(2)]
    broken: list[Message] = [
        (None, b"{broken"), (None, b"\xff\xfe\x00"), (None, b'{"source":"drill"}'),
        (None, b'{"source":"drill","tag":"x","value":"abc","type":"double","status":0,"source_ts":5}'),
    ]
    write(lab, [*fresh, *late, *fresh[:4], *future, *broken, late[0]])

    def dead() -> list[dict[str, Any]]:
        wanted = {value for _key, value in broken}
        found = [one for one in read(lab, "ot.deadletter", begin) if base64.b64decode(one["value"]) in wanted]
        return found if len(found) >= len(broken) else []

    letters = until("the broken messages do not lie in the dead-letter topic", dead, 60, 2)
    assert sorted(base64.b64decode(one["value"]) for one in letters) == sorted(value for _key, value in broken)
    for one in letters:
        assert one["headers"]["reason"]
        assert one["key"] == f"ot.raw/{one['headers']['partition']}/{one['headers']['offset']}"

    expected = [begin + 10 * number for number in range(20)] + [begin - 2 * HOUR_MS + 10 * number for number in range(5)]
    expected += [begin + 40 * 60_000 + number for number in range(2)]

    def arrived() -> dict[int, list[float]]:
        series = stored(lab, [SOURCE], begin - 3 * HOUR_MS, begin + HOUR_MS)[SOURCE].values.get(tag, {})
        return series if len(series) >= len(expected) else {}

    series = until("the records are not in the store", arrived, 60, 2)
    assert sorted(series) == sorted(expected)
    assert [values for values in series.values() if len(values) != 1] == []

    def counted() -> dict[str, int]:
        total = dict.fromkeys(("records", "late", "future"), 0)
        for window in bodies(lab, "ot.windows", begin):
            for name in total:
                total[name] += window[name]
        return total if total["records"] >= len(expected) else {}

    assert until("the counters do not come", counted, 60, 3) == {"records": 27, "late": 5, "future": 2}


def test_an_alert_begins_and_clears_whatever_the_clocks_of_others_say(lab: Lab) -> None:
    """One tag an hour ahead, one ten minutes behind, one jumping back, one silent: the window of the fifth is told in its time."""
    begin = now_ms()
    sequence = begin % 1_000_000_000

    def pour(seconds: float, value: float) -> None:
        nonlocal sequence
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            at = now_ms()
            messages = []
            for tag, shift in (("pressure", 0), ("ahead", HOUR_MS), ("behind", -600_000), ("jumping", -120_000 if sequence % 3 == 0 else 0)):
                messages.append(record(tag, value, at + shift, sequence))
                sequence += 1
            write(lab, messages)
            time.sleep(0.5)  # the pace of the drill

    write(lab, [record("silent", 1.0, begin, sequence + 10**9)])
    pour(8, 500.0)
    high = now_ms()
    pour(12, 950.0)
    low = now_ms()
    pour(12, 500.0)

    def changes() -> list[dict[str, Any]]:
        found = [one for one in bodies(lab, "ot.alerts", begin) if one["tag"] == "pressure"]
        return found if [one["state"] for one in found][-1:] == ["clear"] else []

    found = until("the alert does not clear", changes, 60, 3)
    assert [(one["state"], one["previous"]) for one in found] == [("high", "clear"), ("clear", "high")]
    first, last = (datetime.fromisoformat(one["window_end"].replace("Z", "+00:00")).timestamp() * 1000 for one in found)
    # The window that holds the first value above the limit; the first one that holds none.
    assert high < first <= high + 10_000 + 3_000, (high, first)
    assert low < last <= low + 20_000 + 3_000, (low, last)


def play(lab: Lab, folder: Path, task: dict[str, Any], *arguments: str) -> dict[str, Any]:
    """One module on the Flink host; its result."""
    book = folder / "task.yml"
    host = lab.groups["flink"][0]
    book.write_text(yaml.safe_dump([{"hosts": host, "gather_facts": False, "tasks": [task]}]), encoding="utf-8")
    run = lab.play(str(book), *arguments, timeout=600)
    # What a failed task returned does not say that it failed; its event does.
    results = [
        {**event["event_data"]["res"], "failed": event["event"] == "runner_on_failed"}
        for event in run.events if event["event_data"].get("host") == host and "res" in event["event_data"]
    ]
    assert results, run.stdout[-3000:]
    return results[-1]


def deploy(lab: Lab, folder: Path, name: str, sql: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """flink_job on the host."""
    return play(lab, folder, {"hnai.platform.flink_job": {"name": name, "sql": sql, **more}}, *arguments)


def verdicts(lab: Lab, folder: Path, *jobs: str) -> dict[str, str]:
    """The worst status of each check id, what is not declared left out. *jobs*: declared beside the site's; what flink_job keeps is judged anyway."""
    declared = lab.var(lab.groups["flink"][0], "flink_jobs")
    result = play(lab, folder, {"hnai.platform.flink_health": {"jobs": [*declared, *jobs], "collect": True, "max_checkpoint_age": 40}})
    found: dict[str, str] = {}
    rank = ("fail", "inconclusive", "pass").index
    for check in result["checks"]:
        if check["status"] != "skipped":
            found[check["id"]] = min(found.get(check["id"], "pass"), check["status"], key=rank)
    return found


def bad(found: dict[str, str]) -> set[str]:
    """Ids that did not pass."""
    return {id_ for id_, status in found.items() if status != "pass"}


#: Needs no topic: a counter that keeps state, a place for one more expression, and a sink that takes everything.
DRILL = """CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '{rate}', 'fields.n.kind' = 'random',
 'fields.n.min' = '1', 'fields.n.max' = '1000');
CREATE TABLE nothing (k BIGINT, c BIGINT, x BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nothing SELECT {key}, COUNT(*), MAX({value}) FROM numbers GROUP BY {key};
"""


def drill(key: str = "n", value: str = "n", rate: int = 5) -> str:
    return DRILL.format(key=key, value=value, rate=rate)


@pytest.fixture
def job(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """A job of the tests, which goes afterwards."""
    name = "drill"
    assert not deploy(lab, tmp_path, name, drill()).get("failed")
    yield name
    play(lab, tmp_path, {"hnai.platform.flink_job": {"name": name, "state": "absent"}})
    until("the job does not go", lambda: not bad(verdicts(lab, tmp_path)) & {"H3"}, 60, 3)


def test_a_broken_statement_goes_back_by_itself(lab: Lab, tmp_path: Path, job: str) -> None:
    plan = deploy(lab, tmp_path, job, drill(value="n / (n - n)"), "--check")
    assert plan["changed"]
    assert plan["way"] in ("savepoint", "replay")
    result = deploy(lab, tmp_path, job, drill(value="n / (n - n)"))
    assert result["failed"]
    assert result["rolled_back"]
    assert "ArithmeticException" in result["msg"]
    # A job that has just begun has no checkpoint of its own yet (H4, H9).
    until("nobody says that an earlier statement runs, and that alone", lambda: bad(verdicts(lab, tmp_path)) == {"H3"}, 60, 3)
    again = deploy(lab, tmp_path, job, drill())
    assert not again.get("failed")
    until("the job is not well", lambda: not bad(verdicts(lab, tmp_path)), 60, 3)


def test_a_changed_group_is_replayed_and_a_changed_filter_is_not(lab: Lab, tmp_path: Path, job: str) -> None:
    other = drill(key="n / 10 * 10", value="n")
    assert deploy(lab, tmp_path, job, other, "--check")["way"] == "replay"
    refused = deploy(lab, tmp_path, job, other, upgrade_mode="savepoint")
    assert refused["failed"]
    assert "Nothing was touched" in refused["msg"]
    replayed = deploy(lab, tmp_path, job, other)
    assert (replayed["way"], bool(replayed["savepoint"])) == ("replay", True)
    same = deploy(lab, tmp_path, job, other)
    assert (same["changed"], same["way"]) == (False, "none")
    carried = deploy(lab, tmp_path, job, drill(key="n / 10 * 10", value="n", rate=6))
    assert carried["way"] == "savepoint"
    assert carried["savepoint"]


def test_a_jar_of_the_site_is_deployed_upgraded_taken_back_and_taken_away(lab: Lab, tmp_path: Path) -> None:
    """flink_jars by site.yml. What it counts shows that nothing is lost and nothing comes twice, whichever version runs."""
    host, name, file = lab.groups["flink"][0], "counter", "/var/lib/hnai/flink/tmp/counted"
    classes = artifact("flink", Path(lab.run(host, "readlink", "-f", "/opt/hnai/flink/current").stdout.strip()).name, tmp_path) / "lib"

    def site(jar: Path | None, *arguments: str) -> Run:
        more = {"flink_jars": [{"name": name, "jar": str(jar), "args": [file]}]} if jar else {}
        return lab.play("site.yml", "--tags", "flink", *arguments, extra=more)

    def counts(version: str, more_than: int) -> int:
        """A count of this version beyond that one."""
        return int(until(f"{version} does not count", lambda: counter.counted(lab.run(host, "cat", file).stdout, version, more_than), 120, 1))

    first = counter.build(tmp_path / "first", classes, "first")
    try:
        plan = site(first, "--check")
        assert plan.rc == 0 and f"{host}: Deploy the jars" in plan.changed(), plan.stdout[-3000:]
        run = site(first)
        assert run.rc == 0, run.stdout[-3000:]
        far = counts("first", 20)
        assert not bad(verdicts(lab, tmp_path, name))
        assert site(first).changed() == []
        run = site(counter.build(tmp_path / "second", classes, "second"))
        assert run.rc == 0, run.stdout[-3000:]
        far = counts("second", far)
        run = site(counter.build(tmp_path / "third", classes, "third", 'if (value > 0) throw new IllegalStateException("third never works");'))
        assert run.rc != 0 and "third never works" in run.stdout and "the old one runs again" in run.stdout, run.stdout[-3000:]
        counts("second", far)
    finally:
        run = site(None)
    assert run.rc == 0, run.stdout[-3000:]
    until("the job does not go", lambda: not bad(verdicts(lab, tmp_path)), 120, 3)


def units(lab: Lab, *argv: str) -> None:
    lab.run(lab.groups["flink"][0], "systemctl", *argv, timeout=120)


def whole_again(lab: Lab, folder: Path) -> None:
    until("Flink is not whole again", lambda: not bad(verdicts(lab, folder)) - {"H5", "H8"}, 240, 5)


def task_manager_gone(lab: Lab, folder: Path) -> tuple[set[str], set[str]]:
    units(lab, "kill", "--signal=SIGSTOP", "hnai-flink-taskmanager")
    try:
        found = until("nobody misses the task manager", lambda: {"H2", "H3"} <= bad(seen := verdicts(lab, folder)) and bad(seen), 90, 3)
    finally:
        units(lab, "kill", "--signal=SIGKILL", "hnai-flink-taskmanager")
    # Asked for metrics while it stood still, the JobManager may never ask anybody again: the verdict says so, and what to do.
    until("Flink is not back", lambda: not bad(verdicts(lab, folder)) & {"H2", "H3"}, 180, 5)
    if bad(verdicts(lab, folder)) & {"H6", "H7"}:
        units(lab, "restart", "hnai-flink-jobmanager")
    # Once its heartbeat is missed, its tasks are nobody's.
    return found, {"H3", "H4", "H5", "H6", "H7", "H8", "H9"}


def storage_gone(lab: Lab, folder: Path) -> tuple[set[str], set[str]]:
    host, path = lab.groups["flink"][0], "/var/lib/hnai/flink/checkpoints"
    lab.run(host, "sh", "-c", f"for d in {path}/*/; do chattr +i $d 2>/dev/null || chown root: $d && chmod 0500 $d; done")
    try:
        found = until("no checkpoint fails", lambda: "H4" in bad(seen := verdicts(lab, folder)) and bad(seen), 90, 3)
    finally:
        lab.run(host, "sh", "-c", f"for d in {path}/*/; do chattr -i $d 2>/dev/null; chown hnai-flink: $d; chmod 0755 $d; done")
    return found, {"H4"}


def keeper_down(lab: Lab, folder: Path) -> tuple[set[str], set[str]]:
    units(lab, "stop", "hnai-flink-jobs")
    try:
        found = bad(verdicts(lab, folder))
    finally:
        units(lab, "start", "hnai-flink-jobs")
    return found, {"H9"}


FAULTS: dict[str, tuple[Callable[[Lab, Path], tuple[set[str], set[str]]], str]] = {
    "task manager stands still": (task_manager_gone, "H2"), "checkpoint storage gone": (storage_gone, "H4"), "keeper down": (keeper_down, "H9"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_turns_its_own_check_and_passes_again(lab: Lab, tmp_path: Path, fault: str) -> None:
    whole_again(lab, tmp_path)
    function, own = FAULTS[fault]
    found, consequences = function(lab, tmp_path)
    assert own in found
    assert found <= consequences | {own}, found
    whole_again(lab, tmp_path)


def test_backpressure_is_told(lab: Lab, tmp_path: Path) -> None:
    name = "drill"
    try:
        assert not deploy(lab, tmp_path, name, drill(rate=50_000_000)).get("failed")
        until("nothing is held up", lambda: "H6" in bad(verdicts(lab, tmp_path)), 90, 3)
    finally:
        play(lab, tmp_path, {"hnai.platform.flink_job": {"name": name, "state": "absent"}})
    whole_again(lab, tmp_path)
