# SPDX-License-Identifier: Apache-2.0
"""What lies in the store against what the server said, and what operators are shown of it: a real OPC UA server, the real VictoriaMetrics.

Between the two a mirror of this test's own, which can be unfaithful in each way that the checks know. It writes what the writer's program
(roles/telegraf/templates/writer.star.j2) makes of a record: a series of values, a series of statuses. In front of the store stands vmauth with the role's
routes. Scenario stand-store.
"""
from __future__ import annotations

import contextlib
import datetime
import functools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from asyncua import ua
from kit import ROOT, free_port
from opcua_stand import CLIENT_URI, PLANT, mirrors_host
from opcua_stand import Stand as Server
from plant_view import until
from stands import Asked, Checks, Fault, Machine, ask, exercise, faults, said, unpacked

from ansible_collections.hnai.platform.plugins.module_utils.credentials import path_of
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.kafka.rotate import cut
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Places
from ansible_collections.hnai.platform.plugins.module_utils.opcua.fidelity import BAD_NO_COMMUNICATION
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Http, StoreError, basic, parse_metrics
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Store as Client
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.rotate import IN_FLIGHT
from ansible_collections.hnai.platform.plugins.modules import mirror_fidelity, tsdb_freshness, tsdb_health

pytestmark = pytest.mark.scenario("stand-store")
SOURCE = "plc-1"
SAMPLING_S, WINDOW_S = 1.0, 8.0
#: P95 that a sample may take, and how late `late` makes it; the store is watched for longer than that after the window.
FRESH_S, LATE_S, AFTER_S = 5.0, 8.0, 10.0
#: By tag the unit at the server and in the store.
UNITS = {"pressure": ("psi", "kPa"), "level": ("m", "m"), "sequence": ("1", "1")}
TAGS = [
    {"name": name, "node": f"nsu={PLANT};s={name}", "type": "double", "kind": "cyclic", "sampling_ms": 1000 * SAMPLING_S, "unit": unit, "unit_to": to}
    for name, (unit, to) in UNITS.items()
]
CONVERSIONS = yaml.safe_load((ROOT / "roles/ot_collector/defaults/main.yml").read_text(encoding="utf-8"))["ot_collector_fidelity_units"]
#: Statuses of four samples in a row; the last has no value.
STATUSES = (0, ua.StatusCodes.UncertainLastUsableValue, 0, ua.StatusCodes.BadSensorFailure)
EPOCH = datetime.datetime(1970, 1, 1)
#: Most seconds between two samples of a tag that FR1 and FR2 are asked with. Less than what VictoriaMetrics hides by default.
MAX_AGE_S = 20.0


@dataclass(frozen=True)
class Sample:
    """*at*: the source's time, ms since 1970; *value*: None where there is none."""

    tag: str
    at: int
    value: float | None
    status: int


class Shows:
    """The store for who polls it: it shows at once what was written, so that no time of its own is measured."""

    def __init__(self, tsdb: Tsdb) -> None:
        self._tsdb = tsdb

    def export(self, selector: str, start_s: float, end_s: float) -> list[Any]:
        self._tsdb.show()
        return self._tsdb.client.export(selector, start_s, end_s)


Way = Callable[[Sample], list[Sample]]


def unchanged(sample: Sample) -> list[Sample]:
    """The way of a mirror that is faithful; it gets samples in the unit that the store declares."""
    return [sample]


def factor(tag: str) -> float:
    """From the server's unit to the store's; none of these has an offset."""
    unit, to = UNITS[tag]
    return 1.0 if unit == to else float(CONVERSIONS[f"{unit}>{to}"]["scale"])


class Tsdb:
    """VictoriaMetrics with the flags of its role. *without*: those that are lost at the next start; *more*: those that somebody added."""

    def __init__(self, home: Path) -> None:
        self.home, self.port, self.without, self.more = home, free_port(), frozenset[str](), tuple[str, ...]()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._program = unpacked("deb-victoria-metrics-*.json", "victoria-metrics") / "usr/bin/victoria-metrics"
        (home / "backend").write_text("store-secret", encoding="utf-8")
        role = ROOT / "roles/victoriametrics"
        unit = (role / "tree/etc/systemd/system/hnai-victoriametrics.service.j2").read_text(encoding="utf-8")
        command = re.search(r"^ExecStart=\S+ \\\n((?:  -.*\n)+)", unit, re.MULTILINE)
        assert command is not None, "the unit does not say its flags one a line"
        values = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8"))
        values |= {"victoriametrics_storage_path": home / "data", "__victoriametrics_ports": {"backend": self.port}}
        text = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(command[1]).render(values)
        self._flags = text.replace("%d", str(home)).replace("\\\n", " ").split()
        self.client = Client(Http(self.url), "vmauth", "store-secret")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Until it answers."""
        with (self.home / "log").open("ab") as log:
            flags = [one for one in self._flags if one.partition("=")[0] not in self.without]
            self._process = subprocess.Popen([self._program, *flags, *self.more], stdout=log, stderr=log)
        end = time.monotonic() + 30
        # It answers 401 to who comes while it reads its password.
        while not self._ready():
            assert self._process.poll() is None and time.monotonic() < end, (self.home / "log").read_text(encoding="utf-8")[-3000:]
            time.sleep(0.1)

    def _ready(self) -> bool:
        with contextlib.suppress(StoreError):
            return self._flushed()
        return False

    def _flushed(self) -> bool:
        return self.client.status("GET", "/internal/force_flush") == 200

    def stop(self) -> None:
        """As systemd does; in-memory parts are written."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def restart(self) -> None:
        """Nobody writes meanwhile."""
        with self._lock:
            self.stop()
            self.start()

    def write(self, samples: list[Sample]) -> None:
        """As the writer does, by the same protocol."""
        lines = []
        for one in samples:
            lines.append(f"{one.tag}:status,source={SOURCE} value={float(one.status)} {one.at}")
            if one.value is not None:
                lines.append(f"{one.tag},source={SOURCE} value={one.value!r} {one.at}")
        self.post(lines)

    def post(self, lines: Iterable[str]) -> None:
        """Line protocol, times in ms."""
        text = "\n".join(lines)
        with self._lock:
            status, body = self.client.send("POST", "/write?precision=ms", text.encode()) if text else (204, b"")
        assert status == 204, body

    def show(self) -> None:
        """What was written can be read now, not in some seconds."""
        assert self._flushed()


@dataclass
class Site:
    """The plant's server and the mirror of it, in a thread: each second every tag that is not *silent* has a new sample, which goes its *way*."""

    server: Server
    tsdb: Tsdb
    way: Way = unchanged
    silent: frozenset[str] = frozenset()
    behind_ms: int = 0
    _problem: BaseException | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Site:
        self._nodes = self.server.call(self._grow())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(30)
        assert self._problem is None, self._problem

    async def _grow(self) -> dict[str, Any]:
        index = self.server.index
        return {name: await self.server.plant.add_variable(ua.NodeId(name, index), f"{index}:{name}", 0.0) for name in UNITS}

    async def _say(self, samples: list[Sample]) -> None:
        for one in samples:
            value = ua.Variant(one.value, ua.VariantType.Double) if one.value is not None else ua.Variant()
            at = EPOCH + datetime.timedelta(milliseconds=one.at)
            await self._nodes[one.tag].write_value(ua.DataValue(value, ua.StatusCode(one.status), SourceTimestamp=at))

    def _run(self) -> None:
        number = 0
        try:
            # Never two samples closer than that: a server that catches up would have samples that no reader sees.
            while not self._over.wait(SAMPLING_S):
                number += 1
                now, status = time.time_ns() // 1_000_000 - self.behind_ms, STATUSES[number % len(STATUSES)]
                value = None if status == STATUSES[-1] else number + 0.123456789
                said = [Sample(name, now, value, status) for name in UNITS if name not in self.silent]
                self.server.call(self._say(said))
                mirrored = [replace(one, value=None if one.value is None else one.value * factor(one.tag)) for one in said]
                self.tsdb.write([sample for one in mirrored for sample in self.way(one)])
        except BaseException as error:
            self._problem = error

    @contextmanager
    def going(self, way: Way) -> Iterator[None]:
        """Samples go another way."""
        self.way = way
        try:
            yield
        finally:
            self.way = unchanged

    @contextmanager
    def standing_still(self, *tags: str) -> Iterator[None]:
        """The server has nothing new of some tags."""
        self.silent = frozenset(tags)
        try:
            yield
        finally:
            self.silent = frozenset()

    @contextmanager
    def started(self, *more: str, without: tuple[str, ...] = ()) -> Iterator[None]:
        """The store is started with other flags."""
        self.tsdb.without, self.tsdb.more = frozenset(without), more
        self.tsdb.restart()
        try:
            yield
        finally:
            self.tsdb.without, self.tsdb.more = frozenset(), ()
            self.tsdb.restart()


class Door:
    """vmauth before the store, with the role's routes and its program that makes vmauth's configuration of them."""

    def __init__(self, home: Path, tsdb: Tsdb) -> None:
        self.home, self.port, self.internal = home, free_port(), free_port()
        role = ROOT / "roles/victoriametrics"
        values = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8"))
        text = (role / "tree/etc/hnai/victoriametrics/routes.json.j2").read_text(encoding="utf-8")
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
        environment.filters["to_json"] = json.dumps
        self.routes = json.loads(environment.from_string(text).render(values | {"__victoriametrics_ports": {"backend": tsdb.port}}))
        program = SourceFileLoader("vmauth_config", str(ROOT / "roles/component/templates/vmauth-config"))
        self._made = module_from_spec(spec_from_loader(program.name, program))  # type: ignore[arg-type]
        program.exec_module(self._made)
        self._write()
        with (home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [unpacked("deb-victoria-metrics-*.json", "victoria-metrics") / "usr/bin/vmauth", f"-auth.config={home}/auth.yml",
                 f"-httpListenAddr=127.0.0.1:{self.port}", f"-httpInternalListenAddr=127.0.0.1:{self.internal}"], stdout=log, stderr=log)
        self.client = Client(Http(self.url), "dashboard", "dashboard-secret")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _write(self, **others: str) -> None:
        passwords = {user["username"]: [others.get(user["username"], user["username"] + "-secret")] for user in self.routes["users"]}
        (self.home / "auth.yml").write_text(json.dumps(self._made.build(self.routes, "store-secret", passwords)), encoding="utf-8")

    def lets(self, path: str) -> bool:
        """Whether the dashboard's request gets to the store."""
        with contextlib.suppress(StoreError):
            return b"missing route" not in self.client.send("GET", path)[1]
        return False

    def in_flight(self) -> int:
        """Requests that it is serving."""
        return int(parse_metrics(Client(Http(f"http://127.0.0.1:{self.internal}")).text("/metrics"), IN_FLIGHT))

    def reload(self, **passwords: str) -> None:
        """As the unit does; *passwords* of users are other ones."""
        self._write(**passwords)
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(20)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server = Server(tmp_path_factory.mktemp("server")).start()
    try:
        tsdb = Tsdb(tmp_path_factory.mktemp("store"))
        try:
            tsdb.start()
            with Site(server, tsdb) as made:
                yield made
        finally:
            tsdb.stop()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, site: Site) -> dict[str, Any]:
    """How a module that reads the store reaches it, and the host that has the password."""
    machine = Machine(str(tmp_path_factory.mktemp("canary")))
    machine.keep(path_of("canary", "dashboard"), "store-secret")
    arguments = {"url": site.tsdb.url, "username": "vmauth", "credential": {"component": "canary", "name": "dashboard"}, "collect": True}
    return {"arguments": arguments, "Host": lambda: machine}


@pytest.fixture(scope="module")
def fidelity(tmp_path_factory: pytest.TempPathFactory, site: Site, reader: dict[str, Any]) -> Iterator[Asked]:
    """Of mirror_fidelity, both parts: what it finds in the time from now on."""
    with contextmanager(mirrors_host)(site.server, tmp_path_factory.mktemp("mirror"), TAGS) as (places, source, host, _now):

        def once() -> Checks:
            status = json.loads(places.status.read_text(encoding="utf-8"))
            places.status.write_text(json.dumps(status | {"now": time.time_ns() // 100}), encoding="utf-8")
            kept = functools.partial(Places, pki=places.pki, servers=places.servers, status=places.status, proc=places.proc)
            wanted = {"sources": [source], "tags": len(TAGS), "seed": 1}
            record = wanted | {"action": "record", "application_uri": CLIENT_URI, "window": WINDOW_S, "state_dir": str(places.state)}
            with ThreadPoolExecutor(1) as pool:
                watch = wanted | {"action": "watch", "window": WINDOW_S + AFTER_S}
                meanwhile = pool.submit(mirror_fidelity.watched, watch, lambda: Shows(site.tsdb))
                recorded = ask(mirror_fidelity, record, Host=lambda: host, Places=kept)
                shown = meanwhile.result(60)
            site.tsdb.show()
            join = wanted | {"action": "join", "units": CONVERSIONS, "recordings": recorded["recordings"], "shown": shown, "settle": 0.0,
                             "freshness_p95": FRESH_S}
            return ask(mirror_fidelity, join | reader["arguments"], Host=reader["Host"])["checks"]

        def judge() -> Checks:
            for _again in range(5):
                checks = once()
                # A machine with too much to do: the recorder says itself that it paused.
                if "pauses of the recorder" not in said(checks).get("MFD5", ""):
                    break
            return checks

        yield Asked(judge)


def unfaithful(way: Way) -> Callable[[Site], AbstractContextManager[None]]:
    """The fault that samples go this way, by whose name it goes."""
    return functools.wraps(way)(lambda site: site.going(way))


@unfaithful
def in_the_servers_unit(sample: Sample) -> list[Sample]:
    return [replace(sample, value=None if sample.value is None else sample.value / factor(sample.tag))]


@unfaithful
def all_is_good(sample: Sample) -> list[Sample]:
    return [replace(sample, status=0)]


@unfaithful
def good_ones_only(sample: Sample) -> list[Sample]:
    return [] if sample.status else [sample]


@unfaithful
def a_millisecond_late(sample: Sample) -> list[Sample]:
    return [replace(sample, at=sample.at + 1)] if sample.tag == "level" else [sample]


@unfaithful
def after_a_mark(sample: Sample) -> list[Sample]:
    """Every third is lost, and the collector says so, 1 ms after the one before."""
    if sample.at // 1000 % 3:
        return [sample, Sample(sample.tag, sample.at + 1, None, BAD_NO_COMMUNICATION)] if sample.at // 1000 % 3 == 2 else [sample]
    return []


@contextmanager
def late(site: Site) -> Iterator[None]:
    """All of it, after a while."""
    waiting: deque[Sample] = deque()

    def way(sample: Sample) -> list[Sample]:
        waiting.append(sample)
        return [waiting.popleft() for one in list(waiting) if one.at <= sample.at - 1000 * LATE_S]

    with site.going(way):
        yield
    site.tsdb.write(list(waiting))


@contextmanager
def an_hour_ago(site: Site) -> Iterator[None]:
    """The server's clock is behind."""
    site.behind_ms = 3_600_000
    try:
        yield
    finally:
        site.behind_ms = 0
        # Who comes next finds no value of an hour ago at the server.
        time.sleep(2 * SAMPLING_S)


@unfaithful
def filled_up(sample: Sample) -> list[Sample]:
    """One more between each two."""
    return [sample, replace(sample, at=sample.at + 500)]


@unfaithful
def nowhere(_sample: Sample) -> list[Sample]:
    return []


UNFAITHFUL = "^fail plc-1: the store differs"


@faults(
    Fault(in_the_servers_unit, {"MFD1": "^fail .*pressure at .*, the store holds", "MFD0": UNFAITHFUL}),
    Fault(all_is_good, {"MFD2": "^fail .*the server said 0x[48].*the store holds 0x00000000", "MFD0": UNFAITHFUL}),
    Fault(good_ones_only, {"MFD3": r"^fail .*\(status 0x[48]", "MFD0": UNFAITHFUL}),
    Fault(filled_up, {"MFD4": "^fail plc-1: plc-1/", "MFD0": UNFAITHFUL}),
    # What is missed at its time is there at another.
    Fault(a_millisecond_late, {"MFD3": "^fail .*level at", "MFD4": "^fail .*level at", "MFD0": UNFAITHFUL}),
    # Where nothing can be compared, nothing is said of values and statuses.
    Fault(nowhere, {"MFD3": "^fail .*level at", "MFD5": "^fail plc-1: no sample was found on both sides", "MFD0": UNFAITHFUL}, "MFD1 MFD2 MFD4 MFD6"),
)
def test_an_unfaithful_mirror_fails_its_own_check_and_passes_after_repair(site: Site, fidelity: Asked, fault: Fault) -> None:
    exercise(fidelity, fault, site)


def test_late_is_not_unfaithful(site: Site, fidelity: Asked) -> None:
    exercise(fidelity, Fault(late, {"MFD6": r"^fail plc-1: late: .*level \(at least"}), site)


def test_a_gap_that_is_marked_is_accused_of_nothing(site: Site, fidelity: Asked) -> None:
    with after_a_mark(site):
        time.sleep(3 * SAMPLING_S)
        checks = fidelity.judge()
    assert said(checks) == {}
    (enough,) = [check for check in checks if check["id"] == "MFD5"]
    assert len(enough["evidence"]["marked"]) >= len(TAGS)


def test_a_server_an_hour_behind_is_compared_by_its_own_clock(site: Site, fidelity: Asked) -> None:
    with an_hour_ago(site):
        time.sleep(3 * SAMPLING_S)
        found = said(fidelity.judge())
    assert found.pop("MFD6") == "inconclusive plc-1: no sample that was recorded was seen to arrive" and found == {}


def test_a_store_that_is_away_is_not_watched(reader: dict[str, Any]) -> None:
    arguments = {key: value for key, value in reader["arguments"].items() if key != "collect"} | {"url": f"http://127.0.0.1:{free_port()}"}
    watch = {"action": "watch", "sources": [{"id": SOURCE, "protocol": "opcua", "tags": TAGS}], "window": 5.0}
    (seen,) = ask(mirror_fidelity, arguments | watch, Host=reader["Host"])["shown"].values()
    assert not seen["shown"] and "Connection refused" in seen["problem"]


def test_a_server_that_says_nothing_proves_nothing(site: Site, fidelity: Asked) -> None:
    must = {"MFD5": "^inconclusive plc-1: cyclic and silent at the server: level$", "MFD0": "^inconclusive"}
    exercise(fidelity, Fault(lambda one: one.standing_still("level"), must), site)


@pytest.fixture(scope="module")
def ages(site: Site, reader: dict[str, Any]) -> Asked:
    """Of tsdb_freshness."""
    arguments = reader["arguments"] | {"sources": [{"id": SOURCE, "tags": TAGS}], "cyclic_max_age": MAX_AGE_S}

    def judge() -> Checks:
        site.tsdb.show()
        return ask(tsdb_freshness, arguments, Host=reader["Host"])["checks"]

    return Asked(judge, 60.0)


def test_a_store_that_hides_what_it_has_fails_the_operators_view_alone(site: Site, ages: Asked) -> None:
    """The flag is lost: by default VictoriaMetrics leaves the last half minute out."""
    must = {"FR2": r"^fail plc-1: .*level \((\d+ s|nothing)\)"}
    exercise(ages, Fault(lambda one: one.started(without=("-search.latencyOffset",)), must), site)


@contextmanager
def a_namesake_lives(site: Site) -> Iterator[None]:
    """A tag is silent, and somebody writes one of the same name and source, with one label more."""
    with site.standing_still("level"):
        now = time.time_ns() // 1_000_000
        site.tsdb.post(f"level:status,source={SOURCE},job=x value=0 {now + 1000 * second}" for second in range(120))
        yield


@contextmanager
def its_clock_was_ahead(site: Site) -> Iterator[None]:
    """A tag is silent, and what it said before is of times up to ten minutes from now: at every moment until then one of them looks new."""
    with site.standing_still("level"):
        now = time.time_ns() // 1_000_000
        site.tsdb.post(f"level:status,source={SOURCE} value=0 {now + 1000 * second}" for second in range(600))
        yield
        assert site.tsdb.client.send("POST", '/api/v1/admin/tsdb/delete_series?match[]={__name__="level:status"}')[0] == 204


def test_what_a_clock_that_was_ahead_left_is_no_sign_of_life(site: Site, ages: Asked) -> None:
    exercise(ages, Fault(its_clock_was_ahead, {"FR1": r"\Afail plc-1: stale: plc-1/level \(\d+ s ahead of the clock\)\Z"}), site)


def test_a_namesake_of_a_silent_tag_is_no_sign_of_life(site: Site, ages: Asked) -> None:
    stale = r"\Afail plc-1: stale: plc-1/level \(\d+ s\)\Z"
    exercise(ages, Fault(a_namesake_lives, {"FR1": stale, "FR2": stale}), site)


# -- the store itself, and the way in ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Door]:
    made = Door(tmp_path_factory.mktemp("door"), site.tsdb)
    try:
        until("nobody answers at the door", lambda: made.lets("/api/v1/query?query=1"), 30)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def health(tmp_path_factory: pytest.TempPathFactory, site: Site, door: Door) -> Asked:
    """Of tsdb_health, as roles/victoriametrics/tasks/verify.yml asks."""
    machine = Machine(str(tmp_path_factory.mktemp("store-host")))
    for name, value in (("dashboard", "dashboard-secret"), ("backend", "store-secret")):
        machine.keep(path_of("victoriametrics", name), value)
    arguments = {
        "url": door.url, "credential": {"component": "victoriametrics", "name": "dashboard"}, "backend_url": site.tsdb.url,
        "backend_credential": {"component": "victoriametrics", "name": "backend"}, "retention": "31d",
        "storage_path": str(site.tsdb.home / "data"), "collect": True}

    def judge() -> Checks:
        site.tsdb.show()
        return ask(tsdb_health, arguments, Host=lambda: machine)["checks"]

    return Asked(judge, 60.0)


@contextmanager
def the_dashboard_may_call(door: Door, paths: str, one: str) -> Iterator[None]:
    """*one*: a path among them that it may not call otherwise."""
    (own,) = [user["paths"] for user in door.routes["users"] if user["username"] == "dashboard"]
    own.append(paths)
    door.reload()
    until("the door is as before", lambda: door.lets(one), 20)
    yield
    own.pop()
    door.reload()
    until("the door stays open", lambda: not door.lets(one), 20)


def the_dashboard_may_call_anything_of_the_api(door: Door) -> AbstractContextManager[None]:
    """Nobody can write by the path that writers have; the series can be deleted, and others made."""
    return the_dashboard_may_call(door, "/api/v1/.*", "/api/v1/rules")


def the_store_asks_for_no_login(site: Site) -> AbstractContextManager[None]:
    return site.started(without=("-httpAuth.username", "-httpAuth.password"))


def values_are_rounded(site: Site) -> AbstractContextManager[None]:
    return site.started("-precisionBits=16")


def what_is_told_stored_stays_in_memory(site: Site) -> AbstractContextManager[None]:
    """A kill loses ten minutes."""
    return site.started("-inmemoryDataFlushInterval=10m")


def the_store_is_told_to_lie_elsewhere(site: Site) -> AbstractContextManager[None]:
    """And to take what other hosts send, in the clear."""
    return site.started(f"-storageDataPath={site.tsdb.home}/elsewhere", f"-httpListenAddr=0.0.0.0:{free_port()}")


def only_some_series_are_kept(site: Site) -> AbstractContextManager[None]:
    return site.started("-storage.maxDailySeries=2")


def somebody_elses_metrics_are_to_be_kept_too(door: Door) -> AbstractContextManager[None]:
    """Whoever reads may write, by a path that no writer of ours has."""
    return the_dashboard_may_call(door, "/api/v1/write", "/api/v1/write")


def test_a_door_that_is_too_wide_fails_its_own_check_and_passes_after_repair(door: Door, health: Asked) -> None:
    exercise(health, Fault(somebody_elses_metrics_are_to_be_kept_too, {"VM5": r"\Afail : let in: reader /api/v1/write\Z"}), door)
    exercise(health, Fault(the_dashboard_may_call_anything_of_the_api, {"VM5": r"\Afail : let in: (reader /api/v1/\S+, )+reader \S+/delete_series\Z"}), door)


def test_a_request_that_an_ended_password_opened_writes_on_until_the_connections_are_cut(door: Door) -> None:
    """A body that does not end; what a rotation does at vmauth after a compromise."""
    client = Client(Http(door.url), "telegraf-writer", "telegraf-writer-secret")
    (login,) = basic("telegraf-writer", "telegraf-writer-secret").values()
    head = f"POST /write HTTP/1.1\r\nHost: x\r\nAuthorization: {login}\r\nTransfer-Encoding: chunked\r\n\r\n"
    more = b"9\r\nheld x=1\n\r\n"
    with socket.create_connection(("127.0.0.1", door.port), 10) as held:
        held.sendall(head.encode() + more)
        until("vmauth does not serve it", lambda: door.in_flight() == 1, 10, 0.1)
        door.reload(**{"telegraf-writer": "another"})
        try:
            until("the old password is accepted", lambda: client.send("POST", "/write", b"x x=1")[0] == 401, 20)
            held.sendall(more)
            assert door.in_flight() == 1
            assert cut(Host().run, [door.port]) == (1, [])
            with pytest.raises(OSError):
                held.sendall(more)
            until("vmauth still serves it", lambda: not door.in_flight(), 20, 0.1)
        finally:
            door.reload()
            until("the door stays closed", lambda: client.send("POST", "/write", b"x x=1")[0] != 401, 20)


@faults(
    Fault(the_store_asks_for_no_login, {"VM5": r"\Afail : let in: backend without a login\Z"}),
    Fault(values_are_rounded, {"VM3": r"\Afail : set by somebody else: precisionBits\Z"}),
    Fault(what_is_told_stored_stays_in_memory, {"VM3": r"\Afail : inmemoryDataFlushInterval=10m0s instead of 2s\Z"}),
    # Nothing arrived there yet.
    Fault(the_store_is_told_to_lie_elsewhere, {"VM3": r"\Afail : storageDataPath=\S+elsewhere instead of \S+data, httpListenAddr=\S+0\.0\.0\.0:\d+"},
          "VM8"),
    Fault(only_some_series_are_kept, {"VM3": "maxDailySeries", "VM6": r"^fail : \d+"}),
)
def test_a_store_that_was_started_otherwise_fails_its_own_check_and_passes_after_repair(site: Site, health: Asked, fault: Fault) -> None:
    exercise(health, fault, site)
