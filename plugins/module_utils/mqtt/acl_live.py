# SPDX-License-Identifier: Apache-2.0
"""What the broker really refuses: publishes of MQTT 5, QoS 1, on canary topics, as each identity whose password lies on this host.

Nothing is sent but to two kinds of topics: a *canary* (a command pattern whose wildcards are the canary's name, as ``spBv1.0/__canary__/NCMD/__canary__``),
which must be refused, and the identity's own *corner* (``hnai-audit/<identity>/…``), which must be accepted: the positive control, on the same session.
A witness that may read both must get the control and must not get the canary. The end of a wait is a message of our own that comes after, not silence.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from .wire import NOT_AUTHORISED, Message, MqttEnded, MqttError, MqttRefused, Will

RETAINED_EXPIRY_S = 30
ARRIVES_S = 5.0
"""Most seconds until a control of ours must have come."""


class CannotTest(Exception):
    """A right that cannot be tried here; the text says why."""


class Session(Protocol):
    """What the test needs of a session."""

    def ask(self, filters: Sequence[str]) -> list[int]:
        """Subscribe; codes."""

    def publish(self, topic: str, payload: bytes, expiry_s: int = 1, retain: bool = False) -> int:
        """Publish (version 5, QoS 1); the broker's reason code."""

    def messages(self, quiet_s: float, limit_s: float) -> Iterable[Message]:
        """What comes."""

    def leave_unwell(self) -> None:
        """Leave so that the will is published."""


class Login(Protocol):
    """A session of a client. Raises MqttRefused where the broker says no."""

    def __call__(self, username: str, password: str, version: int = 4, will: Will | None = None) -> AbstractContextManager[Session]:
        """*version*: 4 (3.1.1) or 5."""


def canary_topic(pattern: str, name: str) -> str | None:
    """A topic of *pattern* that no plant uses; None where the pattern names one topic, which is a real one.

    >>> canary_topic("spBv1.0/+/NCMD/#", "__canary__"), canary_topic("line/1/cmd", "__canary__")
    ('spBv1.0/__canary__/NCMD/__canary__', None)
    """
    levels = [name if level in ("+", "#") else level for level in pattern.split("/")]
    return "/".join(levels) if name in levels else None


@dataclass
class Answer:
    """What one way of publishing met: reason code by canary topic; canaries that came through; why there is no answer."""

    codes: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    control: str = ""
    problem: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> list[str]:
        """Canary topics that were accepted or delivered."""
        taken = {topic for topic, code in self.codes.items() if code in ("delivered", "retained") or (code.startswith("0x") and int(code, 16) < 0x80)}
        return sorted(taken | set(self.seen))

    @property
    def unclear(self) -> list[str]:
        """Canary topics that were refused, but not as not authorised."""
        return sorted(topic for topic, code in self.codes.items() if code.startswith("0x") and int(code, 16) not in (NOT_AUTHORISED,)
                      and int(code, 16) >= 0x80)


@dataclass
class Findings:
    """Of one identity: by way (publish, retained, will, shared)."""

    name: str
    ways: dict[str, Answer] = field(default_factory=dict)


class Watcher:
    """A subscriber that remembers what it got."""

    def __init__(self, name: str, session: Session, clock: Callable[[], float]) -> None:
        self.name, self.session, self._clock = name, session, clock
        self.got: list[Message] = []

    def until(self, topic: str, payload: bytes, limit_s: float = ARRIVES_S) -> bool:
        """Read until this message came; False where it did not in time."""
        end = self._clock() + limit_s
        while self._clock() < end:
            for message in self.session.messages(0.2, 0.5):
                self.got.append(message)
                if (message.topic, message.payload) == (topic, payload):
                    return True
        return False

    def canaries(self, topics: Iterable[str], nonce: bytes) -> list[str]:
        """Of *topics*, those that came with *nonce*."""
        wanted = set(topics)
        return sorted({message.topic for message in self.got if message.topic in wanted and message.payload == nonce})


class Speaker:
    """The session of the identity that is tried; a broker that ends it on a refusal is asked for a new one."""

    def __init__(self, login: Login, name: str, password: str) -> None:
        self.name, self.password, self._login = name, password, login
        self._stack = ExitStack()
        self._open: Session | None = None
        self.ended = 0

    @property
    def session(self) -> Session:
        """Logs in where it must. Raises MqttRefused, MqttError, OSError."""
        if self._open is None:
            self._open = self._stack.enter_context(self._login(self.name, self.password, 5))
        return self._open

    def publish(self, topic: str, payload: bytes, expiry_s: int, retain: bool) -> int:
        """The broker's code, that of its farewell too."""
        try:
            return self.session.publish(topic, payload, expiry_s, retain)
        except MqttEnded as error:
            self.close()
            self.ended += 1
            return error.code

    def close(self) -> None:
        """End the session."""
        self._open = None
        self._stack.close()


class Live:
    """One run. *witness*: (name, password) of the identity that may read canaries and corners; *lines*: identities of the lines, which watch too.

    *password* gives an identity's and raises CannotTest. *nonce* makes what is sent ours.
    """

    def __init__(self, login: Login, password: Callable[[str], str], witness: str, lines: Sequence[str], patterns: Sequence[str],
                 canary: str, corner: str, nonce: str, clock: Callable[[], float] = time.monotonic) -> None:
        if not canary or set(canary) & set("/+#$") or not corner or set(corner) & set("+#$"):
            raise CannotTest("canary and corner are plain names: %r, %r" % (canary, corner))
        if not nonce or set(nonce) & set("/+# "):
            raise CannotTest("the nonce becomes the name of a group: %r" % nonce)
        self._login, self._password, self._witness_name, self._lines = login, password, witness, list(lines)
        self._corner, self._nonce, self._clock = corner, nonce, clock
        self._canary = canary
        self.canaries = {pattern: topic for pattern in patterns for topic in [canary_topic(pattern, canary)] if topic is not None}
        self.uncovered = [pattern for pattern in patterns if pattern not in self.canaries]
        self._topics = sorted(set(self.canaries.values()))
        self._count = 0
        self.watchers: list[Watcher] = []
        self.not_watching: list[str] = []

    # -- fence --------------------------------------------------------------------------------------------
    def _ours(self, topic: str) -> str:
        """The topic, if this test may publish there. Raises RuntimeError: a bug of ours, nothing was sent."""
        if topic not in self._topics and not topic.startswith(self._corner + "/"):
            raise RuntimeError("not a canary of ours: %s" % topic)
        return topic

    def _mine(self, name: str, what: str) -> str:
        return "%s/%s/%s" % (self._corner, name, what)

    def _payload(self) -> bytes:
        self._count += 1
        return ("%s %d" % (self._nonce, self._count)).encode()

    def _publish(self, speaker: Session | Speaker, topic: str, payload: bytes, retain: bool = False) -> int:
        return speaker.publish(self._ours(topic), payload, RETAINED_EXPIRY_S if retain else 1 + int(ARRIVES_S), retain)

    # -- run ----------------------------------------------------------------------------------------------
    def run(self, names: Sequence[str]) -> list[Findings]:
        """Try each identity. Raises CannotTest, MqttError, OSError where there is no witness."""
        with ExitStack() as stack:
            self._watch(stack, self._witness_name, [self._corner + "/#", *self._topics])
            for name in self._lines:
                if name == self._witness_name:
                    continue
                try:
                    self._watch(stack, name, [self._mine(name, "#"), *self._topics])
                except (CannotTest, MqttError, OSError) as error:
                    self.not_watching.append("%s: %s" % (name, error))
            return [self._one(name) for name in names]

    def _watch(self, stack: ExitStack, name: str, filters: Sequence[str]) -> None:
        session = stack.enter_context(self._login(name, self._password(name), 5))
        # A broker may refuse what it would never deliver (EMQX); to the others only delivery tells.
        codes = session.ask(filters)
        if codes and codes[0] >= 0x80:
            raise CannotTest("%s may not read %s (0x%02x)" % (name, filters[0], codes[0]))
        self.watchers.append(Watcher(name, session, self._clock))

    @property
    def _witness(self) -> Watcher:
        return self.watchers[0]

    def _one(self, name: str) -> Findings:
        found = Findings(name)
        ways: list[tuple[str, Callable[[Speaker, Answer], None]]] = [
            ("publish", self._plain), ("retained", self._retained), ("will", self._will), ("shared", self._shared)]
        speaker: Speaker | None = None
        for way, method in ways:
            answer = found.ways[way] = Answer()
            try:
                speaker = speaker or Speaker(self._login, name, self._password(name))
                method(speaker, answer)
            except MqttRefused as error:
                answer.problem = "%s cannot log in: %s" % (name, error)
            except (CannotTest, MqttError, OSError) as error:
                answer.problem = "%s" % (error or type(error).__name__)
                if speaker is not None:
                    speaker.close()
        if speaker is not None:
            speaker.close()
        return found

    def _control(self, speaker: Speaker, what: str, answer: Answer | None = None) -> None:
        """A message that must be accepted and must come: everything that was sent before it has been dealt with."""
        payload, topic = self._payload(), self._mine(speaker.name, what)
        code = self._publish(speaker, topic, payload)
        if code >= 0x80:
            raise CannotTest("no positive control: %s may not publish to its own corner %s (0x%02x)" % (speaker.name, topic, code))
        if not self._witness.until(topic, payload):
            raise CannotTest("no positive control: the witness %s did not get %s" % (self._witness.name, topic))
        if answer is not None:
            answer.control = "%s accepted and seen by %s" % (topic, self._witness.name)

    def _line_barriers(self) -> None:
        """Each line gets a message of its own corner: what was meant for it before has come by then."""
        for watcher in list(self.watchers[1:]):
            payload, topic = self._payload(), self._mine(watcher.name, "watch")
            code = self._publish(watcher.session, topic, payload)
            if code >= 0x80 or not watcher.until(topic, payload):
                self.watchers.remove(watcher)
                self.not_watching.append("%s: does not get what it publishes to %s (0x%02x)" % (watcher.name, topic, code))

    def _collect(self, answer: Answer, payload: bytes) -> None:
        self._line_barriers()
        for watcher in self.watchers:
            for topic in watcher.canaries(self._topics, payload):
                answer.seen.append(topic)
                answer.notes.append("%s got %s" % (watcher.name, topic))
        answer.seen = sorted(set(answer.seen))

    def _each(self, speaker: Speaker, answer: Answer, payload: bytes, retain: bool) -> None:
        """Publish to every canary, between two controls."""
        self._control(speaker, "begin", answer)
        for topic in self._topics:
            answer.codes[topic] = "0x%02x" % self._publish(speaker, topic, payload, retain)
        if speaker.ended:
            answer.notes.append("the broker ended the session %d times" % speaker.ended)
        self._control(speaker, "end")

    def _plain(self, speaker: Speaker, answer: Answer) -> None:
        payload = self._payload()
        self._each(speaker, answer, payload, False)
        self._collect(answer, payload)

    def _kept(self, filters: Sequence[str]) -> dict[str, bytes]:
        """Retained messages of ours that a new subscription gets."""
        watcher = self._witness
        before = len(watcher.got)
        watcher.session.ask(filters)
        corner, payload = self._mine(watcher.name, "kept"), self._payload()
        if self._publish(watcher.session, corner, payload) >= 0x80 or not watcher.until(corner, payload):
            raise CannotTest("no positive control: the witness does not get what it publishes to %s" % corner)
        return {message.topic: message.payload for message in watcher.got[before:]
                if message.retained and message.payload.startswith(self._nonce.encode())}

    def _retained(self, speaker: Speaker, answer: Answer) -> None:
        topic, payload = self._mine(speaker.name, "retained"), self._payload()
        try:
            code = self._publish(speaker, topic, payload, True)
            if code >= 0x80 or self._kept([topic]).get(topic) != payload:
                raise CannotTest("no positive control: a retained message of %s in its own corner is not kept (0x%02x)" % (speaker.name, code))
            self._each(speaker, answer, payload, True)
            for kept, value in self._kept(self._topics).items():
                if value == payload:
                    answer.seen.append(kept)
                    answer.codes[kept] = "retained"
            self._collect(answer, payload)
        finally:
            answer.notes += self._clean(speaker, [topic, *answer.accepted])

    def _clean(self, speaker: Speaker, topics: Sequence[str]) -> list[str]:
        """Delete what may be retained. Raises MqttError naming what is left (it expires by itself)."""
        for topic in topics:
            self._publish(speaker, topic, b"", True)
        left = sorted(set(self._kept(list(topics))) & set(topics))
        if left:
            raise MqttError("retained messages of ours are left, they expire in %d s: %s" % (RETAINED_EXPIRY_S, ", ".join(left)))
        return ["retained messages deleted, and a new subscription gets none"]

    def _dies(self, speaker: Speaker, topic: str, payload: bytes) -> str:
        """A session with a will that ends without a farewell; how the login was answered."""
        try:
            with self._login(speaker.name, speaker.password, 5, Will(self._ours(topic), payload, 1 + int(ARRIVES_S))) as session:
                session.leave_unwell()
        except MqttRefused as error:
            return "login refused (%d)" % error.code
        return "not delivered"

    def _will(self, speaker: Speaker, answer: Answer) -> None:
        payload, topic = self._payload(), self._mine(speaker.name, "will")
        how = self._dies(speaker, topic, payload)
        if not self._witness.until(topic, payload):
            raise CannotTest("no positive control: the will of %s in its own corner did not come (%s)" % (speaker.name, how))
        answer.control = "%s came" % topic
        for canary in self._topics:
            answer.codes[canary] = self._dies(speaker, canary, payload)
        self._control(speaker, "end")
        self._collect(answer, payload)
        for canary in answer.seen:
            answer.codes[canary] = "delivered"

    def _shared(self, speaker: Speaker, answer: Answer) -> None:
        """A shared subscription to the witness's corner, which is not this identity's to read."""
        if speaker.name == self._witness_name:
            answer.notes.append("the witness may read every corner: nothing to refuse")
            return
        name, session = speaker.name, speaker.session
        foreign, own = self._mine(self._witness_name, "shared"), self._mine(name, "shared")
        group = "$share/%s/" % self._nonce
        filters = [group + self._mine(self._witness_name, "#"), group + self._mine(name, "#")]
        codes = session.ask(filters)
        reader = Watcher(name, session, self._clock)
        payload = self._payload()
        if self._publish(self._witness.session, foreign, payload) >= 0x80 or not self._witness.until(foreign, payload):
            raise CannotTest("no positive control: the witness did not get its own %s" % foreign)
        mine = self._payload()
        code = self._publish(session, own, mine)
        if codes[1] >= 0x80 or code >= 0x80 or not reader.until(own, mine):
            raise CannotTest("no positive control: %s does not get its own %s by a shared subscription (0x%02x, 0x%02x)" % (name, own, codes[1], code))
        answer.control = "%s came by %s" % (own, filters[1])
        came = any((message.topic, message.payload) == (foreign, payload) for message in reader.got)
        answer.codes[filters[0]] = "delivered" if came else "0x%02x" % codes[0] if codes[0] >= 0x80 else "granted, not delivered"


def uncovered_by(rules: Iterable[Any], canary: str) -> list[str]:
    """Rules that name the canary itself: what they decide says nothing of real topics. Each as `where: text`."""
    return ["%s: %s" % (rule.where, rule.text) for rule in rules if canary in rule.filter.split("/") and rule.access == "write"]


def summary(found: Findings) -> Mapping[str, Any]:
    """For the record."""
    return {way: {"codes": one.codes, "seen": one.seen, "control": one.control, "problem": one.problem, "notes": one.notes}
            for way, one in found.ways.items()}
