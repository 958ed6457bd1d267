# SPDX-License-Identifier: Apache-2.0
"""Topics as data: what is declared against what is there.

Declared topics are created, grown and configured; a topic-level setting that is not declared is reset. Never done here, because it
moves or loses data: deleting a topic, shrinking it, changing its replication factor (these are named as problems).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Not compared with what is declared: check B8 is about it.
_UNCLEAN = "unclean.leader.election.enable"
#: Settings that a broker would refuse in the middle of a run: numbers (-1 is for ever), and words.
_NUMBER = re.compile(r"(-1|[0-9]{1,18})\Z")
_COUNTED = re.compile(r"(retention|segment|flush|delete\.retention|file\.delete\.delay|max\.message|index\.interval)\.?[a-z.]*\.(ms|bytes|messages)\Z")
_WORDS = {
    "cleanup.policy": ("compact", "delete", "compact,delete", "delete,compact"), "message.timestamp.type": ("CreateTime", "LogAppendTime"),
    "compression.type": ("gzip", "lz4", "none", "producer", "snappy", "uncompressed", "zstd"),
}  # fmt: skip
_USUAL = (*_WORDS, _UNCLEAN, "delete.retention.ms", "max.compaction.lag.ms", "max.message.bytes", "min.compaction.lag.ms", "min.insync.replicas",
          "retention.bytes", "retention.ms", "segment.bytes", "segment.ms")  # fmt: skip
NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,247}[a-z0-9])?$")


@dataclass(frozen=True)
class Topic:
    """One topic. `config`: topic-level settings as text. `owner_level`: the only level that may write it (0 = observed, unknown)."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)
    owner_level: float = 0


def parse(entries: Iterable[Mapping[str, Any]]) -> tuple[Topic, ...]:
    """Topics from their data {name, partitions, replication_factor, config, owner_level}; settings become text as Kafka writes it."""
    return tuple(
        Topic(name=str(one["name"]), partitions=int(one["partitions"]), replication_factor=int(one["replication_factor"]),
              config={str(key): str(value).lower() if isinstance(value, bool) else str(value) for key, value in (one.get("config") or {}).items()},
              owner_level=one.get("owner_level") or 0)
        for one in entries)


@dataclass
class Plan:
    """What to do, and what cannot be done. `diff` lines are before/after texts of one topic each."""

    create: list[Topic] = field(default_factory=list)
    grow: dict[str, int] = field(default_factory=dict)
    set_config: dict[str, dict[str, str]] = field(default_factory=dict)
    reset_config: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unmanaged: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.create or self.grow or self.set_config or self.reset_config)


def check(declared: Sequence[Topic], brokers: int) -> list[str]:
    """What is wrong with the declaration itself, each with its key and remedy."""
    problems: list[str] = []
    names = [topic.name for topic in declared]
    for topic in declared:
        key = f"kafka_topics[{topic.name}]"
        if not NAME.match(topic.name):
            problems.append(f"{key}.name: only lower-case letters, digits, '.' and '-' ('_' and '.' collide in metric names)")
        if topic.partitions < 1:
            problems.append(f"{key}.partitions: {topic.partitions}; give at least 1")
        if not 1 <= topic.replication_factor <= brokers:
            problems.append(f"{key}.replication_factor: {topic.replication_factor} with {brokers} brokers; give 1 to {brokers}")
        minimum = topic.config.get("min.insync.replicas")
        if minimum is not None and not minimum.isdecimal():
            problems.append(f"{key}.config.min.insync.replicas: {minimum!r}; give a whole number")
        elif minimum is not None and int(minimum) >= topic.replication_factor > 1:
            problems.append(f"{key}.config.min.insync.replicas: {minimum} of {topic.replication_factor} replicas would let no broker "
                            "restart; give less than replication_factor")
        if topic.config.get(_UNCLEAN, "false") != "false":
            problems.append(f"{key}.config.unclean.leader.election.enable: loses acknowledged records; remove it")
        problems += [f"{key}.config.{name}: {wrong}" for name, wrong in _settings(topic.config)]
    problems += [f"kafka_topics[{name}]: is there twice; remove one" for name in sorted({n for n in names if names.count(n) > 1})]
    return problems


def _settings(config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(name, what is wrong and the remedy) of settings; what is not known here is left to the brokers."""
    for name, value in config.items():
        near = difflib.get_close_matches(name, _USUAL, n=1, cutoff=0.9)
        if name in _WORDS and value.replace(" ", "") not in _WORDS[name]:
            yield name, f"{value[:60]!r} is unknown; use one of: {', '.join(_WORDS[name])}"
        elif _COUNTED.match(name) and not _NUMBER.match(value):
            yield name, f"{value[:60]!r} is no number; write a whole number from 0, or -1"
        elif near and name not in _USUAL and not _COUNTED.match(name):
            yield name, f"is no setting of a topic; did you mean {near[0]}?"


def differences(declared: Iterable[Topic], present: Mapping[str, Topic]) -> list[str]:
    """In what the topics that are there are not as declared, each as text. More replicas are no finding: that is how they are moved."""
    found: list[str] = []
    for topic in sorted((one for one in declared if one.name in present), key=lambda one: one.name):
        now = present[topic.name]
        pairs: dict[str, tuple[object, object]] = {
            "partitions": (now.partitions, topic.partitions),
            "replication_factor": (min(now.replication_factor, topic.replication_factor), topic.replication_factor)}
        pairs |= {key: (now.config.get(key), topic.config.get(key)) for key in sorted({*now.config, *topic.config} - {_UNCLEAN})}
        found += [f"{topic.name} {key} {have}, which nobody declared" if want is None else f"{topic.name} {key} {have or 'not set'} instead of {want}"
                  for key, (have, want) in pairs.items() if have != want]
    return found


def _line(topic: Topic) -> str:
    settings = "".join(f" {key}={topic.config[key]}" for key in sorted(topic.config))
    return f"topic {topic.name} partitions={topic.partitions} replication_factor={topic.replication_factor}{settings}"


def plan(declared: Sequence[Topic], present: Mapping[str, Topic]) -> Plan:
    """The difference. `present`: by name, `config` holding only what is set on the topic itself."""
    result = Plan(unmanaged=sorted(name for name in set(present) - {t.name for t in declared} if not name.startswith("__")))
    for topic in sorted(declared, key=lambda item: item.name):
        now = present.get(topic.name)
        if now is None:
            result.create.append(topic)
            result.after.append(_line(topic))
            continue
        if topic.partitions < now.partitions:
            result.problems.append(f"kafka_topics[{topic.name}].partitions: {topic.partitions} declared, {now.partitions} are there, and a topic "
                                   f"never shrinks; declare {now.partitions}, or a new topic")
        elif topic.partitions > now.partitions:
            result.grow[topic.name] = topic.partitions
        if topic.replication_factor != now.replication_factor:
            result.problems.append(f"kafka_topics[{topic.name}].replication_factor: {topic.replication_factor} declared, {now.replication_factor} "
                                   "are there; reassign its partitions with kafka-reassign-partitions, then run again")
        wanted = {key: value for key, value in topic.config.items() if now.config.get(key) != value}
        surplus = sorted(set(now.config) - set(topic.config))
        if wanted:
            result.set_config[topic.name] = wanted
        if surplus:
            result.reset_config[topic.name] = surplus
        if wanted or surplus or topic.name in result.grow:
            result.before.append(_line(now))
            result.after.append(_line(topic))
    return result
