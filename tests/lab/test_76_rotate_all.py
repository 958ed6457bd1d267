# SPDX-License-Identifier: Apache-2.0
"""Everything is rotated at once while clients run: every secret of the contracts, then the intermediate authority with the certificates of all listeners.

Clients all the time: the plant's stream (collector, shipper, Kafka, Flink, both stores; the line through MQTT and the bridge), a producer and a
consumer of Kafka, a reader of the store, a reader of OpenBao. Afterwards no server has refused anybody but the rotation itself, whose refused
logins stand in its output, no record is missing but by a marked gap in front of the collector, and no journal is open. The line is no host of the
site: it is given its new password by the plant (playbooks/lab/commission.yml), and only then its old one ends. Some 20 minutes.
"""
from __future__ import annotations

import datetime
import ipaddress
import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import Lab, Run
from journals import compare, marks, once, unmarked
from plant_view import journal, now_ms, program, source, stored, until

pytestmark = pytest.mark.scenario("rotate-all")
RUN_S = 1500
#: All of it, without the grace times (there are none here).
LIMIT_S = 900.0
GAP_MS = 15_000
TOPIC = "hnai.test.rotate"
#: Checks of a component that log in with a wrong password, by the names of the tasks that make them.
KAFKA_ASKS = ("Judge the cluster and this broker's listeners", "Wait until this broker may be restarted", "Wait until the cluster is whole again")
MQTT_ASKS = ("Judge the broker", "Audit who could command by MQTT")
JOURNAL = "/run/hnai-test-produce"
STOP = "/run/hnai-test-stop"
#: Reads what the dashboard may, with whichever of its two slots lies there at the moment; a password that goes between two looks is read again.
READER = """
import base64, json, os, ssl, subprocess, sys, time, urllib.error, urllib.request
url, ca, stop, limit = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
context, end = ssl.create_default_context(cafile=ca), time.monotonic() + limit
out = {"answered": 0, "refused": [], "away": []}
def word():
    for name in ("dashboard.b", "dashboard"):
        done = subprocess.run(["systemd-creds", "decrypt", "--name=" + name, "/etc/credstore.encrypted/hnai-canary." + name, "-"], capture_output=True)
        if done.returncode == 0:
            return done.stdout
    return b""
password = word()
while time.monotonic() < end and not os.path.exists(stop):
    request = urllib.request.Request(url + "/api/v1/query?query=1", headers={"Authorization": "Basic " + base64.b64encode(b"dashboard:" + password).decode()})
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            out["answered"] += answer.status == 200
    except urllib.error.HTTPError as error:
        again = word()
        if error.code == 401 and again == password:
            out["refused"].append(time.time())
        elif error.code != 401:
            out["away"].append(time.time())
        password = again
    except OSError:
        out["away"].append(time.time())
    time.sleep(0.5)
print(json.dumps(out))
"""


def everything(lab: Lab, **values: Any) -> Run:
    """A run that must end well."""
    run = lab.play("playbooks/rotate.yml", extra={"rotate_reason": "request", **values}, timeout=RUN_S)
    assert run.rc == 0, f"{slowest(run)}\n{run.stdout[-4000:]}"
    return run


def messages(run: Run, task: str) -> list[str]:
    """What a debug task said."""
    said = (event["event_data"] for event in run.events if event["event"] in ("runner_on_ok", "runner_item_on_ok"))
    return [str(data["res"]["msg"]) for data in said if data["task"] == task and "msg" in data["res"]]


def refusals(run: Run) -> list[dict[str, str]]:
    """Logins of the rotation that were refused."""
    return [one for text in messages(run, "Say which logins of this run were refused") for one in json.loads(text.split(": ", 1)[1])]


def slowest(run: Run, count: int = 15) -> str:
    """Where a run's time went: seconds of each task, summed over its hosts (which take turns), the longest first."""
    sums: dict[str, float] = {}
    for event in run.events:
        data = event["event_data"]
        # What is told of single items is told of the whole loop as well.
        if data.get("start") and data.get("end") and not event["event"].startswith("runner_item"):
            begin, end = (datetime.datetime.fromisoformat(data[one]) for one in ("start", "end"))
            sums[data["task"]] = sums.get(data["task"], 0.0) + (end - begin).total_seconds()
    return "\n".join(f"{seconds:7.1f} s  {task}" for task, seconds in sorted(sums.items(), key=lambda one: -one[1])[:count])


def lines(lab: Lab, host: str, unit: str, since: float, pattern: str) -> list[dict[str, Any]]:
    """Journal entries of a unit that match."""
    done = lab.run(host, "journalctl", "-q", "-o", "json", "-u", unit, f"--since=@{since:.0f}", "-g", pattern, check=False, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def clients(lab: Lab) -> Iterator[dict[str, Any]]:
    """Producer, store reader and OpenBao reader from here to the end of the block; {name: what it saw} afterwards."""
    brokers, said = lab.groups["kafka"], {}
    bootstrap = ",".join(f"{host}:9091" for host in brokers)
    producer, reader, bao = brokers[1], lab.groups["canary"][0], lab.groups["openbao"][0]
    deploy = json.loads((lab.state / "openbao/deploy.json").read_text(encoding="utf-8"))["deploy"]
    store = f"https://{lab.groups['victoriametrics'][0]}:8428"
    for host in (producer, reader, bao):
        lab.run(host, "rm", "-f", STOP, JOURNAL)
    # What it must know stands in no argument.
    code = program("host_values").replace("DEPLOY: dict[str, str] = {}\n", f"DEPLOY: dict[str, str] = {deploy!r}\n")
    over = False

    def ask() -> dict[str, int]:
        counts = {"answered": 0, "failed": 0}
        while not over:
            try:
                counts["answered" if lab.python(bao, code, "https://127.0.0.1:8200", "/etc/hnai/openbao/tls/ca.pem") else "failed"] += 1
            except (subprocess.SubprocessError, AssertionError, ValueError):
                counts["failed"] += 1
            time.sleep(20)  # each look reads every version of every secret, and two audit devices record that
        return counts

    with ThreadPoolExecutor(3) as pool:
        running = {
            "producer": pool.submit(lab.python, producer, program("host_produce"), bootstrap, TOPIC, "all", "50", JOURNAL, STOP, timeout=2 * RUN_S),
            "reader": pool.submit(lab.python, reader, READER, store, "/etc/hnai/canary/tls/ca.pem", STOP, str(2 * RUN_S), timeout=2 * RUN_S + 60),
            "openbao": pool.submit(ask),
        }
        try:
            yield said
        finally:
            over = True
            for host in (producer, reader):
                lab.run(host, "touch", STOP)
            said.update({name: one.result(300) for name, one in running.items()})
            said["acknowledged"] = [int(line.split()[0]) for line in lab.run(producer, "cat", JOURNAL).stdout.splitlines()]
            for host in (producer, reader):
                lab.run(host, "rm", "-f", STOP, JOURNAL)
    said["read"] = lab.python(brokers[0], program("host_readback"), bootstrap, TOPIC, "240", "all", timeout=300)


@pytest.fixture
def topic(lab: Lab) -> Iterator[None]:
    """A topic for the producer, away again afterwards."""
    bootstrap = ",".join(f"{host}:9091" for host in lab.groups["kafka"])
    given = {"name": TOPIC, "replicas": {0: [1, 2, 3], 1: [2, 3, 1], 2: [3, 1, 2]}, "config": {"min.insync.replicas": "2"}}
    lab.python(lab.groups["kafka"][0], program("host_kafka"), bootstrap, "topic", json.dumps(given))
    yield
    lab.python(lab.groups["kafka"][0], program("host_kafka"), bootstrap, "delete", json.dumps({"name": TOPIC}))


def end(address: str, port: str) -> tuple[str, int]:
    """A connection's far end, however a server or a client of it spells the address."""
    return str(ipaddress.ip_address(address.strip("[]").partition("%")[0])), int(port)


def asked(runs: Sequence[Run], host: str, tasks: Sequence[str]) -> list[tuple[float, float]]:
    """From when to when the health of a host's own component was judged there: that logs in with what must be refused."""
    found = []
    for run in runs:
        for event in run.events:
            data = event["event_data"]
            if event["event"] in ("runner_on_ok", "runner_on_failed") and data["host"] == host and data["task"] in tasks:
                found.append(tuple(datetime.datetime.fromisoformat(data[one]).timestamp() for one in ("start", "end")))
    return [(begin - 1, over + 1) for begin, over in found]


def judge_refused(host: str, refused: dict[tuple[str, int], float], ours: list[dict[str, str]], judged: list[tuple[float, float]], own: set[str]) -> None:
    """One to one: each login that a server refused is one that the rotation lists, or one of its component's own health check, from its own host."""
    listed = {end(*one["end"].rsplit(":", 1)): instant(one["at"]) for one in ours if one["server"].startswith(host + ":")}
    others = {one: at for one, at in refused.items() if one not in listed}
    print(f"{host}: {len(refused)} refused logins, {len(listed)} listed by the rotation, {len(others)} of {len(judged)} judgements of the component")
    assert listed, "nothing is listed"
    assert set(listed) <= set(refused), f"listed, and not in the server's log: {sorted(set(listed) - set(refused))}"
    assert not [one for one, at in listed.items() if abs(refused[one] - at) > 3], "not when it is said to have been"
    strangers = {one: at for one, at in others.items() if one[0] not in own or not any(begin <= at <= over for begin, over in judged)}
    assert not strangers, f"{host} refused somebody else: {strangers}"


def judge_logs(lab: Lab, began: float, runs: Sequence[Run]) -> None:
    """Who was refused by a server is the rotation, or a check of the component that asks with a wrong password."""
    ours = [one for run in runs for one in refusals(run)]

    def own(host: str) -> set[str]:
        return {str(ipaddress.ip_address(address)) for address in lab.var(host, "hnai_addresses").values()} | {"127.0.0.1", "::1"}

    for host in lab.groups["kafka"]:
        seen = {}
        for entry in lines(lab, host, "hnai-kafka.service", began, "Failed authentication with"):
            far = re.search(r"channelId=\S+?:\d+-(\S+):(\d+)-\d+-\d+\)", str(entry["MESSAGE"]))
            assert far is not None, entry["MESSAGE"]
            seen[end(*far.groups())] = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        # What a broker's certificate is renewed with is proven from the other brokers too.
        near = set().union(*map(own, lab.groups["kafka"]))
        judge_refused(host, seen, ours, [one for name in lab.groups["kafka"] for one in asked(runs, name, KAFKA_ASKS)], near)
    # Mosquitto names no client that it refuses: it is the newest connection before that nobody logged in on.
    (broker,) = lab.groups["mosquitto"]
    came: dict[tuple[str, int], float] = {}
    refused: list[float] = []
    for entry in lines(lab, broker, "hnai-mosquitto.service", began, "^New (connection|client connected) from|not authori[sz]ed"):
        far = re.match(r"New (connection|client connected) from (\S+):(\d+) ", str(entry["MESSAGE"]))
        if far is None:
            refused.append(int(entry["__REALTIME_TIMESTAMP"]) / 1e6)
        elif far[1] == "connection":
            came[end(far[2], far[3])] = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        else:
            came.pop(end(far[2], far[3]), None)
    seen = {}
    for at in refused:
        one = max((one for one, when in came.items() if when <= at), key=lambda one: came[one])
        seen[one] = came.pop(one)
    judge_refused(broker, seen, ours, asked(runs, broker, MQTT_ASKS), own(broker))
    for host, unit in ((lab.groups["telegraf_writer"][0], "hnai-telegraf-writer.service"), (lab.groups["telegraf_questdb"][0], "hnai-telegraf-questdb.service"),
                       (lab.groups["canary"][0], "hnai-canary.service")):
        assert not lines(lab, host, unit, began, r"\b401\b|Unauthorized"), f"{unit} was refused"
    code = (
        "import json,sys\nout=[]\n"
        "for line in open('/var/lib/hnai/openbao/audit/audit.log', errors='replace'):\n"
        "    try: one=json.loads(line)\n    except ValueError: continue\n"
        "    if one.get('type')=='response' and one.get('error') and one['time']>=sys.argv[1] and one['request']['path'].endswith('/login'):\n"
        "        out.append([one['time'],one['request']['path'],one['error']])\n"
        "print(json.dumps(out))"
    )
    since = datetime.datetime.fromtimestamp(began, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    assert lab.python(lab.groups["openbao"][0], code, since) == [], "OpenBao refused a login"


def instant(text: str) -> float:
    """Unix seconds."""
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc).timestamp()


def judge_stream(lab: Lab, start: int, until_ms: int) -> None:
    """Whole by sequence; in front of the collector only what is marked, and never for long."""
    found = stored(lab, ["plc1", "line1"], start, until_ms + 5_000)
    for name, device in (("line1", "line"), ("plc1", "opcua")):
        tags = source(lab, name)["tags"]
        # Flink, restarted, sends again what it had sent since its newest checkpoint, with the same key.
        found[name], again = once(found[name])
        account = compare(journal(lab, device, start, until_ms), tags, found[name], start, until_ms)
        print(f"{name}: {again} written twice, shown once;", account.text())
        assert account.samples, f"{name} produced nothing"
        assert not (account.twice or account.wrong), account.text()
        if name == "line1":
            assert account.whole, account.text()
            continue
        assert not unmarked(account.missing_at, found[name].values)
        said = {f"{tag['name']}:status {mark}" for tag in tags for mark in marks(found[name].values, tag["name"])}
        assert {text.split(": ")[0] for text in account.foreign} <= said, account.text()
        for tag_name, lost in account.missing_at.items():
            gaps = [[at] for at in sorted(lost)[:1]]
            for at in sorted(lost)[1:]:
                if at - gaps[-1][-1] > 5_000:
                    gaps.append([])
                gaps[-1].append(at)
            print(f"{tag_name}: gaps of {', '.join('%.1f s' % ((gap[-1] - gap[0]) / 1000) for gap in gaps)}")
            assert all(gap[-1] - gap[0] <= GAP_MS for gap in gaps), tag_name


def test_everything_at_once_under_clients(lab: Lab, topic: None) -> None:
    look = lab.play("playbooks/rotate.yml", "--check", extra={"rotate_reason": "request"}, timeout=300)
    assert look.rc == 0, look.stdout[-3000:]
    plan = messages(look, "Say what a run does")[0]
    assert re.search(r"'no way to rotate': \{\}|\"no way to rotate\": \{\}", plan), plan[-2000:]
    began, start = time.time(), now_ms()
    with clients(lab) as said:
        until("the producer writes nothing", lambda: produces(lab), 90)
        moment = time.monotonic()
        first = everything(lab, rotate_certificates=False)
        waits = " ".join(messages(first, "Say who has to be given the new value"))
        assert "mosquitto/line1" in waits and "waits" in waits, "the line got its password from nobody yet"
        handed = lab.play("playbooks/lab/commission.yml", timeout=300)
        assert handed.rc == 0, handed.stdout[-3000:]
        second = everything(lab, rotate_secret="mosquitto/line1")
        third = everything(lab, rotate_secret="pki/intermediate")
        took = time.monotonic() - moment
    print(f"{took:.0f} s for everything\n{slowest(first)}")
    end = now_ms()
    rotated = messages(first, "Say what is true now") + messages(second, "Say what is true now")
    print("\n".join(rotated))
    assert len({text.split(":")[0] for text in rotated if "rotated" in text}) >= 14, "not every secret"
    until("nothing flows after the rotation", lambda: now_ms() - end > 40_000, 60, 1)
    judge_logs(lab, began, [first, second, third])
    judge_stream(lab, start, end)
    assert said["openbao"]["answered"] > 5 and not said["openbao"]["failed"], said["openbao"]
    assert said["reader"]["answered"] > 100 and not said["reader"]["refused"], said["reader"]
    away = said["reader"]["away"]
    print(f"store reader: {said['reader']['answered']} answers, away {len(away)} times, {max(away, default=0) - min(away, default=0):.1f} s from first to last")
    read = {number for low, high in said["read"]["read"]["all"] for number in range(low, high + 1)}
    assert not set(said["acknowledged"]) - read, "acknowledged and lost"
    assert said["acknowledged"] and not said["producer"]["failed"], said["producer"]
    assert took < LIMIT_S


def produces(lab: Lab) -> bool:
    """Whether the producer's journal has something."""
    try:
        return lab.run(lab.groups["kafka"][1], "test", "-s", JOURNAL, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
