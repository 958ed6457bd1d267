# SPDX-License-Identifier: Apache-2.0
"""The filter's devices from the site's sources: what may be read is what the tags need, no more. Pure."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WIDTHS: Mapping[str, int] = {"uint16": 1, "int16": 1, "uint32": 2, "int32": 2, "float32": 2, "float64": 4}
TABLES: Mapping[str, int] = {"holding": 3, "input": 4}
KEYS = frozenset({"address", "clear_on_read", "identification", "clients", "requests_per_second"})
CANARY_CLIENTS, CANARY_RATE = 8, 50.0
"""A canary is asked faster and from several connections; it is no process."""


class SourceError(Exception):
    """A source cannot be filtered; the text names source, key and remedy."""


def _span(name: str, raw: Any) -> dict[str, int]:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return {"first": raw, "count": 1}
    if isinstance(raw, Mapping) and set(raw) <= {"first", "count"} and "first" in raw:
        return {"first": int(raw["first"]), "count": int(raw.get("count", 1))}
    raise SourceError("%s: filter.clear_on_read: %r: write a register's number or {first, count}" % (name, raw))


def _allow(source: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    given: Mapping[str, Any] = source["filter"]
    table = str(source.get("table", "input"))
    if table not in TABLES:
        raise SourceError("%s: table %r: write holding or input" % (name, table))
    spans = []
    for tag in source.get("tags") or ():
        encoding = str(tag.get("encoding"))
        if encoding not in WIDTHS:
            raise SourceError("%s: tag %s: encoding %r is unknown; known are %s" % (name, tag.get("name"), encoding, ", ".join(sorted(WIDTHS))))
        spans.append({"first": int(tag["address"]), "count": WIDTHS[encoding]})
    unit = int(source.get("unit", 1))
    rights: list[dict[str, Any]] = [{
        "unit": unit, "function": TABLES[table], "gap": int(source.get("gap_registers", 8)), "spans": sorted(spans, key=lambda one: one["first"]),
        "exclude": [_span(name, one) for one in given.get("clear_on_read") or ()]}]
    if given.get("identification"):
        rights.append({"unit": unit, "function": 43})
    return rights


def devices(sources: Iterable[Mapping[str, Any]], canaries: Iterable[Mapping[str, Any]] = (), port: int = 1502, clients: int = 2,
            requests_per_second: float = 20.0) -> list[dict[str, Any]]:
    """``devices`` of the filter's configuration. Raises SourceError."""
    made: dict[str, dict[str, Any]] = {}
    for source in sources:
        name = str(source.get("id"))
        given = source.get("filter")
        if not isinstance(given, Mapping) or not given.get("address"):
            raise SourceError("%s: filter.address is missing: the loopback address that stands for the device, as 127.0.1.1" % name)
        unknown = sorted(set(given) - KEYS)
        if unknown:
            raise SourceError("%s: filter.%s is unknown; known are %s" % (name, unknown[0], ", ".join(sorted(KEYS))))
        made[name] = {
            "id": name, "listen": {"address": str(given["address"]), "port": port}, "host": str(source["host"]), "port": int(source.get("port", 502)),
            "allow": _allow(source, name), "clients": int(given.get("clients", clients)),
            "requests_per_second": float(given.get("requests_per_second", requests_per_second)),
            "new_per_minute": int((source.get("limits") or {}).get("new_per_minute", 6)),
            # Shorter than the collector's own patience, so that it hears 0x0B instead of nothing.
            "timeout_s": round(0.8 * float(source.get("timeout_s", 1.0)), 3)}
    result = list(made.values())
    for canary in canaries:
        stands_for = made.get(str(canary["for"]))
        if stands_for is None:
            raise SourceError("canary %s: for: %r is no filtered source; known are %s" % (canary["id"], canary["for"], ", ".join(sorted(made)) or "none"))
        result.append({
            **stands_for, "id": str(canary["id"]), "canary": True, "listen": {"address": str(canary["address"]), "port": port},
            "host": str(canary["host"]), "port": int(canary["port"]), "clients": CANARY_CLIENTS, "requests_per_second": CANARY_RATE})
    return result
