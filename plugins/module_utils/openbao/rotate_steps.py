# SPDX-License-Identifier: Apache-2.0
"""One call of vault_rotate: log in as the rotation, take one step of the journal, log out. Knows the kinds of secrets, not Ansible."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..kafka import rotate as kafka_rotate
from ..mqtt import rotate as mqtt_rotate
from ..tsdb import rotate as tsdb_rotate
from . import component, policies, site
from .client import Api, Forbidden, Sealed, leave
from .kv import KvStore
from .rotation import BACK, COMMITTED, DRAINED, IDLE, PROVEN, Rotation, RotationError, View, fingerprint, material, plan

Secret = Mapping[str, Any]

#: How the next value is made out of the current one.
KINDS: dict[str, Callable[[Secret, Callable[[], str]], dict[str, Any]]] = {
    "scram": kafka_rotate.successor,
    "scram_pair": kafka_rotate.successor_pair,
    "mosquitto": mqtt_rotate.successor,
    "vmauth": tsdb_rotate.successor,
    "backend": tsdb_rotate.successor_backend,
}
#: Old and new are not valid at the same time: the target changes over in one restart.
WITHOUT_OVERLAP = ("backend",)
STATES = ("planned", "current", "prepared", "published", "committed", "closed", "restored", "given_back", "rolled_back")


def following(path: str, kind: str, current: Secret) -> dict[str, Any]:
    """The next value. Raises RotationError for a current one that a hand made into none."""
    try:
        if not all(isinstance(current[key], str) for key in ("username", "password")) or not current["username"]:
            raise KeyError("username, password")
        return KINDS[kind](current, site.password)
    except (KeyError, ValueError) as error:
        raise RotationError("%s: the newest version is no secret of kind %s (%s): put it right by hand, nothing was changed" % (path, kind, error)) from error


def public(view: View) -> dict[str, Any]:
    """The journal as it may be printed."""
    return dict(view.document(), path=view.path, fence=view.fence, open=view.open)


class Steps:
    """*given*: the module's options. *token*: of the rotation."""

    def __init__(
        self, api: Api, token: str, given: Mapping[str, Any],
        now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._given = given
        self._now = now
        self._sleep = sleep
        self._store = KvStore(api, token, given["kv"], now)
        self._run = Rotation(self._store, given["path"], given["owner"], now, told=given.get("controller_time"))

    def take(self) -> dict[str, Any]:
        """The step that `state` names. Raises RotationError, BaoError, Unreachable."""
        return dict(getattr(self, "_" + self._given["state"])())

    def _held(self) -> View:
        return self._run.held(self._given["run_id"], self._given["fence"])

    def _planned(self) -> dict[str, Any]:
        given, view = self._given, self._run.look()
        number, written, _until = self._store.written_at(given["path"])
        if not written:
            said = "version %d was deleted: bao kv undelete" % number if number else "there is no secret yet: playbooks/components/openbao.yml makes it"
            return {"rotation": public(view), "plan": [said], "age_s": 0.0, "version": number}
        born = site.instant(written)
        return {
            "rotation": public(view), "age_s": max(0.0, self._now() - born), "version": number,
            "plan": plan(view, self._now(), given["max_age"], born, given["kind"] not in WITHOUT_OVERLAP, given["expected"]),
        }  # fmt: skip

    def _current(self) -> dict[str, Any]:
        """The value in force, and which one it is. Raises RotationError where there is none, or a run is open: two are valid then."""
        view = self._run.look()
        _version, value = self._store.read(self._given["path"])
        if value is None:
            raise RotationError("%s: there is no value: %s" % (view.path, self._planned()["plan"][0]))
        if view.open:
            raise RotationError("%s: run %s is open, at %s: the same rotation again ends it (docs/rotation.md)" % (view.path, view.run_id, view.state))
        return {"rotation": public(view), "secrets": {"current": value}, "fingerprint": fingerprint(view.path, material(value))}

    def _prepared(self) -> dict[str, Any]:
        given = self._given
        before = self._run.look()
        make = partial(following, given["path"], given["kind"])
        view = self._run.begin(
            given["kind"], make, given["run_id"], given["reason"], given["expected"], given["grace"], given["dead"], given["resume"], given["rollback"],
        )  # fmt: skip
        if view.kind != given["kind"]:
            raise RotationError(
                "%s: the open run %s is of kind %s, and the contract says %s: finish it, or roll it back, with the release that began it"
                % (view.path, view.run_id, view.kind, given["kind"])
            )
        old, new = self._run.secrets(view, make) if view.state != IDLE else ({}, {})
        if old:
            view = self._run.put_back(self._run.stood_in(view, old), new)
        return {"rotation": public(view), "resumed": before.open, "secrets": {"old": old, "new": new}}

    def _published(self) -> dict[str, Any]:
        view = self._held()
        if not view.reached(PROVEN):
            view = self._run.proven(view, self._given["proof"])
        return {"rotation": public(self._run.publish(view))}

    def _committed(self) -> dict[str, Any]:
        """Acknowledged by all, drained, decided."""
        view = self._run.acknowledge(self._held(), self._given["acks"]) if self._given["acks"] else self._held()
        if not view.reached(DRAINED):
            view = self._run.drained(self._run.acknowledge(view, {}), self._sleep)
        if not view.reached(COMMITTED):
            self._run.newest(view)
        return {"rotation": public(self._run.commit(view))}

    def _closed(self) -> dict[str, Any]:
        return {"rotation": public(self._run.close(self._held(), self._given["proof"]))}

    def _restored(self) -> dict[str, Any]:
        view = self._run.restore(self._held())
        return {"rotation": public(view), "exposed": self._run.exposed(view)}

    def _given_back(self) -> dict[str, Any]:
        return {"rotation": public(self._run.given_back(self._held(), self._given["acks"]))}

    def _rolled_back(self) -> dict[str, Any]:
        view = self._held()
        if view.direction != BACK:
            raise RotationError("%s: run %s goes forward; say -e rotate_rollback=%s" % (view.path, view.run_id, view.run_id))
        return {"rotation": public(self._run.back_in_force(view, self._given["acks"], self._given["proof"]))}


def visit(api: Api, deploy: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The whole call, with a token of its own that is revoked at the end."""
    token = component.enter(api, policies.ROTATION, deploy)
    try:
        return Steps(api, token, given).take()
    except (Forbidden, Sealed) as error:
        raise component.explain(error, "as hnai-rotation", "Its policy is not the site's: playbooks/components/openbao.yml puts it back") from error
    finally:
        leave(api, token)
