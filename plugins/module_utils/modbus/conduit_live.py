# SPDX-License-Identifier: Apache-2.0
"""Sends the probes at the filter's canary socket, one by one and not too fast, with controls between them. Sockets come as parameters."""
from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from .conduit import FUNCTIONS, CannotTell, Must, Probe, Rights, adu

CONTROL_EVERY = 10
GAP_S = 0.01
"""Between the parts of a cut frame: they must not be joined again on the way."""
QUIET_S = 0.5
"""How long something is listened to that may be answered, hung up on or waited for."""


class Ended(Exception):
    """The other side hung up."""


class Line:
    """One TCP connection. *patience_s*: how long an answer may take."""

    def __init__(self, host: str, port: int, patience_s: float) -> None:
        self._socket = socket.create_connection((host, port), timeout=patience_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._patience_s = patience_s

    def send(self, data: bytes) -> None:
        """Raises Ended."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Ended(str(error)) from error

    def _exactly(self, size: int, patience_s: float) -> bytes:
        data = b""
        self._socket.settimeout(patience_s)
        while len(data) < size:
            try:
                more = self._socket.recv(size - len(data))
            except TimeoutError:
                raise
            except OSError as error:
                raise Ended(str(error)) from error
            if not more:
                raise Ended("hung up")
            data += more
        return data

    def receive(self, patience_s: float | None = None) -> bytes:
        """One ADU. Raises Ended, or TimeoutError (socket.timeout before Python 3.10) when nothing came."""
        wait = self._patience_s if patience_s is None else patience_s
        head = self._exactly(6, wait)
        return head + self._exactly(int.from_bytes(head[4:6], "big"), wait)

    def exchange(self, data: bytes) -> bytes:
        """One answer to one request. Raises CannotTell."""
        try:
            self.send(data)
            return self.receive()
        except (Ended, OSError) as error:
            raise CannotTell("no answer: %s" % error) from error

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Prober:
    """*connect* makes a line to the filter; *pace* waits until the next request may go; *left* gives the seconds that remain, None without end."""

    def __init__(self, connect: Callable[[], Any], rights: Rights, rng: random.Random, pace: Callable[[], None],
                 left: Callable[[], float | None] = lambda: None, pause: Callable[[float], None] = time.sleep) -> None:
        self._connect, self._rights, self._rng, self._pace, self._left, self._pause = connect, rights, rng, pace, left, pause
        self._line: Any = None
        self._anchor: Any = None
        self.sent: list[Probe] = []
        self.got: list[list[bytes]] = []

    def begin(self) -> Must:
        """One control over a connection that stays, so that the filter keeps its own to the canary. Raises CannotTell."""
        try:
            self._anchor = self._connect()
        except OSError as error:
            raise CannotTell("the filter cannot be reached: %s" % error) from error
        return self._control(self._anchor)

    def run(self, probes: Sequence[Probe]) -> None:
        """All of them. Raises CannotTell when a control fails or the time is over."""
        since = CONTROL_EVERY
        for probe in probes:
            remaining = self._left()
            if remaining is not None and remaining < 5:
                raise CannotTell("deadline: %d of %d probes were sent" % (sum(1 for one in self.sent if one in probes), len(probes)))
            fresh = self._line is None
            if fresh:
                self._line = self._open()
            if fresh or since >= CONTROL_EVERY:
                self._control(self._line)
                since = 0
            since += 1
            if not self._probe(probe):
                self._line.close()
                self._line = None
        self._control(self._anchor)

    def close(self) -> None:
        """Every connection of ours."""
        for line in (self._line, self._anchor):
            if line is not None:
                with contextlib.suppress(OSError):
                    line.close()

    def _open(self) -> Any:
        """A new line; the filter may still be about to let go of the one before."""
        for _ in range(20):
            with contextlib.suppress(OSError):
                return self._connect()
            self._pause(0.1)
        raise CannotTell("the filter takes no connection any more")

    def _control(self, line: Any) -> Must:
        must = self._rights.read(self._rng)
        probe = Probe(FUNCTIONS, "control", (adu(must.unit, must.pdu),), (must,))
        self._pace()
        answer = line.exchange(probe.chunks[0])
        self.sent.append(probe)
        self.got.append([answer[7:]])
        if answer[7] & 0x80:
            raise CannotTell("a control was answered with exception %d: the canary cannot be reached, or somebody else uses the filter" % answer[8])
        return must

    def _probe(self, probe: Probe) -> bool:
        """False when the line is of no more use."""
        replies: list[bytes] = []
        self._pace()
        self.sent.append(probe)
        self.got.append(replies)
        try:
            for number, chunk in enumerate(probe.chunks):
                if number:
                    self._pause(GAP_S)
                self._line.send(chunk)
            while len(replies) < probe.answers or not probe.answers:
                replies.append(self._line.receive(QUIET_S if not probe.answers else None)[7:])
        except (Ended, OSError):
            return False
        return True


def pacer(per_s: float, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep) -> Callable[[], None]:
    """Waits so that no more than *per_s* pass in any second."""
    due = [clock()]

    def wait() -> None:
        now = clock()
        if due[0] > now:
            pause(due[0] - now)
        due[0] = max(now, due[0]) + 1.0 / per_s

    return wait
