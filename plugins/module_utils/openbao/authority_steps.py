# SPDX-License-Identifier: Apache-2.0
"""One call of authority_rotation: log in as the authority's keeper, take one step of the journal, log out. Everything returned is public."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .. import x509
from . import component, policies
from .authority import Authority, Ca, Pki, plan
from .client import Api, Forbidden, Sealed, leave
from .kv import KvStore
from .rotate_steps import public
from .rotation import BACK, COMMITTED, DRAINED, PREPARED, RotationError, View

STATES = ("planned", "prepared", "trusted", "signing", "committed", "dropped", "closed")


class Steps:
    """*given*: the module's options. *token*: of the identity ``hnai-authority``."""

    def __init__(
        self, api: Api, token: str, given: Mapping[str, Any],
        now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._given = given
        self._now = now
        self._sleep = sleep
        names = {"root": "%s root CA" % given["site"], "intermediate": "%s intermediate CA" % given["site"]}
        ttl = {"root": given["root_ttl_s"], "intermediate": given["intermediate_ttl_s"]}
        # Who gives a run up takes nothing more in for it.
        chain = () if given["rollback"] else given.get("chain") or ()
        self._pki = Pki(api, token, given["pki_root"], given["pki_int"], names, ttl, chain, given.get("root_ca") == "site")
        self._run = Authority(self._pki, KvStore(api, token, given["kv"]), given["path"], given["owner"], now, told=given.get("controller_time"))

    def take(self) -> dict[str, Any]:
        """The step that `state` names. Raises RotationError, BaoError, Unreachable."""
        return dict(getattr(self, "_" + self._given["state"])())

    def _held(self) -> View:
        return self._run.held(self._given["run_id"], self._given["fence"])

    def _said(self, view: View, **more: Any) -> dict[str, Any]:
        """The journal, and the certificates that the hosts' side needs."""
        found: dict[str, Any] = dict(more, rotation=public(view), roots=self._pki.roots())
        if view.reached(PREPARED):
            stays, goes = self._run.sides(view)
            old, new = self._run.pair(view)
            found.update(
                staying=self._run.staying_print(view), stays=self._public(stays), goes=self._public(goes), chains=[ca.pem + ca.between for ca in (old, new)],
            )  # fmt: skip
        return found

    def _public(self, ca: Ca) -> dict[str, str]:
        return {"anchor": ca.anchor(self._given["path"]), "root": ca.root_pem, "fingerprint": ca.print_of(self._given["path"])}

    def _planned(self) -> dict[str, Any]:
        view = self._run.look()
        ends = x509.read_pem(self._pki.current_pem(self._given["path"]))[0].end or 0.0
        return {
            "rotation": public(view), "left_s": ends - self._now(),
            "plan": plan(view, self._given["path"], ends - self._now(), self._given["expected"], self._pki.foreign(self._given["path"])),
        }  # fmt: skip

    def _prepared(self) -> dict[str, Any]:
        given = self._given
        before = self._run.look()
        view = self._run.start(
            given["run_id"], given["reason"], given["expected"], given["grace"], given["dead"], given["resume"], given["rollback"],
        )  # fmt: skip
        return self._said(view, resumed=before.open)

    def _trusted(self) -> dict[str, Any]:
        return self._said(self._run.trusted(self._held(), self._given["acks"], self._given["proof"]))

    def _signing(self) -> dict[str, Any]:
        """The one that shall stay signs: the new one, or on the way back the old one."""
        view = self._held()
        return self._said(self._run.restore(view) if view.direction == BACK else self._run.publish(view))

    def _committed(self) -> dict[str, Any]:
        """Served by all, drained, decided. On the way back: served by all."""
        view = self._held()
        if view.direction == BACK:
            return self._said(self._run.given_back(view, self._given["acks"]))
        if not view.reached(COMMITTED):
            view = self._run.drained(self._run.acknowledge(view, self._given["acks"]), self._sleep)
            if not view.reached(DRAINED):
                raise RotationError("%s: run %s is not drained: run it again" % (view.path, view.run_id))
        return self._said(self._run.commit(view))

    def _dropped(self) -> dict[str, Any]:
        view = self._held()
        self._run.drop(view)
        return self._said(view)

    def _closed(self) -> dict[str, Any]:
        view, given = self._held(), self._given
        done = self._run.back_in_force(view, given["acks"], given["proof"]) if view.direction == BACK else self._run.close(view, given["proof"], given["acks"])
        return {"rotation": public(done), "roots": self._pki.roots()}


def visit(api: Api, deploy: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The whole call, with a token of its own that is revoked at the end."""
    token = component.enter(api, policies.AUTHORITY, deploy)
    try:
        return Steps(api, token, given).take()
    except (Forbidden, Sealed) as error:
        raise component.explain(error, "as hnai-authority", "Its policy is not the site's: playbooks/components/openbao.yml puts it back") from error
    finally:
        leave(api, token)
