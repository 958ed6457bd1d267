# SPDX-License-Identifier: Apache-2.0
"""The checks of mqtt_health over sessions that the caller opens. Standard library, Python 3.9."""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.hnai.platform.plugins.module_utils.credentials import base
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_mosquitto import Setting, truth
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.topics import mqtt_overlap
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Message, MqttError, MqttRefused
from ansible_collections.hnai.platform.plugins.module_utils.telegraf import COUNTERS_EVERY_S, Counter, flow, parse
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

DROPPED = "$SYS/broker/publish/messages/dropped"
"""The broker publishes a value of its own when it changes, and it expires after 60 s (2.0.11): what is absent did not change
in the last minute. So this one alone does not remember a drop; the broker's journal does."""

UPTIME = "$SYS/broker/uptime"
"""Changes each time, so the absence of this one means that the others are not known."""

STORED = "$SYS/broker/store/messages/count"
ARRIVING = "$SYS/broker/load/publish/received/1min"
OUSTING = "already connected, closing old connection"
OUSTED_S, OUSTED = 300, 3
"""Two programs with one client id throw each other out as fast as they come back; who lost its line comes back once."""

DENY = "hnai-health/deny"
LIVE_DENY = "ot/hnai-health/deny"
"""Nobody's topics. The second one lies where the live view would show it."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
FILTERS = ("ot/#", "$SYS/broker/#")


class Session(Protocol):
    """What the checks need of a session."""

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe."""

    def messages(self, quiet_s: float, limit_s: float) -> Iterable[Message]:
        """What comes."""

    def publish(self, topic: str, payload: bytes, expiry_s: int = 1) -> int:
        """Publish with MQTT 5 and QoS 1; the broker's reason code."""


class Login(Protocol):
    """A session of a client. Raises MqttRefused where the broker says no."""

    def __call__(self, username: str, password: str, version: int = 4) -> AbstractContextManager[Session]:
        """*version*: 4 (3.1.1) or 5."""


@dataclass
class Sources:
    """Where the checks look. *password* gives the health identity's, or that of another client; *password_file* and *counters*
    the text of the broker's file and of the bridge's; *dropping* the lines of the broker's journal that name a client whose
    messages were dropped since the broker started, *ousting* those of the last OUSTED_S that name one whose session another took over; *peers*
    the addresses from which connections to the listener are open; *config* the settings of the broker."""

    login: Login
    password: Callable[..., str]
    password_file: Callable[[], str]
    counters: Callable[[], str]
    dropping: Callable[[], Sequence[str]]
    ousting: Callable[[], Sequence[str]]
    peers: Callable[[], Sequence[str]]
    config: Callable[[], Sequence[Setting]]
    now: Callable[[], float]


@dataclass
class View:
    """The live view: per source the newest observation (unix s) and the number of tags; what could not be read."""

    newest: dict[str, float] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    system: dict[str, str] = field(default_factory=dict)
    retained: int = 0


def view(messages: Iterable[Message]) -> View:
    """Read records (topic ot/<source>/<tag>) and the broker's own values."""
    result = View()
    topics = set()
    for message in messages:
        result.retained += message.retained
        if message.topic.startswith("$SYS/"):
            result.system[message.topic] = message.payload.decode("utf-8", "replace")
            continue
        try:
            record = json.loads(message.payload)
            source, observed = str(record["source"]), int(record["observed_ts"]) / 1e7
        except (ValueError, KeyError, TypeError):
            result.broken.append(message.topic)
            continue
        result.newest[source] = max(observed, result.newest.get(source, 0.0))
        if message.topic not in topics:
            topics.add(message.topic)
            result.tags[source] = result.tags.get(source, 0) + 1
    return result


def in_the_clear(config: Sequence[Setting]) -> list[str]:
    """Listeners of a broker on which passwords are not encrypted, but those that only this host reaches."""
    secured: dict[str, bool] = {}
    # A listener ends with its file; that of `port` goes by what stands outside of all others.
    old = "".join("port %s" % one.value for one in config if one.key == "port" and one.value != "0")
    if old:
        secured[old] = any(one.key == "bind_address" and one.value in LOOPBACK for one in config)
    current: dict[str, str] = {}
    for one in config:
        if one.key == "listener":
            name = current[one.file] = "listener %s" % " ".join(one.value.split())
            secured[name] = one.value.split()[0] == "0" or one.value.split()[-1] in LOOPBACK
        elif one.key in ("certfile", "psk_hint"):
            secured[current.get(one.file, old)] = True
    return [name for name, enough in secured.items() if not enough]


def unheard(config: Sequence[Setting]) -> str:
    """Why the journal does not tell what the broker says; "" where it does."""
    told = [one.value for one in config if one.key == "log_dest"]
    if told and not {"stderr", "stdout", "syslog"} & set(told):
        return "the broker logs to %s: add log_dest stderr" % ", ".join(told)
    kinds = [one.value for one in config if one.key == "log_type"]
    return "the broker logs %s only: add log_type notice" % ", ".join(kinds) if kinds and not {"notice", "all"} & set(kinds) else ""


def kept(config: Sequence[Setting], declared: int, expiry: str, autosave: int) -> str:
    """Why a client that is away would not get as much as is declared, by the broker's settings; "" where it would. *expiry*: as the broker is told it, "" for
    any; *autosave*: seconds, 0 for any."""
    told = {one.key: one.value for one in config}
    if int(told.get("max_queued_messages", "1000")) != declared:
        return "the broker keeps %s a client, declared are %d" % (told.get("max_queued_messages", "1000 (as delivered)"), declared)
    for limit in ("max_queued_bytes", "memory_limit"):
        if told.get(limit, "0") != "0":
            return "%s %s: a queue is full before it holds %d" % (limit, told[limit], declared)
    # Without a word it never forgets anybody.
    if expiry and told.get("persistent_client_expiration", expiry) != expiry:
        return "a client that is away for %s loses its queue, declared are %s" % (told["persistent_client_expiration"], expiry)
    if not truth(told.get("persistence", "false")):
        return "what waits does not outlive the broker: persistence is off"
    saves = told.get("autosave_interval", "1800")
    if autosave and saves != str(autosave):
        return "what waits is saved %s, declared are %d s: a kill loses the rest" % ("at the end only" if saves == "0" else "every %s s" % saves, autosave)
    return ""


def refused(login: Login, username: str, password: str) -> str:
    """How the broker answered a login that must fail: `refused …` or `let in`. Raises MqttError for anything else."""
    try:
        with login(username, password):
            return "let in"
    except MqttRefused as error:
        return "refused (code %d)" % error.code


def denied(entry: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(filters that an identity must not be able to read, topics that it must not be able to write), of those that can be tried."""
    def may(wanted: str, rights: Iterable[str]) -> bool:
        # A wildcard at the beginning never covers what begins with $ [4.7.2].
        return any(mqtt_overlap(wanted, right) for right in rights if wanted[0] != "$" or right[0] == "$")

    reads = [one for one in FILTERS if not may(one, entry.get("read") or [])]
    writes = [one for one in (DENY, LIVE_DENY) if not may(one, entry.get("write") or [])]
    return reads, writes


def _number(live: View | None, topic: str, otherwise: str) -> float:
    """A value of the broker's own; *otherwise* where it did not change in the last minute. Raises MqttError where that is not known."""
    if live is None:
        raise MqttError("the broker's own values are not known (MQ1)")
    if UPTIME not in live.system:
        raise MqttError("the broker published no %s" % UPTIME)
    return float(live.system.get(topic, otherwise))


def sessions(acl: Iterable[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...], list[str]]]:
    """(host, its addresses, the clients that must be connected from it), from the entries that know where their client stands."""
    found: dict[str, tuple[tuple[str, ...], list[str]]] = {}
    for entry in acl:
        for host, addresses in sorted((entry.get("hosts") or {}).items()):
            found.setdefault(host, (tuple(addresses), []))[1].append(entry["principal"])
    return [(host, addresses, sorted(clients)) for host, (addresses, clients) in sorted(found.items())]


def run(report: Report, params: Mapping[str, Any], where: Sources) -> None:
    """Make MQ1 to MQ9."""
    login, password, password_file, now = where.login, where.password, where.password_file, where.now
    live: View | None = None
    with report.check(
        "MQ1",
        "an identity logs in over TLS and may read the live view",
        expected="logged in",
        hint="journalctl -u hnai-mosquitto",
        explain="mosquitto_sub --cafile ca.pem -p 8883 -u hnai-health -t 'ot/#' -W 5",
    ) as check:
        with login(params["username"], password()) as session:
            session.subscribe(FILTERS)
            live = view(session.messages(params["quiet"], 5 * params["quiet"]))
        check.observed = "logged in"
        check.evidence = {"broker": live.system.get("$SYS/broker/version", ""), "sources": live.tags}
        check.raw("broker.json", json.dumps({"system": live.system, "newest": live.newest}, sort_keys=True, indent=1))
        check.passed(True)

    with report.check(
        "MQ2",
        "strangers are refused",
        expected="refused, refused, TLS on every listener",
        controls=["SR 1.1", "SR 1.2"],
        explain="mosquitto_pub --cafile ca.pem -p 8883 -t x -m x",
    ) as check:
        answers = [refused(login, "", ""), refused(login, params["username"], "not-the-password")]
        check.observed = "anonymous %s, wrong password %s" % tuple(answers)
        clear = in_the_clear(where.config())
        check.passed(all(answer.startswith("refused") for answer in answers) and not clear, "passwords in the clear: %s" % ", ".join(clear) if clear else "")

    for source in params["sources"]:
        with report.check(
            "MQ3",
            "the live view is fresh",
            subject=source,
            unit="s",
            expected="<= %g" % params["live_max_age"],
            hint="the shipper (hnai-telegraf-shipper) or the source",
            explain="mosquitto_sub … -t 'ot/%s/#' -W 2" % source,
        ) as check:
            if live is None:
                raise MqttError("the live view is not known (MQ1)")
            newest = live.newest.get(source)
            check.observed = None if newest is None else round(now() - newest, 2)
            check.evidence = {"tags": live.tags.get(source, 0), "unreadable_topics": live.broken[:10]}
            ahead = check.observed is not None and check.observed < -params["live_max_age"]
            check.passed(
                check.observed is not None and check.observed <= params["live_max_age"] and not ahead,
                "not one message" if newest is None else "a record of a time to come: nobody knows how old the others are" if ahead else "",
            )

    named: set[str] = set()
    with report.check(
        "MQ4",
        "every declared client has its password",
        unit="clients without",
        expected=[],
        hint="a credential of hnai-mosquitto cannot be decrypted: journalctl -u hnai-mosquitto, then converge the component",
    ) as check:
        # Either of a pair of identities will do; both are there while a rotation is under way.
        named = {line.split(":", 1)[0] for line in password_file().splitlines() if ":" in line}
        present = {base(name) for name in named}
        check.observed = sorted(set(params["clients"]) - present)
        check.evidence = {"not_declared": sorted(present - set(params["clients"]))}
        check.passed(not check.observed and not check.evidence["not_declared"])

    with report.check(
        "MQ5",
        "the broker dropped no message",
        unit="messages since it started",
        expected=0,
        hint="a client was away for longer than its queue lasts: mosquitto_max_queued_messages",
    ) as check:
        counted = int(_number(live, DROPPED, "0"))
        lines = list(where.dropping())
        check.observed = max(counted, len(lines))
        check.evidence = {"counted_in_the_last_minute": counted, "journal": lines[-5:]}
        check.passed(check.observed == 0, lines[-1] if lines else "")

    wanted = sessions(params["acl"])
    if wanted:
        with report.check(
            "MQ6",
            "every client of the site is connected",
            unit="hosts with too few connections",
            expected=0,
            hint="its queue fills: TG1 of that host; journalctl -u hnai-mosquitto says when it left",
            explain="ss -tn state established sport = :%d" % params["port"],
            controls=["SR 7.1"],
        ) as check:
            _connected(check, wanted, where.peers(), where.ousting())

    if params["max_queued"]:
        with report.check(
            "MQ7",
            "what waits for clients fits their queues",
            unit="messages waiting",
            expected="< %d" % (params["max_queued"] * params["max_fill"] / 100.0),
            hint="a client is away or too slow; when its queue is full the broker drops the newest",
            explain="mosquitto_sub … -t '%s' -W 12" % STORED,
            controls=["SR 7.2"],
        ) as check:
            _queues(check, params, live, kept(where.config(), params["max_queued"], params["session_expiry"], params["autosave"]))

    if params["acl"]:
        rights = {entry["principal"]: entry for entry in params["acl"]}
        # After a rotation a client has the other of its two names, and both while one is under way.
        halves = {client: sorted(name for name in named if base(name) == client) for client in params["clients"]}
        for client in (name for declared in params["clients"] for name in halves[declared] or [declared]):
            reads, writes = denied(rights.get(base(client), {}))
            if not reads and not writes:
                continue
            with report.check(
                "MQ8",
                "the broker refuses what the ACL does not give",
                subject=client,
                expected=[],
                unit="rights too many",
                controls=["SR 2.1"],
                hint="acl_file is gone or too generous: converge the component; who changed it?",
                explain="mosquitto_pub -V 5 -q 1 … -u %s -t %s -m x: not authorised" % (client, (writes or ["-"])[0]),
            ) as check:
                _refuses(check, params, where, client, reads, writes, live)

    if params["bridge_counters"]:
        with report.check(
            "MQ9",
            "the bridge brings what lines publish to Kafka, at once",
            unit="s through the bridge",
            expected="<= %g, nothing lost" % params["bridge_max_latency"],
            hint="journalctl -u hnai-telegraf-bridge; Kafka (B1, B3, S1)",
            explain="tail -n 40 %s: of output kafka, buffer_size and metrics_dropped" % params["bridge_counters"],
            controls=["SR 3.4"],
        ) as check:
            _bridge(check, params, where)


def _connected(check: Check, wanted: Sequence[tuple[str, tuple[str, ...], list[str]]], peers: Sequence[str], ousting: Sequence[str]) -> None:
    """The broker does not tell who is connected; the kernel tells from where. A connection more hides one that is missing."""
    open_from = {host: sum(peer in addresses for peer in peers) for host, addresses, _clients in wanted}
    short = [(host, clients) for host, _addresses, clients in wanted if open_from[host] < len(clients)]
    ousted = Tally(line.partition("Client ")[2].partition(" " + OUSTING)[0] for line in ousting)
    fought = ["%s was taken over %d times in %d s: two programs have one client id" % (*one, OUSTED_S) for one in ousted.most_common() if one[1] >= OUSTED]
    check.observed = len(short)
    check.evidence = {"connections": open_from, "clients": {host: clients for host, _addresses, clients in wanted}, "taken_over": dict(ousted)}
    missing = ["%s holds %d of %d connections (%s)" % (h, open_from[h], len(c), ", ".join(c)) for h, c in short]
    check.passed(not short and not fought, "; ".join(missing + fought))


def _queues(check: Check, params: Mapping[str, Any], live: View | None, less: str) -> None:
    stored, rate = _number(live, STORED, "-1"), _number(live, ARRIVING, "0") / 60.0
    # What is retained is stored too, and we have just read it; the rest waits for somebody.
    check.observed = None if stored < 0 or live is None else max(0, int(stored) - live.retained)
    waiting = check.observed or 0
    check.evidence = {
        "limit_of_one_client": params["max_queued"],
        "fill_percent": round(100.0 * waiting / params["max_queued"], 1),
        "arriving_per_s": round(rate, 1),
        "full_in_s_at_this_rate": round(max(0.0, params["max_queued"] - waiting) / rate, 1) if rate else None,
        "stored": "did not change in the last minute" if stored < 0 else int(stored),
    }
    check.passed(waiting < params["max_queued"] * params["max_fill"] / 100.0 and not less, less)


def _refuses(
    check: Check, params: Mapping[str, Any], where: Sources, client: str, reads: Sequence[str], writes: Sequence[str], live: View | None
) -> None:
    """A session of *client*: what it must not read stays away, what it must not write is refused and nobody gets it."""
    if live is None or not live.newest:
        raise MqttError("no positive control: the live view is empty or unknown, so silence proves nothing (MQ1, MQ3)")
    nonce = "%s %.6f" % (client, where.now())
    answers: dict[str, str] = {}
    got: list[str] = []
    with where.login(params["username"], where.password(), 4) as witness, where.login(client, where.password(client), 5) as session:
        witness.subscribe(["ot/hnai-health/#", "hnai-health/#"])
        if reads:
            # A broker grants the subscription and filters what it delivers: only what comes tells.
            session.subscribe(reads)
        for topic in writes:
            code = session.publish(topic, nonce.encode())
            answers[topic] = "0x%02x" % code
        if reads:
            came = {message.topic for message in session.messages(params["quiet"] / 2, 2 * params["quiet"])}
            got = sorted(came, key=lambda topic: (topic.startswith("$"), topic))
        seen = sorted({message.topic for message in witness.messages(params["quiet"] / 4, params["quiet"])
                       if message.payload == nonce.encode()}) if writes else []
    written = [topic for topic, code in answers.items() if int(code, 16) < 0x80]
    check.observed = ["write " + topic for topic in sorted({*written, *seen})] + ["read " + topic for topic in got[:5]]
    check.evidence = {"tried_to_read": list(reads), "tried_to_write": answers, "witness_saw": seen, "positive_control": sorted(live.newest)}
    check.passed(not check.observed, ", ".join(check.observed))


def _bridge(check: Check, params: Mapping[str, Any], where: Sources) -> None:
    """Loss and delay between taking from the broker and Kafka's acknowledgement, by the bridge's own counters."""
    outputs = parse(where.counters().splitlines(), "internal_write")
    book: Sequence[Counter] = outputs.get("kafka", ())
    if not book:
        raise MqttError("%s holds nothing of the output to Kafka" % params["bridge_counters"])
    age = where.now() - book[-1].time
    if age > 4 * COUNTERS_EVERY_S:
        check.fail("the bridge counted nothing for %.0f s" % age)
        return
    window = params["bridge_window"]
    written, added = flow(book, "metrics_written", window), flow(book, "metrics_added", window)
    lost = sum(flow(book, key, window).amount for key in ("metrics_dropped", "metrics_rejected"))
    waiting = book[-1].of("buffer_size")
    rate = written.amount / written.seconds if written.seconds > 0 else 0.0
    flush = book[-1].of("write_time_ns") / 1e9
    check.evidence = {
        "lost": int(lost), "waiting": int(waiting), "taken": int(added.amount), "delivered": int(written.amount),
        "window_s": round(written.seconds, 1), "write_s": round(flush, 4),
    }
    if not added.amount and not waiting and not lost:
        check.inconclusive("no line published anything in %.0f s" % added.seconds)
        return
    # A book that was just begun anew has one entry: it counts from the start of the process and tells no rate.
    if waiting and not written.amount:
        check.fail("%d messages wait and none was delivered in %.0f s" % (waiting, written.seconds))
        return
    check.observed = round(flush + (waiting / rate if rate else 0.0), 3)
    check.passed(not lost and check.observed <= params["bridge_max_latency"], "%d lost" % lost if lost else "")
