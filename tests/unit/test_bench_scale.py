# SPDX-License-Identifier: Apache-2.0
"""bench/scale.py: the site that it makes is a right one, the stub is a host that has everything, and growth is judged."""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOL = Path(sys.executable).with_name("ansible-playbook")


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hnai_bench_scale", ROOT / "bench" / "scale.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hnai_bench_scale"] = module
    spec.loader.exec_module(module)
    return module


def play(path: Path, playbook: Path, folder: Path) -> tuple[int, str]:
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "bench/stub"), "ANSIBLE_NOCOLOR": "1",
                   "HNAI_STATE_DIR": str(folder / "state")}  # fmt: skip
    done = subprocess.run([str(TOOL), "-i", str(path), str(playbook)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_site_of_a_thousand_hosts_is_right(scale: ModuleType, tmp_path: Path) -> None:
    path, lab, more = scale.prepare(tmp_path, 1000)
    assert len(lab) + len(more) == 1000 and "router" in lab and "plc1" not in lab
    code, said = play(path, ROOT / "playbooks/validate.yml", tmp_path)
    assert code == 0 and " 0 error(s)" in said, said[-2000:]


def test_a_site_that_is_too_small_or_too_large_is_refused(scale: ModuleType, tmp_path: Path) -> None:
    for number, said in ((3, "the lab alone has"), (2000, "has room for")):
        with pytest.raises(SystemExit, match=said):
            scale.prepare(tmp_path / str(number), number)


def test_a_stub_has_everything_and_takes_nothing_but_modules(scale: ModuleType, tmp_path: Path) -> None:
    path, _lab, _more = scale.prepare(tmp_path, 10)
    tasks: list[dict[str, Any]] = [
        {"name": "A module", "hnai.platform.artifact": {"component": "telegraf"}},
        {"name": "A file", "ansible.builtin.copy": {"content": "x", "dest": "/x"}, "ignore_errors": True, "register": "file"},
        {"name": "A shell", "ansible.builtin.raw": "true", "ignore_errors": True, "register": "shell"},
        {"name": "Both refused", "ansible.builtin.assert": {"that": ["file is failed", "shell is failed", "'stub' in shell.msg"]}},
    ]
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "edge1,data1", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    code, said = play(path, tmp_path / "play.yml", tmp_path)
    assert code == 0, said[-3000:]
    assert {host: (line["changed"], line["failed"]) for host, line in scale.counts(said).items()} == {"edge1": (0, 0), "data1": (0, 0)}, said


def test_answers_are_what_the_contracts_ask_for(scale: ModuleType) -> None:
    found = scale.answers()
    assert set(found) == {"12", "13"}
    seen = found["13"]["hnai.platform.plugins.modules.artifact"]
    entry = yaml.safe_load((ROOT / "roles/kafka/meta/component.yml").read_text(encoding="utf-8"))["artifacts"][0]
    assert seen["archives"]["kafka"]["version"] == entry["version"] and seen["packages"]["chrony"].startswith("4.6.1-")


def test_the_rest_of_a_site_counts_as_those_that_were_run(scale: ModuleType) -> None:
    few, more = scale.Cost(9, 100, 10.0, 8.0, 90.0), scale.Cost(19, 220, 16.0, 13.0, 95.0)
    assert scale.whole(few, more, 109) == scale.Cost(109, 1300, 70.0, 58.0, 95.0)
    assert scale.whole(few, more, 19) == more


def test_growth_is_judged_from_size_to_size(scale: ModuleType) -> None:
    figures = ((10, 1.0, 10.0, 80.0), (100, 99.0, 60.0, 90.0), (1000, 1.0, 900.0, 100.0))
    costs = [scale.Cost(hosts, 0, wall, cpu, memory) for hosts, wall, cpu, memory in figures]
    assert scale.judge(costs, 1.5) == []
    assert scale.judge([*costs[:2], scale.Cost(1000, 0, 1.0, 901.0, 100.0)], 1.5) == ["CPU: 100 to 1000 hosts cost 15.0 times (at most 15.0)"]
    assert len(scale.judge([*costs[:2], scale.Cost(1000, 0, 1.0, 900.0, 1400.0)], 1.5)) == 1


def test_the_recap_is_read_by_host(scale: ModuleType) -> None:
    said = "stray : ok=1\nPLAY RECAP ****\nedge1        : ok=12   changed=1    unreachable=0    skipped=2\nlocalhost : ok=3 changed=0\n"
    assert scale.counts(said) == {"edge1": {"ok": 12, "changed": 1, "unreachable": 0, "skipped": 2}, "localhost": {"ok": 3, "changed": 0}}
