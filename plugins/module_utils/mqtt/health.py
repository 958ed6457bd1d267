# SPDX-License-Identifier: Apache-2.0
"""The checks of mqtt_health over sessions that the caller opens. Standard library, Python 3.9."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Message, MqttError, MqttRefused
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

DROPPED = "$SYS/broker/publish/messages/dropped"
"""Published when it changes, so it is absent while nothing was dropped (seen: 2.0.11)."""

TWIN = ".b"
UPTIME = "$SYS/broker/uptime"
FILTERS = ("ot/#", "$SYS/broker/#")


class Session(Protocol):
    """What the checks need of a session."""

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe."""

    def messages(self, quiet_s: float, limit_s: float) -> Iterable[Message]:
        """What comes."""


Login = Callable[[str, str], "AbstractContextManager[Session]"]
"""(user name, password) -> a session. Raises MqttRefused where the broker says no."""


@dataclass
class View:
    """The live view: per source the newest observation (unix s) and the number of tags; what could not be read."""

    newest: dict[str, float] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    system: dict[str, str] = field(default_factory=dict)


def view(messages: Iterable[Message]) -> View:
    """Read records (topic ot/<source>/<tag>) and the broker's own values."""
    result = View()
    topics = set()
    for message in messages:
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


def refused(login: Login, username: str, password: str) -> str:
    """How the broker answered a login that must fail: `refused …` or `let in`. Raises MqttError for anything else."""
    try:
        with login(username, password):
            return "let in"
    except MqttRefused as error:
        return "refused (code %d)" % error.code


def run(
    report: Report,
    params: Mapping[str, Any],
    login: Login,
    password: Callable[[], str],
    password_file: Callable[[], str],
    now: Callable[[], float],
) -> None:
    """Make MQ1 to MQ5. *password* gives the health identity's, *password_file* the text of the broker's file."""
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
        check.passed(True)

    with report.check(
        "MQ2",
        "strangers are refused",
        expected="refused, refused",
        controls=["SR 1.1", "SR 1.2"],
        explain="mosquitto_pub --cafile ca.pem -p 8883 -t x -m x",
    ) as check:
        answers = [refused(login, "", ""), refused(login, params["username"], "not-the-password")]
        check.observed = "anonymous %s, wrong password %s" % tuple(answers)
        check.passed(all(answer.startswith("refused") for answer in answers))

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
            check.passed(
                check.observed is not None and check.observed <= params["live_max_age"],
                "not one message" if newest is None else "",
            )

    with report.check(
        "MQ4",
        "every declared client has its password",
        unit="clients without",
        expected=[],
        hint="a credential of hnai-mosquitto cannot be decrypted: journalctl -u hnai-mosquitto, then converge the component",
    ) as check:
        # Either of a pair of identities will do; both are there while a rotation is under way.
        named = {line.split(":", 1)[0] for line in password_file().splitlines() if ":" in line}
        present = {name[: -len(TWIN)] if name.endswith(TWIN) else name for name in named}
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
        if live is None or UPTIME not in live.system:
            raise MqttError("the broker published no %s" % UPTIME)
        check.observed = int(live.system.get(DROPPED, "0"))
        check.passed(check.observed == 0)
