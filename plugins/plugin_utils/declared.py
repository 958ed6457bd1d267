# SPDX-License-Identifier: Apache-2.0
"""Mistakes in what a site declares of its sources, jobs, clients and secrets together: each alone is a value that its role would take.

Whoever would refuse it later is asked here where that is possible (`quotas`, `modbus.filter`). Values that are templates are left to the roles. Pure.
"""

from __future__ import annotations

import datetime
import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils import intrusive
from ansible_collections.hnai.platform.plugins.module_utils.credentials import base
from ansible_collections.hnai.platform.plugins.module_utils.flink.job import JobError
from ansible_collections.hnai.platform.plugins.module_utils.host.keys import parse as parse_keys
from ansible_collections.hnai.platform.plugins.module_utils.kafka import quotas
from ansible_collections.hnai.platform.plugins.module_utils.modbus.devices import SourceError, devices
from ansible_collections.hnai.platform.plugins.module_utils.modbus.filter import ConfigError
from ansible_collections.hnai.platform.plugins.module_utils.modbus.filter import parse as filter_config
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import duration_s
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Problem
from ansible_collections.hnai.platform.plugins.plugin_utils import sources
from ansible_collections.hnai.platform.plugins.plugin_utils.limits import LASTS
from ansible_collections.hnai.platform.plugins.plugin_utils.sources import is_template, shown

#: The option that lists the conversions which the jobs know by themselves, as the role of Flink has them.
_UNITS = "ot_collector_fidelity_units"
#: Jobs of the role's own.
_STATEMENTS = ("alerts", "normalise")
#: What stands in paths, URIs and names of other systems.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
#: A site where tests may break what they like, and any other.
_ENVIRONMENTS = ("lab", "production")
#: Lists of ids of checks.
_LISTS = ("hnai_expected_skips", "hnai_full_expected_skips", "hnai_allow_inconclusive")


@dataclass(frozen=True)
class Known:
    """What else of the site options are held against; where a part is empty, nothing is."""

    #: Topics of Kafka that somebody reads or writes → who.
    needed: Mapping[str, str] = field(default_factory=dict)
    #: Topics of Kafka that somebody may write; who may log in there; settings of the broker that its role writes itself.
    fed: Iterable[str] = ()
    users: Iterable[str] = ()
    settings: Iterable[str] = ()
    #: All checks; paths of all secrets of contracts.
    checks: Iterable[str] = ()
    secrets: Iterable[str] = ()
    #: Whether the address is of this run, which goes to one host alone (--limit HOST -e ansible_host=…): it is no other host's then.
    lent: bool = False


NOTHING = Known()


def problems(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
             file: Callable[[str], str], known: Known = NOTHING) -> Iterator[Problem]:
    """All of them; the arguments are those of `written.problems`."""
    first = next(iter(variables.values()), {})
    yield from _site(first, file, frozenset(known.checks))
    yield from _quotas(variables, groups, file, frozenset(known.users))
    yield from _jobs(variables, groups, file)
    yield from _unfed(variables, options, groups, file, frozenset(known.fed))
    yield from _clients(variables, options, groups, file, frozenset(known.secrets))
    yield from _apart(variables, options, groups, file, frozenset(known.settings))
    yield from _excused(variables, groups, file)
    yield from _ceremony(variables, options, groups, file)
    units = first.get("hnai_units") or {}
    for key, message, remedy in sources.unit_problems(units):
        yield Problem(file("hnai_units"), key, message, remedy, "option")
    # Without Flink a value is stored as it comes.
    conversions = {*options.get(_UNITS, {}).get("default", ()), *map(str, units if isinstance(units, Mapping) else ())} if groups.get("flink") else None
    wrong = list(sources.problems(first.get("hnai_ot_sources"), file("hnai_ot_sources"), conversions))
    yield from wrong
    yield from _canaries(variables, groups, file, not wrong)
    yield from _tokens(variables, groups, file)


def _of_first(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]], group: str) -> Mapping[str, Any]:
    """The variables of a group's first host; nothing where it has none."""
    return next((variables[host] for host in groups.get(group) or () if host in variables), {})


def _is_day(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def whole(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20)


def _seconds(value: Any) -> float:
    """A length of time in seconds; 0: it is none, or a template."""
    return duration_s(value) if isinstance(value, str) and LASTS.fullmatch(value) else 0.0


def _site(first: Mapping[str, Any], file: Callable[[str], str], ids: frozenset[str]) -> Iterator[Problem]:
    """What the site is called, and which ids it lets through."""
    for name in ("hnai_site", "hnai_environment"):
        value = first.get(name)
        if value is not None and not is_template(value) and not (isinstance(value, str) and _PLAIN.fullmatch(value)):
            remedy = "write letters, digits, . _ - (it stands in paths, URIs and names)"
            yield Problem(file(name), name, f"{repr(value)[:60]} is no plain name", remedy, "option")
        elif name == "hnai_environment" and value is not None and not is_template(value) and value not in _ENVIRONMENTS:
            yield Problem(file(name), name, f"{value!r} is unknown", f"one of: {', '.join(_ENVIRONMENTS)}", "option")
    for name in ("hnai_site", "hnai_environment", "hnai_state_dir") if ids else ():
        if first.get(name) is None:
            yield Problem(file(name), name, "is missing", "write it into group_vars/all: docs/site-model.md, Site and verify variables", "option")
    for name in ("hnai_state_dir", "hnai_store_dir"):
        value = first.get(name)
        if value is not None and not is_template(value) and not (isinstance(value, str) and value.startswith(("/", "~"))):
            message = f"{repr(value)[:60]} would lie wherever a run is started from"
            yield Problem(file(name), name, message, "write an absolute path on the controller", "option")
    age, name = first.get("hnai_full_verdict_max_age"), "hnai_full_verdict_max_age"
    if age is not None and not is_template(age) and not (whole(age) and int(age) >= 0):
        yield Problem(file(name), name, f"{repr(age)[:60]} is no number of seconds", "write a whole number", "option")
    for name in _LISTS:
        if first.get(name) is not None and not is_template(first[name]) and not isinstance(first[name], (list, tuple)):
            yield Problem(file(name), name, f"{repr(first[name])[:60]} is no list", "write a list of ids of checks, such as [HO6]", "option")
    for name in _LISTS if ids else ():
        for one in _listed(first.get(name)):
            if not is_template(one) and str(one) not in ids and not str(one).startswith("V-"):
                near = difflib.get_close_matches(str(one), ids, n=1)
                remedy = (f"did you mean {near[0]}? " if near else "") + "docs/verify.md lists them"
                yield Problem(file(name), f"{name}[{shown(one)}]", "is no check", remedy, "option")


def _quotas(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]], file: Callable[[str], str],
            users: frozenset[str]) -> Iterator[Problem]:
    """Quotas that would hold nobody, or stop somebody."""
    declared, name = _of_first(variables, groups, "kafka").get("kafka_quotas"), "kafka_quotas"
    if not isinstance(declared, Mapping) or is_template(declared) or not users:
        return
    told: dict[str, dict[str, float]] = {}
    for user, values in declared.items():
        if isinstance(values, Mapping) and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values.values()):
            told[str(user)] = {str(key): float(one) for key, one in values.items()}
        else:
            yield Problem(file(name), f"{name}[{shown(user)}]", f"{repr(values)[:60]} is no quota", f"write {{{quotas.KEYS[0]}: bytes a second}}", "option")
    known = users | {user for user in told if base(user) in users}
    for text in quotas.check(told, known, groups.get("kafka") or ()):
        key, _colon, rest = text.partition(": ")
        message, semicolon, remedy = rest.rpartition("; ")
        yield Problem(file(name), shown(key), message if semicolon else "is no quota", remedy, "option")


def _tags(told: Mapping[str, Any]) -> dict[str, set[str]]:
    """Tags of each source, as the store has them."""
    found: dict[str, set[str]] = {}
    for source in _listed(told.get("hnai_ot_sources")):
        if isinstance(source, Mapping) and not is_template(source.get("tags")) and isinstance(source.get("tags"), (list, tuple)):
            found[str(source.get("id"))] = {str(tag.get("name")).lower() for tag in source["tags"] if isinstance(tag, Mapping)}
    return found


def _jobs(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]], file: Callable[[str], str]) -> Iterator[Problem]:
    """Jobs that are declared twice, and alerts that could never be raised, or always."""
    told = _of_first(variables, groups, "flink")
    jobs, alerts = told.get("flink_jobs"), told.get("flink_alerts")
    listed = [str(one) for one in _listed(jobs)] if not is_template(jobs) else []
    jars = [one for one in _listed(told.get("flink_jars")) if isinstance(one, Mapping) and not is_template(one)]
    yield from _once(jars, "flink_jars", ("name",), file)
    for number, name in enumerate(str(one.get("name")) for one in jars):
        if not _PLAIN.fullmatch(name) or "." in name or name in _STATEMENTS:
            message = f"{name[:60]!r} is no name for a job of your own"
            yield Problem(file("flink_jars"), f"flink_jars[{number}].name", message, f"letters, digits, - and _; none of {', '.join(_STATEMENTS)}", "option")
    for name, times in Counter(listed).items():
        if times > 1:
            yield Problem(file("flink_jobs"), f"flink_jobs[{shown(name)}]", f"stands there {times} times", "declare each job once", "option")
    if listed and ("alerts" in listed) != bool(alerts):
        what = "lists alerts, and flink_alerts has nothing to watch" if "alerts" in listed else "lacks alerts, and flink_alerts has something to watch"
        yield Problem(file("flink_jobs"), "flink_jobs", what, "declare both, or neither", "option")
    tags, seen = _tags(told), set()
    for one in _listed(alerts):
        if isinstance(one, Mapping) and not is_template(one):
            pair = str(one.get("source")), str(one.get("tag"))
            key = f"flink_alerts[{shown(pair[0])}/{shown(pair[1])}]"
            if pair in seen:
                yield Problem(file("flink_alerts"), key, "stands there twice", "write its limits into one entry", "option")
            seen.add(pair)
            if pair[0] in tags and pair[1] not in tags[pair[0]]:
                near = difflib.get_close_matches(pair[1], tags[pair[0]], n=1)
                remedy = f"did you mean {near[0]}?" if near else "name one of its tags, in lower case"
                yield Problem(file("flink_alerts"), key, f"source {shown(pair[0])} has no such tag", remedy, "option")
            wrong, remedy = _watches(one)
            if wrong:
                yield Problem(file("flink_alerts"), key, wrong, remedy, "option")


def jars(declared: Any, main_of: Callable[[str], str]) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, remedy) of jobs that are jars, as they lie on the controller.

    *declared*: evaluated. *main_of*: what a jar's manifest says to run, "" for nothing; OSError, JobError: it is none.
    """
    for number, job in enumerate(_listed(declared)):
        path = job.get("jar") if isinstance(job, Mapping) else None
        if not isinstance(path, str) or not path:
            continue
        wrong, remedy = "", "name a jar that lies on the controller"
        if not path.startswith(("/", "~")):
            wrong, remedy = "is not said from the root on", 'write "{{ inventory_dir }}/…"'
        else:
            try:
                if not main_of(path) and not job.get("main"):
                    wrong, remedy = "names no Main-Class in its manifest", "write main"
            except (OSError, JobError) as error:
                wrong = f"cannot be read on the controller: {getattr(error, 'strerror', None) or error}"
        if wrong:
            yield f"flink_jars[{number}].jar", f"{path} {wrong}", remedy


#: Which topics the instances of Telegraf write and read: (option, group).
_TOPICS = tuple((f"telegraf_{topic}_topic", f"telegraf_{group}") for topic, group in (
    ("raw", "shipper"), ("raw", "bridge"), ("writer", "writer"), ("writer", "questdb")))  # fmt: skip


def _unfed(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
           file: Callable[[str], str], fed: frozenset[str]) -> Iterator[Problem]:
    """Shippers that may not write their topic, and writers that wait for ever: at a topic into which nothing comes (the normalised one, and no Flink), or
    for a table that the store has under another name."""

    def told(host: str, name: str) -> Any:
        return variables.get(host, {}).get(name, options.get(name, {}).get("default"))

    seen = set()
    for name, group in _TOPICS if fed else ():
        for topic in (told(host, name) for host in groups.get(group) or ()):
            if isinstance(topic, str) and not is_template(topic) and topic not in fed and (name, topic) not in seen:
                seen.add((name, topic))
                yield Problem(file(name), name, f"nobody in the site may write topic {topic[:60]!r}", f"one of: {', '.join(sorted(fed))[:200]}", "option")
    name = "telegraf_questdb_table"
    tables = {str(told(host, "questdb_table")) for host in groups.get("questdb") or ()}
    for table in {str(told(host, name)) for host in groups.get("telegraf_questdb") or ()} - tables if tables else ():
        if not is_template([table, *tables]):
            yield Problem(file(name), name, f"{table[:60]!r} is no table of the store", f"write what questdb_table says, {min(tables)[:60]!r}", "option")


#: Lists of who may log in where: (option, group).
_CLIENTS = (("mosquitto_clients", "mosquitto"), ("questdb_users", "questdb"), ("victoriametrics_users", "victoriametrics"))


def _clients(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
             file: Callable[[str], str], secrets: frozenset[str]) -> Iterator[Problem]:
    """Identities that stand twice, or whose password nobody makes; and people who share a name or a number."""
    for name, group in _CLIENTS:
        told = [one for one in _listed(_of_first(variables, groups, group).get(name)) if isinstance(one, Mapping) and not is_template(one)]
        yield from _once(told, name, ("username",), file)
        for number, one in enumerate(told):
            if secrets and isinstance(one.get("secret"), str) and one["secret"] not in secrets:
                near = difflib.get_close_matches(one["secret"], secrets, n=1)
                remedy = f"did you mean {near[0]}?" if near else "name a secret of a contract: component/name"
                yield Problem(file(name), f"{name}[{number}].secret", f"{one['secret'][:60]!r} is no secret that anybody makes", remedy, "option")
    name = "host_operators"
    told = [one for one in _listed(next(iter(variables.values()), {}).get(name)) if isinstance(one, Mapping) and not is_template(one)]
    yield from _once(told, name, ("name", "uid"), file)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _once(told: list[Mapping[str, Any]], name: str, parts: Iterable[str], file: Callable[[str], str]) -> Iterator[Problem]:
    for part in parts:
        for value, times in Counter(str(one[part]) for one in told if part in one).items():
            if times > 1:
                yield Problem(file(name), f"{name}[{shown(value)}].{part}", f"stands there {times} times", f"give each entry a {part} of its own", "option")


def _apart(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
           file: Callable[[str], str], settings: frozenset[str]) -> Iterator[Problem]:
    """Options that only make sense beside others."""

    def of(group: str, name: str) -> Any:
        value = _of_first(variables, groups, group).get(name, options.get(name, {}).get("default"))
        return None if is_template(value) else value

    def wrong(name: str, key: str, message: str, remedy: str) -> Problem:
        return Problem(file(name), key, message, remedy, "option")

    slots, jobs = of("flink", "flink_slots"), of("flink", "flink_jobs")
    # A job takes as many as its operators run side by side.
    wide = [one.get("parallelism", 1) for one in _listed(of("flink", "flink_jars")) if isinstance(one, Mapping)]
    needed = len(_listed(jobs)) + sum(int(one) for one in wide if whole(one))
    if whole(slots) and int(slots) < needed:
        yield wrong("flink_slots", "flink_slots", f"{slots} for jobs that take {needed}: the rest would wait for ever", f"write {needed} or more")
    slo, period = _of_first(variables, groups, "canary").get("hnai_slo"), of("canary", "canary_period_s")
    promised = slo.get("freshness_p95_s", 0) if isinstance(slo, Mapping) else 0
    if _is_number(period) and _is_number(promised) and 0 < promised < period * 5:
        message = f"{period:g} s is more than a fifth of the freshness that is promised, {promised:g} s"
        yield wrong("canary_period_s", "canary_period_s", message, f"write {promised / 5:g} or less")
    points, records = of("telegraf", "telegraf_metric_buffer_limit"), of("telegraf", "telegraf_max_undelivered_messages")
    if whole(points) and whole(records) and int(points) < 6 * int(records):
        name = "telegraf_metric_buffer_limit"
        yield wrong(name, name, f"{points} points do not hold what {records} records become", f"write {6 * int(records)} or more")
    replicas, least = of("kafka", "kafka_replication_factor"), of("kafka", "kafka_min_insync_replicas")
    if whole(replicas) and whole(least) and int(least) > int(replicas):
        name = "kafka_min_insync_replicas"
        yield wrong(name, name, f"{least} of {replicas} replicas: nothing would ever be acknowledged", "write one less than kafka_replication_factor")
    name, brokers = "kafka_initial_controllers", [str(host) for host in groups.get("kafka") or ()]
    for host in _listed(of("kafka", name)) if brokers else ():
        if str(host) not in brokers:
            yield wrong(name, f"{name}[{shown(host)}]", "is no host of group kafka", f"one of: {', '.join(brokers)[:200]}")
    given, name = of("kafka", "kafka_config"), "kafka_config"
    for key in sorted(settings & set(map(str, given if isinstance(given, Mapping) else ()))):
        yield wrong(name, f"{name}[{shown(key)}]", "is set by the role, whose line wins", "use the role's option for it, or remove it")
    given, name = of("managed", "host_sysctl"), "host_sysctl"
    for key in given if isinstance(given, Mapping) else ():
        if not re.fullmatch(r"[a-z0-9_]+([./][A-Za-z0-9_.-]+)+", str(key)):
            yield wrong(name, f"{name}[{shown(key)}]", "is no setting of the kernel", "write its name as sysctl -a has it")
    mounts, name = of("openbao", "openbao_pki_mounts"), "openbao_pki_mounts"
    if isinstance(mounts, Mapping) and mounts.get("root") and mounts.get("root") == mounts.get("intermediate"):
        yield wrong(name, name, "root and intermediate would be one mount", "give each one of its own")
    for group, name in (("telegraf", "telegraf_mqtt_host"), ("ot_collector", "ot_collector_mqtt_host")):
        host, brokers = of(group, name), [str(one) for one in groups.get("mosquitto") or ()]
        if isinstance(host, str) and brokers and host not in brokers:
            yield wrong(name, name, f"{host[:60]!r} is no host of group mosquitto", f"one of: {', '.join(brokers)[:200]}")


def _watches(alert: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong with an alert's limits and the remedy; "" and "": nothing, or it is judged as an option."""
    given = {name: alert[name] for name in ("low", "high", "rate") if alert.get(name) is not None}
    if not given:
        return "watches nothing", "write low, high or rate"
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given.values()):
        return "", ""
    if "low" in given and "high" in given and not given["low"] < given["high"]:
        return f"low {given['low']:g} is not below high {given['high']:g}: every value would be one too many", "correct one of the two"
    if "rate" in given and not given["rate"] > 0:
        return f"rate {given['rate']:g} cannot be", "write a number above 0"
    return "", ""


def _excused(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]], file: Callable[[str], str]) -> Iterator[Problem]:
    """What is said of a source that is none holds for nobody, and whoever said it believes that it does; so with files of a host that collects nothing."""
    told = _of_first(variables, groups, "ot_collector")
    declared = told.get("hnai_ot_sources")
    known = {str(one.get("id")) for one in declared if isinstance(one, Mapping)} if isinstance(declared, (list, tuple)) else None
    said: list[tuple[str, str, Any]] = []
    for name, day in (("ot_collector_audit_exceptions", "expires"), ("ot_collector_trust_statements", "date")):
        for number, one in enumerate(one for one in _listed(told.get(name)) if isinstance(one, Mapping)):
            said.append((name, f"{name}[{number}].source", one.get("source")))
            for key in ("owner", "reason") if day == "expires" else ():
                if isinstance(one.get(key), str) and not any(map(str.isalnum, one[key])):
                    yield Problem(file(name), f"{name}[{number}].{key}", f"{one[key][:60]!r} names nobody", "say who took it, and why", "option")
            if one.get(day) is not None and not is_template(one[day]) and not _is_day(str(one[day])):
                yield Problem(file(name), f"{name}[{number}].{day}", f"{repr(one[day])[:60]} is no day", 'write "YYYY-MM-DD"', "option")
    name = "ot_collector_audit_accept_drift"
    said += [(name, f"{name}[{number}]", one) for number, one in enumerate(_listed(told.get(name)))]
    canaries, name = told.get("ot_collector_write_canaries"), "ot_collector_write_canaries"
    said += [(name, f"{name}[{shown(one)}]", one) for one in (canaries if isinstance(canaries, Mapping) else ())]
    for name, key, source in said:
        if known is not None and isinstance(source, str) and not is_template([source, *known]) and source not in known:
            yield Problem(file(name), key, f"{source[:60]!r} is no source", f"one of: {', '.join(sorted(known))[:200]}", "option")
    name, hosts = "ot_collector_foreign", [str(host) for host in groups.get("ot_collector") or ()]
    for number, one in enumerate(_listed(told.get(name))):
        host, path = (one.get("host"), one.get("path")) if isinstance(one, Mapping) else (None, None)
        if isinstance(host, str) and not is_template(host) and host not in hosts:
            yield Problem(file(name), f"{name}[{number}].host", f"{host[:60]!r} collects nothing", f"one of: {', '.join(hosts)}", "option")
        if isinstance(path, str) and not is_template(path) and not path.startswith("/"):
            yield Problem(file(name), f"{name}[{number}].path", f"{path[:60]!r} is no absolute path", "write it from / on", "option")


def _ceremony(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
              file: Callable[[str], str]) -> Iterator[Problem]:
    """What the first run of OpenBao would find out when its host stands and nothing can be taken back easily."""
    told = _of_first(variables, groups, "openbao")

    def of(name: str) -> Any:
        return told.get(name, options.get(name, {}).get("default"))

    shares, threshold, holders = of("openbao_key_shares"), of("openbao_key_threshold"), of("openbao_pgp_keys")
    if whole(shares) and whole(threshold) and not (1 <= int(threshold) <= int(shares) <= 255 and (int(threshold) > 1 or int(shares) == 1)):
        message = f"{threshold} of {shares} shares cannot unseal"
        yield Problem(file("openbao_key_threshold"), "openbao_key_threshold", message, "write 2 at least, and not more than openbao_key_shares", "option")
    if isinstance(holders, (list, tuple)) and holders and not is_template(holders) and whole(shares) and len(holders) != int(shares):
        message = f"has {len(holders)} holders for {shares} shares"
        yield Problem(file("openbao_pgp_keys"), "openbao_pgp_keys", message, "give each share a holder, or openbao_key_shares their number", "option")
    name = "openbao_intermediate_chain"
    if told.get(name) and of("openbao_root_ca") == "own":
        remedy = "write openbao_root_ca: site before the first run, which would make a root of its own, or remove it"
        yield Problem(file(name), name, "is given, and openbao_root_ca is own: nothing reads it", remedy, "option")
    lives = [(name, _seconds(of(name))) for name in ("openbao_leaf_ttl", "openbao_intermediate_ttl", "openbao_root_ttl")]
    for (name, life), (above, longer) in zip(lives, lives[1:]):
        if life and longer and life >= longer:
            yield Problem(file(name), name, f"is not shorter than {above}, which signs it", f"shorten {name}, or lengthen {above}", "option")
    paths = [str(one.get("path")) for one in _listed(of("openbao_audit_devices")) if isinstance(one, Mapping)]
    if told.get("openbao_audit_devices") is not None and not is_template(paths) and len({path.rpartition("/")[0] for path in paths}) < max(2, len(paths)):
        remedy = "declare two devices at least, each in a directory of its own, on two file systems"
        yield Problem(file("openbao_audit_devices"), "openbao_audit_devices", "would leave OpenBao without an answer when one fails", remedy, "option")


def _canary_places(filtered: Sequence[Mapping[str, Any]], canaries: Sequence[Mapping[str, Any]], assets: Any, file: str, name: str) -> Iterator[Problem]:
    """A canary is written to. By another name of the same asset it would be a device of the process."""
    if not isinstance(assets, Mapping) or is_template([assets, list(filtered)]):
        return
    names = {}
    for asset, said in assets.items():
        addresses = said.get("addresses") if isinstance(said, Mapping) else None
        for one in (asset, *(addresses.values() if isinstance(addresses, Mapping) else ())):
            names[str(one).lower()] = str(asset)
    devices_at = {(names.get(str(one.get("host")).lower()), str(one.get("port", 502))): str(one.get("id")) for one in filtered}
    for number, one in enumerate(canaries):
        if "host" not in one:
            continue
        there = names.get(str(one.get("host")).lower())
        other = devices_at.get((there, str(one.get("port"))))
        if there is None:
            message = f"{repr(one.get('host'))[:60]} is no asset of hnai_assets by its name or address"
            yield Problem(file, f"{name}[{number}].host", message, f"one of: {', '.join(sorted(set(names.values())))[:200]}", "option")
        elif other is not None:
            yield Problem(file, f"{name}[{number}]", f"stands where the device {shown(other)} is", "give the canary an address or a port of its own", "option")


def _canaries(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]], file: Callable[[str], str],
              sound: bool = True) -> Iterator[Problem]:
    """What the Modbus filter would refuse on its host, said by its own core where the sources are *sound*."""
    told, name = _of_first(variables, groups, "modbus_filter"), "modbus_filter_canaries"
    declared, canaries = told.get("hnai_ot_sources"), told.get(name) or []
    filtered = [one for one in declared if isinstance(one, Mapping) and one.get("protocol") == "modbus"] if isinstance(declared, (list, tuple)) else []
    if is_template([filtered, canaries]) or not filtered or not isinstance(canaries, (list, tuple)) or not all(isinstance(one, Mapping) for one in canaries):
        return
    # Of a source that is wrong nobody knows whether it is one of Modbus.
    known = {str(one.get("id")) for one in (filtered if sound else _listed(declared)) if isinstance(one, Mapping)}
    strange = [number for number, one in enumerate(canaries) if str(one.get("for")) not in known]
    for number in strange:
        remedy = f"one of: {', '.join(sorted(known))[:200]}"
        yield Problem(file(name), f"{name}[{number}].for", f"{repr(canaries[number].get('for'))[:60]} is no Modbus source", remedy, "option")
    wrong = list(_canary_places(filtered, canaries, told.get("hnai_assets"), file(name), name))
    yield from wrong
    if wrong or strange or not sound:
        return
    try:
        filter_config(json.dumps({"status_file": "/", "devices": devices(filtered, canaries)}), name)
    except (SourceError, ConfigError) as error:
        yield Problem(file(name), name, " ".join(str(error).split()), "correct the canary, or filter of the source", "option")
    except (KeyError, TypeError, ValueError) as error:
        yield Problem(file(name), name, f"cannot be read: {error!r}"[:160], "write {id, for, address, host, port, record_port}", "option")


def _tokens(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]], file: Callable[[str], str]) -> Iterator[Problem]:
    """Tokens that would never allow anything, and approvers whose signature could not be checked. One whose time is over does no harm."""
    # The two groups that try something; mostly it is one host with both.
    found = [list(_authorised(_of_first(variables, groups, group), file)) for group in ("ot_collector", "modbus_filter")]
    yield from dict.fromkeys(problem for one in found for problem in one)


def _authorised(told: Mapping[str, Any], file: Callable[[str], str]) -> Iterator[Problem]:
    who, what = "hnai_intrusive_approvers", "hnai_intrusive_tokens"
    approvers, tokens = told.get(who) or {}, told.get(what) or []
    if is_template([approvers, tokens]):
        return
    if not isinstance(approvers, Mapping):
        yield Problem(file(who), who, "is no mapping", "write {NAME: 'ssh-ed25519 AAAA…'}", "option")
        return
    for name, key in approvers.items():
        keys = parse_keys(key) if isinstance(key, str) and "\n" not in key.strip() else []
        if len(keys) != 1 or keys[0].options or not keys[0].type.islower():
            remedy = "write a public key as ssh-keygen made it, on one line and without options: ssh-ed25519 AAAA…"
            yield Problem(file(who), f"{who}[{shown(name)}]", "is no SSH public key", remedy, "option")
    if not isinstance(tokens, (list, tuple)):
        yield Problem(file(what), what, "is no list", f"write a list of {{{', '.join(intrusive.KEYS)}}}", "option")
        return
    there = _probed(told)
    for number, one in enumerate(tokens):
        for message, remedy in _token(one, approvers, told.get("hnai_site"), there):
            yield Problem(file(what), f"{what}[{number}]", message, f"{remedy}: docs/runbooks/ot-audit.md, A token", "option")


def _probed(told: Mapping[str, Any]) -> frozenset[str]:
    """What a token may be for: servers by OPC UA, canaries of the Modbus filter."""
    declared, canaries = ([one for one in _listed(told.get(name)) if isinstance(one, Mapping)] for name in ("hnai_ot_sources", "modbus_filter_canaries"))
    servers = {str(one.get("endpoint")) for one in declared if one.get("protocol") == "opcua"}
    return frozenset(servers | {f"modbus://{one.get('host')}:{one.get('port')}" for one in canaries})


def _token(one: Any, approvers: Mapping[str, Any], site: Any, there: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(message, remedy) of one that is wrong."""
    if not isinstance(one, Mapping):
        yield f"{repr(one)[:60]} is no token", f"write {{{', '.join(intrusive.KEYS)}}}"
        return
    strange = sorted(str(key) for key in one if key not in intrusive.KEYS)
    if strange:
        yield f"{', '.join(strange)[:60]}: unknown", f"a token has {', '.join(intrusive.KEYS)}"
    try:
        intrusive.examine(one, approvers)
    except intrusive.NotAuthorised as error:
        yield str(error), "have it signed again, or take it out"
        return
    if str(one["site"]) != str(site):
        yield f"is for the site {repr(one['site'])[:60]}", f"this one is {site}; take it out"
    if there and str(one["endpoint"]) not in there:
        yield f"is for {repr(one['endpoint'])[:80]}, which nobody probes", f"one of: {', '.join(sorted(there))[:200]}"
