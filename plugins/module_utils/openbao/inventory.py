# SPDX-License-Identifier: Apache-2.0
"""Every secret of the placed components: how old it is, when and how it was last rotated, and who read it. Never a value."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..verdict import Report
from . import authority, policies, seal_keys, site
from .kv import KvStore
from .rotate_approle import KIND, Living
from .rotation import CLOCK_TOLERANCE_S, JOURNAL, NEXT, View, lease_over

#: Identities that may read any secret: rotating is reading.
ALWAYS = (policies.PREFIX + policies.ROTATION,)


#: {path: {reader: newest read, unix s}}, instants of the first and of the last entry (0.0: there is none).
Log = tuple[dict[str, dict[str, float]], float, float]


def _time(line: str) -> float:
    """Instant of an entry, 0.0 where it has none, or is torn there."""
    try:
        return site.instant(line.split('"time":"', 1)[1])
    except (IndexError, ValueError):
        return 0.0


def reads(logs: Sequence[Sequence[str]], mount: str) -> Log:
    """Out of the entries of every audit device: each may miss what the others have. Unreadable lines are skipped: a log may begin or end torn.

    A reader is the component's AppRole, or what its token is called (``root``, ``token``, the mount of another login) with the AppRole that it claims:
    whoever makes a token gives it whatever metadata he likes, and no name without ``token-``.
    """
    found: dict[str, dict[str, float]] = {}
    prefix = mount + "/data/"
    begin = min((next(filter(None, map(_time, log)), 0.0) for log in logs), default=0.0)
    end = max((next(filter(None, map(_time, reversed(log))), 0.0) for log in logs), default=0.0)
    for line in itertools.chain.from_iterable(logs):
        if prefix not in line or '"type":"response"' not in line or '"operation":"read"' not in line:
            continue
        try:
            entry = json.loads(line.lstrip("\0"))  # what a file system leaves of a write that a power cut ended
            path = entry["request"]["path"]
            if entry.get("error") or not path.startswith(prefix) or entry["request"]["operation"] != "read":
                continue
            # A wrapped answer is a read too: whoever unwraps it is not asked for a right to the secret.
            answer = entry.get("response") or {}
            if not (answer.get("data") or answer.get("wrap_info")):
                continue
            auth = entry.get("auth") or {}
            called, role = (str(one or "") for one in (auth.get("display_name"), (auth.get("metadata") or {}).get("role_name")))
            reader = (role if called == policies.COMPONENT_AUTH else " ".join(filter(None, (called, role)))) or "(no identity)"
            at = site.instant(entry["time"])
        except (ValueError, KeyError, TypeError):
            continue
        readers = found.setdefault(path[len(prefix) :], {})
        readers[reader] = max(at, readers.get(reader, 0.0))
    return found, begin, end


#: Of an identity, by its path: the secret_ids that are alive, oldest first.
Alive = Callable[[str], Sequence[Living]]


def identities() -> list[dict[str, Any]]:
    """The run's own identities, as `rotations` lists the secrets. How old theirs may be is said by their own end."""
    return [{"path": path, "kind": KIND, "secret_kind": KIND, "readers": [], "max_age_s": 0, "why": ""} for path in policies.IDENTITIES]


def describe(
    store: KvStore, item: Mapping[str, Any], seen: Mapping[str, float], now: float, living: Alive = lambda _path: (),
) -> dict[str, Any]:  # fmt: skip
    """One row of the inventory."""
    view = View.of(item["path"], *store.read(item["path"] + JOURNAL))
    last, alive, max_age_s, until = view.last, 1, item["max_age_s"], ""
    if item["kind"] == KIND:
        # The newest is the one in use; the version counts rotations. Too old, as due: less than a third of its life is left.
        found = living(item["path"])
        version, written, alive = (int(last.get("version", 1)), found[-1].born, len(found)) if found else (0, 0.0, 0)
        max_age_s = round((found[-1].dies - found[-1].born) * 2 / 3) if found else 0
    else:
        version, text, until = store.written_at(item["path"])
        written = site.instant(text) if text else 0.0
    newest = max(seen, key=lambda name: seen[name]) if seen else ""
    return {
        "path": item["path"], "kind": item["kind"] or item["secret_kind"], "version": version, "consumers": list(item["readers"]),
        "written": written or None, "age_s": max(0, round(now - written)) if written else None, "max_age_s": max_age_s, "alive": alive,
        "deleted_at": site.instant(until) if until else None,
        "rotation": view.state if view.open else "", "run_id": view.run_id, "lease_over": lease_over(view, now),
        "began": view.started_at or last.get("started_at"), "last_rotation": last.get("at"), "last_outcome": last.get("outcome", ""),
        "last_proof": {key: value for key, value in (last.get("proof") or {}).items() if isinstance(value, bool)},
        "last_reader": newest, "last_read": seen.get(newest), "rotates": bool(item["kind"]), "why": item["why"],
    }  # fmt: skip


def unnamed(store: KvStore, items: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """[{path, version, written, age_s}] of what lies in the mount beside *items* and what rotations write of themselves; no `written` where it was deleted."""
    own = {*(item["path"] for item in items), *authority.SCOPES, seal_keys.KEYRING, seal_keys.SHARES}
    found = []
    for path in store.paths():
        if path in own or (path.endswith((JOURNAL, NEXT)) and path.rpartition("/")[0] in own):
            continue
        version, text, _until = store.written_at(path)
        written = site.instant(text) if text else None
        found.append({"path": path, "version": version, "written": written, "age_s": None if written is None else max(0, round(now - written))})
    return found


def judge(
    report: Report, store: KvStore, items: Sequence[Mapping[str, Any]], audit: Callable[[], Log],
    now: Callable[[], float], living: Alive = lambda _path: (), declared: Sequence[str] = (), owner: str = "",
) -> list[dict[str, Any]]:
    """Make SI1 to SI3 for every secret, SI4 for what is none of them; the inventory. *declared*: paths of every contract, its component placed or not.
    *owner*: who has the audit log, where it is out of reach."""
    rows: list[dict[str, Any]] = []
    log: dict[str, dict[str, float]] = {}
    begin, unread = 0.0, ""
    try:
        log, begin, end = audit()
        # The login of this visit stands in it, or OpenBao writes elsewhere.
        if end < now() - CLOCK_TOLERANCE_S:
            unread = "its newest entry is of %s, before this visit" % time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end)) if end else "it has no entry"
    except OSError as error:
        unread = str(error)
    for item in items:
        seen = log.get(item["path"], {})
        row: dict[str, Any] = {}
        with report.check(
            "SI1", "the secret is not older than its contract allows", subject=item["path"], unit="s", expected="<= %d" % item["max_age_s"],
            controls=["SR 1.5"], hint="ansible-playbook hnai.platform.rotate -e rotate_secret=%s" % item["path"] if item["kind"] else item["why"],
            explain="bao kv metadata get hnai/%s" % item["path"],
        ) as check:
            row = describe(store, item, seen, now(), living)
            rows.append(row)
            check.observed = row["age_s"]
            check.evidence = {key: row[key] for key in (
                "kind", "version", "consumers", "alive", "last_rotation", "last_outcome", "last_proof", "last_reader", "last_read", "rotates",
            )}
            if row["age_s"] is None:
                gone = "its version %d was deleted: bao kv undelete brings it back, a destroyed one only a snapshot" % row["version"]
                check.fail(gone if row["version"] else "OpenBao has no such secret")
            elif not row["max_age_s"]:
                check.fail("its contract names no max_age")
            elif row["written"] > now() + CLOCK_TOLERANCE_S:
                check.inconclusive("it was written %.0f s from now: a clock was wrong, here or where OpenBao ran" % (row["written"] - now()))
            elif row["deleted_at"] and row["deleted_at"] < row["written"] + row["max_age_s"]:
                when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row["deleted_at"]))
                check.fail("OpenBao deletes its version %d at %s (delete_version_after of the mount, BAO09, or of the secret): set that to 0s, then rotate it"
                           % (row["version"], when))
            else:
                check.expected = "<= %d" % row["max_age_s"]
                check.passed(row["age_s"] <= row["max_age_s"])
        with report.check(
            "SI2", "no rotation of the secret was left open", subject=item["path"], expected="", hint="run the rotation again, or roll it back",
            explain="bao kv get hnai/%s/_rotation" % item["path"],
        ) as check:
            if not row:
                check.inconclusive("the journal could not be read (SI1)")
            else:
                check.observed = "%s %s" % (row["run_id"], row["rotation"]) if row["rotation"] else ""
                check.passed(not row["rotation"] or not row["lease_over"])
        if item["kind"] == KIND:
            continue  # its value lies in no KV that anybody could read
        with report.check(
            "SI3", "only those read the secret that its contract names", subject=item["path"], expected=[], controls=["SR 2.8", "SR 6.1"],
            hint="treat the secret as known: ansible-playbook hnai.platform.rotate -e rotate_secret=%s -e rotate_reason=compromise" % item["path"],
            explain="grep the audit log for hnai/data/%s" % item["path"],
        ) as check:
            if owner:
                check.skip("external: %s" % owner)
            elif unread:
                check.inconclusive("the audit log cannot be read: %s" % unread)
            else:
                following = log.get(item["path"] + NEXT, {})
                strangers = (set(seen) | set(following)) - {policies.PREFIX + name for name in item["readers"]} - set(ALWAYS)
                # What somebody read before this version was written opens nothing any more; before that it lay beside the secret, since its run began.
                since, began = row.get("written") or 0.0, row.get("began") or 0.0
                check.observed = sorted(name for name in strangers if seen.get(name, -1.0) >= since or following.get(name, -1.0) >= began)
                check.evidence = {"readers": {name: seen[name] for name in sorted(seen)}, "log_begins": begin,
                                  "read an older version": sorted(strangers - set(check.observed))}
                check.passed(not check.observed)
    with report.check(
        "SI4", "every secret is named by a contract", expected=[], controls=["SR 1.5"],
        hint="whoever wrote it says what reads it: a contract names it, or key holders erase it (docs/decommission.md)",
        explain="bao kv list -mount=hnai, and of each folder",
    ) as check:
        beside = unnamed(store, items, now())
        # What a component that stands nowhere any more left behind: decommission says so, and it may come back.
        left = [one for one in beside if one["path"].removesuffix(JOURNAL).removesuffix(NEXT) in declared]
        check.observed = [one["path"] for one in beside if one not in left]
        check.evidence = {"unnamed": [one for one in beside if one not in left], "of components that stand nowhere": left}
        check.passed(not check.observed)
    return rows
