# SPDX-License-Identifier: Apache-2.0
"""Faults of an MQTT broker that the lab cannot have alone: a live view of one source that is old, or of a time to come, and a right to read that no file says.

A real Mosquitto with the configuration and rules of its role, and a shipper of this test's own. Scenario stand-mqtt.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import loopback_bao
import pytest
import yaml
from kit import ROOT, free_port
from plant_view import until
from sparkplug_stand import broker_program, certificate, hashed
from stands import Asked, Fault, Machine, ask, exercise, faults, said

from ansible_collections.hnai.platform.plugins.module_utils.credentials import path_of
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.rotate import MosquittoAdapter, successor
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import MAX_TEXT, Client, MqttError, MqttRefused, tls_dialler
from ansible_collections.hnai.platform.plugins.module_utils.openbao import rotate_steps
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation_target import Impossible, Refusals, Target
from ansible_collections.hnai.platform.plugins.modules import mqtt_acl_audit, mqtt_health, rotation_target

pytestmark = pytest.mark.scenario("stand-mqtt")
ROLE = ROOT / "roles/mosquitto"
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
#: Rights that follow from a site's contracts; the role adds those of its defaults.
CONTRACTS = [{"principal": "telegraf-shipper", "read": ["line/#"], "write": ["ot/#"]}, {"principal": "telegraf-bridge", "read": ["line/#"]}]
ACL = [*CONTRACTS, *DEFAULTS["mosquitto_extra_acl"]]
#: Whom the owner of a broker lets in beside the site's.
HISTORIAN = {"principal": "historian", "level": 4, "read": ["line/line1/#"]}
CLIENTS = sorted(entry["principal"] for entry in ACL)
SOURCES = ("plc1", "plc2")
LIVE_MAX_AGE_S = 5.0
MOST = DEFAULTS["mosquitto_max_queued_messages"]
DAY_TICKS = 864_000_000_000
#: A broker reads its rules again, and publishes what it counts every ten seconds.
PATIENCE_S = 60.0


class Broker:
    """Mosquitto, and two programs in systemd's place: its unit was started once, and its journal is what it said.

    *theirs*: as Debian delivers it and its owner goes on: ours is one of two listeners in an included directory (docs/brownfield.md).
    """

    def __init__(self, home: Path, theirs: bool = False) -> None:
        self.home, self.port, self.theirs = home, free_port(), theirs
        for name in ("tls", "run", "data", "bin"):
            (home / name).mkdir()
        certificate(home / "tls", "cert.pem", "key.pem")
        self.passwords = {client: f"{client}-secret" for client in CLIENTS}
        (home / "run/passwords").write_text(hashed(self.passwords), encoding="ascii")
        self.rules = self._rendered("acl.j2")
        (home / "acl").write_text(self.rules, encoding="utf-8")
        user = "\nuser root\n" if os.getuid() == 0 else ""
        (home / "mosquitto.conf").write_text((self._theirs() if theirs else self._rendered("mosquitto.conf.j2")) + user, encoding="utf-8")
        # As journalctl does, grep ends with 1 and says nothing where there is no such line.
        for name, text in (("systemctl", "echo 1"), ("journalctl", f'while [ "$1" != -g ]; do shift; done; grep -F "$2" {home}/log')):
            program = home / "bin" / name
            program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
            program.chmod(0o755)
        self.start()

    def start(self) -> None:
        """As its unit does."""
        command, environment = broker_program()
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen([command, "-c", self.home / "mosquitto.conf"], env={**os.environ, **environment}, stdout=log, stderr=log)

    @contextmanager
    def told(self, line: str) -> Iterator[None]:
        """One setting of the file is another, which the broker takes up at its next start."""
        file = self.home / "mosquitto.conf"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(rf"(?m)^{line.split()[0]} .*\n", "", text) + line + "\n", encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(text, encoding="utf-8")

    def _theirs(self) -> str:
        """The main file; the others lie in its directory."""
        home = self.home
        (home / "conf.d").mkdir()
        (home / "historian").write_text(hashed({"historian": "theirs"}), encoding="ascii")
        queue = DEFAULTS["mosquitto_max_queued_messages"]
        (home / "conf.d/hnai.conf").write_text(
            f"listener {self.port} 127.0.0.1\ncertfile {home}/tls/cert.pem\nkeyfile {home}/tls/key.pem\nallow_anonymous false\n"
            f"password_file {home}/run/passwords\nacl_file {home}/acl\nmax_queued_messages {queue}\nlog_dest stderr\n", encoding="utf-8")
        (home / "conf.d/historian.conf").write_text(
            f"listener {free_port()} 127.0.0.1\nallow_anonymous false\npassword_file {home}/historian\nacl_file {home}/acl\n", encoding="utf-8")
        return (f"per_listener_settings true\npersistence true\npersistence_location {home}/data/\nlog_dest file {home}/data/log\n"
                f"sys_interval 1\ninclude_dir {home}/conf.d\n")

    def _rendered(self, name: str) -> str:
        """A file of the role, with the places that this stand has."""
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
        environment.filters["hnai.platform.mosquitto_acl"] = lambda _site: CONTRACTS
        text = (ROLE / "tree/etc/hnai/mosquitto" / name).read_text(encoding="utf-8")
        # A listener is a port and, here, the only address that it has.
        extra = [*DEFAULTS["mosquitto_extra_acl"], *([HISTORIAN] if self.theirs else [])]
        values = DEFAULTS | {"mosquitto_extra_acl": extra, "__mosquitto_ports": {"mqtt": f"{self.port} 127.0.0.1"}, "ansible_managed": "",
                             "lookup": lambda *_names: ""}
        done = environment.from_string(text).render(values)
        for there, here in (("/etc/hnai/mosquitto", ""), ("/run/hnai-mosquitto", "/run"), ("/var/lib/hnai/mosquitto", "/data")):
            done = done.replace(there, f"{self.home}{here}")
        return done

    def listening(self) -> None:
        """Until it takes connections."""
        end = time.monotonic() + 30
        while not self._open():
            assert self._process.poll() is None and time.monotonic() < end, (self.home / "log").read_text(encoding="utf-8")
            time.sleep(0.1)

    def _open(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(20)

    def load(self, rules: str) -> None:
        """The broker works by these rules."""
        (self.home / "acl").write_text(rules, encoding="utf-8")
        self._process.send_signal(signal.SIGHUP)

    def reload(self) -> None:
        """The broker knows the passwords of now."""
        (self.home / "run/passwords").write_text(hashed(self.passwords), encoding="ascii")
        self._process.send_signal(signal.SIGHUP)

    def session(self, client: str) -> Client:
        """As this client, with MQTT 5."""
        dial = tls_dialler("127.0.0.1", self.port, str(self.home / "tls/cert.pem"), lambda: 20.0)
        return Client(dial, f"test-{client}", client, self.passwords[client], lambda: 20.0, version=5)

    @contextmanager
    def with_one_client_id(self, client: str) -> Iterator[None]:
        """Two programs of one client have one id: whoever comes throws the other out. Five minutes later the journal has nothing of it."""
        with contextlib.ExitStack() as stack:
            for _turn in range(4):
                one = stack.enter_context(contextlib.ExitStack())
                one.enter_context(contextlib.suppress(MqttError))
                one.enter_context(self.session(client))
            yield
        os.truncate(self.home / "log", 0)

    def lets_read(self, client: str, topic: str) -> bool:
        """Whether this client gets what the health check's identity publishes."""
        with self.session("hnai-health") as health, self.session(client) as reader:
            reader.ask([topic])
            health.publish(topic, b"x")
            return any(True for _message in reader.messages(0.5, 2.0))

    def lets_command(self, client: str) -> bool:
        """Whether it takes a command of this client's."""
        with self.session(client) as one:
            return one.publish("spBv1.0/test/NCMD/test", b"x") != 0x87

    @contextmanager
    def with_a_broken_line(self) -> Iterator[None]:
        """It read its rules again, and one line is none: it says so in its log, and works on without any rule."""
        assert not self.lets_command("telegraf-bridge")
        try:
            self.load(f"{self.rules}\nnonsense\n")
            end = time.monotonic() + 60
            while not self.lets_command("telegraf-bridge"):
                assert time.monotonic() < end, "a broken line of rules leaves the others in force"
            yield
        finally:
            self.load(self.rules)

    @contextmanager
    def letting_the_bridge_read(self, topics: str) -> Iterator[None]:
        """It read a rule that the file does not have any more."""
        try:
            self.load(f"{self.rules}\nuser telegraf-bridge\ntopic read {topics}\n")
            end = time.monotonic() + 60
            while not self.lets_read("telegraf-bridge", topics.replace("#", "hnai-health/test")):
                assert time.monotonic() < end, "the broker did not read its rules again"
            (self.home / "acl").write_text(self.rules, encoding="utf-8")
            yield
        finally:
            self.load(self.rules)


class Shipper:
    """The live view: each second one record a source, retained. *quiet*: sources of which none comes; *ahead*: one whose clock is a day ahead."""

    def __init__(self, broker: Broker) -> None:
        self.quiet: frozenset[str] = frozenset()
        self.ahead, self.broker = "", broker
        self.problem: BaseException | None = None
        self._over = threading.Event()
        self._session = broker.session("telegraf-shipper")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._session as session:
                while not self._over.wait(1.0):
                    for source in sorted(set(SOURCES) - self.quiet):
                        now = time.time_ns() // 100 + (source == self.ahead) * DAY_TICKS
                        record = {"source": source, "tag": "level", "value": 1.0, "status": 0, "observed_ts": now}
                        code = session.publish(f"ot/{source}/level", json.dumps(record).encode(), 3600, retain=True)
                        # Success, or nobody listens now [v5 3.4.2.1].
                        assert code in (0x00, 0x10), hex(code)
        except BaseException as error:
            self.problem = error

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)
        assert self.problem is None, self.problem

    @contextmanager
    def without(self, source: str) -> Iterator[None]:
        """Nothing comes of one source, everything of the others."""
        self.quiet = frozenset((source,))
        try:
            yield
        finally:
            self.quiet = frozenset()

    @contextmanager
    def of_tomorrow(self, source: str) -> Iterator[None]:
        """For a day nobody would see that it fell silent."""
        self.ahead = source
        try:
            yield
        finally:
            self.ahead = ""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("broker"))
    try:
        made.listening()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def asked(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both modules are asked with, as roles/mosquitto/tasks/verify.yml does, and the host that has the passwords."""
    machine = Machine(str(tmp_path_factory.mktemp("host")))
    for client, password in broker.passwords.items():
        machine.keep(path_of("mosquitto", client), password)
    arguments = {"host": "127.0.0.1", "port": broker.port, "ca_file": str(broker.home / "tls/cert.pem"), "clients": CLIENTS, "acl": ACL, "collect": True}
    return {"arguments": arguments, "Host": lambda: machine}


@pytest.fixture
def shipper(broker: Broker) -> Iterator[Shipper]:
    made = Shipper(broker)
    try:
        yield made
    finally:
        made.stop()


def old(shipper: Shipper) -> AbstractContextManager[None]:
    return shipper.without("plc2")


def of_a_time_to_come(shipper: Shipper) -> AbstractContextManager[None]:
    return shipper.of_tomorrow("plc2")


def a_queue_ends_by_bytes(shipper: Shipper) -> AbstractContextManager[None]:
    return shipper.broker.told("max_queued_bytes 2000")


def who_is_away_for_a_minute_is_forgotten(shipper: Shipper) -> AbstractContextManager[None]:
    return shipper.broker.told("persistent_client_expiration 1m")


def queues_are_saved_at_the_end_only(shipper: Shipper) -> AbstractContextManager[None]:
    return shipper.broker.told("autosave_interval 0")


def two_programs_with_one_client_id(shipper: Shipper) -> AbstractContextManager[None]:
    return shipper.broker.with_one_client_id("line1")


@faults(
    Fault(old, {"MQ3": r"\Afail plc2: [\d.]+\Z"}),
    Fault(of_a_time_to_come, {"MQ3": r"\Afail plc2: a record of a time to come: .*\Z"}),
    Fault(a_queue_ends_by_bytes, {"MQ7": rf"\Afail : max_queued_bytes 2000: a queue is full before it holds {MOST}\Z"}),
    Fault(who_is_away_for_a_minute_is_forgotten, {"MQ7": r"\Afail : a client that is away for 1m loses its queue, declared are 60d\Z"}),
    Fault(queues_are_saved_at_the_end_only, {"MQ7": r"\Afail : what waits is saved at the end only, declared are 2 s: a kill loses the rest\Z"}),
    Fault(two_programs_with_one_client_id, {"MQ6": r"\Afail : test-line1 was taken over 3 times in 300 s: two programs have one client id\Z"}),
)
def test_a_live_view_that_is_wrong_fails_its_own_check_and_passes_after_repair(
    broker: Broker, asked: dict[str, Any], shipper: Shipper, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setenv("PATH", f"{broker.home}/bin:{os.environ['PATH']}")
    standing = [entry | {"hosts": {"edge": ["127.0.0.1"]}} if entry["principal"] == "telegraf-shipper" else entry for entry in ACL]
    arguments = asked["arguments"] | {
        "acl": standing, "sources": SOURCES, "live_max_age": LIVE_MAX_AGE_S, "password_file": str(broker.home / "run/passwords"),
        "max_queued": MOST, "max_fill": DEFAULTS["mosquitto_max_fill_percent"], "autosave": DEFAULTS["mosquitto_autosave_s"],
        "session_expiry": f"{DEFAULTS['mosquitto_session_expiry_days']}d",
        "config": str(broker.home / "mosquitto.conf")}
    health = Asked(lambda: ask(mqtt_health, arguments, Host=asked["Host"])["checks"], PATIENCE_S)
    exercise(health, fault, shipper)


def test_a_reader_of_what_no_file_gives_him_fails_the_shared_subscription_alone(broker: Broker, asked: dict[str, Any]) -> None:
    """The rules on the disk are right, so that nobody who reads them finds it."""
    arguments = asked["arguments"] | {
        "config": str(broker.home / "mosquitto.conf"), "unit": "", "patterns": DEFAULTS["mosquitto_command_patterns"], "lines": ["line1"], "live": True,
        "deadline": DEFAULTS["mosquitto_audit_deadline_s"]}
    must = {"MA8": r"\Afail telegraf-bridge: \$share/hnai-audit-\w+/hnai-audit/hnai-health/#: delivered\Z",
            "MA0": "^fail : the broker lets through: telegraf-bridge"}
    audit = Asked(lambda: ask(mqtt_acl_audit, arguments, Host=asked["Host"])["checks"], PATIENCE_S)
    exercise(audit, Fault(lambda one: one.letting_the_bridge_read("hnai-audit/#"), must), broker)


@pytest.mark.parametrize(("rules", "words"), [
    ("{rules}\nnonsense\n", "Invalid line in acl_file"), ("{rules}\ntopic reed x y\n", "Invalid topic access type"), ("user\n", "Missing username"),
    ("topic read a/#/b\n", "Invalid ACL topic"), (None, "Unable to open acl_file"), ("{rules}", ""), ("", "")])
def test_a_reload_of_rules_that_the_broker_would_not_start_with_is_refused(broker: Broker, rules: str | None, words: str) -> None:
    """What the unit runs before it sends SIGHUP (ExecReload)."""
    acl = broker.home / "acl"
    command, environment = broker_program()
    try:
        if rules is None:
            acl.unlink()
        else:
            acl.write_text(rules.format(rules=broker.rules), encoding="utf-8")
        done = subprocess.run([ROLE / "tree/usr/local/lib/hnai/mosquitto/rules", command, acl], env={**os.environ, **environment}, capture_output=True,
                              text=True, timeout=60, check=False)
    finally:
        acl.write_text(broker.rules, encoding="utf-8")
    assert (done.returncode != 0) == bool(words) and words in done.stderr
    reload = [line for line in (ROLE / "tree/etc/systemd/system/hnai-mosquitto.service.j2").read_text(encoding="utf-8").splitlines() if "ExecReload" in line]
    assert "mosquitto/rules /usr/sbin/mosquitto /etc/hnai/mosquitto/acl" in reload[0] and "kill -HUP" in reload[-1]


def test_a_broken_line_turns_every_rule_off_and_is_refuted_by_the_file_alone(broker: Broker, asked: dict[str, Any]) -> None:
    arguments = asked["arguments"] | {
        "config": str(broker.home / "mosquitto.conf"), "unit": "", "patterns": DEFAULTS["mosquitto_command_patterns"], "lines": ["line1"]}
    line = len(broker.rules.splitlines()) + 2
    broken = rf"/acl:{line}: 'nonsense' is neither user, topic nor pattern"
    must = {"MA0": f"^fail : .* may publish spBv1.0/.*{broken}", "MA1": f"^fail : .*{broken}", "MA2": f"^fail : .*{broken}", "MA3": "^fail", "MA4": "^fail"}
    audit = Asked(lambda: ask(mqtt_acl_audit, arguments, Host=asked["Host"])["checks"], PATIENCE_S)
    exercise(audit, Fault(Broker.with_a_broken_line, must), broker)


def test_a_broker_of_somebody_elses_is_judged_with_what_it_includes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(tmp_path, theirs=True)
    machine = Machine(str(tmp_path / "host"))
    for client, password in broker.passwords.items():
        machine.keep(path_of("mosquitto", client), password)
    monkeypatch.setenv("PATH", f"{broker.home}/bin:{os.environ['PATH']}")
    asked = {"host": "127.0.0.1", "port": broker.port, "ca_file": str(tmp_path / "tls/cert.pem"), "clients": CLIENTS, "acl": [*ACL, HISTORIAN], "collect": True,
             "config": str(tmp_path / "mosquitto.conf")}
    health = asked | {"password_file": str(tmp_path / "run/passwords"), "max_queued": DEFAULTS["mosquitto_max_queued_messages"], "sources": SOURCES}
    audit = asked | {"unit": "", "patterns": DEFAULTS["mosquitto_command_patterns"], "lines": ["line1"]}

    def bad(more: str = "") -> dict[str, str]:
        if more:
            (tmp_path / "conf.d/more.conf").write_text(more, encoding="utf-8")
        found = said([one for module, given in ((mqtt_health, health), (mqtt_acl_audit, audit)) for one in ask(module, given, Host=lambda: machine)["checks"]])
        (tmp_path / "conf.d/more.conf").unlink(missing_ok=True)
        return found

    try:
        broker.listening()
        shipper = Shipper(broker)
        try:
            end = time.monotonic() + PATIENCE_S
            while bad() and time.monotonic() < end:
                time.sleep(1)
            assert bad() == {}
            found = bad("listener 1883\nallow_anonymous true\n")
            assert sorted(found) == ["MA0", "MA1", "MA2", "MA3", "MA4", "MQ2"] and "in the clear: listener 1883" in found["MQ2"]
            assert bad("connection plant\naddress 127.0.0.1\ntopic # in\n").keys() == {"MA0", "MA1", "MA2", "MA3", "MA4"}, "a bridge passes the ACL by"
            (tmp_path / "conf.d/hnai.conf").write_text((tmp_path / "conf.d/hnai.conf").read_text().replace("log_dest stderr\n", ""))
            assert bad() == {"MQ5": f"inconclusive : OSError: the broker logs to file {tmp_path}/data/log: add log_dest stderr"}
        finally:
            shipper.stop()
    finally:
        broker.stop()


def test_after_a_compromise_a_password_is_over_at_once_though_a_grace_time_was_given(broker: Broker, tmp_path: Path) -> None:
    """Call by call as the playbook makes them, with a real OpenBao; whoever has the old password is connected all the while."""
    with loopback_bao.server(loopback_bao.binary(tmp_path)) as loop:
        loop.start_site()

        def take(state: str, **more: Any) -> dict[str, Any]:
            given = {"kv": "hnai", "path": "kafka/x", "kind": "mosquitto", "owner": "me", "run_id": "r1", "fence": 0, "reason": "compromise", "grace": 3600.0,
                     "expected": ["edge1"], "max_age": 0.0, "dead": [], "resume": "", "rollback": "", "acks": {}, "proof": {}}
            return rotate_steps.visit(loop.client, loop.deploy, given | {"state": state} | more)

        def login(name: str, word: str) -> rotation_target.Session:
            return rotation_target.Session(f"127.0.0.1:{broker.port}", Refusals(), str(broker.home / "tls/cert.pem"), name, word)

        adapter = MosquittoAdapter(login, broker.passwords.__setitem__, lambda name: broker.passwords.pop(name, None) and None, broker.reload)
        target = Target(adapter, SimpleNamespace(pass_=lambda _version: True))
        begun = take("prepared")
        old, new = begun["secrets"]["old"], begun["secrets"]["new"]
        try:
            adapter.put(old)
            until("the broker does not take up the password", lambda: adapter.works(old), 20, 0.2)
            theirs = login(old["username"], old["password"])
            fence = begun["rotation"]["fence"]
            fence = take("published", fence=fence, proof=target.provision(old, new, fence))["rotation"]["fence"]
            assert theirs.alive(), "nothing ends before every consumer has the new one"
            fence = take("committed", fence=fence, acks={"edge1": begun["rotation"]["fp_new"]})["rotation"]["fence"]
            last = take("closed", fence=fence, proof=target.revoke(old, new, fence))["rotation"]["last"]
            assert (last["outcome"], last["reason"], last["proof"]["no_old_session"]) == ("rotated", "compromise", True)
            assert not theirs.alive() and not adapter.works(old) and adapter.works(new)
        finally:
            for name in (old["username"], new["username"]):
                broker.passwords.pop(name, None)
            broker.reload()


def test_a_password_with_a_nul_is_one_that_nobody_lives_on(broker: Broker) -> None:
    """The broker takes what is before the NUL for all of it: asked, it would call the value accepted that its host does not store."""
    word = "before\0behind"
    broker.passwords["stand-rotated"] = "before"
    broker.reload()

    def login(given: str) -> rotation_target.Session:
        return rotation_target.Session(f"127.0.0.1:{broker.port}", Refusals(), str(broker.home / "tls/cert.pem"), "stand-rotated", given)

    def accepted() -> bool:
        with contextlib.suppress(MqttRefused):
            login(word).close()
            return True
        return False

    try:
        until("the broker does not take up the password", accepted, 20, 0.2)
        adapter = MosquittoAdapter(lambda _name, given: login(given), broker.passwords.__setitem__, broker.passwords.__delitem__, broker.reload)
        with pytest.raises(Impossible, match="password holds a NUL"):
            adapter.works({"username": "stand-rotated", "password": word})
        broker.passwords["stand-rotated"] = word
        broker.reload()
        until("the broker takes what is before the NUL", lambda: not accepted(), 20, 0.2)
    finally:
        broker.passwords.pop("stand-rotated", None)
        broker.reload()


@pytest.mark.parametrize("killed", [False, True])
def test_the_longest_password_is_ended_and_its_sessions_with_it(broker: Broker, killed: bool) -> None:
    """What a rotation does at the broker; *killed*: a run of before took the password away and saw no session end."""
    host = f"127.0.0.1:{broker.port}"

    def login(name: str, word: str) -> rotation_target.Session:
        return rotation_target.Session(host, Refusals(), str(broker.home / "tls/cert.pem"), name, word)

    adapter = MosquittoAdapter(login, broker.passwords.__setitem__, lambda name: broker.passwords.pop(name, None) and None, broker.reload)
    target = Target(adapter, SimpleNamespace(pass_=lambda _version: True))
    old = {"username": "stand-rotated", "password": "\N{GRINNING FACE}" * (MAX_TEXT // 4) + "end"}
    new = successor(old, lambda: "fresh")
    try:
        adapter.put(old)
        until("the broker does not take up the password", lambda: adapter.works(old), 20, 0.2)
        assert target.provision(old, new, 1) == {"new_works": True, "wrong_refused": True, "old_works": True, "changed": True}
        somebodys = login(*old.values())
        if killed:
            adapter.drop(old)
            until("the broker keeps the password", lambda: not adapter.works(old), 20, 0.2)
        proof = target.revoke(old, new, 2)
        assert proof == {"old_refused": True, "new_works": True, "no_old_session": True, "sessions": [], "changed": not killed}
        assert not somebodys.alive()
        assert [name for name in broker.passwords if name.startswith("stand-")] == ["stand-rotated.b"]
    finally:
        broker.passwords.pop(new["username"], None)
        broker.reload()
