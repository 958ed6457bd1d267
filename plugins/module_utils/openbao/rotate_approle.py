# SPDX-License-Identifier: Apache-2.0
"""A secret_id of one of the run's own identities as a target of rotation. A role takes any number of them, so the new one lives beside the old one.

OpenBao makes the value and returns it once. It bears the run's name as metadata, so that a run which was killed before anybody stored the value
finds it by its accessor and ends it. Two identities share the work: ``site-admin`` issues and looks up a value that it is shown, ``hnai-rotation``
lists and ends by accessor. https://openbao.org/api-docs/auth/approle/

OpenBao ends no token with the secret_id that opened it. What ``deploy`` opens is more than its own token: secret_ids of components, each good for one
login, and the tokens of those logins. Each lives five minutes.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .client import Api, BaoError, Forbidden, NotFound, Unreachable, leave, login
from .policies import COMPONENT_AUTH, IDENTITY_AUTH
from .rotation_target import CannotTell
from .site import instant

Secret = Mapping[str, Any]
KIND = "secret_id"


@dataclass(frozen=True)
class Living:
    """A secret_id that is alive, from *born* to *dies* (unix s). *run*: the rotation that made it, "" for any other."""

    accessor: str
    born: float
    dies: float
    run: str


class AppRoleAdapter:
    """*issuer*: ``auth`` of a login as site-admin. *keeper*: a token of hnai-rotation. *tokens*: those that live and are not of this visit, as looked up."""

    supports_overlap = True

    def __init__(
        self, api: Api, role: str, issuer: Mapping[str, Any], keeper: str, tokens: Callable[[], list[dict[str, Any]]],
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._name = role
        self._path = "auth/%s/role/%s" % (IDENTITY_AUTH, role)
        self._issuer = issuer
        self._keeper = keeper
        self._tokens = tokens
        self._refused = refused

    def works(self, secret: Secret) -> bool:
        """A login; its token is revoked at once."""
        try:
            found = login(self._api, IDENTITY_AUTH, secret["role_id"], secret["secret_id"])
        except BaoError as error:
            if error.status == 400 and "invalid" in " ".join(error.errors):
                self._refused()
                return False
            raise CannotTell(str(error)) from error
        except Unreachable as error:
            raise CannotTell(str(error)) from error
        leave(self._api, str(found["client_token"]))
        return True

    def issue(self, run_id: str) -> dict[str, str]:
        """A new value; nobody else has it."""
        body = {"metadata": json.dumps({"run": run_id})}
        return {
            "role_id": str(self._as_issuer("GET", "/role-id")["data"]["role_id"]),
            "secret_id": str(self._as_issuer("POST", "/secret-id", body)["data"]["secret_id"]),
        }

    def put(self, secret: Secret) -> None:
        """OpenBao makes the values: one that is gone cannot be brought back."""
        raise CannotTell("OpenBao does not know the new secret_id of %s (any more): roll the run back and begin again" % self._name)

    def drop(self, secret: Secret) -> None:
        """End it."""
        accessor = str(self.looked(secret).get("secret_id_accessor", ""))
        if accessor:
            self.end(accessor)

    def shares_place(self, one: Secret, other: Secret) -> bool:
        """Only where they are the same."""
        return bool(one["secret_id"] == other["secret_id"])

    def wrong(self, secret: Secret) -> dict[str, Any]:
        """The same role, another secret_id."""
        return dict(secret, secret_id=secrets.token_urlsafe(24))

    def looked(self, secret: Secret) -> dict[str, Any]:
        """What OpenBao says of a value: accessor, creation_time, expiration_time; {} where it is not alive."""
        try:
            return dict(self._as_issuer("POST", "/secret-id/lookup", {"secret_id": secret["secret_id"]}).get("data") or {})
        except NotFound:
            return {}

    def living(self) -> list[Living]:
        """Every secret_id that is alive: the inventory, oldest first."""
        return living(self._api, self._keeper, self._name)

    def end(self, accessor: str) -> None:
        """End one by its accessor. Nothing happens where it has ended."""
        self._destroy(IDENTITY_AUTH, self._name, accessor)

    def _destroy(self, mount: str, role: str, accessor: str) -> None:
        with contextlib.suppress(NotFound):
            self._as_keeper("POST", "auth/%s/role/%s/secret-id-accessor/destroy" % (mount, role), {"secret_id_accessor": accessor})

    def sessions(self, secret: Secret) -> list[str]:
        """What it may have opened and is alive, by accessor: tokens of the identity; of ``deploy`` also secret_ids and tokens of components."""
        unused = [one.accessor for _role, one in self.unused()]
        return [accessor[:8] for accessor in [*unused, *self._opened(IDENTITY_AUTH, COMPONENT_AUTH)]]

    def cut(self) -> int:
        """End all of it at once, first what can open the next; how many. Nobody opens more: every secret_id but the new one has ended."""
        ended = 0
        for mount in (IDENTITY_AUTH, COMPONENT_AUTH):
            for role, one in self.unused() if mount == COMPONENT_AUTH else ():
                self._destroy(COMPONENT_AUTH, role, one.accessor)
                ended += 1
            for accessor in self._opened(mount):
                self._as_keeper("POST", "auth/token/revoke-accessor", {"accessor": accessor})
                ended += 1
        return ended

    def unused(self) -> list[tuple[str, Living]]:
        """(role, secret_id) of components: ``deploy`` alone issues them. Raises Forbidden naming the remedy."""
        if self._name != "deploy":
            return []
        roles = self._as_keeper("LIST", "auth/%s/role" % COMPONENT_AUTH)["data"]["keys"]
        return [(role, one) for role in roles for one in living(self._api, self._keeper, role, COMPONENT_AUTH)]

    def _opened(self, *mounts: str) -> list[str]:
        """Accessors of tokens; none of a component's where the identity cannot enter it."""
        return [
            str(one["accessor"]) for one in self._tokens() for mount in mounts if one.get("path") == "auth/%s/login" % mount
            and (self._name == "deploy" if mount == COMPONENT_AUTH else (one.get("meta") or {}).get("role_name") == self._name)
        ]  # fmt: skip

    def _as_keeper(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Raises Forbidden naming the remedy."""
        try:
            return self._api.call(method, path, body, token=self._keeper)
        except Forbidden as error:
            raise Forbidden(method, path, 403, ["hnai-rotation may not yet: playbooks/components/openbao.yml gives it the right"]) from error

    def _as_issuer(self, method: str, step: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._api.call(method, self._path + step, body, token=str(self._issuer["client_token"]))


def living(api: Api, keeper: str, role: str, mount: str = IDENTITY_AUTH) -> list[Living]:
    """Every secret_id of an AppRole that is alive, oldest first. *keeper*: a token of hnai-rotation. Raises Forbidden naming the remedy."""
    path = "auth/%s/role/%s" % (mount, role)
    try:
        accessors = api.call("LIST", path + "/secret-id", token=keeper)["data"]["keys"]
    except NotFound:
        return []
    except Forbidden as error:
        told = "hnai-rotation may not look at the secret_ids of %s yet: playbooks/components/openbao.yml gives it the right" % role
        raise Forbidden("LIST", path + "/secret-id", 403, [told]) from error
    found = []
    for accessor in accessors:
        try:
            data = api.call("POST", path + "/secret-id-accessor/lookup", {"secret_id_accessor": accessor}, token=keeper).get("data")
        except NotFound:
            continue  # it ended between the list and the look
        if not data:
            continue  # it has run out; the list names it until OpenBao tidies up (2.7.2)
        run = str((data.get("metadata") or {}).get("run", ""))
        found.append(Living(str(accessor), instant(data["creation_time"]), instant(data["expiration_time"]), run))
    return sorted(found, key=lambda one: (one.born, one.accessor))
