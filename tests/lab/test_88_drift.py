# SPDX-License-Identifier: Apache-2.0
"""What somebody changed by hand is named by `site.yml --check --diff`, repaired by the next run, and nothing else changes.

Scenario drift: every kind of drift at once, spread over the hosts; one check, one repair, one check. Each drift has its own tests, so that a failure
names it. Five that cost little run in every `make test`, on one host.
"""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import Lab, Run, has_changed
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from plant_view import program, until
from test_50_faults import CANCEL
from test_61_kafka_health import GENEROUS, MISSING, cluster

#: (host, role, task) of an event. The shared role tells nothing of its caller: it is named as what it is.
Event = tuple[str, str, str]
TREE = "Converge the configuration tree"
INSTALL = "Install Telegraf"
MARK = "by-hand-hnai-test"
JOBS = "import json, urllib.request; print(json.dumps(json.load(urllib.request.urlopen('http://127.0.0.1:8081/jobs/overview', timeout=20))['jobs']))"


def shell(text: str) -> Callable[[Lab, str], str]:
    """A command of the host's shell, as root."""
    return lambda lab, host: lab.run(host, "sh", "-c", text, timeout=180).stdout


def seen(text: str) -> Callable[[Lab, str], str]:
    """What a command of the host's shell says, also where there is nothing to say it of."""
    return lambda lab, host: lab.run(host, "sh", "-c", text, timeout=180, check=False).stdout


@dataclass(frozen=True)
class Drift:
    """`plant` makes it; `look` says what it is about, and says the same before it and after the repair. `words` are what the check must name on
    `host`; `events` the tasks that change because of it, and no others do."""

    host: str
    plant: Callable[[Lab, str], object]
    look: Callable[[Lab, str], str]
    words: tuple[str, ...]
    events: frozenset[Event] = frozenset()
    #: What differs on the host afterwards: a new certificate, a new start of a unit.
    new: tuple[str, ...] = ()
    #: The file of a drift that is only named: it stays where it is.
    stays: str = ""
    #: Tasks that change because of it unless something of ours was quicker.
    maybe: frozenset[Event] = frozenset()


def file_of(path: str) -> Callable[[Lab, str], str]:
    """Content, mode and owner of a file, '' where there is none."""
    return seen(f"test ! -e {path} || {{ stat -c '%a %U:%G' {path}; sha256sum {path}; }}")


def appended(path: str, text: str) -> str:
    """Adds a line as an editor would."""
    return f"printf '%s\\n' '{text}' >> {path}"


def public_key() -> str:
    """Of a pair that nobody keeps."""
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode() + f" {MARK}"


def running_jobs(lab: Lab, host: str) -> str:
    """Flink's jobs that run, by name, and their keeper."""
    jobs = sorted(job["name"] for job in lab.python(host, JOBS) if job["state"] == "RUNNING")
    return f"{jobs} {lab.run(host, 'systemctl', 'is-active', 'hnai-flink-jobs.service', check=False).stdout.strip()}"


def cancelled(lab: Lab, host: str) -> None:
    """The keeper would start it again within seconds; it stands still too."""
    lab.run(host, "systemctl", "stop", "hnai-flink-jobs.service")
    assert lab.python(host, CANCEL), "no job ran"


def left_over(component: str, path: str) -> str:
    """A file that was ours once: a release delivered it, and today's does not."""
    registry = f"/var/lib/hnai/trees/{component}.json"
    code = (f'import json; p = "{registry}"; d = json.load(open(p)); d["files"] = sorted(d["files"] + ["{path}"]); '
            'open(p, "w").write(json.dumps(d, indent=1) + "\\n")')  # fmt: skip
    return f"{appended(path, MARK)} && /usr/bin/python3 -c '{code}'"


def drifts(lab: Lab) -> dict[str, Drift]:
    """Every kind of drift by name."""
    first, second, third = lab.groups["kafka"]
    jump, edge, store, stream = (lab.groups[name][0] for name in ("jump", "mosquitto", "questdb", "flink"))
    user = lab.var(second, "ansible_user")
    cluster_task = (first, "kafka", "Converge topics, users, quotas and ACLs")
    authority = "/etc/hnai/questdb/tls"
    own = f'[ "$(openssl x509 -in {authority}/cert.pem -noout -pubkey)" = "$(openssl pkey -in {authority}/key.pem -pubout)" ] && echo own || echo other'
    journal = "/etc/systemd/journald.conf.d/hnai.conf"
    canary, unit = "/etc/hnai/canary/canary.json", "/etc/systemd/system/hnai-questdb.service"
    acl, foreign, ours = "/etc/hnai/mosquitto/acl", f"/etc/hnai/mosquitto/{MARK}", f"/etc/hnai/mosquitto/old-{MARK}"
    jar, key = f"/opt/hnai/kafka/current/libs/{MARK}.jar", "/root/.ssh/authorized_keys2"
    ran, credential = "/run/hnai/hnai-victoriametrics-auth.service.restart", "/etc/credstore.encrypted/hnai-telegraf.kafka_bridge"
    later, redirects = f"/etc/sysctl.d/zz-{MARK}.conf", "net.ipv4.conf.all.accept_redirects"
    mechanism = "/usr/local/lib/hnai/telegraf/mechanism"

    def enabled(name: str) -> Callable[[Lab, str], str]:
        return lambda lab, host: lab.run(host, "systemctl", "is-enabled", name, check=False).stdout

    def active(name: str) -> Callable[[Lab, str], str]:
        return lambda lab, host: lab.run(host, "systemctl", "is-active", name, check=False).stdout

    def nothing(_lab: Lab, _host: str) -> str:
        """The cluster's own objects: the check after the repair asks for all of them."""
        return ""

    return {
        "file content": Drift(first, shell(appended(journal, f"# {MARK}")), file_of(journal), (journal, MARK), frozenset({(first, "host", TREE)})),
        "mode": Drift(jump, shell("chmod 0666 /etc/chrony/chrony.conf"), file_of("/etc/chrony/chrony.conf"), ("/etc/chrony/chrony.conf", "mode 0666"),
                      frozenset({(jump, "host", TREE)})),
        "owner": Drift(store, shell(f"chown nobody {mechanism}"), file_of(mechanism), (mechanism, "owner 65534:0"), frozenset({(store, "telegraf", TREE)})),
        "foreign file": Drift(edge, shell(appended(foreign, MARK)), seen("echo"), (foreign, "left alone"), stays=foreign),
        "foreign jar": Drift(third, shell(appended(jar, MARK)), seen("echo"), (f"libs/{MARK}.jar", "left alone"), stays=jar),
        "key of root": Drift(edge, shell("mkdir -p -m 0700 /root/.ssh; " + appended(key, public_key())), seen("echo"),
                             (f"{key}: opens the host for root", MARK, "left alone"), stays=key),
        "sysctl of the next start": Drift(second, shell(appended(later, f"# {MARK}\n{redirects} = 1")), seen("echo"),
                                          (f"{later}: {redirects} is 1 from the next start on, not 0", "left alone"), stays=later),
        "account of a service": Drift(store, shell("usermod --shell /bin/bash hnai-questdb"), seen("getent passwd hnai-questdb"),
                                      ("hnai-questdb shell /bin/bash",), frozenset({(store, "questdb", TREE)})),
        "release changed": Drift(store, shell("chmod 4755 /opt/hnai/telegraf/current/bin/telegraf"),
                                 file_of("/opt/hnai/telegraf/current/bin/telegraf"), ("damaged: bin/telegraf",),
                                 frozenset({(store, "telegraf", INSTALL)})),
        "file of ours once": Drift(edge, shell(left_over("mosquitto", ours)), file_of(ours), (ours,), frozenset({(edge, "mosquitto", TREE)})),
        "unit disabled": Drift(third, shell("systemctl disable hnai-kafka.service"), enabled("hnai-kafka.service"), ("hnai-kafka.service", "enabled: disabled"),
                               frozenset({(third, "kafka", "Run the unit, leave a restart to the roll")})),
        "unit edited": Drift(store, shell(appended(unit, f"# {MARK}") + " && systemctl daemon-reload"), file_of(unit), (unit, MARK),
                             frozenset({(store, "questdb", TREE)})),
        "change taken up": Drift(stream, shell(appended(canary, "") + " && systemctl restart hnai-canary.service"), file_of(canary), (canary,),
                                 frozenset({(stream, "canary", TREE), (stream, "canary", "Run the observer")}), ("unit hnai-canary.service",)),
        "unit stopped": Drift(edge, shell("systemctl stop hnai-telegraf-bridge.service"), active("hnai-telegraf-bridge.service"),
                              ("hnai-telegraf-bridge.service", "state: inactive"), frozenset({(edge, "telegraf", "Run the instances")}),
                              ("unit hnai-telegraf-bridge.service",)),
        "old digest": Drift(store, shell(f"sed -i 's/^[0-9a-f]/x/' {ran}"), file_of(ran), ("hnai-victoriametrics-auth.service", "restarted"),
                            frozenset({(store, "victoriametrics", "Run the units")}), ("unit hnai-victoriametrics-auth.service",)),
        "package removed": Drift(second, shell("dpkg --remove conntrack"), seen("dpkg-query -W -f '${Version} ${db:Status-Abbrev}' conntrack"),
                                 ("conntrack=",), frozenset({(second, "host", "Install the packages")})),
        "topic setting": Drift(first, lambda lab, _host: cluster(lab, "config", {"topic": "ot.deadletter", "set": {"unclean.leader.election.enable": "true"}}),
                               nothing, ("ot.deadletter", "unclean.leader.election.enable"), frozenset({cluster_task})),
        "extra ACL": Drift(first, lambda lab, _host: cluster(lab, "acl", {"entry": GENEROUS, "present": True}), nothing,
                           ("User:telegraf-shipper read on topic literal ot.raw",), frozenset({cluster_task})),
        "missing ACL": Drift(first, lambda lab, _host: cluster(lab, "acl", {"entry": MISSING, "present": False}), nothing,
                             ("User:flink describe on topic literal ot.raw",), frozenset({cluster_task})),
        # The broker takes it up, as whoever did it would see to.
        "Mosquitto ACL line": Drift(edge, shell(f"sed -i \"$(grep -n '^topic' {acl} | tail -1 | cut -d: -f1)d\" {acl} && systemctl reload hnai-mosquitto"),
                                    file_of(acl), (acl, "topic"),
                                    frozenset({(edge, "mosquitto", TREE), (edge, "mosquitto", "Run the unit")})),
        "Flink job cancelled": Drift(stream, cancelled, running_jobs, ("hnai-flink-jobs.service", "no job of that name runs"),
                                     frozenset({(stream, "flink", "Run the units")}), ("unit hnai-flink-jobs.service",),
                                     # The keeper may have the job again before the next task asks for it.
                                     maybe=frozenset({(stream, "flink", "Deploy the jobs")})),
        "nft rule": Drift(stream, shell("nft add rule inet hnai input tcp dport 12345 accept"), seen("nft -s -t list table inet hnai | sha256sum"),
                          ("tcp dport 12345 accept", "the loaded table was changed by hand"),
                          frozenset({(stream, "firewall", "Enforce the approved conduits")}), ("/var/lib/hnai/firewall/confirmed.json",)),
        "sysctl": Drift(first, shell("sysctl -w net.ipv4.conf.all.accept_redirects=1"), seen("sysctl -n net.ipv4.conf.all.accept_redirects"),
                        ("net.ipv4.conf.all.accept_redirects = 1",), frozenset({(first, "host", TREE)})),
        "authorized key": Drift(second, shell(appended(f"/home/{user}/.ssh/authorized_keys", public_key())), seen(f"cat /home/{user}/.ssh/authorized_keys"),
                                (f"/home/{user}/.ssh/authorized_keys", MARK), frozenset({(second, "host", "Keep the keys that open this host")})),
        "key file of nobody": Drift(edge, shell("mkdir -p /etc/ssh/authorized_keys; " + appended("/etc/ssh/authorized_keys/nobody", public_key())),
                                    seen("ls /etc/ssh/authorized_keys 2>/dev/null | wc -l"), ("/etc/ssh/authorized_keys/nobody", MARK),
                                    frozenset({(edge, "host", "Keep the keys that open this host")})),
        "credential readable": Drift(edge, shell(f"chmod 0644 {credential}"), seen(f"stat -c '%a %U' {credential}"), ("kafka_bridge",),
                                     frozenset({(edge, "component", "Deliver the credentials and the certificate")})),
        "certificate replaced": Drift(store, shell(f"cat /etc/hnai/victoriametrics/tls/cert.pem > {authority}/cert.pem"), seen(own),
                                      (authority, "it does not belong to the key on this host"),
                                      frozenset({(store, "component", "Visit OpenBao as the component"),
                                                 (store, "component", "Deliver the credentials and the certificate"), (store, "questdb", "Run the units")}),
                                      (f"{authority}/cert.pem", "/etc/hnai/digests/hnai-questdb-auth.service.reload",
                                       "/run/hnai/hnai-questdb-auth.service.reload")),
    }  # fmt: skip


EVERY = (
    "file content", "mode", "owner", "foreign file", "foreign jar", "key of root", "sysctl of the next start", "account of a service", "release changed",
    "file of ours once", "unit disabled", "unit edited", "change taken up", "unit stopped", "old digest",
    "package removed", "topic setting", "extra ACL", "missing ACL", "Mosquitto ACL line", "Flink job cancelled", "nft rule", "sysctl", "authorized key",
    "key file of nobody", "credential readable", "certificate replaced",
)  # fmt: skip
STAYS = ("foreign file", "foreign jar", "key of root", "sysctl of the next start")
State = dict[str, dict[str, list[Any]]]


def state(lab: Lab, hosts: list[str]) -> State:
    """What the site decides on each host."""
    return lab.each(hosts, lambda host: lab.python(host, program("host_state"), timeout=180))


def differing(before: State, after: State, written: bool) -> dict[str, set[str]]:
    """{host: what differs}; *written*: also what was written again with the same content."""
    found: dict[str, set[str]] = {}
    for host, was in before.items():
        for name in {*was, *after[host]}:
            pair = [one.get(name) or [] for one in (was, after[host])]
            if not written:
                pair = [one[:4] if name.startswith("/") else one for one in pair]
            if pair[0] != pair[1]:
                found.setdefault(host, set()).add(name)
    return found


def changed(run: Run) -> set[Event]:
    """What a run changed."""
    return {
        (event["event_data"]["host"], str(event["event_data"].get("role") or "").rpartition(".")[2], event["event_data"]["task"])
        for event in run.events
        if has_changed(event)
    }


def said(run: Run, host: str) -> str:
    """Everything that a run's results say of a host."""
    return "\n".join(
        json.dumps(event["event_data"].get("res"), ensure_ascii=False) for event in run.events if event["event_data"].get("host") == host
    )


@dataclass
class Course:
    """What happened, in order."""

    drifts: Mapping[str, Drift]
    looks: dict[str, dict[str, str]] = field(default_factory=lambda: {"before": {}, "planted": {}, "after": {}})
    states: dict[str, State] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)


def repaired(lab: Lab, course: Course) -> None:
    """Waits for what comes up by itself: a job of Flink."""
    for name, drift in course.drifts.items():
        if drift.look is running_jobs:
            until(f"{name} is not as before", lambda drift=drift, name=name: drift.look(lab, drift.host) == course.looks["before"][name], 120, 2)


def run_the_course(lab: Lab, found: Mapping[str, Drift], *args: str) -> Course:
    """Plants, checks, repairs, checks."""
    course = Course(found)
    hosts = sorted({drift.host for drift in found.values()})
    hosts += [host for host in lab.groups["managed"] if host not in hosts and not args]

    def look(when: str) -> None:
        course.looks[when] = {name: drift.look(lab, drift.host) for name, drift in found.items()}

    look("before")
    course.states["before"] = state(lab, hosts)
    for drift in found.values():
        drift.plant(lab, drift.host)
    look("planted")
    course.states["planted"] = state(lab, hosts)
    course.runs["check"] = lab.play("site.yml", "--skip-tags", "verify", "--check", "--diff", *args)
    course.states["checked"] = state(lab, hosts)
    course.runs["repair"] = lab.play("site.yml", "--skip-tags", "verify", *args)
    repaired(lab, course)
    look("after")
    course.states["after"] = state(lab, hosts)
    course.runs["again"] = lab.play("site.yml", "--skip-tags", "verify", "--check", "--diff", *args)
    return course


def taken_away(lab: Lab, found: Mapping[str, Drift]) -> None:
    """What stays is a person's to remove."""
    for drift in found.values():
        if drift.stays:
            lab.run(drift.host, "rm", "-f", drift.stays)


@pytest.fixture(scope="module")
def course(lab: Lab) -> Iterator[Course]:
    """All drifts at once; afterwards the site is whole, whatever happened."""
    found = drifts(lab)
    assert (set(found), {name for name, drift in found.items() if drift.stays}) == (set(EVERY), set(STAYS))
    done = False
    try:
        course = run_the_course(lab, found)
        yield course
        done = course.runs["again"].rc == 0 and not course.runs["again"].changed()
    finally:
        taken_away(lab, found)
        if not done:
            run = lab.play("site.yml", "--skip-tags", "verify")
            assert run.rc == 0, run.stdout[-4000:]


def is_named(course: Course, name: str) -> None:
    """The check names host and object, in its results and in what it prints."""
    drift, run = course.drifts[name], course.runs["check"]
    assert drift.look.__name__ == "nothing" or drift.stays or course.looks["planted"][name] != course.looks["before"][name], "was not planted"
    results = said(run, drift.host)
    for word in drift.words:
        assert word in results, f"{drift.host}: {word!r} stands in no result of the check"
    # A person can read it too. Warnings are wrapped at the width of the terminal.
    assert "".join(drift.words[0].split()) in "".join(run.stdout.split()), f"{drift.words[0]!r} is not printed"


def is_repaired(course: Course, name: str) -> None:
    """As it was, by exactly the tasks that it concerns."""
    drift = course.drifts[name]
    assert course.looks["after"][name] == course.looks["before"][name]
    assert drift.events <= changed(course.runs["repair"])


def nothing_else(course: Course) -> None:
    """The check changed nothing, the repair nothing but what was planted, and then nothing is left."""
    for name in ("check", "repair", "again"):
        assert course.runs[name].rc == 0, f"{name}: {course.runs[name].stdout[-4000:]}"
    assert not differing(course.states["planted"], course.states["checked"], written=True)
    expected = frozenset().union(*(drift.events for drift in course.drifts.values()))
    found = changed(course.runs["repair"])
    assert expected <= found <= expected.union(*(drift.maybe for drift in course.drifts.values()))
    counted = {host: number for host, number in course.runs["repair"].stats["changed"].items() if number}
    assert counted == Counter(host for host, _role, _task in found), "a task that says nothing of itself changed something"
    assert course.runs["again"].changed() == []
    allowed: dict[str, set[str]] = {}
    for drift in course.drifts.values():
        allowed.setdefault(drift.host, set()).update({*drift.new, drift.stays} - {""})
    left = {host: names - allowed.get(host, set()) for host, names in differing(course.states["before"], course.states["after"], written=False).items()}
    assert {host: names for host, names in left.items() if names} == {}


@pytest.mark.scenario("drift")
@pytest.mark.parametrize("name", EVERY)
def test_a_drift_is_named_by_the_check(course: Course, name: str) -> None:
    is_named(course, name)


@pytest.mark.scenario("drift")
@pytest.mark.parametrize("name", EVERY)
def test_a_drift_is_repaired_by_the_next_run(course: Course, name: str) -> None:
    is_repaired(course, name)


@pytest.mark.scenario("drift")
@pytest.mark.parametrize("name", STAYS)
def test_what_is_nobodys_is_left_where_it_is(lab: Lab, course: Course, name: str) -> None:
    drift = course.drifts[name]
    assert MARK in lab.run(drift.host, "cat", drift.stays).stdout
    assert drift.words[0] in said(course.runs["again"], drift.host)


@pytest.mark.scenario("drift")
def test_the_check_changed_nothing_and_the_repair_nothing_else(course: Course) -> None:
    print("changed by the repair:", *sorted(changed(course.runs["repair"])), sep="\n  ")
    nothing_else(course)


@pytest.mark.scenario("drift")
def test_the_site_passes_afterwards(lab: Lab, course: Course) -> None:
    assert course.runs["repair"].rc == 0
    taken_away(lab, course.drifts)
    until("the verdict does not pass", lambda: lab.play("playbooks/verify.yml", timeout=400).rc == 0, 420, 15)


def test_five_drifts_of_one_host_are_named_and_repaired(lab: Lab) -> None:
    host = lab.groups["jump"][0]
    user = lab.var(host, "ansible_user")
    journal = "/etc/systemd/journald.conf.d/hnai.conf"
    drop_in = "/etc/systemd/system/chrony.service.d/hnai.conf"
    tree = frozenset({(host, "host", TREE)})
    five = {
        "file content": Drift(host, shell(appended(journal, f"# {MARK}")), file_of(journal), (journal, MARK), tree),
        "mode": Drift(host, shell("chmod 0666 /etc/chrony/chrony.conf"), file_of("/etc/chrony/chrony.conf"), ("/etc/chrony/chrony.conf", "mode 0666"), tree),
        "sysctl": Drift(host, shell("sysctl -w net.ipv4.conf.all.accept_redirects=1"), seen("sysctl -n net.ipv4.conf.all.accept_redirects"),
                        ("net.ipv4.conf.all.accept_redirects = 1",), tree),
        "unit edited": Drift(host, shell(appended(drop_in, f"# {MARK}") + " && systemctl daemon-reload"), file_of(drop_in), (drop_in, MARK), tree),
        "authorized key": Drift(host, shell(appended(f"/home/{user}/.ssh/authorized_keys", public_key())), seen(f"cat /home/{user}/.ssh/authorized_keys"),
                                (f"/home/{user}/.ssh/authorized_keys", MARK), frozenset({(host, "host", "Keep the keys that open this host")})),
    }  # fmt: skip
    only = ("--tags", "host", "--limit", host)
    try:
        course = run_the_course(lab, five, *only)
    except BaseException:
        assert lab.play("site.yml", "--skip-tags", "verify", *only).rc == 0
        raise
    for name in five:
        is_named(course, name)
        is_repaired(course, name)
    nothing_else(course)
