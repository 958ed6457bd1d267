# SPDX-License-Identifier: Apache-2.0
"""What the controller believes of hosts' SSH keys: the line of a CA, and what ssh said of the key that a host served."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .ssh_access import AccessError

_SERVED = re.compile(r"^debug1: Server host certificate: \S+ (?P<key>SHA256:\S+), serial (?P<serial>\d+) ID .* CA \S+ (?P<ca>SHA256:\S+)(?: |$)", re.MULTILINE)
#: A plain key, however well it is pinned, must not pass for a certificate.
CERTIFICATE_ALONE = (
    "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null", "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com", "UpdateHostKeys=no",
    "LogLevel=DEBUG1",
)  # fmt: skip


def ca_line(ca: str, names: Sequence[str]) -> str:
    """One line of known_hosts. Raises AccessError for what is no public key, or where a name would be a pattern."""
    words = ca.split()
    if len(words) < 2 or not re.fullmatch(r"[A-Za-z0-9-]+", words[0]) or not re.fullmatch(r"[A-Za-z0-9+/]{40,}={0,2}", words[1]):
        raise AccessError("the CA's public key is none")
    wrong = [name for name in names if not re.fullmatch(r"[A-Za-z0-9.:_-]+|\[[A-Za-z0-9.:_-]+\]:\d+", name)]
    if wrong or not names:
        raise AccessError(f"the CA is trusted for names and addresses of the inventory, not for {', '.join(wrong) or 'every host'}")
    return f"@cert-authority {','.join(sorted(set(names)))} {words[0]} {words[1]}"


def with_ca(text: str, line: str) -> str:
    """The file with *line* in the place of an earlier one of the same CA; all others stay."""
    kept = [one for one in text.splitlines() if one.split()[-1:] != line.split()[-1:]]
    return "\n".join([*kept, line]) + "\n"


def with_trust(command: Sequence[str], known_hosts: str) -> list[str]:
    """An ssh login that believes *known_hosts* alone, and says what it was served. ssh takes the first value it gets."""
    options = [word for option in (f"UserKnownHostsFile={known_hosts}", *CERTIFICATE_ALONE) for word in ("-o", option)]
    return [command[0], *options, *command[1:]]


def served(said: str) -> tuple[str, str]:
    """(serial, fingerprint of the CA) of the last host certificate that ssh (LogLevel=DEBUG1) named; ("", "") where it named none."""
    found = _SERVED.findall(said)
    return (found[-1][1], found[-1][2]) if found else ("", "")
