# SPDX-License-Identifier: Apache-2.0
"""The two stores: each fault fails its own check and no other but its consequences, and passes again after repair; a kill loses nothing.

Scenario stores.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import Lab
from plant_view import now_ms, source, stored, until

pytestmark = pytest.mark.scenario("stores")
VM = "hnai-victoriametrics.service"
QUESTDB = "hnai-questdb.service"
WRITER = "hnai-telegraf-writer.service"


def host(lab: Lab, component: str) -> str:
    return lab.groups[component][0]


#: How each store is judged: what its role's tasks/verify.yml says.
HEALTH: dict[str, dict[str, Any]] = {
    "victoriametrics": {
        "url": "https://localhost:8428", "ca_file": "/etc/hnai/victoriametrics/tls/ca.pem", "retention": "31d", "collect": True,
        "credential": {"component": "victoriametrics", "name": "dashboard"},
        "backend_credential": {"component": "victoriametrics", "name": "backend"},
    },
    "questdb": {
        "backend": "questdb", "url": "https://localhost:9000", "ca_file": "/etc/hnai/questdb/tls/ca.pem", "username": "reader", "collect": True,
        "credential": {"component": "questdb", "name": "reader"}, "retention": "31d", "storage_path": "/var/lib/hnai/questdb", "min_free_mib": 1024,
    },
}  # fmt: skip


def verdict(lab: Lab, component: str, **changes: Any) -> dict[str, list[str]]:
    """{status: ids} of a store's health."""
    result = lab.adhoc(host(lab, component), "hnai.platform.tsdb_health", {**HEALTH[component], **changes})
    found: dict[str, list[str]] = {}
    for check in result["checks"]:
        found.setdefault(check["status"], []).append(check["id"])
    assert found, result
    return found


def freshness(lab: Lab) -> dict[tuple[str, str], list[str]]:
    """{(check, source): stale tags} of what fails, as the operators' side sees it."""
    where = host(lab, "canary")
    arguments = {
        "url": f"https://{host(lab, 'victoriametrics')}:8428", "ca_file": "/etc/hnai/canary/tls/ca.pem", "collect": True,
        "credential": {"component": "canary", "name": "dashboard"}, "sources": lab.var(where, "hnai_ot_sources"),
    }  # fmt: skip
    result = lab.adhoc(where, "hnai.platform.tsdb_freshness", arguments)
    assert "inconclusive" not in {check["status"] for check in result["checks"]}, result
    return {
        (check["id"], check["subject"]): [one.split(" ")[0] for one in check["evidence"]["stale"]]
        for check in result["checks"] if check["status"] == "fail"
    }  # fmt: skip


def bad(found: dict[str, list[str]]) -> dict[str, set[str]]:
    """What did not pass."""
    return {status: set(ids) for status, ids in found.items() if status != "pass"}


def until_well(lab: Lab, component: str) -> None:
    """After the repair every check of the component passes."""
    until(f"{component} is not well again", lambda: not bad(verdict(lab, component)), 90, 5)


EDIT = """
import pathlib, subprocess, sys
unit, old, new = sys.argv[1:]
text = pathlib.Path("/etc/systemd/system", unit).read_text()
assert old in text, old
over = pathlib.Path("/run/systemd/system.control", unit)
over.parent.mkdir(parents=True, exist_ok=True)
over.write_text(text.replace(old, new))
subprocess.run(["systemctl", "daemon-reload"], check=True)
subprocess.run(["systemctl", "restart", unit], check=True)
print("{}")
"""


@contextmanager
def edited(lab: Lab, where: str, unit: str, old: str, new: str) -> Iterator[None]:
    """A unit runs with another line, as somebody on the host would do it; afterwards with its own again."""
    try:
        lab.python(where, EDIT, unit, old, new, timeout=300)
        yield
    finally:
        lab.run(where, "rm", "-f", f"/run/systemd/system.control/{unit}")
        lab.run(where, "systemctl", "daemon-reload")
        lab.run(where, "systemctl", "restart", unit, timeout=300)


SQL = """
import base64, json, subprocess, sys, urllib.parse, urllib.request
secret = subprocess.run(["systemd-creds", "decrypt", "--name=backend", "/etc/credstore.encrypted/hnai-questdb.backend", "-"],
                        check=True, capture_output=True, timeout=20).stdout
request = urllib.request.Request("http://127.0.0.1:9001/exec?" + urllib.parse.urlencode({"query": sys.argv[1]}))
request.add_header("Authorization", "Basic " + base64.b64encode(b"platform:" + secret).decode())
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


def sql(lab: Lab, statement: str) -> list[list[Any]]:
    """A statement with all rights, on the host."""
    return lab.python(host(lab, "questdb"), SQL, statement).get("dataset", [])


# -- VictoriaMetrics ------------------------------------------------------------------------------------------
def retention_changed(lab: Lab) -> None:
    """The store runs with another retention than declared."""
    with edited(lab, host(lab, "victoriametrics"), VM, "-retentionPeriod=31d", "-retentionPeriod=30d"):
        assert bad(verdict(lab, "victoriametrics")) == {"fail": {"VM2"}}
    until_well(lab, "victoriametrics")


def does_not_ingest(lab: Lab) -> None:
    """Its floor of free space is above what there is: it answers queries and refuses every write."""
    floor = "-storage.minFreeDiskSpaceBytes="
    with edited(lab, host(lab, "victoriametrics"), VM, floor + "512MiB", floor + "100TiB"):
        found = bad(verdict(lab, "victoriametrics"))
        assert "VM7" in found["fail"]
        # VM3: the floor is not the declared one.
        assert found["fail"] <= {"VM3", "VM7", "VM8"}, found
        until("nobody notices that no sample arrives", lambda: "VM8" in bad(verdict(lab, "victoriametrics"))["fail"], 120, 5)
    until_well(lab, "victoriametrics")


def accepts_and_never_answers(lab: Lab) -> None:
    """The way in stands still: the kernel takes connections, nobody answers. What the store says on loopback is still known."""
    where = host(lab, "victoriametrics")
    try:
        lab.run(where, "systemctl", "kill", "--kill-whom=main", "--signal=STOP", "hnai-victoriametrics-auth.service")
        begin = time.monotonic()
        found = bad(verdict(lab, "victoriametrics"))
        assert time.monotonic() - begin < 120
        assert found == {"inconclusive": {"VM1", "VM5", "VM8", "VM9"}}, found
    finally:
        lab.run(where, "systemctl", "kill", "--kill-whom=main", "--signal=CONT", "hnai-victoriametrics-auth.service")
    until_well(lab, "victoriametrics")


def one_tag_silent(lab: Lab) -> None:
    """Somebody filters one tag out at the writer: FR1 and FR2 of its source name that tag and no other."""
    where, conf = host(lab, "telegraf_writer"), "/etc/hnai/telegraf/writer.conf"
    tag = next(tag["name"] for tag in source(lab, "plc1")["tags"] if tag.get("kind") != "on_change" and tag["name"] != source(lab, "plc1")["canary"])
    text = lab.run(where, "cat", conf).stdout
    write = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"

    def put(content: str) -> None:
        lab.run(where, "/usr/bin/python3", "-c", write, conf, stdin=content)
        lab.run(where, "systemctl", "restart", WRITER, timeout=120)

    assert '"internal_*"]' in text
    try:
        put(text.replace('namedrop = ["internal_*"]', f'namedrop = ["internal_*", "{tag}", "{tag}:*"]'))
        # Another tag may be stale for a moment: one that the plant leaves out by itself, behind what an earlier fault held up.
        alone = {("FR1", "plc1"): [f"plc1/{tag}"]}
        until("nobody names the silent tag alone", lambda: {key: tags for key, tags in freshness(lab).items() if key != ("FR2", "plc1")} == alone, 150, 5)
    finally:
        put(text)
    until("FR1 is not well again", lambda: not freshness(lab), 120, 5)


PARTIAL = """
import http.server, json, ssl, subprocess, sys, threading, urllib.request
context = ssl.create_default_context(cafile="/etc/hnai/victoriametrics/tls/ca.pem")
class Proxy(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if self.headers[name]}
        try:
            answer = urllib.request.urlopen(urllib.request.Request("https://localhost:8428" + self.path, body or None, headers, method=self.command),
                                            context=context, timeout=10)
            status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        # A store of one part never says it; vmselect of a cluster says it here.
        text = text.replace(b'{"status":"success",', b'{"status":"success","isPartial":true,', 1)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_GET = do_POST
    def log_message(self, *_args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8499), Proxy)
threading.Timer(float(sys.argv[1]), server.shutdown).start()
server.serve_forever()
print("{}")
"""


def partial_answer(lab: Lab) -> None:
    """One part of a cluster is away: the store's own answers, marked as partial on the way (the packages here have no cluster to break)."""
    where = host(lab, "victoriametrics")
    lab.run(where, "systemd-run", "--collect", "--unit=hnai-test-partial", "/usr/bin/python3", "-c", PARTIAL, "60")
    try:
        until("the proxy does not listen", lambda: "8499" in lab.run(where, "ss", "-ltn", "sport", "=", "8499").stdout, 20)
        found = bad(verdict(lab, "victoriametrics", url="http://127.0.0.1:8499"))
        # Whatever is asked of such a store is unknown; that the answers are partial is what fails.
        assert found == {"fail": {"VM9"}, "inconclusive": {"VM1", "VM8"}}, found
    finally:
        lab.run(where, "systemctl", "stop", "hnai-test-partial.service", check=False)
    assert bad(verdict(lab, "victoriametrics")) == {}


# -- QuestDB --------------------------------------------------------------------------------------------------
def sql_retention_changed(lab: Lab) -> None:
    """Somebody shortened the table's TTL; a restart of the store puts it right."""
    sql(lab, "ALTER TABLE ot SET TTL 30d")
    try:
        assert bad(verdict(lab, "questdb")) == {"fail": {"QD2"}}
    finally:
        sql(lab, "ALTER TABLE ot SET TTL 31d")
    assert bad(verdict(lab, "questdb")) == {}


def duplicates_stay(lab: Lab) -> None:
    """Somebody switched the removal of duplicates off; the next start of the store switches it on."""
    sql(lab, "ALTER TABLE ot DEDUP DISABLE")
    try:
        assert bad(verdict(lab, "questdb")) == {"fail": {"QD3"}}
    finally:
        lab.run(host(lab, "questdb"), "systemctl", "restart", QUESTDB, timeout=300)
    until_well(lab, "questdb")


def table_suspended(lab: Lab) -> None:
    """A table that takes writes and shows none of them."""
    mode = "Environment=QDB_METRICS_ENABLED=true"
    with edited(lab, host(lab, "questdb"), QUESTDB, mode, mode + "\nEnvironment=QDB_DEV_MODE_ENABLED=true"):
        sql(lab, "ALTER TABLE ot SUSPEND WAL")
        try:
            found = bad(verdict(lab, "questdb"))
            assert "QD4" in found["fail"]
            assert found["fail"] <= {"QD4", "QD7"}, found
        finally:
            sql(lab, "ALTER TABLE ot RESUME WAL")
        until_well(lab, "questdb")
    until_well(lab, "questdb")


FAST: list[Callable[[Lab], None]] = [retention_changed, sql_retention_changed]
SLOW: list[Callable[[Lab], None]] = [does_not_ingest, accepts_and_never_answers, one_tag_silent, partial_answer, duplicates_stay, table_suspended]


@pytest.mark.parametrize("fault", FAST + SLOW)
def test_a_fault_fails_its_own_check_and_passes_after_repair(lab: Lab, fault: Callable[[Lab], None]) -> None:
    fault(lab)


# -- a kill ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Canary:
    """What both stores have of one canary between two instants: {ms: number}."""

    hot: dict[int, int]
    sql: dict[int, int]


def canary(lab: Lab, start: int, end: int) -> Canary:
    name = source(lab, "plc1")["canary"]
    series = stored(lab, ["plc1"], start, end)["plc1"].values.get(name, {})
    rows = sql(lab, f"SELECT CAST(ts AS LONG) / 1000000, CAST(value AS LONG) FROM ot WHERE source = 'plc1' AND tag = '{name}' "
                    f"AND ts >= '{iso(start)}' AND ts < '{iso(end)}'")
    return Canary({ms: int(values[0]) for ms, values in series.items() if start <= ms < end}, {row[0]: row[1] for row in rows})


def iso(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + ".%03dZ" % (ms % 1000)


def test_a_kill_of_both_stores_loses_nothing_that_was_acknowledged(lab: Lab) -> None:
    begin = now_ms() - 15_000
    for component, unit in (("victoriametrics", VM), ("questdb", QUESTDB)):
        lab.run(host(lab, component), "systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)
    killed = now_ms()

    def answer() -> bool:
        return "VM1" in verdict(lab, "victoriametrics").get("pass", []) and "QD1" in verdict(lab, "questdb").get("pass", [])

    def back() -> bool:
        found = canary(lab, killed, now_ms())
        return bool(found.hot) and bool(found.sql)

    until("the stores do not answer", answer, 180, 2)
    until("the stores show no canary after the kill", back, 120, 2)
    until(
        "the writer did not notice that the store was started anew",
        lambda: "written again" in lab.run(host(lab, "telegraf_writer"), "journalctl", "-u", WRITER, f"--since=@{killed // 1000}", "-o", "cat").stdout,
        60, 2,
    )  # fmt: skip
    end = killed + 5_000
    until("the stores are not whole", lambda: not _holes(canary(lab, begin, end)), 60, 3)
    found = canary(lab, begin, end)
    print(f"{len(found.hot)} samples of the canary, {(killed - begin) / 1000:g} s before the kill and 5 s after it: none lost")
    assert len(found.hot) >= 30
    assert set(found.sql.values()) == set(found.hot.values())


def _holes(found: Canary) -> list[int]:
    """Numbers that are missing in either store."""
    numbers = set(found.hot.values()) | set(found.sql.values())
    if not numbers:
        return [-1]
    wanted = set(range(min(numbers), max(numbers) + 1))
    return sorted((wanted - set(found.hot.values())) | (wanted - set(found.sql.values())))
