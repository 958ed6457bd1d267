# SPDX-License-Identifier: Apache-2.0
"""KV v2 as the rotation needs it: read a version, write with check-and-set, destroy one version.

Paths and answers: https://openbao.org/api-docs/secret/kv/kv-v2/ (HashiCorp Vault: the same, https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .client import Api, BaoError, NotFound, Unreachable
from .rotation import Conflict
from .site import instant


class KvStore:
    """One mount, with one token."""

    def __init__(self, api: Api, token: str, mount: str, now: Callable[[], float] = time.time) -> None:
        self._api = api
        self._token = token
        self._mount = mount
        self._now = now

    def read(self, path: str, version: int = 0) -> tuple[int, dict[str, Any] | None]:
        """(version, data); data is None where nothing is there or the version was destroyed. Raises BaoError, Unreachable."""
        if version:
            try:
                found = self._api.call("GET", "%s/data/%s?version=%d" % (self._mount, path, version), token=self._token)["data"]
            except NotFound:
                return version, None
            return version, found.get("data")
        number = self.current(path)
        if not number:
            return 0, None
        return number, self.read(path, number)[1]

    def current(self, path: str) -> int:
        """Number of the newest version, destroyed or not; 0 where there never was one. It is what check-and-set compares."""
        try:
            return int(self._api.call("GET", "%s/metadata/%s" % (self._mount, path), token=self._token)["data"]["current_version"])
        except NotFound:
            return 0

    def paths(self) -> list[str]:
        """Every path of the mount, those included whose newest version was deleted. SCAN is OpenBao's; HashiCorp Vault answers 405 (BaoError)."""
        try:
            return sorted(self._api.call("SCAN", self._mount + "/metadata/", token=self._token)["data"]["keys"])
        except NotFound:
            return []

    def written_at(self, path: str) -> tuple[int, str, str]:
        """(newest version, when it was written, until when it lives; "": for ever), as RFC 3339; (0, "", "") where there is none, (version, "", "") where
        it was deleted or destroyed."""
        try:
            data = self._api.call("GET", "%s/metadata/%s" % (self._mount, path), token=self._token)["data"]
        except NotFound:
            return 0, "", ""
        number = int(data["current_version"])
        newest = data["versions"][str(number)] if number else {}
        # It names a time to come where the mount or the secret says how long versions live.
        until = str(newest.get("deletion_time") or "")
        if newest.get("destroyed") or (until and instant(until) <= self._now()):
            return number, "", ""
        return number, str(newest.get("created_time", "")), until

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> int:
        """The new version. Raises Conflict where the newest version is not *cas*."""
        body = {"options": {"cas": cas}, "data": dict(data)}
        try:
            return int(self._surely("%s/data/%s" % (self._mount, path), body)["data"]["version"])
        except BaoError as error:
            if error.status == 400 and "check-and-set parameter did not match" in " ".join(error.errors):
                raise Conflict(path) from error
            raise

    def destroy(self, path: str, version: int) -> None:
        """That version's data is gone for good."""
        if version:
            self._surely("%s/destroy/%s" % (self._mount, path), {"versions": [version]})

    def _surely(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Once more where no answer came: by check-and-set, or by version, what was done already is not done twice, and Conflict says so."""
        try:
            return self._api.call("POST", path, body, token=self._token)
        except Unreachable:
            return self._api.call("POST", path, body, token=self._token)
