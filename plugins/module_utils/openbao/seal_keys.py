# SPDX-License-Identifier: Apache-2.0
"""OpenBao's own keys: the barrier's keyring, and the shares that open it. A snapshot before either.

Keyring: OpenBao makes a new term; what is written from then on is encrypted by it, older terms stay to read what is older. Nothing waits for it.
Before the call a record in KV v2 (check-and-set) names the term, so that a run that was killed can tell whether its call arrived.

Shares: ``require_verification``, always. Until the last of the new shares was shown to OpenBao the old ones stay in force::

    begun (marker on the controller) -> issued -> stored on the controller, read back -> verified = in force -> promoted on the controller

Killed before *stored*: the new shares are lost and were never in force; the next run cancels and begins anew. Killed later: the next run verifies
the stored ones, or finds by `opens` which of the two sets is in force. `opens` begins a rotation that must be verified, shows the shares, and
cancels: a wrong set is refused at the last share, a right one changes nothing because what was issued is thrown away unverified.

https://openbao.org/api-docs/system/rotate/ (``sys/rotate/keyring``, ``sys/rotate/root/*``, with auto-unseal ``sys/rotate/recovery/*``). Versions
before 2.5.2 could lose all shares in it and are refused. No share is in a log, an argument or a result that is printed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .bootstrap import Keys
from .client import Api, BaoError, Client, NotFound
from .files import write_durably
from .kv import KvStore

SNAPSHOTS = "/var/lib/hnai/openbao-snapshots"
KEEP = 5
MINIMUM = (2, 5, 2)
KEYRING, SHARES = "openbao/keyring", "openbao/shares"


class KeysError(Exception):
    """It cannot go on; the text says what is true and the remedy."""


def safe_version(text: str) -> bool:
    """Whether shares may be rotated by this version."""
    found = re.match(r"^v?(\d+)\.(\d+)\.(\d+)", text)
    return found is not None and tuple(int(part) for part in found.groups()) >= MINIMUM


def snapshot(client: Client, token: str, directory: str, now: float, keep: int = KEEP) -> str:
    """Path of a new raft snapshot (0600, its secrets encrypted by the barrier). No more than *keep* stay. Raises BaoError, Unreachable, OSError."""
    content = client.download("sys/storage/raft/snapshot", token)
    if content[:2] != b"\x1f\x8b":
        raise KeysError("OpenBao's snapshot is no gzip archive (%d bytes): nothing was rotated" % len(content))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)) + ".snap")
    write_durably(path, content, 0o600)
    for old in sorted(name for name in os.listdir(directory) if name.endswith(".snap"))[:-keep]:
        os.unlink(os.path.join(directory, old))
    return path


def term(api: Api, token: str) -> int:
    """Number of the keyring's newest term."""
    return int(api.call("GET", "sys/key-status", token=token)["data"]["term"])


class Keyring:
    """One rotation of the keyring; exactly one new term, however often it is killed."""

    def __init__(self, api: Api, token: str, store: KvStore, now: Callable[[], float] = time.time) -> None:
        self._api = api
        self._token = token
        self._store = store
        self._now = now

    def plan(self) -> dict[str, Any]:
        """{term, record}."""
        return {"term": term(self._api, self._token), "record": self._store.read(KEYRING)[1] or {}}

    def rotate(self, run_id: str, before: Callable[[], str]) -> dict[str, Any]:
        """The record, closed. *before* takes the snapshot. Raises Conflict where another controller is at it."""
        version, record = self._store.read(KEYRING)
        record = dict(record or {})
        if not record.get("open"):
            record = {"open": True, "run_id": run_id, "from": term(self._api, self._token), "snapshot": before(), "began": self._now()}
            version = self._store.write(KEYRING, record, version)
        if term(self._api, self._token) == record["from"]:
            self._api.call("POST", "sys/rotate/keyring", {}, token=self._token)
        reached = term(self._api, self._token)
        if reached <= record["from"]:
            raise KeysError("the keyring is at term %d after its rotation, as before: read OpenBao's log" % reached)
        record.update(open=False, to=reached, at=self._now())
        self._store.write(KEYRING, record, version)
        return record


class Shares:
    """The steps. *recovery*: the seal is not by shares (auto-unseal), so these are recovery keys."""

    def __init__(self, api: Api, token: str, recovery: bool = False) -> None:
        self._api = api
        self._token = token
        self._base = "sys/rotate/%s/" % ("recovery" if recovery else "root")

    def _call(self, method: str, step: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self._api.call(method, self._base + step, body, token=self._token)
        return dict(answer.get("data") or answer)

    def status(self) -> dict[str, Any]:
        """{started, nonce, verification_nonce, progress, required}."""
        return self._call("GET", "init")

    def cancel(self) -> None:
        """End a rotation that is under way; the shares in force stay."""
        self._call("DELETE", "init")

    def _show(self, body: Mapping[str, Any], keys: Sequence[str], threshold: int) -> dict[str, Any]:
        nonce = self._call("POST", "init", dict(body, require_verification=True))["nonce"]
        answer: dict[str, Any] = {}
        for key in keys[:threshold]:
            answer = self._call("POST", "update", {"nonce": nonce, "key": key})
        return answer

    def opens(self, keys: Sequence[str], threshold: int) -> bool:
        """Whether *keys* are the shares in force. Changes nothing."""
        if self.status().get("started"):
            raise KeysError("a rotation of the shares is under way: %s" % FOREIGN)
        try:
            return bool(self._show({"secret_shares": len(keys), "secret_threshold": threshold}, keys, threshold).get("complete"))
        except BaoError as error:
            if error.status != 400:
                raise
            return False
        finally:
            self.cancel()

    def issue(self, old: Sequence[str], old_threshold: int, wanted: Keys) -> dict[str, Any]:
        """The new shares, not in force yet: {keys_base64, keys, verification_nonce, …}. Raises KeysError where the old ones are refused."""
        body: dict[str, Any] = {"secret_shares": wanted.shares, "secret_threshold": wanted.threshold}
        if wanted.pgp_keys:
            body["pgp_keys"] = list(wanted.pgp_keys)
        try:
            answer = self._show(body, old, old_threshold)
        except BaoError as error:
            self.cancel()
            raise KeysError("OpenBao refuses the rotation (%s): the shares at hand are not those in force, or a PGP key cannot encrypt" % error) from error
        if not answer.get("complete") or not answer.get("verification_nonce"):
            self.cancel()
            raise KeysError("OpenBao wants more shares than %d, or no verification: nothing was changed" % old_threshold)
        return answer

    def pending(self) -> str:
        """Nonce of the verification that OpenBao waits for, "" where it waits for none."""
        try:
            return str(self._call("GET", "verify").get("nonce") or "")
        except NotFound:
            return ""
        except BaoError as error:
            if error.status != 400:
                raise
            return ""

    def verify(self, keys: Sequence[str], threshold: int, nonce: str) -> bool:
        """Show the new shares; True once they are in force."""
        # A run that was killed may have shown some of them already, so it may be over before the last one.
        return any(self._call("POST", "verify", {"nonce": nonce, "key": key}).get("complete") for key in keys[:threshold])


FOREIGN = "who began it ends it (bao operator rotate-keys -status, -cancel); this run has changed nothing"


def advance(shares: Shares, held: Mapping[str, Any], candidate: Mapping[str, Any], wanted: Keys, threshold: int) -> dict[str, Any]:
    """One step, by what is there: {step: clear|issued|in_force|dropped|waiting, …}.

    *clear*: nothing is under way, so the caller may note that it begins.
    *held*: {keys_base64} in force as far as the controller knows; *candidate*: what it stored of an issue, {"begun"} alone while it has none.
    *threshold*: of the shares in force.
    """
    started = bool(shares.status().get("started"))
    if not candidate:
        if started:
            raise KeysError("a rotation of the shares is under way that this controller did not begin: %s" % FOREIGN)
        return {"step": "clear"}
    if not candidate.get("keys_base64"):
        if started:
            # Ours: the marker was written before, and what was issued to it never came back.
            shares.cancel()
        return {"step": "issued", "issued": shares.issue(list(held["keys_base64"]), threshold, wanted)}
    pending = shares.pending() if started else ""
    if pending and pending == candidate.get("verification_nonce"):
        if candidate.get("pgp"):
            return {"step": "waiting", "nonce": pending}
        if not shares.verify(list(candidate["keys_base64"]), int(candidate["threshold"]), pending):
            raise KeysError("OpenBao wants more of the new shares than %d: the old ones stay in force; run it again" % candidate["threshold"])
        started = False
    if started:
        raise KeysError("another rotation of the shares is under way: %s" % FOREIGN)
    old_opens = shares.opens(list(held["keys_base64"]), threshold)
    if candidate.get("pgp"):
        return {"step": "dropped" if old_opens else "in_force", "proof": {"old_refused": not old_opens}}
    if held["keys_base64"] == candidate["keys_base64"] and old_opens:
        # Killed between their promotion and the removal of the candidate. The proof that the old ones are refused was made before the promotion.
        return {"step": "in_force", "proof": {"new_works": True, "old_refused": True}}
    new_opens = shares.opens(list(candidate["keys_base64"]), int(candidate["threshold"]))
    if new_opens == old_opens:
        how = "both taken" if new_opens else "both refused"
        raise KeysError("the old and the new shares are %s by OpenBao: keep both files and call the key holders" % how)
    return {"step": "in_force" if new_opens else "dropped", "proof": {"new_works": new_opens, "old_refused": not old_opens}}
