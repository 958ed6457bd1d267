# SPDX-License-Identifier: Apache-2.0
"""`validate`: everything that is wrong with a site, in one list, without contacting a host."""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.hnai.platform.plugins.module_utils.openbao.endpoint import endpoint
from ansible_collections.hnai.platform.plugins.module_utils.zones.acls import check_kafka, check_mqtt
from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import (
    approvals,
    approved_book,
    contract_file,
    needed_flows,
    source_endpoint,
    source_key,
)
from ansible_collections.hnai.platform.plugins.module_utils.zones.law import dial, refused
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import (
    CLOCK,
    DIRECTIONS,
    FILTER,
    FILTER_UID,
    JUMP_GROUP,
    KINDS,
    MANAGED_GROUP,
    READ_VERBS,
    ROUTER_GROUP,
    Flow,
    Problem,
    Service,
    Site,
)

#: Variables with our prefix that belong to no single role.
SITE_VARIABLES = frozenset(
    {
        "hnai_addresses",
        "hnai_assets",
        "hnai_boundaries",
        "hnai_break_glass",
        "hnai_ca_pem",
        "hnai_conduits",
        "hnai_control_identities",
        "hnai_debian",
        "hnai_dual_homed",
        "hnai_environment",
        "hnai_expected_skips",
        "hnai_full_expected_skips",
        "hnai_allow_inconclusive",
        "hnai_full_verdict_max_age",
        "hnai_interfaces",
        "hnai_intrusive_approvers",
        "hnai_intrusive_tokens",
        "hnai_management",
        "hnai_openbao_deploy",
        "hnai_ot_sources",
        "hnai_second_addresses",
        "hnai_site",
        "hnai_site_model",
        "hnai_slo",
        "hnai_state_dir",
        "hnai_store_dir",
        "hnai_units",
        "hnai_zone",
        "hnai_zones",
    }
)
#: Child group of the collector's hosts that hear Sparkplug B edge nodes.
HEARING = "ot_collector_sparkplug"
#: Components whose modules import what only the probe environment has (roles/probe).
_PROBED = ("kafka", "ot_collector")
#: Of Debian, as targets may run them.
RELEASES = ("12", "13")
#: Of hnai_slo beside its hops: the most that each may be.
_SLO = {"freshness_p95_s": 86400.0, "completeness": 1.0, "window_s": 86400.0}
_HOP = frozenset(("outage_s", "records_per_s", "record_bytes", "sources"))
_SECONDS = {"milliseconds": 0.001, "seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
_BYTES = {"bytes": 1, "mebibytes": 1024 * 1024}


def validate(data: Mapping[str, Any], today: datetime.date) -> list[dict[str, Any]]:
    """All problems of the site in `data` (format: model.py), sorted: {file, key, message, remedy, invariant, severity, sr}.

    `today` is given, so that expiry is a fact of the input: a day, or a moment (datetime with a zone, else UTC).
    """
    return [problem.as_dict() for problem in judge(Site.from_dict(data), data, today)]


def judge(site: Site, data: Mapping[str, Any], today: datetime.date) -> list[Problem]:
    """As `validate`, of a model that was already read from `data`."""
    flows, unresolved = needed_flows(site)
    found = [*site.problems, *unresolved]
    if not site.groups.get(MANAGED_GROUP):
        # Without it every other question has the answer that nothing is wrong.
        remedy = f"put every host that site.yml may touch into the group {MANAGED_GROUP}"
        found.append(Problem("inventory", f"groups.{MANAGED_GROUP}", "is empty or missing: there is no site", remedy, "format"))
    # What has no kind or direction that is known can be held against nothing.
    forbidden = refused(site, site.conduits) + refused(site, [one for one in site.flawed if one.kind in KINDS and one.direction in DIRECTIONS])
    found += forbidden
    found += _missing(site, flows)
    found += _stale(site, flows, {problem.key for problem in forbidden})
    found += _approved_twice(site)
    found += _misplaced(site)
    found += _boundaries(site)
    found += _clock(site)
    found += _filter_user(site)
    found += _unaudited(site)
    found += expiry(site, today)
    found += _placement(site)
    found += _unprobed(site)
    found += _releases(site)
    found += _ports(site)
    found += _external(site)
    found += _quorum(site)
    found += _buffers(site)
    found += check_kafka(site) + check_mqtt(site) + _edge_nodes(site) + _endpoints(site) + _faster_than_approved(site)
    found += _names(site, data)
    return sorted(set(found))


def _missing(site: Site, flows: Iterable[Flow]) -> list[Problem]:
    """Needed flows without a conduit, one problem per component and listener."""
    approved = {*approved_book(site), *approvals(site.flawed)}
    groups: dict[tuple[str, str, str, int, str, str], list[Flow]] = {}
    for flow in flows if "hnai_conduits" not in site.unread else ():
        # Somebody approves it, and one of the two ends is misspelt there.
        meant = any(
            (flow.proto, flow.port) == (service.proto, service.port) and (flow.source in sources or flow.target in targets)
            for sources, targets, service in site.halves
        )
        if not meant and (flow.source, flow.target, flow.proto, flow.port) not in approved:
            groups.setdefault((flow.component, flow.listener, flow.proto, flow.port, flow.why, flow.file), []).append(flow)
    found = []
    for (component, listener, proto, port, why, file), members in groups.items():
        pairs = ", ".join(f"{flow.source} → {flow.target}" for flow in members)
        kind = "management" if component == "management" or component in site.services else "direct"
        service = _wish(site, members[0])
        refusal = dial(site, site.nodes[members[0].source], site.nodes[members[0].target], service, kind)
        invariant = "I9" if component in ("management", "time") or component in site.services else "flow"
        if refusal is not None:
            message = f"{component} needs {proto}/{port} ({listener}: {why}), which no conduit may allow: {pairs}; {refusal.message}"
            found.append(Problem(file, f"{component} → {listener}", message, refusal.remedy, refusal.invariant))
            continue
        remedy = f"approve a conduit {proto}/{port} from {members[0].source} to {members[0].target} (owner, reason, expires)"
        remedy += ", or take the component out of the inventory"
        message = f"{component} needs {proto}/{port} ({listener}: {why}) and no conduit allows it: {pairs}"
        found.append(Problem(site.file("hnai_conduits"), f"hnai_conduits: {component} → {listener}", message, remedy, invariant))
    return found


def _wish(site: Site, flow: Flow) -> Service:
    """The service of a needed flow, with the read verbs that a conduit into level 2 would name."""
    component, _dot, name = flow.listener.partition(".")
    if not name:
        from_verbs = {"opcua": ("read",), "modbus": ("read",)}.get(component, ())
        return Service(flow.proto, flow.port, "", "", component, from_verbs)
    return Service(flow.proto, flow.port, component, name)


def _stale(site: Site, flows: Iterable[Flow], forbidden: set[str]) -> list[Problem]:
    needed = {(flow.source, flow.target, flow.proto, flow.port) for flow in flows}
    found = []
    for conduit in site.conduits:
        key = f"hnai_conduits[{conduit.id}]"
        plant = "hnai_ot_sources" in site.unread and any(site.zones[site.nodes[name].zone].level <= 2 for name in conduit.targets)
        if conduit.needed_by or key in forbidden or plant:
            continue
        pairs = list(conduit.pairs())
        unused = [pair for pair in pairs if (*pair, conduit.service.proto, conduit.service.port) not in needed]
        if unused and len(unused) == len(pairs):
            message = f"nothing needs {conduit.service.text}: {_pairs(unused)}"
            remedy = "remove it, or say in needed_by what outside the contracts does"
            found.append(Problem(site.file("hnai_conduits"), key, message, remedy, "stale"))
        elif unused:
            message = f"is wider than the need: nothing needs {conduit.service.text} {_pairs(unused)}"
            found.append(
                Problem(
                    site.file("hnai_conduits"),
                    key,
                    message,
                    "name the hosts or the child group that need it",
                    "stale",
                    "warning",
                )
            )
    return found


def _approved_twice(site: Site) -> list[Problem]:
    """Two conduits between the same ends for one service: what they approve ends with neither of them, and has the limits of both. Ends of other
    names may share a host: each is somebody's need."""
    found: list[Problem] = []
    first: dict[tuple[Any, ...], str] = {}
    for conduit in site.conduits:
        same = (conduit.ends, conduit.service.proto, conduit.service.port, conduit.uid, conduit.source_address)
        other = first.setdefault(same, conduit.id)
        if other != conduit.id:
            message = f"approves what {other} approves: {conduit.service.text} from {conduit.ends[0]} to {conduit.ends[1]}"
            remedy = "leave one of the two: one flow has one owner and one end"
            found.append(Problem(site.file("hnai_conduits"), f"hnai_conduits[{conduit.id}]", message, remedy, "twice"))
    return found


def _misplaced(site: Site) -> list[Problem]:
    """Groups that look like one that places something, where nobody is in that one: a misspelt name places nothing, in silence."""
    named = {str(contract.get("placement", name)): name for name, contract in site.contracts.items()}
    for name, contract in site.contracts.items():
        for part in (*contract.get("listens", []), *contract.get("connects", []), *contract.get("buffers", [])):
            named.setdefault(str(part.get("group") or name), name)
    known = {*named, MANAGED_GROUP, JUMP_GROUP, ROUTER_GROUP}
    absent = sorted(name for name in known if not site.groups.get(name))
    found = []
    for group, members in sorted(site.groups.items()):
        near = difflib.get_close_matches(group, absent, n=1, cutoff=0.7) if members and group not in known else []
        if near:
            remedy = f"rename it to {near[0]}, or to something that cannot be taken for it"
            found.append(Problem("inventory", f"groups.{group}", f"places nothing; nobody is in {near[0]}", remedy, "name"))
    return found


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{source} → {target}" for source, target in pairs)


def _boundaries(site: Site) -> list[Problem]:
    """Between two zones that a conduit joins stands a router of ours, or somebody else's firewall that is declared."""
    ours = [{leg.zone for leg in router.interfaces} for router in site.routers()]
    crossed: dict[tuple[str, str], str] = {}
    for conduit in site.conduits:
        meets = [sorted({site.nodes[name].zone for name in names if not site.nodes[name].interfaces}) for names in (conduit.sources, conduit.targets)]
        for here in meets[0]:
            for there in meets[1]:
                if here != there:
                    crossed.setdefault((min(here, there), max(here, there)), conduit.id)
    found = []
    for (first, second), ident in sorted(crossed.items()):
        if site.external(first, second) or any({first, second} <= legs for legs in ours) or site.legless or site.missing("group", ROUTER_GROUP):
            continue
        message = f"joins {first} and {second}, and nothing is said to stand between them"
        boundary = "{between: [" + f"{first}, {second}" + "], enforced_by: external, owner, reason}"
        remedy = f"give a router hnai_interfaces in both, or declare in hnai_boundaries: {boundary}"
        found.append(Problem(site.file("hnai_conduits"), f"hnai_conduits[{ident}]", message, remedy, "boundary"))
    for one in site.boundaries:
        if one.mode and not any(one.zones <= legs for legs in ours):
            message = f"has a mode, and no router of ours stands between {' and '.join(sorted(one.zones))}"
            remedy = "remove it, or give a router hnai_interfaces in both"
            found.append(Problem(site.file("hnai_boundaries"), f"hnai_boundaries.{one.id}.firewall_mode", message, remedy, "boundary"))
    return found


def _clock(site: Site) -> list[Problem]:
    """What the jump is told to follow is what it may reach."""
    givers, _ports = site.services.get("ntp", ((), ()))
    reached = {name for giver in givers for name in (giver, site.nodes[giver].v4, site.nodes[giver].v6)}
    found = []
    for jump in site.groups.get(JUMP_GROUP, ()):
        told = site.vars.get(jump, {}).get(CLOCK)
        beyond = [one for one in told if one not in reached] if isinstance(told, list) else []
        if beyond:
            message = f"{', '.join(ascii(one)[:80] for one in beyond[:3])}: nothing lets {jump} reach it, so it would go on with its own clock"
            remedy = "describe it in hnai_assets, name it in hnai_management.ntp: {asset: …}, and approve the conduit; then this variable is not needed"
            found.append(Problem(site.file(CLOCK), f"{jump}: {CLOCK}", message, remedy, "I9"))
    return found


def _filter_user(site: Site) -> list[Problem]:
    """A conduit for one user of the filter's host is for the filter's own."""
    found = []
    for conduit in site.conduits:
        for host in sorted(set(conduit.sources) & set(site.placed(FILTER))) if conduit.source_address == FILTER and conduit.uid is not None else ():
            number = site.value(host, FILTER_UID)
            if str(number) != str(conduit.uid):
                message = f"is for the user {conduit.uid}, and the filter on {host} runs as {ascii(number)[:80]} ({FILTER_UID})"
                key = f"hnai_conduits[{conduit.id}].uid"
                found.append(Problem(site.file("hnai_conduits"), key, message, "write the same number in both", "flow"))
    return found


def _unaudited(site: Site) -> list[Problem]:
    """I8: what goes into level 2 must be something that an audit can be made of. That the audit is young enough is judged by verify."""
    audited = {(source_endpoint(site, source)[0], str(source.get("protocol"))) for source in site.sources}
    spoken = {source_endpoint(site, source): str(source.get("protocol")) for source in site.sources}
    found = []
    for conduit in site.conduits if "hnai_ot_sources" not in site.unread else ():
        plant = [name for name in conduit.targets if site.zones[site.nodes[name].zone].level <= 2]
        crossing = any(site.zones[site.nodes[name].zone].level > 2 for name in conduit.sources)
        missing = [name for name in plant if (name, conduit.service.app) not in audited]
        if missing and crossing:
            message = f"leads to {', '.join(missing)} by {conduit.service.app or 'no protocol'}, and no source of that kind stands there: nothing audits it"
            remedy = "declare the source in hnai_ot_sources, so that verify --tags ot audits it, or remove the conduit"
            found.append(Problem(site.file("hnai_conduits"), f"hnai_conduits[{conduit.id}].to", message, remedy, "I8"))
        for name in plant if crossing and not missing else ():
            speaks = spoken.get((name, conduit.service.port), conduit.service.app)
            if speaks != conduit.service.app and speaks in READ_VERBS:
                message = f"is approved as {conduit.service.app}, and the source at {name} {conduit.service.proto}/{conduit.service.port} speaks {speaks}"
                remedy = f"write app: {speaks} and its verbs, or correct the port"
                found.append(Problem(site.file("hnai_conduits"), f"hnai_conduits[{conduit.id}].service.app", message, remedy, "I8"))
    return found


def _moment(today: datetime.date) -> datetime.datetime:
    """The beginning of a day, or the moment itself, in UTC."""
    if isinstance(today, datetime.datetime):
        return today if today.tzinfo else today.replace(tzinfo=datetime.timezone.utc)
    return datetime.datetime(today.year, today.month, today.day, tzinfo=datetime.timezone.utc)


def expiry(site: Site, today: datetime.date) -> list[Problem]:
    """Conduits that end within 30 days or have ended, and what was let through by break-glass. It changes no rule."""
    now = _moment(today)
    found = _glass(site, now)
    for conduit in (*site.conduits, *site.flawed):
        left = (conduit.expires - now.date()).days
        key = f"hnai_conduits[{conduit.id}].expires"
        remedy = "renew it with its owner, or remove it"
        if left < 0:
            lifted = next((entry for entry in glass(site, now) if entry["id"] == conduit.id and entry["state"] == "open"), None)
            remedy += "; the running firewall still has it; hnai_break_glass accepts it for hours"
            message = f"expired on {conduit.expires}" + (f" (let through by break-glass: {lifted['owner']}, until {lifted['until']})" if lifted else "")
            severity = "warning" if lifted else "error"
            found.append(Problem(site.file("hnai_conduits"), key, message, remedy, "expiry", severity))
        elif left <= 30:
            urgency = "within a week" if left <= 7 else "within a month"
            found.append(Problem(site.file("hnai_conduits"), key, f"expires {urgency}, on {conduit.expires}", remedy, "expiry", "warning"))
    return found


def glass(site: Site, today: datetime.date) -> list[dict[str, str]]:
    """Every break-glass entry: {id, owner, reason, until, state: open | over | wrong, why}. A day in `since` counts from its end."""
    now = _moment(today)
    known = {conduit.id for conduit in (*site.conduits, *site.flawed)}
    found = []
    for entry in site.break_glass:
        ident, owner, reason = (str(entry.get(key) or "").strip() for key in ("id", "owner", "reason"))
        hours, since = entry.get("hours"), _since(entry.get("since"))
        until = ""
        if not owner or not reason:
            state, why = "wrong", "names no owner or no reason"
        elif ident not in known:
            state, why = "wrong", "names no conduit that can be read"
        elif isinstance(hours, bool) or not isinstance(hours, (int, float)) or not 0 < hours <= 24:
            state, why = "wrong", "hours is no number up to 24"
        elif since is None:
            state, why = "wrong", "since is no day and no moment"
        elif since[0] > now:
            state, why = "wrong", "begins in the future"
        else:
            end = since[1] + datetime.timedelta(hours=hours)
            until = end.strftime("%Y-%m-%dT%H:%MZ")
            state, why = ("open", "") if now <= end else ("over", f"ended {until}")
        found.append({"id": ident, "owner": owner, "reason": reason, "until": until, "state": state, "why": why})
    return found


def _since(value: Any) -> tuple[datetime.datetime, datetime.datetime] | None:
    """(earliest, latest) moment of a beginning, in UTC."""
    text = str(value or "").strip().replace("Z", "+00:00")
    try:
        moment = datetime.datetime.fromisoformat(text)
        if len(text) <= 10:
            moment = moment.replace(tzinfo=datetime.timezone.utc)
            return moment, moment + datetime.timedelta(days=1)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)
        return (moment.astimezone(datetime.timezone.utc),) * 2
    except (ValueError, OverflowError):
        return None


def _glass(site: Site, now: datetime.datetime) -> list[Problem]:
    found = []
    file = site.file("hnai_break_glass")
    for index, entry in enumerate(glass(site, now)):
        key = f"hnai_break_glass[{entry['id'] or index}]"
        if entry["state"] == "wrong":
            remedy = "write {id, owner, reason, since: 2026-01-31T08:00Z, hours}, hours at most 24"
            found.append(Problem(file, key, entry["why"], remedy, "break_glass"))
            continue
        what = f"BREAK-GLASS: {entry['owner']} lets {entry['id']} through ({entry['reason']})"
        what += f", until {entry['until']}" if entry["state"] == "open" else f"; {entry['why']}"
        remedy = "renew the conduit or remove it, and take the entry out: it stays red until it is gone"
        found.append(Problem(file, key, what, remedy, "break_glass", "warning"))
    return found


def _placement(site: Site) -> list[Problem]:
    found = []
    for component, contract in sorted(site.contracts.items()):
        for host in site.placed(component):
            node = site.nodes[host]
            zone = site.zones[node.zone]
            if not {zone.id, zone.level_name} & set(contract.get("levels", [])):
                message = f"{component} stands on {host} in zone {zone.id} ({zone.level_name})"
                levels = ", ".join(contract["levels"])
                remedy = f"it may stand in {levels} ({contract_file(component)}): move {host} or the component"
                group = contract.get("placement", component)
                found.append(Problem(site.file("hnai_zone"), f"groups.{group}: {host}", message, remedy, "level"))
    return found


def _unprobed(site: Site) -> list[Problem]:
    """Hosts whose modules would find no library, in the middle of a run."""
    there = set(site.groups.get("probe", ()))
    found = []
    for component in _PROBED if "probe" in site.contracts else ():
        lacking = [host for host in site.placed(component) if host not in there]
        if lacking:
            message = f"lacks {', '.join(lacking)}: the modules of {component} find their libraries in the probe environment"
            found.append(Problem("inventory", "groups.probe", message, "put every host of the component into the group probe", "level"))
    return found


def _releases(site: Site) -> list[Problem]:
    """Each host's Debian is one that there is, and one that every component on it is made for."""
    found = []
    file = site.file("hnai_debian")
    good = {}
    for host, release in sorted(site.debian.items()):
        if host not in site.nodes:
            continue
        if isinstance(release, str) and release in RELEASES:
            good[host] = release
        else:
            message = "is missing" if release is None else f"{repr(release)[:80]} is no release that a target may have"
            found.append(Problem(file, f"{host}: hnai_debian", message, 'write "12" or "13", in quotes: the release that the host runs', "release"))
    for component, contract in sorted(site.contracts.items()):
        possible = [release for release in RELEASES if not _lacking(contract, release)]
        for host in site.placed(component) if possible != list(RELEASES) else ():
            if host in good and good[host] not in possible:
                only = f"Debian {' or '.join(possible)} only" if possible else "no release of Debian"
                lacking = ", ".join(_lacking(contract, good[host]))
                message = f"{component} stands on {host}, which runs Debian {good[host]}, and is for {only}: its contract names no {lacking} for it"
                remedy = f"place {component} on a host with another release, or add the packages to {contract_file(component)} and try them"
                found.append(Problem(file, f"{host}: hnai_debian", message, remedy, "release"))
    return found


def _lacking(contract: Mapping[str, Any], release: str) -> list[str]:
    """Artifacts of a contract that say what they are on other releases, and not on this one."""
    return [
        str(entry.get("name"))
        for entry in contract.get("artifacts", [])
        if any(isinstance(entry.get(key), Mapping) and release not in entry[key] for key in ("version", "packages"))
    ]


def _ports(site: Site) -> list[Problem]:
    found = []
    taken: dict[tuple[str, str, int], str] = {}
    for component, contract in sorted(site.contracts.items()):
        for listener in contract.get("listens", []):
            for host in site.placed(component, listener.get("group", "")):
                key = (host, listener["proto"], listener["port"])
                name = f"{component}.{listener['name']}"
                if key in taken:
                    message = f"{name} and {taken[key]} both listen on {listener['proto']}/{listener['port']} of {host}"
                    remedy = "change one of the two ports, or place the components on different hosts"
                    found.append(Problem(contract_file(component), f"listens.{listener['name']}.port", message, remedy, "port"))
                taken.setdefault(key, name)
    return found


def _external(site: Site) -> list[Problem]:
    """What somebody else runs has an owner, and is somebody else's on every host of its group."""
    found = []
    for component, contract in sorted(site.contracts.items()):
        variable = f"{component}_external"
        keys = set(contract.get("external") or ())
        said = {host: site.vars.get(host, {}).get(variable) or {} for host in site.placed(component)} if keys else {}
        remedy = f"write {variable}: {{owner: who runs it, group: the host's group that may read its key}}, for every host of the group"
        astray = sorted(host for host, variables in site.vars.items() if host not in said and variables.get(variable))
        if keys and astray and not any(said.values()):
            message = f"is said of {', '.join(astray[:3])}, where {component} is not placed, and of no host of its group: nobody reads it"
            found.append(Problem(site.file(variable), variable, message, remedy, "external"))
        for host, value in said.items():
            wrong = ""
            if not isinstance(value, Mapping):
                wrong = f"{repr(value)[:80]} is no map"
            elif value and not (isinstance(value.get("owner"), str) and value["owner"].strip()):
                wrong = "names no owner"
            elif set(map(str, value)) - keys:
                wrong = f"{', '.join(sorted(set(map(str, value)) - keys))[:80]} is not part of the format"
            else:
                wrong = next((f"{key}: {repr(one)[:80]} is no text" for key, one in value.items() if not (isinstance(one, str) and one.strip())), "")
                for key, (shape, what) in _THEIRS.items() if not wrong else ():
                    if key in value and not shape.match(value[key]):
                        wrong = f"{key}: {repr(value[key])[:80]} is no {what}"
            if not wrong and {"address", "namespace"} & set(value):
                wrong = _address(site, component, value)
                remedy = f"write {variable}: {{owner: who runs it, address: https://NAME:PORT, ca: PEM of the authority that signed its certificate}}, "
                remedy += "NAME in hnai_assets, and one host of the site in the group, which asks it there (docs/brownfield.md)"
            if wrong:
                found.append(Problem(site.file(variable), f"{host}: {variable}", wrong, remedy, "external"))
        if not found and any(value != next(iter(said.values())) for value in said.values()):
            message = f"is not the same on {', '.join(said)}: one component is run by one"
            found.append(Problem(site.file(variable), variable, message, remedy, "external"))
    return found


#: What a host would refuse, or not find: how it is written, and what it is.
_THEIRS = {
    "config": (re.compile(r"^/\S+\Z"), "absolute path"),
    "group": (re.compile(r"^[A-Za-z_][A-Za-z0-9_.-]*\Z"), "name of a group"),
    "unit": (re.compile(r"^[A-Za-z0-9_.@:-]+\.service\Z"), "unit such as mosquitto.service"),
}
#: Namespaces of OpenBao and Vault, one in another.
_NAMESPACE = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*/?\Z")


def _address(site: Site, component: str, value: Mapping[str, str]) -> str:
    """What is wrong with where somebody else runs a component; "" for nothing. A text that may hold a password is not repeated."""
    if "address" not in value:
        return "namespace is read with an address alone"
    try:
        name, _port = endpoint(value["address"])
    except ValueError as error:
        return f"address {error}"
    if "-----BEGIN CERTIFICATE-----" not in value.get("ca", ""):
        return "ca is no certificate" if "ca" in value else "has an address and no ca"
    if "group" in value:
        return "group is not read with an address: no key of it lies on our host"
    if not _NAMESPACE.match(value.get("namespace", "ns")):
        return "namespace is no path of names"
    there, hosts = site.reached_by(name), site.placed(component)
    if there is None:
        return f"address leads to {name}, which is no asset of hnai_assets by its name or address"
    if there.kind == "host":
        return f"address leads to {there.name}, a host of the site: leave address out and place {component} there"
    return f"is asked from one host, and the group has {', '.join(hosts)}" if len(hosts) > 1 else ""


def _quorum(site: Site) -> list[Problem]:
    found = []
    for component, contract in sorted(site.contracts.items()):
        lost = site.lost & set(site.groups.get(str(contract.get("placement", component)), ()))
        members = sorted({*site.placed(component), *lost})
        if contract.get("quorum", component in ("kafka", "openbao")) and len(members) > 1 and len(members) % 2 == 0:
            message = f"{component} has {len(members)} voting members: {', '.join(members)}"
            remedy = f"use {len(members) - 1} or {len(members) + 1}: an even number survives no more failures than one fewer"
            found.append(Problem("inventory", f"groups.{contract.get('placement', component)}", message, remedy, "quorum"))
    return found


def _buffers(site: Site) -> list[Problem]:
    """Every hop of slo.yml against the variables that the contracts name for it."""
    file = site.file("hnai_slo")
    found = [
        Problem(file, f"hnai_slo.{name}", f"{repr(site.slo.get(name))[:80]} {wrong}", remedy, "buffer") for name, wrong, remedy in _promises(site.slo)
    ]
    hops = site.slo.get("hops")
    hops = hops if isinstance(hops, Mapping) else {}
    for index, source in enumerate(site.sources):
        told = source.get("records_per_s", 0)
        if told != 0 and not _amount(told):
            key = source_key(source, index) + ".records_per_s"
            remedy = "write a number, or leave it out: then the cyclic tags are counted"
            found.append(Problem(site.file("hnai_ot_sources"), key, f"{repr(told)[:80]} is no rate", remedy, "buffer"))
    declared: dict[str, int] = {}
    rate = _source_rate(site)
    for component, contract in sorted(site.contracts.items()):
        for buffer in contract.get("buffers", []):
            for host in site.placed(component, buffer.get("group", "")):
                declared[buffer["hop"]] = declared.get(buffer["hop"], 0) + 1
                hop = hops.get(buffer["hop"])
                if hop is None:
                    remedy = "declare the outage to survive: {outage_s, records_per_s, record_bytes}"
                    found.append(Problem(file, f"hnai_slo.hops.{buffer['hop']}", f"is missing, but {component} buffers it", remedy, "buffer"))
                elif _hop_complete(hop):
                    found += _too_small(site, host, component, buffer, hop)
    for name, hop in sorted(hops.items(), key=str):
        key = f"hnai_slo.hops.{name if str(name).isprintable() else ascii(name)}"
        for extra in sorted(set(map(str, hop)) - _HOP) if isinstance(hop, Mapping) else ():
            remedy = "remove it or use one of: " + ", ".join(sorted(_HOP))
            found.append(Problem(file, f"{key}.{ascii(extra)[1:-1][:80]}", "is not part of the format", remedy, "buffer"))
        if not _hop_complete(hop):
            found.append(Problem(file, key, "is incomplete", "write {outage_s, records_per_s, record_bytes}, numbers > 0", "buffer"))
        elif name not in declared and not site.lost:
            message = "is declared, but no placed component buffers it"
            found.append(
                Problem(
                    file,
                    key,
                    message,
                    "name the variable under buffers in the component's contract, or remove the hop",
                    "buffer",
                )
            )
        elif rate and hop.get("sources", True) and hop["records_per_s"] < rate:
            message = f"counts on {hop['records_per_s']}/s, but the sources deliver {rate:g}/s"
            found.append(Problem(file, f"{key}.records_per_s", message, f"write at least {rate:g}", "buffer"))
    return found


def _promises(slo: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, remedy) of `hnai_slo` beside the hops: a limit that cannot be read limits nothing."""
    for name in sorted(set(map(str, slo)) - {*_SLO, "hops"}):
        yield ascii(name)[1:-1][:80], "is not part of the format", "remove it or use one of: " + ", ".join(sorted({*_SLO, "hops"}))
    if not isinstance(slo.get("hops", {}), Mapping):
        yield "hops", "is no map", "write <hop>: {outage_s, records_per_s, record_bytes}"
    for name, most in _SLO.items():
        if name in slo and not (_amount(slo[name]) and slo[name] <= most):
            yield name, "is no limit", f"write a number above 0, at most {most:g}"


def _source_rate(site: Site) -> float:
    """Samples per second that the OT sources declare (their `records_per_s`), 0 if they do not say."""
    return float(
        sum(
            source["records_per_s"]
            for source in site.sources
            if _amount(source.get("records_per_s")) and source_endpoint(site, source)[0]
        )
    )


def _endpoints(site: Site) -> list[Problem]:
    """What the mirror dials is the asset that the conduit leads to; a name that the model does not know is left to who resolves it."""
    file, found = site.file("hnai_ot_sources"), []
    for index, source in enumerate(site.sources):
        key = source_key(source, index)
        name, asset = "host", site.nodes.get(str(source.get("asset")))
        dialled = source.get("host")
        if source.get("protocol") == "opcua" and "endpoint" in source:
            name = "endpoint"
            try:
                url = urlsplit(str(source[name] or ""))
                dialled = url.hostname if url.scheme == "opc.tcp" and url.username is None else ""
            except ValueError:
                dialled = ""
            if not dialled:
                found.append(Problem(file, f"{key}.{name}", f"{repr(source[name])[:80]} is no endpoint", "write opc.tcp://HOST:PORT/", "source"))
        if asset is None and source.get("protocol") in ("mqtt", "sparkplug") and not site.missing("asset", str(source.get("asset"))):
            message, remedy = f"{repr(source.get('asset'))[:80]} stands nowhere", "name the asset of hnai_assets that it comes from"
            found.append(Problem(file, f"{key}.asset", message, remedy, "source"))
        if asset is None or not isinstance(dialled, str) or not dialled:
            continue
        own = {asset.name.lower(), asset.v4, asset.v6, *(address for leg in asset.interfaces for address in (leg.v4, leg.v6))}
        try:
            there = str(ipaddress.ip_address(dialled))
        except ValueError:
            there = dialled.lower() if dialled.lower() in {node.lower() for node in site.nodes} else ""
        if there and there not in own:
            message = f"leads to {there}, and the source stands on {asset.name}"
            found.append(Problem(file, f"{key}.{name}", message, f"name {asset.name} or one of its addresses, or correct asset", "source"))
    return found


def _faster_than_approved(site: Site) -> list[Problem]:
    """A source that may be dialled more often than its conduit lets through would be cut by the router when it is needed most: after an outage."""
    found = []
    unsaid = {problem.key for problem in site.problems}
    known = [one for one in (*site.conduits, *site.flawed) if f"hnai_conduits[{one.id}].limits" not in unsaid]
    for index, source in enumerate(site.sources):
        asset, port = source_endpoint(site, source)
        told = source.get("limits")
        wanted = {"new_per_minute": 6, **(told if isinstance(told, Mapping) else {})}
        for conduit in known:
            if asset not in conduit.targets or conduit.service.port != port or source.get("protocol") not in ("opcua", "modbus"):
                continue
            approved = conduit.limited(site.zones[site.nodes[asset].zone].level <= 2)
            for name in sorted(set(approved) & set(wanted)):
                if _amount(wanted[name]) and wanted[name] > approved[name]:
                    message = f"{wanted[name]:g} is more than {conduit.id} approves ({approved[name]})"
                    remedy = f"write {approved[name]} at most, or let the conduit's owner approve more"
                    found.append(Problem(site.file("hnai_ot_sources"), f"{source_key(source, index)}.limits.{name}", message, remedy, "source"))
    return found


def _edge_nodes(site: Site) -> list[Problem]:
    """Sparkplug B sources: no two of one edge node, and somebody hears them."""
    file, key = site.file("hnai_ot_sources"), "hnai_ot_sources"
    found = []
    nodes: dict[tuple[str, str], str] = {}
    sources = [source for source in site.sources if source.get("protocol") == "sparkplug"]
    for source in sources:
        name = str(source.get("id") or "?")
        node = (str(source.get("group")), str(source.get("node")))
        if node in nodes:
            message = f"is the edge node of {nodes[node]} too: {node[0]}/{node[1]}"
            found.append(Problem(file, f"{key}[{name}]", message, "put the tags of one edge node into one source", "source"))
        nodes.setdefault(node, name)
    hearing = site.placed("ot_collector", HEARING)
    names = ", ".join(sorted(nodes.values()))
    if site.missing("group", HEARING) or "hnai_ot_sources" in site.unread:
        return found
    if sources and not hearing:
        remedy = f"put the collector's host into {HEARING}, a child of the group ot_collector"
        found.append(Problem("inventory", f"groups.{HEARING}", f"is empty, so nobody hears {names}", remedy, "source"))
    elif sources and len(hearing) > 1:
        message = f"has {len(hearing)} hosts ({', '.join(hearing)}), which would take each other's session for {names}"
        found.append(Problem("inventory", f"groups.{HEARING}", message, "leave one host in it", "source"))
    elif hearing and not sources:
        message = "has a host, but no source speaks Sparkplug B"
        found.append(Problem("inventory", f"groups.{HEARING}", message, "declare the edge node in hnai_ot_sources, or take the group away", "source"))
    return found


def _hop_complete(hop: Any) -> bool:
    names = ("outage_s", "records_per_s", "record_bytes")
    return isinstance(hop, Mapping) and all(_amount(hop.get(name)) for name in names)


def _amount(value: Any) -> bool:
    """A number above 0 that can be reckoned with: no infinity, nothing that no site has."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e12


def _too_small(site: Site, host: str, component: str, buffer: Mapping[str, Any], hop: Mapping[str, Any]) -> list[Problem]:
    variable, unit = str(buffer["variable"]), str(buffer["unit"])
    value = site.value(host, variable)
    file, key = site.file(variable.partition(".")[0]), f"{host}: {variable}"
    outage, rate, size = hop["outage_s"], hop["records_per_s"], hop["record_bytes"]
    sum_text = f"the declared outage of {outage} s"
    if unit in _SECONDS:
        needed = outage / _SECONDS[unit]
    elif unit in _BYTES:
        needed = outage * rate * size / _BYTES[unit]
        sum_text = f"{outage} s × {rate}/s × {size} bytes"
    else:
        needed = outage * rate
        sum_text = f"{outage} s × {rate}/s"
    needed = int(-(-needed // 1))
    if isinstance(value, str) and value.isascii() and value.lstrip("-").isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
        message = f"{repr(value)[:80]} does not size the buffer of hop {buffer['hop']}"
        return [Problem(file, key, message, f"write a number of {unit}, at least {needed}", "buffer")]
    if unit in _SECONDS and value < 0:  # -1: kept for ever
        return []
    if value < needed:
        message = f"{value} {unit} is too small for hop {buffer['hop']} ({component}): {sum_text}"
        return [Problem(file, key, message, f"set {variable} to at least {needed}, or declare a shorter outage", "buffer")]
    return []


def _names(site: Site, data: Mapping[str, Any]) -> list[Problem]:
    """Inventory variables with a prefix of ours that no role and no site file knows."""
    lent = {f"{component}_external" for component, contract in site.contracts.items() if contract.get("external")}
    known = SITE_VARIABLES | lent | set(data.get("known_variables") or ())
    prefixes = tuple(sorted({f"{role}_" for role in data.get("roles") or ()} | {"hnai_"}))
    names: dict[str, list[str]] = {}
    for host, variables in sorted(site.vars.items()):
        for name in variables:
            # A component's name that is misspelt has no prefix of ours.
            ours = name.startswith(prefixes) or (name.endswith("_external") and difflib.get_close_matches(name, lent, n=1, cutoff=0.8))
            if ours and name not in known and name not in site.groups:
                names.setdefault(name, []).append(host)
    found = []
    for name, hosts in sorted(names.items()):
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}? " if near else ""
        where = ", ".join(hosts[:3]) + (" …" if len(hosts) > 3 else "")
        message = f"is a variable that nothing reads (on {where})"
        component = name.removesuffix("_external")
        if name.endswith("_external") and component in site.contracts:
            message = f"{component} is always the collection's own (on {where})"
            message += f": {site.contracts[component]['own']}" if site.contracts[component].get("own") else ""
            remedy = "docs/brownfield.md says what a site may bring; "
        found.append(Problem(site.file(name), name, message, remedy + "correct the name or remove it", "name"))
    return found
