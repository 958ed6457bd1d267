# SPDX-License-Identifier: Apache-2.0
"""Kafka's 16-byte ids (cluster, log directories), declared or derived.

Kafka writes them as 22 characters of unpadded URL-safe base64 (org.apache.kafka.common.Uuid). The first hundred values are
reserved by Kafka, and a leading '-' is avoided there because an id is also a command-line argument.
"""

from __future__ import annotations

import base64
import binascii
import uuid

#: Namespace of all derived ids; never change it: every derived id would change.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "kafka.platform.hnai")
_RESERVED = 100


class IdError(ValueError):
    """Not an id that Kafka accepts; the text says why."""


def encode(value: uuid.UUID) -> str:
    """22 characters, as Kafka prints it."""
    return base64.urlsafe_b64encode(value.bytes).decode("ascii").rstrip("=")


def derive(*parts: str) -> str:
    """The id that belongs to these names, always the same (UUID version 5).

    >>> derive("lab", "cluster") == derive("lab", "cluster")
    True
    """
    if not parts or not all(parts):
        raise IdError("an id is derived from names, and one of them is empty")
    salt = 0
    while True:
        text = encode(uuid.uuid5(NAMESPACE, "\x1f".join([*parts, str(salt)] if salt else parts)))
        if not text.startswith("-"):
            return text
        salt += 1


def check(text: str, what: str) -> str:
    """`text` if Kafka accepts it as an id of a cluster or directory. Raises IdError naming `what`."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise IdError(f"{what}: {text!r} is not URL-safe base64") from error
    if len(raw) != 16 or base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=") != text:
        raise IdError(f"{what}: {text!r} is not 16 bytes in 22 characters; leave it empty to have it derived")
    if int.from_bytes(raw, "big") < _RESERVED:
        raise IdError(f"{what}: {text!r} is reserved by Kafka")
    return text
