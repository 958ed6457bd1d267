# SPDX-License-Identifier: Apache-2.0
"""The standing lab as tests see it: hosts over the site's own SSH, the plant over podman, playbooks through ansible-runner."""
from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ansible_runner
import pytest

# Tests say `from conftest import Lab`, and share the programs beside this file and those of all suites.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
sys.modules["conftest"] = sys.modules[__name__]

import scenarios

ROOT = Path(__file__).resolve().parents[2]
STARTED = pytest.StashKey[datetime.datetime]()
TESTS = pytest.StashKey[list[dict[str, Any]]]()
SUDO = [] if os.getuid() == 0 else ["sudo", "-n"]


def has_changed(event: dict[str, Any]) -> bool:
    """Whether a result changed something. no_log hides that too in an event; what is printed of it says it."""
    result = event["event_data"].get("res") or {}
    if event["event"] != "runner_on_ok":
        return False
    return bool(result.get("changed")) or ("censored" in result and "changed: [" in str(event.get("stdout")))


@dataclass
class Run:
    """What a playbook run did: exit code, events of tasks, final counts per host."""

    rc: int
    events: list[dict[str, Any]]
    stats: dict[str, Any]
    stdout: str

    def changed(self) -> list[str]:
        """["host: task"] of everything that changed."""
        return [
            f"{event['event_data']['host']}: {event['event_data']['task']}"
            for event in self.events
            if has_changed(event)
        ]

    def task_hosts(self) -> int:
        """runner_on_ok and runner_on_skipped events: what the run costs."""
        return sum(event["event"] in ("runner_on_ok", "runner_on_skipped") for event in self.events)


class Lab:
    """The lab site of INVENTORY, or of another one."""

    def __init__(self, inventory: Path | None = None) -> None:
        self.inventory = inventory or ROOT / os.environ.get("INVENTORY", "inventories/lab/hosts.yml")
        self.python_path = ROOT / ".venv" / "bin"

    @cached_property
    def data(self) -> dict[str, Any]:
        """ansible-inventory --list: groups and raw variables."""
        run = subprocess.run(
            [str(self.python_path / "ansible-inventory"), "-i", str(self.inventory), "--list"],
            cwd=ROOT, check=True, capture_output=True, text=True, timeout=60,
        )
        return json.loads(run.stdout)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group → hosts, children included."""

        def members(name: str) -> list[str]:
            group = self.data.get(name, {})
            found = list(group.get("hosts", []))
            for child in group.get("children", []):
                found += [host for host in members(child) if host not in found]
            return found

        return {name: members(name) for name in self.data if name != "_meta"}

    def var(self, host: str, name: str) -> Any:
        """A raw inventory variable of a host."""
        return self.data["_meta"]["hostvars"][host].get(name)

    @cached_property
    def state(self) -> Path:
        """hnai_state_dir of the site."""
        run = subprocess.run(
            [str(self.python_path / "ansible"), "localhost", "-i", str(self.inventory), "-c", "local", "-o", "-m", "ansible.builtin.debug",
             "-a", "msg={{ hnai_state_dir }}", "-e", "ansible_python_interpreter={{ ansible_playbook_python }}"],
            cwd=ROOT, check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return Path(run.stdout.split('"msg": "', 1)[1].split('"', 1)[0])

    def run(self, host: str, *argv: str, stdin: str = "", timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command as root on a managed host, over the site's SSH through the jump."""
        command = ["ssh", "-F", str(self.state / "ssh/config"), host, "sudo -n " + shlex.join(argv)]
        done = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0 or not check, f"{host}: {shlex.join(argv)[:300]}: rc {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}"
        return done

    def python(self, host: str, code: str, *args: str, timeout: float = 120, interpreter: str = "/usr/bin/python3") -> Any:
        """A Python program on a host; its standard output is JSON."""
        return json.loads(self.run(host, interpreter, "-", *args, stdin=code, timeout=timeout).stdout)

    def plant(self, *argv: str, host: str = "", timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command on a device of the plant (the first, if none is named), over podman: nothing of the site reaches it."""
        return self.podman("exec", self.container(host or self.groups["ot_devices"][0]), *argv, timeout=timeout, check=check)

    def podman(self, *argv: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """podman on this machine."""
        return subprocess.run([*SUDO, "podman", *argv], check=check, capture_output=True, text=True, timeout=timeout)

    def container(self, host: str) -> str:
        """Name of a lab host's container."""
        return f"{self.var(host, 'lab_prefix')}{host}"

    def each(self, hosts: list[str], function: Any) -> dict[str, Any]:
        """function(host) on several hosts, four at a time."""
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(hosts, pool.map(function, hosts), strict=True))

    def play(
        self, playbook: str, *args: str, extra: Mapping[str, Any] | None = None, timeout: float = 1200, inventory: Path | None = None
    ) -> Run:
        """A playbook through ansible-runner, on another *inventory* where one is given; a failed run is returned, not raised."""
        with tempfile.TemporaryDirectory() as private:
            result = ansible_runner.run(
                private_data_dir=private, project_dir=str(ROOT), playbook=playbook, inventory=str(inventory or self.inventory),
                cmdline=shlex.join(args) or None, extravars=dict(extra or {}), quiet=True, timeout=int(timeout),
                envvars={"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PATH": f"{self.python_path}:{os.environ['PATH']}"},
            )
            events = [event for event in result.events if event["event"].startswith("runner_on_")]
            return Run(result.rc, events, dict(result.stats or {}), result.stdout.read())

    def adhoc(self, host: str, module: str, arguments: Mapping[str, Any], timeout: float = 180) -> dict[str, Any]:
        """One module on one host, as its own task; its result, whatever it says."""
        command = [
            str(self.python_path / "ansible"), host, "-i", str(self.inventory), "--become", "-m", module, "-a", json.dumps(dict(arguments)),
        ]  # fmt: skip
        environment = dict(os.environ, ANSIBLE_LOAD_CALLBACK_PLUGINS="1", ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=timeout)
        begin = done.stdout.find("{")
        assert begin >= 0, f"{host}: {module}: rc {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}"
        return json.loads(done.stdout[begin:])["plays"][0]["tasks"][0]["hosts"][host]


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab; `make lab` made it."""
    return Lab()


def pytest_addoption(parser: pytest.Parser) -> None:
    """--scenario NAME: exactly the tests of one scenario."""
    parser.addoption("--scenario", choices=sorted(scenarios.SCENARIOS), help="run the tests of this scenario, and leave its result")


def pytest_configure(config: pytest.Config) -> None:
    """The mark, and the clock of a result."""
    config.addinivalue_line("markers", "scenario(name): runs only by `make scenario NAME=name`; the names stand in tests/lab/scenarios.py")
    config.stash[STARTED] = datetime.datetime.now(datetime.UTC)
    config.stash[TESTS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test belongs to one scenario, or to every run."""
    wanted = config.getoption("--scenario")
    taken, left = [], []
    for item in items:
        mark = item.get_closest_marker("scenario")
        name = mark.args[0] if mark else None
        if name is not None and name not in scenarios.SCENARIOS:
            raise pytest.UsageError(f"{item.nodeid}: no scenario {name!r} in tests/lab/scenarios.py")
        (taken if name == wanted else left).append(item)
    items[:] = taken
    config.hook.pytest_deselected(items=left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collects outcomes for the result."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        test = {"id": item.name, "outcome": report.outcome, "seconds": round(report.duration, 1), "output": report.capstdout[-4000:]}
        if report.failed:
            test["why"] = report.longreprtext[-4000:]
        item.config.stash[TESTS].append(test)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leaves the result of a scenario."""
    name = session.config.getoption("--scenario")
    if not name or not session.config.stash[TESTS]:
        return
    now = datetime.datetime.now(datetime.UTC)
    found = scenarios.result(name, session.config.stash[STARTED], now, session.config.stash[TESTS])
    path = scenarios.leave(Lab().state, found | {"commit": scenarios.commit(ROOT)})
    print(f"\n{name}: {found['verdict']}, {path}")
