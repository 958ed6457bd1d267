# SPDX-License-Identifier: Apache-2.0
"""Known vulnerabilities of OPC UA stacks, offline: product and version out of BuildInfo against a table.

The table is short and old by nature; what it does not know is ``skipped``, never ``pass``.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

TABLE_DATE = "2026-11-01"


@dataclass(frozen=True)
class Entry:
    """A vulnerability of *product* (pattern over product name, product URI and manufacturer) in versions below *fixed*."""

    id: str
    product: str
    fixed: tuple[int, ...]
    what: str


TABLE: tuple[Entry, ...] = (
    Entry("CVE-2022-25761", r"open62541", (1, 2, 5), "memory exhaustion by unlimited chunks"),
    Entry("CVE-2022-25304", r"freeopcua|asyncua|opcua-asyncio", (0, 9, 96), "memory exhaustion by unlimited chunks"),
    Entry("CVE-2023-26150", r"freeopcua|asyncua|opcua-asyncio", (0, 9, 96), "services without a session"),
    Entry("CVE-2023-26151", r"freeopcua|asyncua|opcua-asyncio", (0, 9, 96), "endless loop by a malformed message"),
    Entry("CVE-2022-21208", r"node-?opcua", (2, 74, 0), "memory exhaustion by unlimited chunks"),
    Entry("CVE-2022-25231", r"node-?opcua", (2, 74, 0), "crash by a cyclic variant"),
    Entry("CVE-2022-24375", r"node-?opcua", (2, 74, 0), "memory exhaustion by sessions"),
    Entry("CVE-2022-25897", r"milo", (0, 6, 8), "memory exhaustion by unlimited chunks"),
)


def version_of(text: str) -> tuple[int, ...]:
    """Numbers of a version; empty when it has none. A product's name before it may have digits of its own: ``open62541 1.2.4``."""
    match = re.search(r"(?:(?<![a-z\d.])|(?<=\bv))\d+(?:\.\d+)*", text, re.IGNORECASE)
    return tuple(int(part) for part in match.group(0).split(".")) if match else ()


def known(product: Sequence[str]) -> bool:
    """Whether the table knows the product at all."""
    text = " ".join(product)
    return any(re.search(entry.product, text, re.IGNORECASE) for entry in TABLE)


def match(product: Sequence[str], version: str) -> list[Entry]:
    """Entries that this product and version fall under."""
    text, number = " ".join(product), version_of(version)
    return [entry for entry in TABLE if number and number < entry.fixed and re.search(entry.product, text, re.IGNORECASE)]
