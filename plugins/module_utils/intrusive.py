# SPDX-License-Identifier: Apache-2.0
"""The token without which nothing intrusive is sent: {site, endpoint, from, to, approver, signature}.

The approver signs with an SSH key of theirs (``ssh-keygen -Y sign -n hnai-intrusive``); the public key stands in the inventory. A token
is for one site and one endpoint, and its window is at most a day long. Pure but for ``ssh_verify``.
"""
from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from .hostfiles import Host

NAMESPACE = "hnai-intrusive"
LONGEST = timedelta(hours=24)
KEYS = ("site", "endpoint", "from", "to", "approver", "signature")
TIME = "%Y-%m-%dT%H:%M:%SZ"
TOKEN_OPTIONS: dict[str, Any] = {
    "site": {"type": "str", "default": ""},
    "tokens": {"type": "list", "elements": "dict", "default": [], "no_log": False},
    "approvers": {"type": "dict", "default": {}},
}
"""Options of a module with an intrusive part; documented in the doc fragment ``hnai.platform.intrusive``."""

Verify = Callable[[str, str, str, str], bool]
"""(approver, public key, text, signature) → is it that approver's signature of the text?"""


class NotAuthorised(Exception):
    """There is no valid token; the text says why, and what would have to be signed."""


@dataclass(frozen=True)
class Token:
    """A token that was found valid."""

    site: str
    endpoint: str
    begin: datetime
    end: datetime
    approver: str
    signature: str

    @property
    def id(self) -> str:
        """A short name: tells one token from another and is no secret."""
        return hashlib.sha256(self.signature.encode("utf-8")).hexdigest()[:16]

    def as_dict(self) -> dict[str, str]:
        """For the record of a verdict."""
        return {"id": self.id, "site": self.site, "endpoint": self.endpoint, "from": self.begin.strftime(TIME), "to": self.end.strftime(TIME),
                "approver": self.approver}


def text(site: str, endpoint: str, begin: str, end: str, approver: str) -> str:
    """What the approver signs, byte for byte."""
    return "hnai intrusive token\nsite: %s\nendpoint: %s\nfrom: %s\nto: %s\napprover: %s\n" % (site, endpoint, begin, end, approver)


def _time(raw: Any) -> datetime:
    return datetime.strptime(str(raw), TIME).replace(tzinfo=timezone.utc)


def examine(raw: Mapping[str, Any], approvers: Mapping[str, Any]) -> tuple[datetime, datetime, str, str]:
    """(begin, end, approver, public key) of a token as it is written, whatever the time and its signature. Raises NotAuthorised with the reason."""
    missing = [key for key in KEYS if not str(raw.get(key) or "").strip()]
    if missing:
        raise NotAuthorised("%s is missing" % ", ".join(missing))
    if any(mark in str(raw[key]) for key in KEYS if key != "signature" for mark in "\r\n"):
        raise NotAuthorised("a value has more than one line")
    try:
        begin, end = _time(raw["from"]), _time(raw["to"])
    except ValueError:
        raise NotAuthorised("from and to are written as \"2026-01-31T08:00:00Z\", in quotes") from None
    if not timedelta(0) < end - begin <= LONGEST:
        raise NotAuthorised("its window is longer than 24 h, or ends before it begins")
    approver = str(raw["approver"])
    key = str(approvers.get(approver) or "").strip()
    if not key or "\n" in key:
        raise NotAuthorised("%s is no approver of this site" % approver)
    return begin, end, approver, key


def _valid(raw: Mapping[str, Any], approvers: Mapping[str, Any], now: datetime, verify: Verify) -> Token:
    """The token of an entry whose site and endpoint fit. Raises NotAuthorised with the reason."""
    begin, end, approver, key = examine(raw, approvers)
    if not begin <= now < end:
        raise NotAuthorised("its window is %s to %s" % (raw["from"], raw["to"]))
    signed = text(str(raw["site"]), str(raw["endpoint"]), str(raw["from"]), str(raw["to"]), approver)
    if not verify(approver, key, signed, str(raw["signature"])):
        raise NotAuthorised("the signature is not %s's" % approver)
    return Token(str(raw["site"]), str(raw["endpoint"]), begin, end, approver, str(raw["signature"]).strip())


def check(tokens: Iterable[Any], approvers: Mapping[str, Any], site: str, endpoint: str, now: datetime, verify: Verify) -> Token:
    """The first valid token for *endpoint* of *site* at the aware time *now*. Raises NotAuthorised."""
    reasons = []
    for number, raw in enumerate(tokens):
        if not isinstance(raw, Mapping) or str(raw.get("endpoint")) != endpoint:
            continue
        try:
            if str(raw.get("site")) != site:
                raise NotAuthorised("it is for site %s" % raw.get("site"))
            return _valid(raw, approvers, now, verify)
        except NotAuthorised as error:
            reasons.append("token %d: %s" % (number, error))
    if not site:
        reasons.append("the site has no name")
    raise NotAuthorised("not authorised: intrusive, needs a token for %s and a window%s" % (endpoint, "; " + "; ".join(reasons) if reasons else ""))


def ssh_verify(host: Host) -> Verify:
    """Verification by OpenSSH's ``ssh-keygen -Y verify``. The key must not carry options."""

    def verify(approver: str, key: str, signed: str, signature: str) -> bool:
        with tempfile.TemporaryDirectory(prefix="hnai-token-") as folder:
            signers, armoured = os.path.join(folder, "signers"), os.path.join(folder, "signature")
            with open(signers, "w", encoding="utf-8") as stream:
                stream.write("%s namespaces=\"%s\" %s\n" % (approver, NAMESPACE, key))
            with open(armoured, "w", encoding="utf-8") as stream:
                stream.write(signature.strip() + "\n")
            done = host.run(["ssh-keygen", "-Y", "verify", "-f", signers, "-I", approver, "-n", NAMESPACE, "-s", armoured],
                            stdin=signed.encode("utf-8"), timeout=20.0)
        if done.rc == 127:
            raise NotAuthorised("ssh-keygen is not installed on this host: install openssh-client")
        return done.rc == 0

    return verify
