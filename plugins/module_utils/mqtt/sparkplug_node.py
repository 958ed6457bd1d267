# SPDX-License-Identifier: Apache-2.0
"""What a reader that may not ask for a birth knows of one edge node, and what each message means. Pure: bytes in, events out.

A command (NCMD rebirth) would be the usual remedy for everything that is missed; a mirror sends none, so it keeps what it was told:
the births, the number that must come next, the digests of the last messages. `memory` is that, as JSON; with it a new process goes on
where the last one acknowledged. Rules, by section of the Sparkplug specification 3.0:

- an alias means what the last birth of its node or device says [6.4.6]; what no birth says is unknown, counted, and never guessed;
- a birth of the node ends what its devices' births said [5.4]; a death ends what births of the dead said [5.5, 5.8];
- a death of the node counts when its bdSeq is that of the birth [5.2]: the will of an older session kills nobody;
- seq grows by one, 255 is followed by 0 [6.4.19]; a jump is loss, and nobody can say of which metric.

The file travels alone (role ``ot_collector`` puts it beside its program): standard library only, Python 3.9.
"""
from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .sparkplug import BDSEQ, GOOD, STALE, Metric, Payload, SparkplugError, decode, typed

TICKS_PER_MS = 10_000
RECENT = 256
"""Messages whose digest is kept: more than are ever processed and not acknowledged."""
LATE = 32
"""A message this far behind that is not younger than the newest was overtaken; further behind it is a jump forward."""
NAMES_SHOWN = 20

OK = 0x00000000
BAD = 0x80000000
UNCERTAIN = 0x40000000
UNCERTAIN_LAST_USABLE = 0x40900000
BAD_NO_DATA = 0x809B0000
BAD_TYPE_MISMATCH = 0x80740000
BAD_NODE_ID_UNKNOWN = 0x80340000
BAD_WAITING_FOR_INITIAL_DATA = 0x80320000


@dataclass(frozen=True)
class Tag:
    """A tag of ours and the metric that it mirrors; *device* is empty for a metric of the node."""

    name: str
    device: str
    metric: str


@dataclass(frozen=True)
class Sample:
    """A value of a tag. Times in ticks (100 ns); *ts* None: neither the metric nor the message says when."""

    tag: str
    value: Any
    status: int
    ts: int | None
    historical: bool


@dataclass(frozen=True)
class Lost:
    """Of these tags something may be missing, or nothing comes any more. *count*: messages, None where that is not known."""

    reason: str
    tags: tuple[str, ...]
    count: int | None = None


@dataclass(frozen=True)
class Heard:
    """Up to *ts* (ticks) nothing is missing."""

    ts: int


Event = Any  # Sample | Lost | Heard: a union at run time would need Python 3.10


@dataclass
class Counts:
    """Totals since the program started."""

    messages: int = 0
    births: int = 0
    deaths: int = 0
    old_deaths: int = 0
    unknown: int = 0
    jumps: int = 0
    lost_messages: int = 0
    late: int = 0
    duplicates: int = 0
    malformed: int = 0
    foreign: int = 0


@dataclass
class Device:
    """What a birth said. *metrics*: {name: datatype}; *aliases*: {alias: name}, without those that two metrics share."""

    metrics: dict[str, int] = field(default_factory=dict)
    aliases: dict[int, str] = field(default_factory=dict)
    born: int | None = None
    alive: bool = False


def quality(code: int | None) -> int:
    """Status of a value by its property Quality; absent: good. Codes of OPC DA, whose upper two bits tell, are understood too."""
    if code is None or code == GOOD:
        return OK
    if code == STALE:
        return UNCERTAIN_LAST_USABLE
    return OK if 192 <= code <= 255 else UNCERTAIN if 64 <= code < 128 else BAD


def _ticks(ms: int | None) -> int | None:
    return None if ms is None or ms >= 1 << 45 else ms * TICKS_PER_MS


class Node:
    """One edge node. *memory* is what an earlier process left; anything else than that of this class is refused by ValueError."""

    def __init__(self, tags: Iterable[Tag], memory: Mapping[str, Any] | None = None) -> None:
        self.tags = tuple(tags)
        self._by_metric = {(tag.device, tag.metric): tag.name for tag in self.tags}
        self.counts = Counts()
        self.devices: dict[str, Device] = {}
        self.bdseq: int | None = None
        self.next: int | None = None
        self.last_ms: int | None = None
        self.doubtful = False
        self.unknown: dict[str, int] = {}
        self.births_changed = False
        self._recent: deque[str] = deque(maxlen=RECENT)
        if memory:
            self._remember(memory)

    # -- memory -----------------------------------------------------------------------------------------------------------
    def memory(self) -> dict[str, Any]:
        """Everything the next process must know."""
        return {
            "bdseq": self.bdseq, "next": self.next, "last_ms": self.last_ms, "doubtful": self.doubtful, "unknown": self.unknown,
            "recent": list(self._recent),
            "devices": {name: {"metrics": one.metrics, "aliases": {str(alias): metric for alias, metric in one.aliases.items()},
                               "born": one.born, "alive": one.alive} for name, one in self.devices.items()},
        }

    def _remember(self, memory: Mapping[str, Any]) -> None:
        try:
            self.devices = {
                str(name): Device({str(key): int(kind) for key, kind in one["metrics"].items()},
                                  {int(alias): str(key) for alias, key in one["aliases"].items()}, one["born"], bool(one["alive"]))
                for name, one in memory["devices"].items()}
            self.bdseq, self.next, self.last_ms = memory["bdseq"], memory["next"], memory["last_ms"]
            self.doubtful, self.unknown = bool(memory["doubtful"]), {str(key): int(count) for key, count in memory["unknown"].items()}
            self._recent.extend(str(one) for one in memory["recent"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError("no memory of an edge node: %r" % error) from error

    # -- what is known --------------------------------------------------------------------------------------------------------
    def alive(self, device: str = "") -> bool:
        """Born, and not dead since."""
        node, one = self.devices.get(""), self.devices.get(device)
        return bool(node and node.alive and one and one.alive)

    def unmapped(self) -> dict[str, int]:
        """{tag: status} of the tags that no birth in force explains; those of a node or device that has died are told by a gap."""
        found = {}
        for tag in self.tags:
            one = self.devices.get(tag.device)
            if one is None or (not one.alive and not one.metrics):
                found[tag.name] = BAD_WAITING_FOR_INITIAL_DATA
            elif one.alive and tag.metric not in one.metrics:
                found[tag.name] = BAD_NODE_ID_UNKNOWN
        return found

    def _names(self, device: str | None = None) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags if device is None or tag.device == device)

    # -- what happens -----------------------------------------------------------------------------------------------------------
    def session_lost(self) -> list[Event]:
        """The broker knew no session of ours: what it had for us is gone. If the next number is the expected one, nothing was."""
        if not self.alive():
            return []
        self.doubtful = True
        return [Lost("session_lost", self._names())]

    def standing(self) -> list[Event]:
        """What must be told again by a new process: who is dead stays dead."""
        if not self.devices:
            return []
        if not self.alive():
            return [Lost("node_death", self._names())]
        return [Lost("device_death", self._names(name)) for name, one in sorted(self.devices.items()) if name and not one.alive]

    def message(self, kind: str, device: str, data: bytes) -> list[Event]:
        """One message of this node. Never raises for what a line may send: what cannot be read is counted, and its number is a jump."""
        digest = hashlib.blake2b(kind.encode() + b"/" + device.encode() + b"/" + data, digest_size=8).hexdigest()
        try:
            payload = decode(data)
        except SparkplugError:
            self.counts.malformed += 1
            return self._unclear(device) if kind in ("NBIRTH", "DBIRTH") else []
        # With the expected number it is a new one, of a node that gives no time, or always the same: the numbers are as few as the digests.
        if payload.seq is not None and digest in self._recent and payload.seq != self.next:
            self.counts.duplicates += 1
            return []
        self._recent.append(digest)
        self.counts.messages += 1
        if kind == "NDEATH":
            return self._node_death(payload)
        if kind == "NBIRTH":
            return self._node_birth(payload)
        events, late = self._number(payload)
        if not self.alive():
            # Whatever it says, the birth that explains it was missed.
            self._not_known("%s before a birth" % kind, max(1, len(payload.metrics)))
            return events
        if kind == "DBIRTH":
            events += self._device_birth(device, payload, late)
        elif kind == "DDEATH":
            events += self._device_death(device, payload, late)
        else:
            events += self._data(device, payload, late)
        if payload.timestamp is not None and not late:
            self.last_ms = payload.timestamp
            events += self._heard(payload)
        return events

    def _heard(self, payload: Payload) -> list[Event]:
        ts = _ticks(payload.timestamp)
        # Without a number nobody can say what came before it.
        return [] if ts is None or payload.seq is None else [Heard(ts)]

    def _number(self, payload: Payload) -> tuple[list[Event], bool]:
        """What the number tells, and whether the message was overtaken by younger ones."""
        if payload.seq is None or self.next is None or not self.alive():
            return [], False
        jump = (payload.seq - self.next) % 256
        behind = 256 - jump
        if jump and behind <= LATE and payload.timestamp is not None and self.last_ms is not None and payload.timestamp <= self.last_ms:
            self.counts.late += 1
            return [], True
        self.next = (payload.seq + 1) % 256
        doubtful, self.doubtful = self.doubtful, False
        if not jump:
            return [], False
        self.counts.jumps += 1
        self.counts.lost_messages += jump
        events: list[Event] = [Lost("sequence_gap", self._names(), jump)]
        if doubtful:
            # A whole session of the node may have passed unheard: its births may say something else by now.
            self._forget()
        return events, False

    def _forget(self) -> None:
        self.births_changed = True
        for one in self.devices.values():
            one.alive = False
            one.metrics, one.aliases = {}, {}

    def _unclear(self, device: str = "") -> list[Event]:
        """Nobody can say which birth is in force: an alias that the next one gives away again would put a value under another's name."""
        names = self._names(device or None)
        if not device:
            self._forget()
        elif device in self.devices:
            self.births_changed = True
            self.devices[device] = Device()
        return [Lost("birth_unclear", names)]

    def _not_known(self, what: str, count: int) -> None:
        self.counts.unknown += count
        if what in self.unknown or len(self.unknown) < NAMES_SHOWN:
            self.unknown[what] = self.unknown.get(what, 0) + count

    def _bdseq(self, payload: Payload) -> int | None:
        for one in payload.metrics:
            if one.name == BDSEQ and isinstance(one.value, int):
                return one.value
        return None

    def _node_birth(self, payload: Payload) -> list[Event]:
        bdseq = self._bdseq(payload)
        node = self.devices.get("")
        same = node is not None and node.alive and bdseq == self.bdseq
        if same and node is not None and payload.timestamp is not None and node.born is not None and payload.timestamp < node.born:
            self.counts.late += 1
            # Overtaken by the one that is known, or its clock was set back and it is the newer one.
            born = self._born(payload)
            return [] if (born.metrics, born.aliases) == (node.metrics, node.aliases) else self._unclear()
        events: list[Event] = []
        if node is not None and node.alive and not same:
            events.append(Lost("node_restart", self._names()))
        self.counts.births += 1
        # What of a device is known stays only as the memory that it was there: its own birth must say it again.
        for name, one in self.devices.items():
            if name:
                one.alive, one.metrics, one.aliases = False, {}, {}
        self.bdseq, self.next, self.doubtful = bdseq, ((payload.seq or 0) + 1) % 256, False
        self.unknown = {}
        self.devices[""] = self._born(payload)
        self.last_ms = payload.timestamp
        return events + self._samples("", payload, False) + self._heard(payload)

    def _born(self, payload: Payload) -> Device:
        self.births_changed = True
        born = Device(born=payload.timestamp, alive=True)
        shared = set()
        for one in payload.metrics:
            if one.name is None or one.name == BDSEQ:
                continue
            born.metrics[one.name] = one.datatype or 0
            if one.alias is not None:
                if born.aliases.get(one.alias, one.name) != one.name:
                    shared.add(one.alias)
                born.aliases[one.alias] = one.name
        for alias in shared:
            del born.aliases[alias]
        return born

    def _device_birth(self, device: str, payload: Payload, late: bool) -> list[Event]:
        known = self.devices.get(device)
        if late and known and known.born is not None and payload.timestamp is not None and payload.timestamp < known.born:
            return []
        self.counts.births += 1
        self.devices[device] = self._born(payload)
        return self._samples(device, payload, late)

    def _device_death(self, device: str, payload: Payload, late: bool) -> list[Event]:
        known = self.devices.setdefault(device, Device())
        if late and known.born is not None and payload.timestamp is not None and payload.timestamp < known.born:
            return []
        self.counts.deaths += 1
        self.births_changed = True
        known.alive = False
        return [Lost("device_death", self._names(device))]

    def _node_death(self, payload: Payload) -> list[Event]:
        bdseq = self._bdseq(payload)
        if self.bdseq is not None and bdseq is not None and bdseq != self.bdseq:
            self.counts.old_deaths += 1
            # An old will, or that of a session whose birth was missed: the next number tells.
            self.doubtful = True
            return []
        if not self.alive():
            return []
        self.counts.deaths += 1
        self.births_changed = True
        for one in self.devices.values():
            one.alive = False
        self.doubtful = False
        return [Lost("node_death", self._names())]

    def _data(self, device: str, payload: Payload, late: bool) -> list[Event]:
        if not self.alive(device):
            self._not_known("device %s before a birth" % device, max(1, len(payload.metrics)))
            return []
        return self._samples(device, payload, late)

    def _samples(self, device: str, payload: Payload, late: bool) -> list[Event]:
        born = self.devices[device]
        events: list[Event] = []
        for one in payload.metrics:
            name = one.name if one.alias is None or one.name is not None else born.aliases.get(one.alias)
            if name == BDSEQ and not device:
                continue
            if name is None or name not in born.metrics or (one.alias is not None and born.aliases.get(one.alias, name) != name):
                what = "metric %s" % name[:100] if name is not None and name not in born.metrics else "alias %s" % one.alias
                self._not_known("%s of %s" % (what, "device " + device if device else "the node"), 1)
                continue
            tag = self._by_metric.get((device, name))
            if tag is None:
                self.counts.foreign += 1
                continue
            value, status = self._value(one, one.datatype or born.metrics[name])
            ts = _ticks(one.timestamp if one.timestamp is not None else payload.timestamp)
            events.append(Sample(tag, value, status, ts, late or one.historical))
        return events

    def _value(self, one: Metric, datatype: int) -> tuple[Any, int]:
        status = quality(one.quality)
        try:
            value = typed(one, datatype)
        except SparkplugError:
            return None, BAD_TYPE_MISMATCH
        if value is None and not status & BAD:
            return None, BAD_NO_DATA
        return value, status
