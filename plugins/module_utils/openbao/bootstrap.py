# SPDX-License-Identifier: Apache-2.0
"""Initialise and unseal OpenBao so that a kill at any moment leaves a state from which the next run goes on.

``sys/init`` gives the key shares once. The protocol on the host, every file durable (fsync of file and
directory) before the next step:

1. ``init.pending`` is written: *an initialisation of ours is under way and no key was stored yet*.
2. ``sys/init`` is called.
3. Its answer is written to ``init.json``.
4. ``init.pending`` is removed.
5. The controller stores the answer, reads it back and names its sha256; only then ``init.json`` is removed.

So ``init.pending`` without ``init.json`` says that the store was initialised with keys that nobody ever had:
it can never have been unsealed and can hold nothing. Then, and only then, the raft directory is put aside
(renamed, never deleted) and the initialisation begins anew. Two more facts are asked for: the store is sealed,
and no audit device recorded anything since the marker but the line by which OpenBao tests the device itself
(``sys/audit/test``, written by ``sys/init`` and by every unseal; measured on 2.7.2).
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .client import Api, BaoError, Sealed, wait_reachable
from .files import read_or_none, remove_durably, sync_directory, write_durably

AUDIT_SELF_TEST = "sys/audit/test"


class BootstrapError(Exception):
    """The state does not allow going on; the text names what, where and the remedy."""


class Service(Protocol):
    """The unit of the server."""

    def stop(self) -> None:
        """Stop and wait."""

    def start(self) -> None:
        """Start and wait until systemd calls it started."""


@dataclass(frozen=True)
class Layout:
    """Where things lie on the host. ``audit_files``: the declared file audit devices."""

    directory: str = "/var/lib/hnai/openbao-bootstrap"
    storage: str = "/var/lib/hnai/openbao/raft"
    audit_files: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The answer of sys/init, until the controller has it."""
        return os.path.join(self.directory, "init.json")

    @property
    def marker(self) -> str:
        """Written before sys/init, removed when its answer is durable."""
        return os.path.join(self.directory, "init.pending")


@dataclass(frozen=True)
class Keys:
    """How the store is sealed. ``pgp_keys``: base64 public keys, one per share; empty = plain shares (lab)."""

    shares: int = 5
    threshold: int = 3
    pgp_keys: tuple[str, ...] = ()
    root_token_pgp_key: str = ""


@dataclass
class Outcome:
    """What was found and done. ``init`` (secret) is the answer of sys/init while the host still holds it.

    ``waiting``: what people must do before the run can go on, after the answer was handed over.
    """

    actions: list[str] = field(default_factory=list)
    initialized: bool = False
    sealed: bool = True
    init: dict[str, Any] | None = None
    init_sha256: str = ""
    waiting: str = ""

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return bool(self.actions)


def utc(seconds: float) -> str:
    """``2026-01-31T12:00:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def recorded_since(audit_files: Iterable[str], since: str) -> str:
    """The first audit entry since *since* (``…Z``, seconds) that is not OpenBao's test of the device; "" if none.

    Rotated files (same name with a suffix) are read too. A line that cannot be read counts as an entry.
    """
    for base in audit_files:
        for path in sorted(glob.glob(glob.escape(base) + "*")):
            with open(path, encoding="utf-8", errors="replace") as stream:
                for number, line in enumerate(stream, 1):
                    try:
                        entry = json.loads(line)
                        moment, request = str(entry["time"])[:19], str(entry["request"]["path"])
                    except (ValueError, KeyError, TypeError):
                        return "%s line %d" % (path, number)
                    if moment >= since[:19] and request != AUDIT_SELF_TEST:
                        return "%s line %d (%s)" % (path, number, request)
    return ""


class Bootstrap:
    """The state machine. *step* is called with a name before each step; tests stop there."""

    def __init__(
        self,
        api: Api,
        service: Service,
        layout: Layout,
        keys: Keys,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.api = api
        self.service = service
        self.layout = layout
        self.keys = keys
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._step = step

    # -- reading ------------------------------------------------------------------------------------------
    def _answer(self) -> dict[str, Any] | None:
        raw = read_or_none(self.layout.answer)
        return None if raw is None else dict(json.loads(raw))

    def plan(self, status: Mapping[str, Any] | None) -> list[str]:
        """What ``converge`` would do, for check mode; *status* is sys/seal-status or None when nothing answers."""
        if status is None or not status.get("initialized"):
            return ["initialise", "unseal"]
        return ["unseal"] if status.get("sealed") else []

    # -- doing --------------------------------------------------------------------------------------------
    def converge(self, unseal_keys: Sequence[str], controller_has_keys: bool, lost_store: str = "refuse") -> Outcome:
        """Initialised and unsealed. *unseal_keys*: base64 shares of the controller (may be empty).

        *lost_store*: ``refuse`` or ``initialise`` when the controller has keys of a store that is not there any more.
        Raises BootstrapError (with the remedy), BaoError, Unreachable.
        """
        result = Outcome()
        status = wait_reachable(self.api, 30.0, self._clock, self._sleep)
        answer = self._answer()
        if answer is not None and not status["initialized"]:
            raise BootstrapError(
                "%s holds the keys of a store that is not there (%s is empty). Restore the raft snapshot, or move "
                "that file away to begin anew" % (self.layout.answer, self.layout.storage)
            )
        # A server that was never initialised has files too (measured on 2.7.2): there is nothing to put aside, the marker is written again.
        if answer is None and status["initialized"] and os.path.exists(self.layout.marker):
            status = self._reset(status, result)
        if not status["initialized"]:
            if controller_has_keys and lost_store != "initialise":
                raise BootstrapError(
                    "the store is empty, but the controller holds the keys of an earlier one (openbao/init.json in "
                    "hnai_state_dir): it is not mounted, or lost; remedy: mount the file system and start the server anew, or restore the "
                    "raft snapshot; or, if that store is really gone, say openbao_lost_store: initialise"
                )
            answer = self._initialise(result)
            status = self.api.call("GET", "sys/seal-status")
        elif answer is not None:
            remove_durably(self.layout.marker)
        if status["sealed"]:
            plain = answer is not None and not self.keys.pgp_keys
            keys = list(answer["keys_base64"]) if answer is not None and plain else list(unseal_keys)
            if answer is not None and self.keys.pgp_keys:
                # The ciphertexts go to the controller first, so that their holders can be given them.
                result.waiting = short_of_keys(0, int(status["t"]))
            else:
                status = self._unseal(keys, int(status["t"]), result)
        result.initialized, result.sealed = bool(status["initialized"]), bool(status["sealed"])
        if answer is not None:
            result.init = answer
            result.init_sha256 = fingerprint(answer)
        return result

    def _initialise(self, result: Outcome) -> dict[str, Any]:
        os.makedirs(self.layout.directory, mode=0o700, exist_ok=True)
        body: dict[str, Any] = {"secret_shares": self.keys.shares, "secret_threshold": self.keys.threshold}
        if self.keys.pgp_keys:
            body["pgp_keys"] = list(self.keys.pgp_keys)
        if self.keys.root_token_pgp_key:
            body["root_token_pgp_key"] = self.keys.root_token_pgp_key
        self._step("marker")
        write_durably(self.layout.marker, json.dumps({"started_at": utc(self._now())}).encode())
        self._step("init")
        answer = self.api.call("POST", "sys/init", body)
        self._step("store")
        write_durably(self.layout.answer, json.dumps(answer, sort_keys=True).encode())
        self._step("unmark")
        remove_durably(self.layout.marker)
        result.actions.append(
            "initialised with %d key shares, threshold %d%s" % (self.keys.shares, self.keys.threshold, ", encrypted to PGP keys" if self.keys.pgp_keys else "")
        )
        return answer

    def _reset(self, status: Mapping[str, Any], result: Outcome) -> dict[str, Any]:
        """Put aside a store whose keys were never stored; see the module's docstring for why this is safe."""
        marker = json.loads(read_or_none(self.layout.marker) or b"{}")
        since = str(marker.get("started_at", ""))
        if status["initialized"] and not status["sealed"]:
            raise BootstrapError(
                "%s says that an initialisation was cut off, but the store is unsealed: someone holds its keys. Put "
                "them where they belong, then remove that file" % self.layout.marker
            )
        used = recorded_since(self.layout.audit_files, since)
        if used:
            raise BootstrapError(
                "%s says that an initialisation was cut off, but the audit log shows use since then (%s). Nothing was "
                "touched; find out who initialised the store, then remove that file" % (self.layout.marker, used)
            )
        self._step("stop")
        self.service.stop()
        aside = "%s.keyless-%s" % (self.layout.storage, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now())))
        if os.path.isdir(self.layout.storage) and os.listdir(self.layout.storage):
            was = os.stat(self.layout.storage)
            self._step("aside")
            os.rename(self.layout.storage, aside)
            os.mkdir(self.layout.storage, 0o700)
            os.chown(self.layout.storage, was.st_uid, was.st_gid)
            sync_directory(os.path.dirname(self.layout.storage))
        self._step("start")
        self.service.start()
        result.actions.append("put aside a store that was initialised but whose keys were never stored (%s)" % aside)
        fresh = wait_reachable(self.api, 30.0, self._clock, self._sleep)
        if fresh["initialized"]:
            raise BootstrapError("the store is still initialised after %s was renamed: storage path and configuration differ" % self.layout.storage)
        return fresh

    def _unseal(self, keys: Sequence[str], threshold: int, result: Outcome) -> dict[str, Any]:
        if len(keys) < threshold:
            raise BootstrapError(short_of_keys(len(keys), threshold))
        self._step("unseal")
        self.api.call("POST", "sys/unseal", {"reset": True})
        status: dict[str, Any] = {}
        try:
            for key in keys[:threshold]:
                status = self.api.call("POST", "sys/unseal", {"key": key})
        except BaoError as error:
            raise BootstrapError(
                "the key shares do not open this store (%s). They belong to another one: bring back its openbao/init.json, "
                "or restore the raft snapshot that belongs to these keys" % error
            ) from error
        if status.get("sealed", True):
            raise BootstrapError("still sealed after %d key shares" % threshold)
        result.actions.append("unsealed")
        self._wait_active()
        return status

    def _wait_active(self, limit_s: float = 30.0) -> None:
        """After the unseal the single raft node elects itself; until then every call is 503 or 500."""
        end = self._clock() + limit_s
        while True:
            try:
                if self.api.call("GET", "sys/leader").get("leader_address"):
                    self.api.call("GET", "sys/health?standbyok=true")
                    return
            except (Sealed, BaoError):
                if self._clock() >= end:
                    raise
            if self._clock() >= end:
                raise BootstrapError("unsealed, but no raft leader within %d s: read the server's journal" % limit_s)
            self._sleep(0.2)

    def hand_over(self, sha256: str) -> bool:
        """Remove the host's copy because the controller proved that it has the same; True if it was there.

        Raises BootstrapError when *sha256* is of something else.
        """
        answer = self._answer()
        if answer is None:
            return False
        if fingerprint(answer) != sha256:
            raise BootstrapError("%s: the controller's copy differs; the host's copy stays" % self.layout.answer)
        self._step("hand over")
        remove_durably(self.layout.marker)
        return remove_durably(self.layout.answer)


def short_of_keys(held: int, threshold: int) -> str:
    """The sentence for a sealed store that this run cannot open."""
    return "sealed, and %d of %d needed key shares are at hand. The key holders unseal it (docs/openbao-ceremony.md), then run again" % (held, threshold)


def fingerprint(answer: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of an answer of sys/init; the same on host and controller."""
    return hashlib.sha256(json.dumps(dict(answer), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
