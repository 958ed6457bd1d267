# SPDX-License-Identifier: Apache-2.0
"""The run's own ways in, and what the hosts show: its SSH key, its identities in OpenBao, the certificates of the hosts' keys.

Each is replaced, the controller killed in the middle of it: it always gets in, and in the end the old one is dead, or superseded.
"""
from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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


LOGIN = """
import json, ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context(cafile="/etc/hnai/openbao/trust.pem")
asked = urllib.request.Request("https://127.0.0.1:8200/v1/auth/approle/login", json.dumps(IDENTITY).encode())
try:
    urllib.request.urlopen(asked, context=context, timeout=20)
    print(json.dumps("accepted"))
except urllib.error.HTTPError as error:
    print(json.dumps("refused" if error.code == 400 and b"invalid" in error.read() else "HTTP %d" % error.code))
"""


def login(lab: Lab, identity: dict[str, str]) -> str:
    """What OpenBao says to a secret_id. It stands in no argument."""
    return str(lab.python(lab.groups["openbao"][0], f"IDENTITY = {identity!r}\n{LOGIN}"))


@pytest.mark.parametrize("name", ["deploy", "site-admin"])
def test_a_killed_rotation_of_an_identity_is_finished_by_the_next_run(lab: Lab, tmp_path: Path, name: str) -> None:
    file, key = lab.state / "openbao/deploy.json", name.replace("-", "_")
    before = json.loads(file.read_text(encoding="utf-8"))
    argv = ["-i", str(lab.inventory), "playbooks/rotate.yml", "-e", json.dumps({"rotate_secret": f"approle/{name}", "rotate_reason": "request"})]
    _seed, draw = chance(SEED)
    for number in range(3):
        later = draw.uniform(0.3, 1.4)  # on a quick machine the task is over after two seconds
        kill_a_run(argv, tmp_path / f"killed{number}.log", lambda said: "TASK [Rotate the secret_id]" in said, later, begins=True)
        held = json.loads(file.read_text(encoding="utf-8"))
        for one in ("deploy", "site_admin"):
            assert login(lab, held[one]) == "accepted", f"killed {later:.1f} s after the task began, {one} is shut out"
    # A killed run may have been at its end: then there is nothing to go on with, and this is one more.
    run = lab.play("playbooks/rotate.yml", extra={"rotate_secret": f"approle/{name}", "rotate_reason": "request"}, timeout=900)
    assert run.rc == 0, run.stdout[-3000:]
    held = json.loads(file.read_text(encoding="utf-8"))
    assert file.stat().st_mode & 0o777 == 0o600
    assert set(held) == set(before), "next or old was left in the file"
    assert held[key]["secret_id"] != before[key]["secret_id"]
    assert (login(lab, held[key]), login(lab, before[key])) == ("accepted", "refused")
    other = "site_admin" if key == "deploy" else "deploy"
    assert held[other] == before[other]
    look = lab.play("playbooks/rotate.yml", "--check", extra={"rotate_secret": f"approle/{name}"})
    said = " ".join(look.stdout.split())
    assert look.rc == 0 and "rotated" in said and "not due" in said, said[-2000:]
    # Who enters by it enters.
    assert lab.play("playbooks/components/openbao.yml").rc == 0


SSH = {"rotate_secret": "ssh/hosts"}
SSH_MOMENTS = ("TASK [Let OpenBao certify the host's key]", "TASK [Put the certificate in place]", "TASK [See that it is served, from the controller]")


@contextmanager
def session(lab: Lab, host: str) -> Iterator[subprocess.Popen[str]]:
    """An open one."""
    argv = ["ssh", "-F", str(lab.state / "ssh/config"), "-o", "ControlMaster=no", "-o", "ControlPath=none", host, "echo up; cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n"
            yield process
            process.stdin.write("still here\n")
            process.stdin.flush()
            assert process.stdout.readline() == "still here\n", f"the session on {host} was cut"
        finally:
            process.kill()


def test_every_host_serves_a_certificate_and_the_pinned_keys_stay(lab: Lab, tmp_path: Path) -> None:
    """The store needs the mount ssh-host: one that an older release made has it after a ceremony, or after `make lab-destroy lab`."""
    folder = lab.state / "ssh"
    assert lab.play("playbooks/lab/create.yml").rc == 0, "the configuration names the file with the CA"
    pinned = (folder / "known_hosts").read_bytes()
    assert lab.play("playbooks/components/openbao.yml").rc == 0
    with session(lab, "data1"), session(lab, lab.groups["jump"][0]):
        for number, step in enumerate(SSH_MOMENTS):
            argv = ["-i", str(lab.inventory), "playbooks/rotate.yml", "-e", json.dumps(SSH)]
            kill_a_run(argv, tmp_path / f"ssh{number}.log", lambda said, step=step: step in said, 0.2)
        run = lab.play("playbooks/rotate.yml", extra=SSH, timeout=900)
        assert run.rc == 0, run.stdout[-3000:]
    assert (folder / "known_hosts").read_bytes() == pinned
    text = (folder / "config").read_text(encoding="utf-8")
    both = f"UserKnownHostsFile {folder}/known_hosts {folder}/known_hosts_ca"
    assert both in text
    for name, files in (("ca", f"{folder}/known_hosts_ca"), ("pinned", f"{folder}/known_hosts")):
        (tmp_path / name).write_text(text.replace(both, f"UserKnownHostsFile {files}"), encoding="utf-8")
        for host in lab.groups["managed"]:
            until(f"{host} is not believed by {name} alone", lambda host=host, name=name: enters(lab, host, tmp_path / name)[0], 60, 2)
    serials = {}
    for host in lab.groups["managed"]:
        noted = json.loads(lab.run(host, "cat", "/var/lib/hnai/rotation/ssh+host.json").stdout)
        assert "open" not in noted and noted["last"]["proof"]["new_served"] and noted["last"]["proof"]["wrong_refused"], f"{host}: {noted}"
        serials[host] = noted["last"]["new"]
    assert len(set(serials.values())) == len(serials)
    run = lab.play("playbooks/rotate.yml", extra=SSH, timeout=900)
    assert run.rc == 0, run.stdout[-3000:]
    for host in lab.groups["managed"]:
        last = json.loads(lab.run(host, "cat", "/var/lib/hnai/rotation/ssh+host.json").stdout)["last"]
        assert last["old"] == serials[host] != last["new"] and last["superseded"][0]["serial"] == serials[host]
    # The role neither knows of it nor touches it.
    run = lab.play("site.yml", "--tags", "host", "--check")
    assert run.rc == 0 and run.changed() == [], run.stdout[-2000:]
