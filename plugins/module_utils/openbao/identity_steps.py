# SPDX-License-Identifier: Apache-2.0
"""Rotation of a secret_id of the run's own identities: one call goes on from what is there until the controller's file must change, or to the end.

The journal is that of every rotation (``rotation.py``); the value never lies in KV, where ``hnai-rotation`` could read it and ``deploy`` with it. It
lies in the controller's file (``openbao/deploy.json``), which is the only consumer and changes by single writes::

    {current}                the journal is closed
    {current, next}          issued and stored, then proven            -> step issued
    {current = new, old}     switched, after the proof                 -> step proven
    {current}                the old one is destroyed and refused      -> step closed

On the way back the second form is the first to be restored (step back). Both identities log in at the beginning of every call, so the other
one's way in is proven before one of them changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from . import component, health, policies
from .client import Api, BaoError, Forbidden, leave, login
from .kv import KvStore
from .rotate_approle import KIND, AppRoleAdapter
from .rotate_steps import public
from .rotation import BACK, COMMITTED, IDLE, JOURNAL, NEXT, PREPARED, PROVEN, Conflict, Rotation, RotationError, Secret, View, plan
from .rotation_target import Fence, Target
from .site import fresh, instant

#: The one consumer.
CONTROLLER = "controller"


class FileStore:
    """The values as the controller's file holds them, the journal in KV v2. The current value before a run has the version of the run before.

    *held*: {current, next or old}. Versions of values are counted by the journal, for the file has none.
    """

    def __init__(self, journal: KvStore, path: str, held: Mapping[str, Secret]) -> None:
        self._journal = journal
        self._path = path
        self._held = held
        view = View.of(path, *journal.read(path + JOURNAL))
        self._base = view.old_version if view.open and view.reached(PREPARED) else int(view.last.get("version", 1))

    def read(self, path: str, version: int = 0) -> tuple[int, dict[str, Any] | None]:
        """See `rotation.Store`."""
        if path == self._path + JOURNAL:
            return self._journal.read(path, version)
        held, switched = self._held, bool(self._held.get("old"))
        if path == self._path + NEXT:
            value = held["current"] if switched else held.get("next")
            return (1, dict(value)) if value else (version, None)
        there = {self._base + 1: held["current"], self._base: held["old"]} if switched else {self._base: held["current"]}
        version = version or max(there)
        return version, dict(there[version]) if version in there else None

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> int:
        """The journal. What the file holds was written by the controller."""
        if path == self._path + JOURNAL:
            return self._journal.write(path, data, cas)
        if path == self._path + NEXT and dict(data) == self._held.get("next"):
            return 1
        raise Conflict(path)

    def destroy(self, path: str, version: int) -> None:
        """Is the controller's."""


class IdentityRotation(Rotation):
    """Takes the journal first; the value is made when that is done."""

    def _prepare(self, view: View, make: Callable[[Secret], Secret], next_version: int) -> View:
        return super()._prepare(view, make, next_version) if next_version else view


class Steps:
    """*given*: the module's options. *adapter*: the role."""

    def __init__(
        self, store: FileStore, adapter: AppRoleAdapter, fence: Fence, given: Mapping[str, Any],
        now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._given = given
        self._held: dict[str, Any] = {name: dict(given[name]) for name in ("current", "next", "old") if given.get(name)}
        self._adapter = adapter
        self._now = now
        self._sleep = sleep
        # A secret_id is in force at once: no second look, for each is a login that is refused.
        self._target = Target(adapter, fence, 0.0)
        self._run = IdentityRotation(store, given["path"], given["owner"], now, told=given.get("controller_time"))

    def planned(self) -> dict[str, Any]:
        """What a run would do, and what is alive. Changes nothing."""
        view, found = self._run.look(), self._looked()
        try:
            alive: int | None = len(self._adapter.living())
        except Forbidden:
            alive = None
        born, dies = instant(found["creation_time"]), instant(found["expiration_time"])
        return {
            "rotation": public(view), "age_s": max(0.0, self._now() - born), "alive": alive,
            "plan": plan(view, self._now(), max(0.0, dies - born) * 2 / 3, born, True, [CONTROLLER]),
        }  # fmt: skip

    def _looked(self) -> dict[str, Any]:
        found = self._adapter.looked(self._held["current"])
        if not found:
            raise RotationError("%s: OpenBao does not know the secret_id of the controller's file" % self._given["path"])
        return found

    def advance(self) -> dict[str, Any]:
        """{step, rotation, …}: idle, issued (with the value), proven, back, waits, dropped or closed. Raises RotationError, BaoError, Unreachable."""
        given, held = self._given, self._held
        view = self._run.look()
        if not view.open:
            # What a run left that was killed after it had closed the journal.
            if "old" in held or (given["rollback"] and given["rollback"] == view.last.get("run_id")):
                return self._said("closed", view)
            if "next" in held:
                return self._said("dropped", view)
            if not given["forced"] and fresh(self._looked(), self._now()):
                return self._said("idle", view)
            # May it be listed? Before anything is taken.
            self._adapter.living()
            self._adapter.unused()
        view = self._run.begin(
            KIND, lambda _current: held["next"], given["run_id"], given["reason"], [CONTROLLER], given["grace"], given["dead"],
            given["resume"], given["rollback"],
        )  # fmt: skip
        if view.direction == BACK:
            return self._back(view)
        if view.state == IDLE:
            # One that a killed run did not come to store bears the run's name too, and ends with the commit.
            return self._said("issued", view, issued=self._adapter.issue(view.run_id))
        before = held.get("old", held["current"])
        if self._run.print_of(before) != view.fp_old:
            raise RotationError("%s: the controller's file holds another secret_id than run %s began with: roll it back (rotate_rollback=%s)" % (
                view.path, view.run_id, view.run_id))  # fmt: skip
        old, new = self._run.secrets(view)
        if not view.reached(PROVEN):
            view = self._run.proven(view, self._target.provision(old, new, view.fence))
        elif "old" not in held and not self._adapter.works(new):
            # A run before this one proved it. The controller is not to be left with one that somebody has ended since.
            raise RotationError("%s: run %s: the new secret_id is not taken any more, and the old one is in use: roll it back (rotate_rollback=%s)" % (
                view.path, view.run_id, view.run_id))  # fmt: skip
        return self._forward(view, old, new) if "old" in held else self._said("proven", view)

    def _forward(self, view: View, old: Secret, new: Secret) -> dict[str, Any]:
        """The controller lives on the new one: end the old one, and prove it."""
        view = self._run.acknowledge(self._run.publish(view), {CONTROLLER: view.fp_new})
        view = view if view.reached(COMMITTED) else self._run.commit(self._run.drained(view, self._sleep))
        proof = self._target.revoke(old, new, view.fence)
        own = str(self._adapter.looked(new)["secret_id_accessor"])
        everything = view.reason == "compromise"
        self._sweep(view, own, everything)
        if everything:
            # Also of whoever logged in with one of those since the old one was looked at.
            ended = self._adapter.cut()
            left = self._adapter.sessions(old)
            proof.update(sessions=left, no_old_session=not left, cut=ended)
        if not proof["no_old_session"]:
            return self._said("waits", view, sessions=proof["sessions"])
        return self._said("closed", self._run.close(view, dict(proof, alive=len(self._adapter.living()))))

    def _back(self, view: View) -> dict[str, Any]:
        """The old one is the one in use: end what the run made."""
        held = self._held
        if "old" in held:
            return self._said("back", view)
        if self._run.print_of(held["current"]) == view.fp_new:
            raise RotationError("%s: run %s cannot go back: the controller's file holds its value alone" % (view.path, view.run_id))
        if not view.reached(PREPARED):
            self._sweep(view)
            return self._said("closed", self._run.back_in_force(view, {}, {}))
        if "next" in held:
            proof = self._target.withdraw(held["current"], held["next"], view.fence)
            self._sweep(view)
        else:
            # The value is another controller's, or lost: by its accessor it ends all the same.
            self._sweep(view)
            proof = {
                "old_works": self._adapter.works(held["current"]), "new_refused": all(one.run != view.run_id for one in self._adapter.living()),
            }  # fmt: skip
        return self._said("closed", self._run.back_in_force(view, {CONTROLLER: view.fp_old}, proof))

    def _sweep(self, view: View, own: str = "", everything: bool = False) -> None:
        """End what this run made and is not *own*; after a compromise whatever else is alive."""
        for one in self._adapter.living():
            if one.accessor != own and (everything or one.run == view.run_id):
                self._adapter.end(one.accessor)

    def _said(self, step: str, view: View, **more: Any) -> dict[str, Any]:
        return dict(more, step=step, rotation=public(view))


def visit(
    api: Api, given: Mapping[str, Any], fence: Fence, check: bool = False, refused: Callable[[], None] = lambda: None,
    now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """The whole call. *given*: also ``deploy`` and ``site_admin`` as the controller's file holds them. Tokens are revoked at the end."""
    identity = policies.IDENTITIES[given["path"]]
    current = given["deploy"] if identity == "deploy" else given["site_admin"]
    try:
        issuer = login(api, policies.IDENTITY_AUTH, given["site_admin"]["role_id"], given["site_admin"]["secret_id"])
    except BaoError as error:
        raise RotationError("login as site-admin with the controller's file: %s. Nothing was changed; docs/openbao-ceremony.md, Break-glass" % error) from error
    try:
        keeper = component.entered(api, policies.ROTATION, given["deploy"])
        try:

            def tokens() -> list[dict[str, Any]]:
                watcher = component.entered(api, policies.SELF, given["deploy"])
                ours = [one["accessor"] for one in (issuer, keeper, watcher)]
                try:
                    return [one for one in health.tokens(api, str(watcher["client_token"]), sleep)[1] if one["accessor"] not in ours]
                finally:
                    leave(api, str(watcher["client_token"]))

            adapter = AppRoleAdapter(api, identity, issuer, str(keeper["client_token"]), tokens, refused)
            store = FileStore(KvStore(api, str(keeper["client_token"]), given["kv"]), given["path"], dict(given, current=current))
            steps = Steps(store, adapter, fence, dict(given, current=current), now, sleep)
            return steps.planned() if check else steps.advance()
        finally:
            leave(api, str(keeper["client_token"]))
    finally:
        leave(api, str(issuer["client_token"]))
