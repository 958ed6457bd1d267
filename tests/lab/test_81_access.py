# SPDX-License-Identifier: Apache-2.0
"""The run's own SSH key is replaced, the controller killed in the middle of each step: it always gets in, and in the end the old key is dead."""
from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Lab
from killing import chance, kill_a_run
from plant_view import until

pytestmark = pytest.mark.scenario("access")
VERB = "playbooks/rotate_access.yml"
STEPS = (
    "TASK [Make the next key]",
    "TASK [Authorise the next key]",
    "TASK [Enter with the new key alone]",
    "TASK [The new key is the run's]",
    "TASK [Take the old key away]",
    "TASK [Enter with the old key alone, in vain]",
)
SEED = 5


def enters(lab: Lab, host: str, config: Path) -> tuple[bool, str]:
    """A new connection to a host, its way through the jump included."""
    fresh = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "IdentityAgent=none"]
    through = [] if host == lab.groups["jump"][0] else ["-o", "ProxyCommand=" + " ".join([*fresh, "-W", "[%h]:%p", lab.groups["jump"][0]])]
    done = subprocess.run([*fresh, *through, host, "true"], check=False, capture_output=True, text=True, timeout=60)
    return done.returncode == 0, done.stderr


@pytest.fixture
def old(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """A configuration that knows the key of before; afterwards the lab's seeds hold the key of now."""
    folder = lab.state / "ssh"
    shutil.copy(folder / "id_ed25519", tmp_path / "id")
    (tmp_path / "config").write_text((folder / "config").read_text(encoding="utf-8").replace(str(folder / "id_ed25519"), str(tmp_path / "id")))
    yield tmp_path / "config"
    assert lab.play("playbooks/lab/create.yml").rc == 0


def test_the_runs_own_key_is_replaced_whatever_happens_to_the_run(lab: Lab, old: Path, tmp_path: Path) -> None:
    files = sorted(path.name for path in (lab.state / "ssh").iterdir() if path.name != "cp")
    key = lab.state / "ssh" / "id_ed25519"
    before = key.read_bytes()
    assert lab.play(VERB, "--check").rc == 0 and key.read_bytes() == before
    run = lab.play(VERB, "--limit", "kafka1,localhost")
    assert run.rc != 0 and "a host that keeps the old key alone is lost" in run.stdout and key.read_bytes() == before
    _seed, draw = chance(SEED)
    for number, step in enumerate(STEPS):
        later = draw.uniform(0, 0.6)
        kill_a_run(["-i", str(lab.inventory), VERB], tmp_path / f"killed{number}.log", lambda said, step=step: step in said, later)
        for host in ("jump1", "data1"):
            # A busy machine answers late, which is no refusal.
            until(f"killed {later:.1f} s after {step} began, {host} cannot be entered", lambda host=host: enters(lab, host, lab.state / "ssh/config")[0], 90, 2)
    run = lab.play(VERB)
    assert run.rc == 0, run.stdout[-3000:]
    assert key.read_bytes() != before
    assert sorted(path.name for path in (lab.state / "ssh").iterdir() if path.name != "cp") == files
    for host in lab.groups["managed"]:
        # Each killed run tried the old key: sshd (9.8 and later) keeps an address waiting that was refused often (PerSourcePenalties).
        until(f"{host} cannot be entered with the new key", lambda host=host: enters(lab, host, lab.state / "ssh/config")[0], 90, 2)
        good, said = enters(lab, host, old)
        assert not good and "Permission denied" in said, f"{host} still takes the old key: {said}"
        keys = lab.run(host, "cat", "/home/ansible/.ssh/authorized_keys").stdout.splitlines()
        assert keys == [key.with_name("id_ed25519.pub").read_text(encoding="utf-8").strip()], f"{host}: {json.dumps(keys)}"
