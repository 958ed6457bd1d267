# SPDX-License-Identifier: Apache-2.0
"""What a run in check mode predicts, gathered: files per host, restarts and reloads in their order with their gates. Controller only.

Knows nothing of Ansible: `playbooks/callback_plugins/hnai_plan.py` hands over one `Event` per result, in the order of the run, which is the
order in which a run without check mode acts.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
OURS = "hnai.platform."
#: Lists in the results of our modules that name what changes beside files.
_NAMED = (
    "changes", "reasons", "created_topics", "changed_topics", "changed_users", "changed_quotas", "created_acls", "deleted_acls", "changed_names", "sysctl",
)  # fmt: skip
#: What `unit` did to what runs, and what it did to the next boot; in its own words.
_DONE = ("started", "restarted", "reloaded", "stopped")
_BOOT = ("enabled", "disabled")


@dataclass(frozen=True)
class Event:
    """One result of one task on one host. `component`: the role, of `roles/component` its caller. `serial`: hosts that the play takes at a time."""

    host: str
    play: str
    task: str
    module: str
    component: str
    result: Mapping[str, Any]
    serial: int = 0
    state: str = "ok"


@dataclass
class _Host:
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    others: list[dict[str, str]] = field(default_factory=list)
    #: Paths that differ after the run, for what a unit that reads them will do.
    paths: list[str] = field(default_factory=list)
    #: {component: patterns of what its packages bring}: which package owns which program is not known before it is installed.
    packaged: dict[str, list[str]] = field(default_factory=dict)


def below(path: str, patterns: Iterable[str]) -> bool:
    """Whether a changed path (a directory ends in a slash) is one of the patterns, or lies in one. Where the path itself is a pattern, because
    nobody says which file of it changes, it is taken for each that it could be."""
    plain = path.rstrip("/")
    parts = plain.split("/")
    parents = ["/".join(parts[: count + 1]) for count in range(1, len(parts))]
    return any(
        fnmatch.fnmatchcase(parent, pattern.rstrip("/")) or ("*" in plain and fnmatch.fnmatchcase(pattern, plain))
        for pattern in patterns
        for parent in parents
    )


def gather(events: Iterable[Event]) -> dict[str, Any]:
    """The plan: {format, hosts, restarts, not_predicted, failed, looked, complete}. Lists are in the order of the run; everything is plain JSON.
    `looked`: whether a task of a component ran, or anything failed or would change."""
    hosts: dict[str, _Host] = {}
    restarts: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    gates: dict[tuple[str, str], list[str]] = {}
    looked = False
    for event in events:
        # Arguments of a role are validated whatever the tags are.
        own = event.component and not event.module.endswith(".validate_argument_spec")
        looked = looked or bool(own or event.result.get("changed") or event.state in ("failed", "unreachable"))
        where = {"host": event.host, "component": event.component, "task": event.task}
        if event.state in ("failed", "unreachable"):
            failed.append({**where, "why": f"{event.state}: {event.result.get('msg') or 'no message'}"})
            continue
        if event.state == "skipped":
            if "check mode" in str(event.result.get("msg", "")):
                missing.append({**where, "why": str(event.result["msg"])})
            continue
        host = hosts.setdefault(event.host, _Host())
        name = event.module.removeprefix(OURS)
        if name.endswith("_gate"):
            gates.setdefault((event.host, event.play), []).append(f"{name} {_arguments(event).get('state', '')}".strip())
        for unit in event.result.get("stopped") or [] if name == "config_tree" else []:
            gone = {"host": event.host, "unit": str(unit), "component": event.component, "action": "stopped", "gate": ""}
            _merge(restarts, {**gone, "one_at_a_time": event.serial == 1, "causes": [path for path in event.result["removed"] if path.endswith(f"/{unit}")]})
        if name == "unit":
            for unit, found in _results(event).items():
                lines = [{"what": f"{unit} {action}", "component": event.component} for action in found.get("actions") or [] if action in _BOOT]
                host.others += [line for line in lines if line not in host.others]
            for found in _units(event, [*host.paths, *host.packaged.get(event.component, [])]):
                found["gate"] = ", ".join(dict.fromkeys(gates.get((event.host, event.play), [])))
                _merge(restarts, found)
        elif event.result.get("changed"):
            _changed(event, name, host)
    for number, restart in enumerate(restarts, 1):
        restart["turn"] = number
        if restart["action"] == "restart pending" and not restart["gate"]:
            restart["gate"] = "asked by the component's roll, which this check did not reach"
    shown = {
        name: {"files": [{"path": path, **how} for path, how in sorted(host.files.items())], "others": host.others}
        for name, host in sorted(hosts.items())
        if host.files or host.others
    }
    return {"format": FORMAT, "hosts": shown, "restarts": restarts, "not_predicted": missing, "failed": failed, "looked": looked,
            "complete": looked and not failed}


def _arguments(event: Event) -> Mapping[str, Any]:
    """What the module was called with; empty where the result does not say."""
    return dict((event.result.get("invocation") or {}).get("module_args") or {})


def _changed(event: Event, name: str, host: _Host) -> None:
    """Notes what a result that says `changed` is about."""
    result = event.result
    how = {"component": event.component}
    told = False
    for key, action in (("changed_paths", "written"), ("removed", "removed")):
        for path in result.get(key) or []:
            rights = path in (result.get("rights") or [])
            host.files[str(path)] = {"action": "rights" if rights else action, **how}
            host.paths += [] if rights else [str(path)]
            told = True
    if name == "artifact":
        for artifact, found in sorted((result.get("artifacts") or {}).items()):
            if found.get("changed"):
                host.others.append({"what": f"artifact {artifact} {found.get('version', '')}".strip(), **how})
                host.paths.append(f"/opt/hnai/{artifact}/current")
                told = True
        installed = (result.get("debs") or {}).get("installed") or []
        if installed:
            host.others.append({"what": "packages " + ", ".join(map(str, installed)), **how})
            host.packaged[event.component] = ["/usr/bin/*", "/usr/sbin/*"]
            told = True
    elif name == "credentials":
        # What a credential says stays hidden (no_log), that one changes does not.
        host.others.append({"what": "credentials or certificate", **how})
        host.paths += [f"/etc/credstore.encrypted/hnai-{event.component}.*", f"/etc/hnai/{event.component}/tls/"]
        told = True
    for key in _NAMED:
        for what in (result.get(key) or []) if name != "credentials" else []:
            host.others.append({"what": f"{key.replace('_', ' ')}: {what}" if key not in ("changes", "reasons") else str(what), **how})
            told = True
    if not told:
        asked = _arguments(event)
        where = str(result.get("path") or result.get("dest") or asked.get("path") or asked.get("dest") or "")
        if where:
            host.files[where] = {"action": "written", **how}
            host.paths.append(where)
        else:
            host.others.append({"what": event.task, **how})


def _results(event: Event) -> dict[str, Any]:
    """What a result of `unit` says of each unit, by its name."""
    return dict(event.result.get("units") or {str(_arguments(event).get("name")): event.result})


def _units(event: Event, changed: list[str]) -> Iterator[dict[str, Any]]:
    """What a result of `unit` predicts, unit by unit, and what follows from files that change before it."""
    arguments = _arguments(event)
    asked = {str(one["name"]): one for one in (arguments.get("units") or [arguments]) if one.get("name")}
    for name, found in _results(event).items():
        ask = asked.get(name, {})
        action = next((done for done in _DONE if done in (found.get("actions") or [])), "")
        if not action and found.get("restart_pending"):
            action = "restart pending"
        causes = [str(path) for path in found.get("causes") or []]
        if action in ("", "reloaded"):
            # Files that change in this run may ask for a restart where until now a reload was due.
            more, because = _follows(name, ask, changed, bool(arguments.get("rolling")) and not arguments.get("force_restart"))
            action, causes = more or action, list(dict.fromkeys([*causes, *because]))
        if action:
            yield {
                "host": event.host,
                "unit": name,
                "component": event.component,
                "action": action,
                "one_at_a_time": event.serial == 1 or bool(arguments.get("rolling")),
                "causes": causes,
            }


def _follows(name: str, ask: Mapping[str, Any], changed: list[str], rolling: bool) -> tuple[str, list[str]]:
    """The action that files which change in the same run lead to, as the unit's digests will see them."""
    reload_on = list(ask.get("reload_on") or [])
    ignore = [*(ask.get("restart_ignore") or []), *reload_on]
    own = [f"/etc/systemd/system/{name}", f"/etc/systemd/system/{name}.d", f"/usr/lib/systemd/system/{name}"]
    restart = [path for path in changed if below(path, [*(ask.get("restart_on") or []), *own]) and not below(path, ignore)]
    if restart:
        return "restart pending" if rolling else "restarted", restart
    reload = [path for path in changed if below(path, reload_on)]
    return ("reloaded", reload) if reload else ("", [])


def _merge(restarts: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """A restart that was pending in one play and is done in a later one is one, in the later one's place."""
    for index, known in enumerate(restarts):
        if (known["host"], known["unit"]) == (found["host"], found["unit"]):
            found["causes"] = list(dict.fromkeys([*known["causes"], *found["causes"]]))
            found["one_at_a_time"] = found["one_at_a_time"] or known["one_at_a_time"]
            del restarts[index]
            break
    restarts.append(found)


def table(plan: Mapping[str, Any]) -> str:
    """The plan for people."""
    lines = ["Plan: what a run without check mode would do. No host was changed.", ""]
    for host, found in plan["hosts"].items():
        lines.append(host)
        lines += [f"  {item['action']:8} {item['path']}  ({item['component']})" for item in found["files"]]
        lines += [f"  {'':8} {item['what']}  ({item['component']})" for item in found["others"]]
    if not plan["looked"]:
        lines.append("NOTHING WAS LOOKED AT, so nothing is known: no task bears these --tags, or --limit names no host of theirs.")
        return "\n".join(lines)
    if not plan["hosts"]:
        lines.append("No file, package or object differs." if plan["complete"] else "No change is known; what failed was not looked at.")
    lines.append("")
    if plan["restarts"]:
        lines.append("Restarts and reloads, in this order:")
        for item in plan["restarts"]:
            how = "one host at a time" if item["one_at_a_time"] else "hosts side by side"
            gate = f"; gate: {item['gate']}" if item["gate"] else ""
            because = f"; because of {', '.join(item['causes'][:3])}" if item["causes"] else ""
            lines.append(f"  {item['turn']:3}. {item['host']}: {item['unit']} {item['action']}, {how}{gate}{because}")
    else:
        lines.append("No unit restarts or reloads." if plan["complete"] else "No restart or reload is known.")
    for title, key in (("Cannot be predicted:", "not_predicted"), ("FAILED, so the plan is not complete:", "failed")):
        if plan[key]:
            lines += ["", title, *(f"  {item['host']}: {item['task']}: {item['why']}" for item in plan[key])]
    return "\n".join(lines)
