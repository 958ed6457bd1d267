# SPDX-License-Identifier: Apache-2.0
"""A secret_id of an AppRole as a target of rotation. A role takes any number of them, so the new one lives beside the old one.

The value is made before the server knows it (``custom-secret-id``), so that a killed run finds its own again instead of leaving one that
nobody holds; an inventory of accessors names what is alive beside the two. https://openbao.org/api-docs/auth/approle/
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from .client import Api, BaoError, NotFound, Unreachable, leave, login
from .rotation_target import CannotTell

Secret = Mapping[str, Any]


def successor(secret: Secret, password: Callable[[], str]) -> dict[str, Any]:
    """The next value."""
    return dict(secret, secret_id=password())


class AppRoleAdapter:
    """*token* may issue, look up, list and destroy the role's secret_ids."""

    supports_overlap = True

    def __init__(self, api: Api, token: str, mount: str, role: str) -> None:
        self._api = api
        self._token = token
        self._mount = mount
        self._path = "auth/%s/role/%s" % (mount, role)

    def works(self, secret: Secret) -> bool:
        """A login; its token is revoked at once."""
        try:
            found = login(self._api, self._mount, secret["role_id"], secret["secret_id"])
        except BaoError as error:
            if error.status == 400 and "invalid" in " ".join(error.errors):
                return False
            raise CannotTell(str(error)) from error
        except Unreachable as error:
            raise CannotTell(str(error)) from error
        leave(self._api, str(found["client_token"]))
        return True

    def put(self, secret: Secret) -> None:
        """Register the value that was made."""
        self._api.call("POST", self._path + "/custom-secret-id", {"secret_id": secret["secret_id"]}, token=self._token)

    def drop(self, secret: Secret) -> None:
        """Destroy it."""
        self._api.call("POST", self._path + "/secret-id/destroy", {"secret_id": secret["secret_id"]}, token=self._token)

    def shares_place(self, one: Secret, other: Secret) -> bool:
        """Only where they are the same."""
        return bool(one["secret_id"] == other["secret_id"])

    def wrong(self, secret: Secret) -> dict[str, Any]:
        """The same role, another secret_id."""
        return dict(secret, secret_id=secrets.token_urlsafe(24))

    def accessors(self) -> list[str]:
        """Every secret_id that is alive, by accessor: the inventory."""
        try:
            return sorted(self._api.call("LIST", self._path + "/secret-id", token=self._token)["data"].get("keys") or [])
        except NotFound:
            return []

    def destroy_accessor(self, accessor: str) -> None:
        """End one whose value nobody has."""
        self._api.call("POST", self._path + "/secret-id-accessor/destroy", {"secret_id_accessor": accessor}, token=self._token)

    def accessor(self, secret: Secret) -> str:
        """Accessor of a value, "" where it is not alive."""
        try:
            found = self._api.call("POST", self._path + "/secret-id/lookup", {"secret_id": secret["secret_id"]}, token=self._token).get("data")
        except NotFound:
            return ""
        return str((found or {}).get("secret_id_accessor", ""))

    def sessions(self, secret: Secret) -> list[str]:
        """Tokens of the identities live five minutes at most and end with their visit; none outlives the secret_id's destruction by more."""
        return []
