# SPDX-License-Identifier: Apache-2.0
"""`--check --diff` on freshly made hosts does not fail, changes nothing, and predicts the files, packages, accounts and units of the run that follows.

What only that run can know is named in the output. Scenario bare-check: it makes the lab anew, and leaves it whole.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import Lab, Run, has_changed
from test_80_first_kill import lab_command
from test_88_drift import State, differing, said, state

pytestmark = pytest.mark.scenario("bare-check")
#: Folders in which the site decides what lies; what packages deliver there, and what systemctl enable links, is theirs.
OURS = (
    "/etc/hnai/", "/etc/credstore.encrypted/", "/etc/systemd/system/", "/etc/systemd/journald.conf.d/", "/etc/sysusers.d/", "/etc/tmpfiles.d/",
    "/etc/sysctl.d/", "/etc/ssh/", "/etc/sudoers.d/", "/etc/chrony/", "/etc/hosts", "/etc/audit/", "/usr/local/",
)  # fmt: skip
#: The book of what a unit was started with; the unit itself is predicted.
BOOKS = "/etc/hnai/digests/"
#: Links that systemctl enable makes, and what Python keeps of a program that root ran.
MADE = (".wants/", ".requires/", "/__pycache__/")
#: What only the run can know, in the check's own words.
NAMED = ("not predicted: the whole site (no store is open yet)", "no cluster to compare with, everything counts as new", "there is no keeper here yet")
PACKAGES_BRING = "not predicted: accounts, files and units that these packages bring"


@dataclass
class Host:
    """What a run names of a host. `hidden`: components whose credentials change, which no_log keeps to itself; `unnamed`: with a change without a file."""

    files: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    unnamed: set[str] = field(default_factory=set)


def gather(run: Run) -> dict[str, Host]:
    """What a run names, by host."""
    found: dict[str, Host] = {}
    component: dict[str, str] = {}
    for event in run.events:
        data, result = event["event_data"], event["event_data"].get("res") or {}
        if event["event"] != "runner_on_ok":
            continue
        name, role = data["host"], str(data.get("role") or "").rpartition(".")[2]
        if role and role != "component":
            component[name] = role
        host = found.setdefault(name, Host())
        for one in result.get("results") or [result]:
            if one.get("changed") or (one is result and has_changed(event)):
                take(host, component.get(name, ""), str(data.get("task_action")).rpartition(".")[2], one)
    return found


def take(host: Host, component: str, module: str, result: dict[str, Any]) -> None:
    """What one changed result names."""
    if "censored" in result:
        host.hidden.add(component)
        return
    diffs = result.get("diff") or []
    diffs = [one for one in (diffs if isinstance(diffs, list) else [diffs]) if one.get("before") != one.get("after")]
    if module == "unit":
        host.units.update(str(one["before_header"]) for one in diffs)
        return
    if module == "artifact":
        debs = result["debs"]
        host.packages.update(package.split("=", 1)[0] for package in debs["installed"])
        host.files.update(f"/etc/systemd/system/{unit}" for unit in debs["masked"])
        return
    paths = [path for key in ("changed_paths", "removed") for path in result.get(key) or [] if not path.endswith("/")]
    for one in diffs:
        header = str(one.get("after_header") or "").split(" ", 1)[0].rstrip(",")
        if header == "accounts":
            host.accounts.update(str(one["after"]).split())
        elif header.startswith("/") and not paths:
            paths.append(header)
    host.files.update(path for path in paths if not path.endswith("/"))
    if not paths:
        host.unnamed.add(component)


@dataclass
class Course:
    """What happened, in order."""

    states: dict[str, State] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def course(lab: Lab) -> Iterator[Course]:
    """Hosts made anew, a check, the run; afterwards the whole lab, with its verdict."""
    found, hosts = Course(), lab.groups["managed"]
    try:
        lab_command(lab, "scripts/lab", "down", timeout=300)
        for playbook in ("playbooks/artifacts.yml", "playbooks/lab/create.yml"):
            run = lab.play(playbook)
            assert run.rc == 0, run.stdout[-4000:]
        found.states["before"] = state(lab, hosts)
        found.runs["check"] = lab.play("site.yml", "--skip-tags", "verify", "--check", "--diff")
        found.written = [name for name in ("ca.pem", "openbao/init.json", "openbao/deploy.json") if (lab.state / name).exists()]
        found.states["checked"] = state(lab, hosts)
        found.runs["real"] = lab.play("site.yml", "--skip-tags", "verify")
        found.states["after"] = state(lab, hosts)
        yield found
    finally:
        lab_command(lab, "scripts/lab", "up", timeout=1500)


def happened(course: Course, name: str) -> Host:
    """What the run changed on a host, as the host says."""
    was, now = course.states["before"][name], course.states["after"][name]
    found = Host()
    delivered = set(now["distribution"])
    for path in differing({name: was}, {name: now}, written=False).get(name, set()):
        if path.startswith("unit "):
            found.units.add(path.removeprefix("unit "))
        elif path.startswith(OURS) and not path.startswith(BOOKS) and not any(part in path for part in MADE):
            # An alias that systemctl enable makes is a link to the unit.
            target = str((now.get(path) or was[path])[3])
            if not target.startswith(("/lib/systemd/", "/usr/lib/systemd/", "/etc/systemd/")):
                found.files.add(path)
    found.packages = {row.split("=", 1)[0] for row in set(now["packages"]) - set(was["packages"])}
    found.accounts = {row.split(":", 1)[0] for row in set(now["accounts"]) - set(was["accounts"])}
    # Of the distribution's files only those that the site writes itself are its matter.
    found.files -= delivered - gather(course.runs["check"])[name].files
    return found


def test_the_check_does_not_fail_and_changes_nothing(course: Course) -> None:
    run = course.runs["check"]
    assert run.rc == 0, run.stdout[-6000:]
    assert not differing(course.states["before"], course.states["checked"], written=True)
    assert course.written == []


def test_the_run_after_it_succeeds(course: Course) -> None:
    assert course.runs["real"].rc == 0, course.runs["real"].stdout[-6000:]


def test_files_are_those_that_the_run_changes(course: Course) -> None:
    wrong: dict[str, list[str]] = {}
    for name, named in gather(course.runs["check"]).items():
        if name not in course.states["after"]:
            continue
        real = happened(course, name).files
        # no_log hides which credential of a component changes, a command which files it makes; that something changes is said by task and component.
        hidden = tuple(f"/etc/credstore.encrypted/hnai-{one}." for one in named.hidden) + tuple(f"/etc/hnai/{one}/pki/" for one in named.unnamed)
        missed = {path for path in real - named.files if not path.startswith(hidden)}
        idle = {path for path in named.files - real if path.startswith(OURS)}
        lines = [f"not predicted: {path}" for path in sorted(missed)] + [f"predicted, not changed: {path}" for path in sorted(idle)]
        printed = course.runs["check"].stdout
        lines += [f"not printed: {path}" for path in sorted(named.files) if path not in printed and f"masked {path.rpartition('/')[2]}" not in printed]
        if lines:
            wrong[name] = lines
    assert wrong == {}
    assert sum(len(happened(course, name).files) for name in course.states["after"]) > 100


def test_packages_are_those_that_the_run_installs(course: Course) -> None:
    named = gather(course.runs["check"])
    real = {name: happened(course, name).packages for name in course.states["after"]}
    assert {name: named[name].packages for name in real} == real
    assert all(real.values())


def test_accounts_are_those_that_the_run_makes(course: Course) -> None:
    named = gather(course.runs["check"])
    for name in course.states["after"]:
        real = happened(course, name).accounts
        assert named[name].accounts <= real, name
        # Packages make accounts of their own; that they do is said, which is not.
        assert not {one for one in real - named[name].accounts if one.startswith("hnai-")}, name
        assert real == named[name].accounts or PACKAGES_BRING in said(course.runs["check"], name), name


def test_units_are_those_that_the_run_starts(course: Course) -> None:
    named = gather(course.runs["check"])
    for name in course.states["after"]:
        known = {one.removeprefix("unit ") for one in course.states["after"][name] if one.startswith("unit ")}
        real = happened(course, name).units
        assert named[name].units - real <= named[name].units - known, f"{name}: predicted, not changed: {sorted(named[name].units & known - real)}"
        # What a timer starts is loaded when its time comes.
        idle = {one for one in real - named[name].units if course.states["after"][name][f"unit {one}"][0] in ("static", "")}
        assert real - named[name].units - idle == set(), name


def test_what_cannot_be_predicted_is_named(course: Course) -> None:
    printed = "".join(course.runs["check"].stdout.split())
    for words in (*NAMED, PACKAGES_BRING):
        assert "".join(words.split()) in printed, words
    hidden = {component for host in gather(course.runs["check"]).values() for component in host.hidden}
    assert {"kafka", "mosquitto", "telegraf"} <= hidden
    assert "Deliver the credentials and the certificate" in course.runs["check"].stdout
