# SPDX-License-Identifier: Apache-2.0
"""What was expected, what arrived, and the judgement: the record, of which everything else is a view."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    SKIPPED,
    STATUSES,
    aggregate,
)
from ansible_collections.hnai.platform.plugins.plugin_utils.checks import Entry, fields, find

SCHEMA = "hnai-verdict/1"
VERDICT_SUFFIX = "_verdict"
BROKEN_SUFFIX = "_broken"
VISIT = "hnai_verdicts"
"""What host_verdicts found on a host: the same variables in C(verdicts), and why one is missing in C(broken)."""
UNREACHABLE = "the host could not be reached"
SCOPES = {"ot": frozenset({"modbus_filter", "mosquitto", "ot_collector"}), "zones": frozenset({"firewall"})}
"""Tags that stand for the checks of several components."""
TEXTS = ("id", "title", "status", "subject", "unit", "reason", "hint", "explain")
DEEP, HUGE = 40, 1e300
"""What of a check is text; the deepest nesting of its values, and the first number that is shown as text."""


@dataclass(frozen=True)
class Expectation:
    """What must arrive of *component*: every variable of *names* from every host of *hosts* (or, once, from any).

    A name but the first may be skipped by its task on a host that it does not concern.
    """

    component: str
    module: str
    hosts: tuple[str, ...]
    once: bool = False
    names: tuple[str, ...] = ()


def selected(components: Iterable[str], run_tags: Sequence[str], skip_tags: Sequence[str]) -> set[str]:
    """Components whose checks ran under these tags: all for ``all`` or ``verify``, else those that are named, or in a named scope."""
    names = set(components)
    if not {"all", "verify"} & set(run_tags):
        names &= set(run_tags).union(*(SCOPES[tag] for tag in run_tags if tag in SCOPES))
    return names - set(skip_tags)


def verdict_of(name: str, components: Iterable[str]) -> str:
    """The component of a verdict variable ``<component>_verdict[__anything]``; empty for any other variable."""
    return next((one for one in components if name == one + VERDICT_SUFFIX or name.startswith(one + VERDICT_SUFFIX + "__")), "")


def registered(tasks: Any, component: str) -> tuple[str, ...]:
    """Verdict variables that the tasks of a role's tasks/verify.yml register, in order, blocks included."""
    found: list[str] = []
    for task in tasks if isinstance(tasks, list) else []:
        for part in ("block", "rescue", "always"):
            found += registered(task.get(part), component)
        name = task.get("register")
        if isinstance(name, str) and verdict_of(name, [component]) and name not in found:
            found.append(name)
    return tuple(found)


def expectations(
    contracts: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    play_hosts: Sequence[str],
    chosen: set[str],
    names: Mapping[str, tuple[str, ...]] | None = None,
    scopes: Iterable[str] = (),
) -> list[Expectation]:
    """What must arrive: the verdicts of every chosen contract that has a health module, from its hosts, as far as the
    run covers them. *names*: component -> variables that its tasks/verify.yml registers. *scopes*: what this run judges beside the visits,
    so that a contract whose health belongs to a scope is expected then, and only then.
    """
    found = []
    for name, contract in sorted(contracts.items()):
        health = contract.get("health")
        if name not in chosen or not isinstance(health, Mapping) or health.get("scope", "") not in {"", *scopes}:
            continue
        members = groups.get(contract.get("placement", name), ())
        hosts = tuple(host for host in members if host in play_hosts)
        if hosts:
            variables = (names or {}).get(name) or (name + VERDICT_SUFFIX,)
            found.append(Expectation(name, str(health["module"]), hosts, health.get("run") == "once", variables))
    return found


def visited(contract: Mapping[str, Any]) -> bool:
    """Is the component judged by the one visit to its host? One whose health belongs to a scope has plays of its own."""
    health = contract.get("health")
    return isinstance(health, Mapping) and not health.get("scope")


def scoped(run_tags: Sequence[str], skip_tags: Sequence[str], profile: str) -> set[str]:
    """Scopes with plays of their own that a run judges: all of a full one, else those that are named."""
    whole = profile == "full" and {"all", "verify"} & set(run_tags)
    return (set(SCOPES) if whole else set(SCOPES) & set(run_tags)) - set(skip_tags)


def checked(contracts: Mapping[str, Mapping[str, Any]], group_names: Iterable[str], chosen: set[str]) -> list[str]:
    """Components that a host of these groups carries and that have a health module; the one that stands on every host comes first."""
    groups = {*group_names, "all"}
    found = [
        name for name, contract in contracts.items()
        if name in chosen and visited(contract) and contract.get("placement", name) in groups
    ]
    return sorted(found, key=lambda name: (contracts[name].get("placement", name) == name, name))


def certificates(contracts: Mapping[str, Mapping[str, Any]], group_names: Iterable[str]) -> list[str]:
    """Certificate files that the components of a host of these groups must have."""
    groups = {*group_names, "all"}
    return [
        f"/etc/hnai/{name}/tls/cert.pem" for name, contract in sorted(contracts.items())
        if contract.get("certificate") and contract.get("placement", name) in groups
    ]


def exposure(contracts: Mapping[str, Mapping[str, Any]], group_names: Iterable[str]) -> dict[str, float]:
    """Unit -> worst score of its sandbox that a contract allows, of the units of a host of these groups."""
    groups = {*group_names, "all"}
    return {
        unit["name"]: float(unit["max_exposure"])
        for name, contract in sorted(contracts.items()) if contract.get("placement", name) in groups
        for unit in contract.get("service", {}).get("units", [])
        if "max_exposure" in unit and unit.get("group", "all") in groups
    }


@dataclass
class Arrived:
    """Verdicts that came and the raw evidence they carried; which variables came or were skipped, by (host, name);
    why others did not come, by (component, host)."""

    verdicts: list[dict[str, Any]] = field(default_factory=list)
    raw: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    come: set[tuple[str, str]] = field(default_factory=set)
    skipped: set[tuple[str, str]] = field(default_factory=set)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)


def _flat(value: Any) -> Iterable[Mapping[str, Any]]:
    """A registered result, or those of its loop."""
    if isinstance(value, Mapping):
        results = value.get("results")
        if isinstance(results, Sequence) and not isinstance(results, str) and "checks" not in value:
            for item in results:
                yield from _flat(item)
        else:
            yield value


def _plain(value: Any, depth: int = 0) -> Any:
    """A value of a host as every view can show it: keys are text, a number is finite, and no nesting is without end."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()} if depth < DEEP else "…"
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value] if depth < DEEP else "…"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value if abs(value) < HUGE else str(value)
    return value if value is None or isinstance(value, bool) else str(value)


def _check(item: Any, component: str) -> dict[str, Any]:
    """A check in the shape that the views rely on, whatever a host said. What has no known status is inconclusive, and says so."""
    given = _plain(item) if isinstance(item, Mapping) else {"observed": _plain(item)}
    found = {name: str(value) if name in TEXTS else value for name, value in given.items() if name not in TEXTS or value is not None}
    ident = found.setdefault("id", f"V-{component}")
    found.setdefault("title", "a check without a title")
    if found.get("status") not in STATUSES:
        found.update(status=INCONCLUSIVE, reason=f"the check module gave {ident} no status that is known: {found.get('status', 'none')}")
    found["evidence"] = given["evidence"] if isinstance(given.get("evidence"), Mapping) else {}
    controls = given.get("controls")
    found["controls"] = [str(one) for one in controls] if isinstance(controls, list) else []
    took = given.get("duration_ms")
    found["duration_ms"] = float(took) if isinstance(took, (int, float)) and took >= 0 else 0.0
    return found


def _no_verdict(result: Mapping[str, Any]) -> str:
    """Why a registered result is no verdict."""
    what = UNREACHABLE if result.get("unreachable") else "the check module gave no verdict"
    return f"{what}: {' '.join(str(result.get('msg', '')).split())}".rstrip(": ")


def _visited(arrived: Arrived, host: str, visit: Any, components: Sequence[str]) -> dict[str, Any]:
    """Verdict variables that a visit brought; why others are missing is kept, under no component where it holds for all."""
    if not isinstance(visit, Mapping):
        return {}
    if "verdicts" not in visit:
        arrived.reasons["", host] = _no_verdict(visit)
        return {}
    for name, reason in visit.get("broken", {}).items():
        arrived.reasons.setdefault((verdict_of(name, components), host), str(reason))
    return dict(visit["verdicts"])


def collect(variables: Mapping[str, Mapping[str, Any]], components: Iterable[str]) -> Arrived:
    """Read what the visit of every host found (``hnai_verdicts``), ``<component>_verdict[__anything]`` and ``<component>_broken``.

    *variables*: host -> its variables.
    """
    arrived = Arrived()
    names = list(components)
    broken = {name + BROKEN_SUFFIX: name for name in names}
    seen: set[str] = set()
    for host in sorted(variables):
        found = _visited(arrived, host, variables[host].get(VISIT), names)
        visited = set(found)
        found.update((name, variables[host][name]) for name in variables[host] if name in broken or verdict_of(name, names))
        for name, value in sorted(found.items()):
            if name in broken:
                arrived.reasons[broken[name], host] = str(value)
            component = verdict_of(name, names)
            if not component:
                continue
            for result in _flat(value):
                checks = result.get("checks")
                if not isinstance(checks, Sequence) or isinstance(checks, str):
                    if result.get("skipped"):
                        arrived.skipped.add((host, name))
                        continue
                    arrived.reasons.setdefault((component, host), _no_verdict(result))
                    continue
                if not checks:
                    arrived.reasons.setdefault((component, host), "the check module made no check")
                    continue
                arrived.come.add((host, name))
                checks = [_check(check, component) for check in checks]
                # A task with run_once registers the same result for every host. What a visit brings is each host's own, even in the same millisecond.
                key = json.dumps([name, result.get("component"), result.get("module"), result.get("started_at"), checks], sort_keys=True)
                if name not in visited and key in seen:
                    continue
                seen.add(key)
                verdict: dict[str, Any] = {
                    field_name: str(result.get(field_name) or "")
                    for field_name in ("component", "version", "module", "status", "summary", "started_at", "ended_at")
                }
                verdict["component"] = verdict["component"] or component
                verdict["host"] = host
                verdict["checks"] = checks
                arrived.verdicts.append(verdict)
                if isinstance(result.get("raw"), Mapping):
                    arrived.raw.setdefault((verdict["component"], host), {}).update({str(name): str(text) for name, text in result["raw"].items()})
    return arrived


def missing_verdicts(expected: Sequence[Expectation], arrived: Arrived) -> list[dict[str, Any]]:
    """A verdict for each one that was expected and did not come: inconclusive, naming component, host and reason."""
    found = []
    # Nobody asks the other components of a host that could not be reached once.
    away = {host: why for (_component, host), why in sorted(arrived.reasons.items()) if why.startswith(UNREACHABLE)}
    for item in expected:
        names = item.names or (item.component + VERDICT_SUFFIX,)
        absent: dict[str, list[str]] = {}
        for host in item.hosts:
            lacking = [name for name in names if (host, name) not in arrived.come]
            if len(lacking) < len(names):
                lacking = [name for name in lacking if (host, name) not in arrived.skipped]
            if lacking:
                absent[host] = lacking
        if item.once:
            absent = {} if len(absent) < len(item.hosts) else dict(list(absent.items())[:1])
        for host, lacking in absent.items():
            reason = arrived.reasons.get((item.component, host)) or arrived.reasons.get(("", host)) or away.get(host, "no verdict arrived")
            module = item.module if len(lacking) == len(names) else ", ".join(lacking)
            title = f"{module} on {host} gives a verdict"
            found.append({
                "component": item.component, "version": "", "module": item.module, "host": host, "status": INCONCLUSIVE,
                "summary": f"{item.component} on {host}: {reason}", "started_at": "", "ended_at": "",
                "checks": [{
                    "id": f"V-{item.component}", "title": title, "status": INCONCLUSIVE, "observed": None, "expected": "a verdict",
                    "unit": "", "evidence": {}, "duration_ms": 0.0, "controls": [], "reason": reason,
                    "hint": f"is {host} up, and is the conduit of management to it open?",
                    "explain": f"ansible-playbook hnai.platform.verify --limit {host} --tags {item.component} -vvv",
                }],
            })
    return found


@dataclass
class Judgement:
    """The verdict of the whole, what speaks against it, and what is merely worth knowing."""

    verdict: str
    counts: dict[str, int]
    problems: list[dict[str, Any]]
    notices: list[str]

    @property
    def failed(self) -> bool:
        return self.verdict != PASS

    def summary(self) -> str:
        """One line."""
        counted = ", ".join(f"{self.counts[status]} {status}" for status in STATUSES if self.counts[status]) or "nothing was checked"
        line = f"{self.verdict}: {counted}"
        shown = [f"{p['component']}/{p['host']} {p['id']} {p['title']} [{p['why']}]" for p in self.problems[:4]]
        if len(self.problems) > 4:
            shown.append(f"and {len(self.problems) - 4} more")
        return line + ("; " + "; ".join(shown) if shown else "")


def judge(
    verdicts: Sequence[Mapping[str, Any]],
    expected_skips: Iterable[str] = (),
    allow_inconclusive: Iterable[str] = (),
    complete: bool = True,
) -> Judgement:
    """Judge all checks together.

    A fail fails; so does an inconclusive one whose id is not allowed, and a skipped one that the site did not announce.
    With *complete* (the run covered the whole site) an announced skip of a check that was made is a notice.
    """
    skips, allowed = set(expected_skips), set(allow_inconclusive)
    counts = dict.fromkeys(STATUSES, 0)
    problems: list[dict[str, Any]] = []
    weight: list[str] = []
    skipped: set[str] = set()
    made: set[str] = set()
    for verdict in verdicts:
        for check in verdict["checks"]:
            made.add(check["id"])
            status = check.get("status") if check.get("status") in STATUSES else INCONCLUSIVE
            counts[status] += 1
            why = ""
            if status == FAIL:
                why, counted = FAIL, FAIL
            elif status == INCONCLUSIVE:
                counted = PASS if check["id"] in allowed else INCONCLUSIVE
                why = "" if check["id"] in allowed else INCONCLUSIVE
            elif status == SKIPPED:
                skipped.add(check["id"])
                counted = PASS if check["id"] in skips else FAIL
                why = "" if check["id"] in skips else "skipped, but hnai_expected_skips does not list it"
            else:
                counted = PASS
            weight.append(counted)
            if why:
                problems.append({
                    "component": verdict["component"], "host": verdict["host"], "id": check["id"], "title": check["title"],
                    "subject": check.get("subject", ""), "why": why, "reason": check.get("reason", ""), "hint": check.get("hint", ""),
                })
    rank = {FAIL: 0, INCONCLUSIVE: 1}
    problems.sort(key=lambda problem: rank.get(problem["why"], 0))
    notices = []
    if complete:
        notices = [
            f"{id} is listed in hnai_expected_skips but was not skipped: it can be checked here, take it off the list"
            for id in sorted(skips & made - skipped)
        ]
    return Judgement(aggregate(weight), counts, problems, notices)


def describe(judgement: Judgement, verdicts: Sequence[Mapping[str, Any]], register: Mapping[str, Entry]) -> None:
    """Give each problem what the register says of its id, and notice ids that it does not hold."""
    for problem in judgement.problems:
        entry = find(register, problem["id"])
        problem.update(fields(entry) if entry else {"severity": "critical", "meaning": "", "action": ""})
    unknown = sorted({check["id"] for verdict in verdicts for check in verdict["checks"] if find(register, check["id"]) is None})
    judgement.notices += [f"{ident} stands in no meta/checks.yml: nobody is told what it means" for ident in unknown]


def component_table(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Name, version, hosts, status and counts of each component, in order of name."""
    table: dict[str, dict[str, Any]] = {}
    for verdict in verdicts:
        row = table.setdefault(
            verdict["component"], {"name": verdict["component"], "versions": set(), "hosts": set(), "statuses": []}
        )
        if verdict.get("version"):
            row["versions"].add(verdict["version"])
        row["hosts"].add(verdict["host"])
        row["statuses"] += [check.get("status") or INCONCLUSIVE for check in verdict["checks"]]
    return [
        {
            "name": name, "version": ", ".join(sorted(row["versions"])), "hosts": sorted(row["hosts"]),
            "status": aggregate(row["statuses"]), "counts": {status: row["statuses"].count(status) for status in STATUSES},
        }
        for name, row in sorted(table.items())
    ]


def build(
    verdicts: Sequence[Mapping[str, Any]],
    judgement: Judgement,
    **facts: Any,
) -> dict[str, Any]:
    """The record. *facts*: run_id, site, environment, profile, started_at, ended_at, subject, last_full, expected_skips …"""
    return {
        "schema": SCHEMA,
        **facts,
        "verdict": judgement.verdict,
        "summary": judgement.summary(),
        "counts": judgement.counts,
        "problems": judgement.problems,
        "notices": judgement.notices,
        "components": component_table(verdicts),
        "verdicts": list(verdicts),
    }


def digest_of(files: Mapping[str, bytes]) -> str:
    """One sha256 over names and contents, independent of order."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return whole.hexdigest()
