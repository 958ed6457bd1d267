# SPDX-License-Identifier: Apache-2.0
"""The controller dies in the middle of the first deployment. The next run makes the site, and restarts only what has to be."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT, Lab
from killing import chance, kill_a_run
from units import STOPPING, events

SEED = 4
LATER_S = 5.0
HEADING = re.compile(r"^TASK \[", re.MULTILINE)

DIGESTS = """
import glob, json, os
def read(folder):
    return {os.path.basename(path)[:-len(".restart")]: open(path).read() for path in glob.glob(folder + "/*.restart")}
print(json.dumps({"wanted": read("/etc/hnai/digests"), "running": read("/run/hnai")}))
"""


def lab_command(lab: Lab, *argv: str, timeout: float) -> None:
    """A command of the project; its end must be good. What it started does not outlive its time."""
    environment = {**os.environ, "PATH": f"{lab.python_path}:{os.environ['PATH']}"}
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, _none = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, f"{argv}: rc {process.returncode}: {said[-6000:]}"


def named_tasks(lab: Lab) -> int:
    """Tasks that a whole run comes to at least: those that --list-tasks knows; included ones come on top."""
    argv = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(lab.inventory), "site.yml", "--skip-tags", "verify", "--list-tasks"]
    run = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    return sum("TAGS: [" in line and "play #" not in line for line in run.stdout.splitlines())


@pytest.mark.scenario("first-kill")
def test_a_killed_first_deployment_is_finished_by_the_next_run(lab: Lab, tmp_path: Path) -> None:
    seed, draw = chance(SEED)
    number, later_s = draw.randint(1, named_tasks(lab)), draw.uniform(0, LATER_S)
    print(f"HNAI_SEED={seed}: killed {later_s:.1f} s after task {number} began")
    lab_command(lab, "scripts/lab", "down", timeout=300)
    for playbook in ("playbooks/artifacts.yml", "playbooks/lab/create.yml"):
        run = lab.play(playbook)
        assert run.rc == 0, run.stdout[-4000:]
    argv = ["-i", str(lab.inventory), "site.yml", "--skip-tags", "verify"]
    said = kill_a_run(argv, tmp_path / "killed.log", lambda text: len(HEADING.findall(text)) >= number, later_s)
    print("the last task:", [line for line in said.splitlines() if line.startswith("TASK [")][-1])
    hosts = lab.groups["managed"]
    time.sleep(10)  # what ran on hosts when their controller died ends by itself
    since_us = time.time_ns() // 1000
    before = lab.each(hosts, lambda host: lab.python(host, DIGESTS))
    lab_command(lab, "scripts/lab", "up", timeout=1500)

    after = lab.each(hosts, lambda host: lab.python(host, DIGESTS))
    wrong, restarted, left = [], [], []
    for host in hosts:
        stops = [unit for _at, unit, what in events(lab, host, since_us) if what == STOPPING]
        for unit, running in after[host]["running"].items():
            assert running == after[host]["wanted"][unit], f"{host}: {unit} runs something else than what is wanted"
            was = before[host]["running"].get(unit)
            times = stops.count(unit)
            due = int(was is not None and was != running)
            (restarted if due else left).append(f"{host} {unit}")
            if times != due:
                wrong.append(f"{host}: {unit} was restarted {times} times, its digest {'changed' if due else 'did not change'}")
    print("restarted:", restarted)
    assert not wrong, "\n".join(wrong)
    assert len(left) + len(restarted) > 20
    assert json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))["verdict"] == "pass"
