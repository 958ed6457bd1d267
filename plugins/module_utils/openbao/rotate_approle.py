# SPDX-License-Identifier: Apache-2.0
"""A secret_id of one of the run's own identities as a target of rotation. A role takes any number of them, so the new one lives beside the old one.

OpenBao makes the value and returns it once. It bears the run's name as metadata, so that a run which was killed before anybody stored the value
finds it by its accessor and ends it. Two identities share the work: ``site-admin`` issues and looks up a value that it is shown, ``hnai-rotation``
lists and ends by accessor. https://openbao.org/api-docs/auth/approle/
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .client import Api, BaoError, Forbidden, NotFound, Unreachable, leave, login
from .policies import IDENTITY_AUTH
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
    """*issuer*: ``auth`` of a login as site-admin. *keeper*: a token of hnai-rotation. *tokens*: the tokens that live, as their lookup shows them."""

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
        try:
            self._api.call("POST", self._path + "/secret-id-accessor/destroy", {"secret_id_accessor": accessor}, token=self._keeper)
        except NotFound:
            return

    def sessions(self, secret: Secret) -> list[str]:
        """Tokens of the identity that live, but for our own: each may have been opened with it. They live five minutes at most."""
        return [
            str(one["accessor"])[:8] for one in self._tokens()
            if one.get("path") == "auth/%s/login" % IDENTITY_AUTH and (one.get("meta") or {}).get("role_name") == self._name
            and one["accessor"] != self._issuer.get("accessor")
        ]  # fmt: skip

    def _as_issuer(self, method: str, step: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._api.call(method, self._path + step, body, token=str(self._issuer["client_token"]))


def living(api: Api, keeper: str, role: str) -> list[Living]:
    """Every secret_id of an identity that is alive, oldest first. *keeper*: a token of hnai-rotation. Raises Forbidden naming the remedy."""
    path = "auth/%s/role/%s" % (IDENTITY_AUTH, role)
    try:
        accessors = api.call("LIST", path + "/secret-id", token=keeper)["data"].get("keys") or []
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
