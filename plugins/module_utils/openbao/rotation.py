# SPDX-License-Identifier: Apache-2.0
"""Rotation of one secret: the journal, and what may follow what. Pure; the store and the clock are parameters.

::

    IDLE -> PREPARED -> PROVISIONED -> PROVEN -> PUBLISHED -> DISTRIBUTED -> DRAINED -> COMMITTED -> IDLE
               |             |            |          |             |            |
               +------------- rollback: the old credential is still valid ------+      after COMMITTED only forward

The journal is the KV v2 secret ``<path>/_rotation``; its version is lock and fence: every transition is a write with
check-and-set, so of two controllers one advances and the other gets ``Lost``. Each target remembers the highest fence
that it has seen (``rotation_target``) and refuses an older one, so a controller that was thought dead does no harm there.
Before the new value reaches any target it lies in ``<path>/_next``; a resumed run uses it again and never makes another.

Nothing here is erased by name: ``_next`` is written with check-and-set and destroyed *by version*, because an erasure that
arrives late would hit the next rotation's value.

The journal holds fingerprints (salted, slow, cut), versions, instants and names of hosts; never a value.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

IDLE, PREPARED, PROVISIONED, PROVEN = "IDLE", "PREPARED", "PROVISIONED", "PROVEN"
PUBLISHED, DISTRIBUTED, DRAINED, COMMITTED = "PUBLISHED", "DISTRIBUTED", "DRAINED", "COMMITTED"
STATES = (IDLE, PREPARED, PROVISIONED, PROVEN, PUBLISHED, DISTRIBUTED, DRAINED, COMMITTED)
FORWARD, BACK = "forward", "back"
JOURNAL, NEXT = "/_rotation", "/_next"
#: Fields that name a credential; they are shown. All others are secret.
NAMES = ("username", "mechanism", "slot")
#: PBKDF2 rounds of a fingerprint: a password that a person chose must not be found from the journal.
ROUNDS = 20000
#: How long a step of a run may take before another controller may be told to go on with it.
LEASE_S = 600.0
#: A grace time up to this is waited for; the token of a visit lives five minutes.
WAIT_MAX_S = 200.0
#: More than a task takes from the controller to the host.
CLOCK_TOLERANCE_S = 60.0

Secret = Mapping[str, Any]


class RotationError(Exception):
    """The rotation cannot go on; the text says what is true and the remedy."""


class Conflict(Exception):
    """Check-and-set: the version is another one."""


class Lost(RotationError):
    """Another controller has moved the journal: this one must stop."""


class Busy(RotationError):
    """Another run holds the secret. *owner*, *run_id* and *state* name it; *expired*: its lease is over."""

    def __init__(self, text: str, owner: str, run_id: str, state: str, expired: bool) -> None:
        super().__init__(text)
        self.owner = owner
        self.run_id = run_id
        self.state = state
        self.expired = expired


class Store(Protocol):
    """KV v2 as far as it is needed. `kv.KvStore` is one."""

    def read(self, path: str, version: int = 0) -> tuple[int, dict[str, Any] | None]:
        """(version, data). Version 0: the newest one. Data is None where the version is destroyed or nothing is there."""

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> int:
        """The new version. Raises Conflict."""

    def destroy(self, path: str, version: int) -> None:
        """That version's data is gone for good. Nothing happens where it was already."""


def material(secret: Secret) -> str:
    """What is secret of it, as one text: the password, or everything that is no name."""
    if "password" in secret:
        return str(secret["password"])
    hidden = {key: value for key, value in secret.items() if key not in NAMES}
    if len(hidden) == 1:
        return str(next(iter(hidden.values())))
    return json.dumps(hidden, sort_keys=True, separators=(",", ":"))


def fingerprint(path: str, text: str, rounds: int = ROUNDS) -> str:
    """16 hex digits that tell two values of a path apart and give none of them away."""
    return hashlib.pbkdf2_hmac("sha256", text.encode("utf-8"), b"hnai rotation " + path.encode("utf-8"), rounds, 8).hex()


#: What a field may be in JSON, by the type that it has here.
_KINDS: dict[type, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float), list: (list,), dict: (dict,)}


@dataclass(frozen=True)
class View:
    """The journal as it stands. *fence* is its version. Nothing in it is secret."""

    path: str
    fence: int = 0
    state: str = IDLE
    run_id: str = ""
    direction: str = FORWARD
    kind: str = ""
    reason: str = ""
    owner: str = ""
    lease_until: float = 0.0
    started_at: float = 0.0
    changed_at: float = 0.0
    grace_s: float = 0.0
    distributed_at: float = 0.0
    old_version: int = 0
    next_version: int = 0
    new_version: int = 0
    fp_old: str = ""
    fp_new: str = ""
    expected: tuple[str, ...] = ()
    acks: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether a run holds the secret."""
        return bool(self.run_id)

    def reached(self, state: str) -> bool:
        """Whether the run has come to *state*."""
        return STATES.index(self.state) >= STATES.index(state)

    def document(self) -> dict[str, Any]:
        """What is written."""
        found = {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in ("path", "fence")}
        return dict(found, acks=dict(self.acks), proof=dict(self.proof), last=dict(self.last), expected=list(self.expected))

    @classmethod
    def of(cls, path: str, fence: int, data: Mapping[str, Any] | None) -> View:
        """Out of what was read. Refused are unknown keys of a newer release, and what a hand wrote or took away: nobody knows then what is open."""
        if fence and data is None:
            raise RotationError(
                "%s%s: version %d was deleted, and with it what a run may have left open. Bring it back (bao kv undelete -versions=%d, "
                "or bao kv rollback to the version before), then run it again" % (path, JOURNAL, fence, fence)
            )
        given, blank = dict(data or {}), cls(path).document()
        wrong = [key for key, value in given.items() if not isinstance(value, _KINDS.get(type(blank.get(key)), ()))]
        wrong += [key for key, known in (("state", STATES), ("direction", (FORWARD, BACK))) if given.get(key, blank[key]) not in known]
        wrong += [] if wrong or all(isinstance(host, str) for host in given.get("expected", ())) else ["expected"]
        if wrong or (fence and "state" not in given):
            raise RotationError(
                "%s%s is no journal of this release (%s): use the release that wrote it to finish its run, or bring back the version before the one "
                "that a hand wrote (bao kv rollback)" % (path, JOURNAL, ", ".join(sorted(wrong) or ["state"]))
            )
        return cls(path=path, fence=fence, **dict(given, expected=tuple(given.get("expected", ()))))


class Rotation:
    """The steps of one secret's rotation as one controller takes them. Each may be repeated; each looks before it writes.

    *told*: what the controller's clock says now (unix s); None where nobody asked it.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        owner: str,
        now: Callable[[], float] = time.time,
        lease_s: float = LEASE_S,
        rounds: int = ROUNDS,
        told: float | None = None,
    ) -> None:
        self._store = store
        self._path = path
        self._owner = owner
        self._now = now
        self._lease_s = lease_s
        self._rounds = rounds
        self._ahead_s = now() - told if told else 0.0

    # -- looking ------------------------------------------------------------------------------------------------------
    def look(self) -> View:
        """The journal. Changes nothing."""
        return View.of(self._path, *self._store.read(self._path + JOURNAL))

    def print_of(self, secret: Secret) -> str:
        """Fingerprint of a value of this path."""
        return fingerprint(self._path, material(secret), self._rounds)

    def secrets(self, view: View, make: Callable[[Secret], Secret] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """(old, new) of an open run. Raises RotationError where one is gone or is not what the journal names.

        *make*: where the one that goes is gone already it is replaced by one of the same place at the target, which is all that ending it takes.
        """
        places = {
            "old": ([(self._path, view.old_version)], view.fp_old),
            # Until the journal closes it lies prepared, too.
            "new": ([(self._path, view.new_version)] * bool(view.new_version) + [(self._path + NEXT, view.next_version)], view.fp_new),
        }  # fmt: skip
        found: dict[str, dict[str, Any]] = {}
        goes, stays = ("new", "old") if view.direction == BACK else ("old", "new")
        for name in (stays, goes):
            where, wanted = places[name]
            lies = [self._store.read(path, version)[1] for path, version in where]
            there = [data for data in lies if data is not None and self.print_of(data) == wanted]
            if there:
                found[name] = there[0]
            elif name == goes and make:
                found[name] = dict(make(found[stays]))
            else:
                raise RotationError(
                    "run %s: the %s value (%s, version %d) is %s. %s"
                    % (
                        view.run_id,
                        name,
                        *where[0],
                        "gone" if lies[0] is None else "not the one that the journal names",
                        "Bring it back: bao kv undelete where it was deleted, a snapshot where it was destroyed, bao kv rollback where a hand wrote the "
                        "journal. %s" % self._anew()
                        if name == "old"
                        else "Roll the run back (rotate_rollback=%s)" % view.run_id,
                    )
                )
        return found["old"], found["new"]

    def _anew(self) -> str:
        """What is left where no value of a run can be had any more."""
        return "Where nothing does, erase it with what the run left (bao kv metadata delete of %s, %s%s and %s%s): site.yml makes and distributes another" % (
            self._path, self._path, NEXT, self._path, JOURNAL)  # fmt: skip

    # -- moving -------------------------------------------------------------------------------------------------------
    def _move(self, view: View, **changes: Any) -> View:
        """One transition: a check-and-set write of the journal. Raises Lost."""
        now = self._now()
        document = dict(view.document(), **changes)
        document.update(changed_at=now, owner=self._owner if document["run_id"] else "", lease_until=now + self._lease_s if document["run_id"] else 0.0)
        try:
            version = self._store.write(self._path + JOURNAL, document, view.fence)
        except Conflict as error:
            seen = self.look()
            # An acknowledgement that was lost on the way is no conflict: what stands there is what was to be written.
            if seen.fence == view.fence + 1 and seen.document() == View.of(self._path, 0, document).document():
                return seen
            raise Lost(
                "%s: another controller moved the rotation (journal version %d, expected %d: run %s, %s). This one has stopped and changed nothing more"
                % (self._path, seen.fence, view.fence, seen.run_id or "-", seen.state)
            ) from error
        return View.of(self._path, version, document)

    def held(self, run_id: str, fence: int) -> View:
        """The journal, if this controller still holds it exactly where it left it. Raises Lost."""
        view = self.look()
        if view.run_id != run_id or view.fence != fence or view.owner != self._owner:
            raise Lost(
                "%s: the rotation is not where this run left it (run %s version %d; found run %s version %d, %s): another controller works on it"
                % (self._path, run_id, fence, view.run_id or "-", view.fence, view.state)
            )
        return view

    def begin(
        self,
        kind: str,
        make: Callable[[Secret], Secret],
        run_id: str,
        reason: str = "age",
        expected: Sequence[str] = (),
        grace_s: float = 0.0,
        dead: Sequence[str] = (),
        resume: str = "",
        rollback: str = "",
    ) -> View:
        """Take the secret, or go on with the run that holds it: PREPARED or later.

        *make* gives the new value out of the current one. *dead*: owners whose process is known to have ended. *resume*, *rollback*: a run
        whose lease is over, named by the operator. *expected*: the hosts that must acknowledge the new value.
        Raises Busy, Lost, RotationError.
        """
        # Read before the claim: whoever takes over after us reads a version that our late write cannot match.
        next_version = self._store.read(self._path + NEXT)[0]
        view = self.look()
        chosen = resume or rollback
        if view.open:
            if chosen and chosen != view.run_id:
                raise RotationError("%s: the open run is %s, not %s" % (self._path, view.run_id, chosen))
            expired = lease_over(view, self._now())
            if view.owner != self._owner and view.owner not in dead and not (expired and chosen):
                raise Busy(
                    "%s: run %s (%s, %s) is open since %s and held by %s. %s"
                    % (
                        self._path,
                        view.run_id,
                        view.state,
                        view.direction,
                        _utc(view.started_at),
                        view.owner,
                        "Its time is over: say -e rotate_resume=%s to go on with it%s" % (view.run_id, _back_hint(view))
                        if expired
                        else "Another controller works on it until %s; this one changes nothing" % _utc(view.lease_until),
                    ),
                    view.owner,
                    view.run_id,
                    view.state,
                    expired,
                )
            # A value that is known outside meanwhile waits for no grace time that was granted before.
            urgent = {"reason": reason} if reason == "compromise" else {}
            view = self._move(view, expected=sorted(expected) if expected else list(view.expected), **urgent)
            if rollback:
                return self.turn_back(view)
        else:
            if chosen:
                raise RotationError("%s: no run is open, so there is none to resume or roll back" % self._path)
            if not run_id:
                raise Lost("%s: no run is open any more (the last: %s %s): another controller ended it, or a hand erased its journal. This one stops" % (
                    self._path, view.last.get("run_id", "-"), view.last.get("outcome", "-")))  # fmt: skip
            view = self._move(
                view, run_id=run_id, state=IDLE, direction=FORWARD, kind=kind, reason=reason, started_at=self._now(), grace_s=grace_s,
                expected=sorted(expected), acks={}, proof={}, old_version=0, next_version=0, new_version=0, fp_old="", fp_new="",
            )  # fmt: skip
        return self._prepare(view, make, next_version)

    def _prepare(self, view: View, make: Callable[[Secret], Secret], next_version: int) -> View:
        if view.direction == BACK or view.reached(PREPARED):
            return view
        version, current = self._store.read(self._path)
        if current is None:
            self._move(view, run_id="", state=IDLE)
            raise RotationError("%s: there is no secret to rotate; run playbooks/components/openbao.yml, which makes what the contracts declare" % self._path)
        # A value that a killed run left there was never given to any target: the journal never came to name it.
        if next_version:
            self._store.destroy(self._path + NEXT, next_version)
        try:
            made = dict(make(current))
        except RotationError:
            self._move(view, run_id="", state=IDLE)
            raise
        for _attempt in range(3):
            try:
                written = self._store.write(self._path + NEXT, made, next_version)
                break
            except Conflict:
                self.held(view.run_id, view.fence)
                there, lies = self._store.read(self._path + NEXT)
                if there == next_version + 1 and lies == made:
                    written = there  # our own, whose acknowledgement was lost: a second one would leave it behind
                    break
                next_version = there
        else:
            raise Lost("%s%s: another controller keeps writing it" % (self._path, NEXT))
        return self._move(
            view, state=PREPARED, old_version=version, next_version=written, fp_old=self.print_of(current), fp_new=self.print_of(made)
        )  # fmt: skip

    def stood_in(self, view: View, old: Secret) -> View:
        """What is ended in the place of an old value that is gone is none that anybody had: the proof says so."""
        if view.direction == BACK or "old_gone" in view.proof or self.print_of(old) == view.fp_old:
            return view
        return self._move(view, proof=dict(view.proof, old_gone=True))

    def put_back(self, view: View, new: Secret) -> View:
        """What was published and is gone, with its numbers where it was erased by name, is the newest version again: consumers wait for it."""
        if view.direction == BACK or not view.reached(PUBLISHED):
            return view
        version, present = self._store.read(self._path)
        if present is not None and (version == view.new_version or self.print_of(present) != view.fp_new):
            return view
        return self._move(view, new_version=self._put(view, version, new, view.fp_new))

    def proven(self, view: View, proof: Mapping[str, Any]) -> View:
        """PROVISIONED and PROVEN, on the target's word. Raises RotationError for a proof that is none."""
        self._forward(view)
        missing = [key for key in ("new_works", "wrong_refused") if proof.get(key) is not True]
        if missing:
            raise RotationError(
                "%s: run %s is not proven: %s. Nothing was published; the old value is in force" % (self._path, view.run_id, ", ".join(missing))
            )
        if not view.reached(PROVISIONED):
            view = self._move(view, state=PROVISIONED)
        if not view.reached(PROVEN):
            view = self._move(view, state=PROVEN, proof=dict(view.proof, **proof))
        return view

    def publish(self, view: View) -> View:
        """PUBLISHED: the new value is the path's newest version; exactly one version per run, however often this is repeated."""
        self._forward(view)
        if view.reached(PUBLISHED):
            return view
        if not view.reached(PROVEN):
            raise RotationError("%s: run %s is %s; it is published after it was proven" % (self._path, view.run_id, view.state))
        return self._move(view, state=PUBLISHED, new_version=self._put(view, view.old_version, self.secrets(view, dict)[1], view.fp_new))

    def _put(self, view: View, expected: int, value: Secret, wanted: str) -> int:
        """Write *value* on top of version *expected*, unless a run of before did; its version."""
        version, present = self._store.read(self._path)
        if present is not None and self.print_of(present) == wanted and version <= expected + 1:
            return version
        if not version:
            expected = 0  # erased by name (bao kv metadata delete), and the numbers with it
        if version != expected:
            raise self._foreign(view, version, expected)
        try:
            return self._store.write(self._path, value, expected)
        except Conflict as error:
            version, present = self._store.read(self._path)
            if version == expected + 1 and present is not None and self.print_of(present) == wanted:
                return version
            raise self._foreign(view, version, expected) from error

    def _foreign(self, view: View, version: int, expected: int) -> RotationError:
        return RotationError(
            "%s: version %d was written by somebody else than run %s (expected %d). Who did it stands in the audit log; %s"
            % (
                self._path, version, view.run_id, expected,
                "put the old value back on top of it (bao kv rollback -version=%d), then roll the run back (rotate_rollback=%s)"
                % (view.old_version, view.run_id)
                if self._old(view) is not None
                else "the old value was erased: erase what is there as well (bao kv metadata delete %s), then the run goes on with its new one "
                "(rotate_resume=%s)" % (self._path, view.run_id),
            )
        )  # fmt: skip

    def _old(self, view: View) -> dict[str, Any] | None:
        """The old value. The number of one that was erased may be another's by now."""
        data = self._store.read(self._path, view.old_version)[1]
        return data if data is not None and self.print_of(data) == view.fp_old else None

    def acknowledge(self, view: View, acks: Mapping[str, str]) -> View:
        """Hosts whose consumers live on the new value ({host: fingerprint}); DISTRIBUTED once nobody is missing.

        Raises RotationError that names who is missing; what was acknowledged is kept, so the next run asks the rest.
        """
        self._forward(view)
        self._must_stand(view, PUBLISHED)
        good = {host: print_ for host, print_ in acks.items() if print_ == view.fp_new}
        if set(good) - set(view.acks):
            view = self._move(view, acks=dict(view.acks, **good))
        missing = sorted(set(view.expected) - set(view.acks))
        if missing:
            raise RotationError(
                "%s: run %s stops before COMMITTED: %s still without the new value. The old one stays valid. Run it again when they are back, "
                "or roll it back (rotate_rollback=%s)" % (self._path, view.run_id, ", ".join(missing), view.run_id)
            )
        if view.reached(DISTRIBUTED):
            return view
        self._clocks(view)
        return self._move(view, state=DISTRIBUTED, distributed_at=self._now())

    def drain(self, view: View) -> tuple[View, float]:
        """DRAINED once the grace time is over (at once after a compromise); (view, seconds that are left)."""
        self._forward(view)
        self._must_stand(view, DISTRIBUTED)
        if view.reached(DRAINED):
            return view, 0.0
        self._clocks(view)
        if view.distributed_at > self._now():
            view = self._move(view, distributed_at=self._now())  # the clock was set back since: the grace time begins anew
        left = 0.0 if view.reason == "compromise" else view.distributed_at + view.grace_s - self._now()
        return (view, left) if left > 0 else (self._move(view, state=DRAINED), 0.0)

    def drained(self, view: View, sleep: Callable[[float], None]) -> View:
        """DRAINED, after a wait where the grace time is nearly over. Raises RotationError where it is not: the next run goes on."""
        view, left = self.drain(view)
        if left > WAIT_MAX_S:
            raise RotationError("%s: run %s: %.0f s of the grace time are left. Run it again then; until that both are valid (rotate_reason=compromise "
                                "waits for nothing)" % (self._path, view.run_id, left))  # fmt: skip
        if left > 0:
            sleep(left)
            view = self.drain(view)[0]
        return view

    def newest(self, view: View) -> None:
        """Raises RotationError where what consumers would read now is not the new value: with the old one ended they would be locked out."""
        version, present = self._store.read(self._path)
        if present is None or self.print_of(present) != view.fp_new:
            raise self._foreign(view, version, view.new_version)

    def commit(self, view: View) -> View:
        """COMMITTED: from here on only forward. The target may now end the old credential."""
        self._forward(view)
        self._must_stand(view, DRAINED)
        return view if view.reached(COMMITTED) else self._move(view, state=COMMITTED)

    def close(self, view: View, proof: Mapping[str, Any]) -> View:
        """IDLE again, with what was proven. Raises RotationError while the old credential is not proven dead."""
        self._must_stand(view, COMMITTED)
        missing = [key for key in ("new_works", "old_refused", "no_old_session") if proof.get(key) is not True]
        if missing:
            raise RotationError(
                "%s: run %s is COMMITTED but not done: %s. Run it again; it goes on from here" % (self._path, view.run_id, ", ".join(missing))
            )
        view = self._ended(view, proof)
        # Since PUBLISHED it is a second copy of the value in force: gone before nobody looks for it any more.
        self._store.destroy(self._path + NEXT, view.next_version)
        return self._finish(view, "rotated", view.new_version, view.fp_new, proof)

    def _ended(self, view: View, proof: Mapping[str, Any]) -> View:
        """After a compromise no session of somebody who is no consumer may live either. Raises RotationError until the server has asked each again."""
        others_s = float(proof.get("others_end_s") or 0)
        if view.reason != "compromise" or not others_s:
            return view
        if "refused_at" not in view.proof:
            view = self._move(view, proof=dict(view.proof, refused_at=self._now()))
        left = min(others_s, view.proof["refused_at"] + others_s - self._now())
        if left > 0:
            raise RotationError(
                "%s: run %s is COMMITTED but not done: the old value is refused, and whoever opened a session with it may use that for another %.0f s%s. "
                "A restart of the servers ends it at once. Run it again when the time is over; it goes on from here"
                % (self._path, view.run_id, left, ": %s" % proof["not_cut"] if proof.get("not_cut") else "")
            )
        return view

    # -- rolling back -------------------------------------------------------------------------------------------------
    def turn_back(self, view: View) -> View:
        """The run goes back from now on. Raises RotationError after COMMITTED."""
        if view.reached(COMMITTED):
            raise RotationError("%s: run %s is COMMITTED: the old value is being revoked. It only goes forward (rotate_resume=%s)" % (
                self._path, view.run_id, view.run_id))  # fmt: skip
        if view.direction == BACK:
            return view
        # Before PROVEN nothing was put on top of it: whatever is there stays.
        there = self._old(view) if view.reached(PROVEN) else self._store.read(self._path, view.old_version)[1]
        if view.old_version and there is None:
            raise RotationError("%s: run %s cannot go back: version %d, the old value, is gone. It still goes forward (rotate_resume=%s). %s" % (
                self._path, view.run_id, view.old_version, view.run_id, self._anew()))  # fmt: skip
        return self._move(view, direction=BACK, acks={})

    def restore(self, view: View) -> View:
        """The old value is the newest version again.

        Also where the new one was proven but, as far as we see, never published: a write that is still on its way would publish it later, and
        fails on a version that has moved.
        """
        if view.direction != BACK:
            raise RotationError("%s: run %s goes forward" % (self._path, view.run_id))
        for _attempt in range(4):
            version, present = self._store.read(self._path)
            if not view.reached(PROVEN) or (version > view.old_version and present is not None and self.print_of(present) == view.fp_old):
                return view
            # A version that somebody deleted or destroyed is nobody's value.
            ours = present is None or (version == view.old_version + 1 and self.print_of(present) == view.fp_new)
            if version != view.old_version and not ours:
                raise self._foreign(view, version, view.old_version + 1)
            old = self._old(view)
            if old is None:
                raise RotationError("%s: version %d, the old value, is gone: bring it back (bao kv undelete, or a snapshot). %s" % (
                    self._path, view.old_version, self._anew()))  # fmt: skip
            try:
                self._store.write(self._path, old, version)
            except Conflict:
                continue
        raise Lost("%s: another controller keeps writing it" % self._path)

    def exposed(self, view: View) -> bool:
        """Whether a consumer may have got the new value, so that a rollback needs every host's word."""
        return view.reached(PROVEN) and (view.reached(PUBLISHED) or self._store.read(self._path)[0] > view.old_version + 1)

    def back_in_force(self, view: View, acks: Mapping[str, str], proof: Mapping[str, Any]) -> View:
        """The end of a rollback: every host that may have had the new value has the old one, and the target knows only that."""
        view = self.given_back(view, acks)
        wanted = ("new_refused",) if proof.get("old_impossible") is True else ("old_works", "new_refused")
        missing = [key for key in wanted if view.reached(PREPARED) and proof.get(key) is not True]
        if missing:
            raise RotationError("%s: run %s is not rolled back yet: %s. Run it again" % (self._path, view.run_id, ", ".join(missing)))
        done = self._finish(view, "rolled back", self._store.read(self._path)[0], view.fp_old, proof)
        # Last: until the journal is closed a resumed run may need it. Killed here, the next rotation does it; the value is in force nowhere.
        self._store.destroy(self._path + NEXT, view.next_version)
        return done

    def given_back(self, view: View, acks: Mapping[str, str]) -> View:
        """Rollback: hosts that live on the old value again. Raises RotationError naming who is missing; only then may the target drop the new one."""
        if view.direction != BACK:
            raise RotationError("%s: run %s goes forward" % (self._path, view.run_id))
        good = {host: print_ for host, print_ in acks.items() if print_ == view.fp_old}
        if set(good) - set(view.acks):
            view = self._move(view, acks=dict(view.acks, **good))
        missing = sorted(set(view.expected) - set(view.acks)) if self.exposed(view) else []
        if missing:
            raise RotationError("%s: run %s rolls back, but %s may still use the new value, so it stays valid. Run it again when they are back" % (
                self._path, view.run_id, ", ".join(missing)))  # fmt: skip
        return view

    def _finish(self, view: View, outcome: str, version: int, print_: str, proof: Mapping[str, Any]) -> View:
        last = {
            "next_version": view.next_version, "old_version": view.old_version,
            "run_id": view.run_id, "outcome": outcome, "at": self._now(), "started_at": view.started_at, "version": version,
            "fingerprint": print_, "reason": view.reason, "kind": view.kind, "proof": dict(view.proof, **proof),
        }  # fmt: skip
        return self._move(view, run_id="", state=IDLE, direction=FORWARD, acks={}, proof={}, expected=[], last=last)

    # -- guards -------------------------------------------------------------------------------------------------------
    def _forward(self, view: View) -> None:
        if view.direction != FORWARD:
            raise RotationError("%s: run %s is being rolled back; finish that first (rotate_rollback=%s)" % (self._path, view.run_id, view.run_id))

    def _clocks(self, view: View) -> None:
        if view.grace_s and view.reason != "compromise" and abs(self._ahead_s) > CLOCK_TOLERANCE_S:
            raise RotationError(
                "%s: run %s: the clock of OpenBao's host is %.0f s %s the controller's, so its grace time cannot be told; nothing was changed. "
                "`chronyc tracking` there and `timedatectl` here say which of the two is wrong"
                % (self._path, view.run_id, abs(self._ahead_s), "ahead of" if self._ahead_s > 0 else "behind")
            )

    def _must_stand(self, view: View, state: str) -> None:
        if not view.reached(state):
            raise RotationError("%s: run %s is %s and has not come to %s" % (self._path, view.run_id, view.state, state))


def lease_over(view: View, now: float) -> bool:
    """Whether the time of the run that holds it is over. A lease that no clock could give now is of one that was set back since."""
    return not 0.0 < view.lease_until - now <= LEASE_S + CLOCK_TOLERANCE_S


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _back_hint(view: View) -> str:
    return "" if view.reached(COMMITTED) else ", or -e rotate_rollback=%s to bring the old value back" % view.run_id


def plan(view: View, now: float, max_age_s: float, written_at: float, overlap: bool, consumers: Sequence[str]) -> list[str]:
    """What a run would do, for check mode and --dry-run: one line a step."""
    if view.open:
        return ["go on with run %s: %s, %s, held by %s" % (view.run_id, view.state, view.direction, view.owner)]
    age_s = now - written_at
    due = "due" if max_age_s and age_s >= max_age_s else "not due"
    if age_s < -CLOCK_TOLERANCE_S:
        due = "written %.0f s from now: a clock was wrong, its age is not known" % -age_s
    return [
        "age %.1f d of %.0f d: %s" % (max(0.0, age_s) / 86400.0, max_age_s / 86400.0, due),
        "prepare a new value, provision it %s, prove it (new works, a wrong one is refused)" % ("beside the old one" if overlap else "in place of the old one"),
        "publish it, distribute to %s, one host after the other" % (", ".join(consumers) or "nobody"),
        "commit: end the old one, prove that it is refused and that no session of it lives",
    ]
