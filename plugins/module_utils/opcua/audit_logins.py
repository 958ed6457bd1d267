# SPDX-License-Identifier: Apache-2.0
"""Logins that a server should refuse: one anonymous session, one session with a certificate that it has never seen. Each is tried once.

Intrusive (a person's token), and only after a session of our own came to its end in the same audit: without that control a silent server
could look like one that refuses. No password is in play. Source: OPC 10000-4, 5.6.2 (OpenSecureChannel), 5.7.2 and 5.7.3, 6.1.3.
"""
from __future__ import annotations

from dataclasses import dataclass

from .audit_types import AuditError, Channel, ClearPassword, Closed, PinMismatch, Refused

ANONYMOUS, STRANGER = "OA4", "OA5"
ACCEPTED, REFUSED, UNKNOWN = "accepted", "refused", "unknown"
#: Status codes (OPC 10000-6, A.2) by which a server says no to that login and to nothing else.
NO = {
    ANONYMOUS: frozenset({0x80200000, 0x80210000, 0x801F0000}),
    # BadSecurityChecksFailed, BadCertificateInvalid, …UriInvalid, …UseNotAllowed, …Untrusted, …ChainIncomplete.
    STRANGER: frozenset({0x80130000, 0x80120000, 0x80170000, 0x80180000, 0x801A0000, 0x810D0000}),
}


@dataclass(frozen=True)
class Login:
    """How one ended. *said*: the server's words, or why nobody knows."""

    outcome: str
    said: str


async def attempt(ident: str, channel: Channel) -> Login:
    """One try; the session that should not have been is closed at once."""
    try:
        await channel.open()
        return Login(ACCEPTED, "the server opened the session")
    except (PinMismatch, ClearPassword) as error:
        return Login(UNKNOWN, str(error))
    except Refused as error:
        return Login(REFUSED if error.code in NO[ident] else UNKNOWN, str(error))
    except Closed as error:
        # Part 4, 6.1.3: a server may hide why; a stranger is often shown the door without a word.
        return Login(REFUSED if ident == STRANGER else UNKNOWN, str(error))
    except AuditError as error:
        return Login(UNKNOWN, str(error))
    finally:
        await channel.close()
