# SPDX-License-Identifier: Apache-2.0
"""The rotation of a secret_id in one process: the action with its file, the module's core, an OpenBao (or a stand for it), and a controller that dies."""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible_collections.hnai.platform.plugins.action import approle_rotation
from ansible_collections.hnai.platform.plugins.module_utils.openbao import identity_steps
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Api, BaoError, Forbidden, NotFound
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import Busy
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys

DAY = 86400


class Killed(BaseException):
    """Here the controller died."""


class Life:
    """Counts what a controller does; after the event numbered *last* it does nothing more. 0: it lives."""

    def __init__(self, last: int = 0) -> None:
        self.last, self.events = last, 0

    def event(self) -> None:
        """One more, which has happened."""
        self.events += 1
        self.alive()

    def alive(self) -> None:
        """Is it?"""
        if self.last and self.events >= self.last:
            raise Killed


class Mortal:
    """An API whose answers a dead controller does not get."""

    def __init__(self, api: Api, life: Life) -> None:
        self._api, self._life = api, life

    def call(self, *args: Any, **more: Any) -> dict[str, Any]:
        self._life.alive()
        found = self._api.call(*args, **more)
        self._life.event()
        return found


class Free:
    """A fence that nobody else passes."""

    def pass_(self, version: int) -> bool:
        return bool(version)


class Run(approle_rotation.ActionModule):
    """One run of the action, in this process. *owner*: its name; *dead*: those before it."""

    def __init__(self, api: Api, life: Life, owner: str, dead: list[str], check: bool, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._task = SimpleNamespace(check_mode=check)
        self._given = api, life, owner, dead, now, sleep
        self.refusals = 0

    def _as_owner(self, name: str, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        api, life, owner, dead, now, sleep = self._given

        def refused() -> None:
            self.refusals += 1

        options = {"kv": "hnai", "reason": "request", "grace": 0.0, "resume": "", "rollback": "", **args, "owner": owner, "dead": dead}
        try:
            return identity_steps.visit(Mortal(api, life), options, Free(), self._task.check_mode, refused, now, sleep)
        except Busy as error:
            return {"failed": True, "msg": str(error), "busy": {"run_id": error.run_id}}


class Controller:
    """A controller's file, and its runs."""

    def __init__(self, api: Api, file: Path, now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep) -> None:
        self.api, self.file, self._now, self._sleep = api, file, now, sleep
        self.runs = 0
        self.last = Life()
        self.refusals = 0

    @property
    def held(self) -> dict[str, Any]:
        """What the file holds."""
        return openbao_keys.load(self.file) or {}

    def rotate(self, path: str, patch: Any, last: int = 0, check: bool = False, name: str = "c", **given: Any) -> dict[str, Any]:
        """One run; it dies after *last* events. Raises Killed. *patch*: pytest's monkeypatch."""
        self.runs += 1
        self.last = life = Life(last)
        plain = openbao_keys.store

        def store(target: Path, data: Mapping[str, Any]) -> dict[str, Any]:
            life.alive()
            found = plain(target, data)
            life.event()
            return found

        run = Run(self.api, life, f"{name}{self.runs}", [f"{name}{one}" for one in range(self.runs)], check, self._now, self._sleep)
        args = {"path": path, "run_id": f"run-{name}{self.runs}", "deploy": self.held["deploy"], "forced": True, **given}
        with patch.context() as inner:
            inner.setattr(approle_rotation.openbao_keys, "store", store)
            inner.setattr(approle_rotation.time, "sleep", self._sleep)
            try:
                return run._steps(args, self.file, approle_rotation.KEYS[path], {})
            finally:
                self.refusals = run.refusals


class Bao:
    """AppRoles, tokens and KV v2 as OpenBao 2.7.2 answers them, with the rights of the policies. `spend` may pass time."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.ids: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.wrapped: dict[str, str] = {}
        self.kv: dict[str, list[Any]] = {}
        self.made = 0
        self.refused: list[str] = []
        self.listable = True

    def clock(self) -> float:
        """Its time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.tokens = {key: one for key, one in self.tokens.items() if one["creation_time"] + 300 > self.now}

    def issue(self, role: str, run: str = "") -> dict[str, str]:
        """A secret_id."""
        self.made += 1
        value, born = f"secret-{self.made}", self.now
        dies = born + (300 if role.startswith("hnai-") else 90 * DAY)
        self.ids[value] = {"role": role, "accessor": f"accessor-{self.made}", "born": born, "dies": dies, "run": run}
        return {"role_id": "id-of-" + role, "secret_id": value}

    def enter(self, mount: str, role: str) -> dict[str, Any]:
        """A token."""
        self.made += 1
        token = f"token-{self.made}"
        self.tokens[token] = {
            "accessor": f"t-{self.made}", "path": f"auth/{mount}/login", "meta": {"role_name": role}, "creation_time": int(self.now), "role": role,
        }  # fmt: skip
        return {"auth": {"client_token": token, "accessor": f"t-{self.made}", "metadata": {"role_name": role}}}

    def alive(self, role: str) -> list[str]:
        """Values of a role."""
        return sorted(value for value, one in self.ids.items() if one["role"] == role)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None, wrap_ttl: str | None = None) -> dict[str, Any]:
        given, parts = dict(body or {}), path.split("/")
        if path == "sys/wrapping/unwrap":
            return {"data": {"secret_id": self.wrapped.pop(token or "")}}
        if path.endswith("/login"):
            one = self.ids.get(given["secret_id"])
            if not one or self.now >= one["dies"] or "id-of-" + one["role"] != given["role_id"]:
                self.refused.append(given["role_id"])
                raise BaoError(method, path, 400, ["invalid role or secret ID"])
            if parts[1] == "hnai":
                del self.ids[given["secret_id"]]
            return self.enter(parts[1], one["role"])
        if token not in self.tokens:
            raise Forbidden(method, path, 403, ["permission denied"])
        who = self.tokens[token]["role"]
        if path == "auth/token/revoke-self":
            del self.tokens[token]
            return {}
        if path == "auth/token/revoke-accessor":
            self._may(who, "hnai-rotation", method, path)
            self.tokens = {key: one for key, one in self.tokens.items() if one["accessor"] != given["accessor"]}
            return {}
        if path.startswith("auth/token/"):
            self._may(who, "hnai-openbao", method, path)
            if method == "LIST":
                return {"data": {"keys": [one["accessor"] for one in self.tokens.values()]}}
            return {"data": next(one for one in self.tokens.values() if one["accessor"] == given["accessor"])}
        if path == "auth/hnai/role":
            self._may(who, "hnai-rotation" if self.listable else "nobody", method, path)
            return {"data": {"keys": ["hnai-kafka", "hnai-openbao", "hnai-rotation"]}}
        if parts[0] == "auth":
            return self._role(method, path, parts[3], "/".join(parts[4:]), given, who, wrap_ttl)
        looks = "/metadata/" in path or (method == "GET" and "/_rotation" in path)
        self._may(who, "hnai-rotation", method, path, "hnai-openbao" if looks else "")
        return self._kv(method, path, given)

    def _may(self, who: str, wanted: str, method: str, path: str, looker: str = "") -> None:
        if who not in (wanted, looker):
            raise Forbidden(method, path, 403, [f"{who} may not"])

    def _role(self, method: str, path: str, role: str, step: str, given: dict[str, Any], who: str, wrap_ttl: str | None) -> dict[str, Any]:
        if step.startswith("secret-id-accessor") or method == "LIST":
            looker = "hnai-openbao" if self.listable and not step.endswith("destroy") else ""
            self._may(who, "hnai-rotation" if self.listable else "nobody", method, path, looker)
        elif role.startswith("hnai-"):
            self._may(who, "deploy", method, path)
        else:
            self._may(who, "site-admin", method, path)
        if step == "role-id":
            return {"data": {"role_id": "id-of-" + role}}
        if method == "LIST":
            if not self.alive(role):
                raise NotFound(method, path, 404, [])
            return {"data": {"keys": [self.ids[value]["accessor"] for value in self.alive(role)]}}
        if step == "secret-id":
            made = self.issue(role, json.loads(given.get("metadata", "{}")).get("run", ""))["secret_id"]
            if wrap_ttl:
                self.wrapped[f"wrap-{self.made}"] = made
                return {"wrap_info": {"token": f"wrap-{self.made}"}}
            return {"data": {"secret_id": made}}
        value = given.get("secret_id") or next((key for key, one in self.ids.items() if one["accessor"] == given.get("secret_id_accessor")), "")
        one = self.ids.get(value)
        if step == "secret-id/lookup" and not one:
            return {}
        if not one or one["role"] != role:
            raise NotFound(method, path, 404, ["invalid accessor"])
        if step == "secret-id-accessor/destroy":
            del self.ids[value]
            return {}
        if self.now >= one["dies"]:
            return {}  # still listed
        return {"data": {"secret_id_accessor": one["accessor"], "creation_time": iso(one["born"]), "expiration_time": iso(one["dies"]),
                         "metadata": {"run": one["run"]} if one["run"] else {}}}

    def _kv(self, method: str, path: str, given: dict[str, Any]) -> dict[str, Any]:
        if method == "SCAN":
            return {"data": {"keys": [name for name, found in self.kv.items() if found]}}
        _mount, kind, rest = path.split("/", 2)
        name, _, query = rest.partition("?version=")
        found = self.kv.setdefault(name, [])
        if not found and method == "GET":
            raise NotFound(method, path, 404, [])
        if kind == "metadata":
            return {"data": {"current_version": len(found), "versions": {}}}
        if method == "GET":
            return {"data": {"data": json.loads(json.dumps(found[int(query) - 1]))}}
        if given["options"]["cas"] != len(found):
            raise BaoError(method, path, 400, ["check-and-set parameter did not match the current version"])
        found.append(json.loads(json.dumps(given["data"])))
        return {"data": {"version": len(found)}}


def iso(seconds: float) -> str:
    """As OpenBao writes instants."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(seconds))
