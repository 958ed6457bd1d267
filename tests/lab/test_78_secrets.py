# SPDX-License-Identifier: Apache-2.0
"""No secret stands where nobody expects it: files, journals, arguments and environments of every host, the controller, its logs, the project.

Scenario secrets. Every value that OpenBao holds, old and new, each in plain and as base64, is looked for after a rotation that says
as much as it can (-vvvv, --diff). What is found must lie in a place that the design names.
"""
from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SUDO, Lab
from plant_view import program

pytestmark = pytest.mark.scenario("secrets")
PATHS = ("/etc", "/var", "/tmp", "/run", "/root", "/home", "/opt", "/usr/local", "/srv", "/dev/shm")
#: Where a value may stand on a host, and why.
HOST_PLACES = {
    r"/run/credentials/[^/]+/.*": "systemd hands a unit its credentials in a memory file system of the unit",
    r"/run/hnai-(victoriametrics|questdb)-auth/auth\.yml": "what vmauth reads, in memory, made from the credentials at each start",
}
#: The same of the controller's state directory.
STATE_PLACES = {
    r"openbao/.*\.json": "keys of the lab's OpenBao and the deploy identity; docs/openbao-ceremony.md is for production",
    r"lab/plc1/[a-z]+\.password": "handed over by the plant",
}
ROTATED = "telegraf/kafka_writer"
#: Fields of a secret that are none.
OPEN_FIELDS = ("username", "mechanism", "slot")


def filled(name: str, variable: str, value: dict[str, str]) -> str:
    """A program with what it must know, which therefore stands in no argument."""
    text, empty = program(name), f"{variable}: dict[str, str] = {{}}\n"
    assert empty in text
    return text.replace(empty, f"{variable} = {value!r}\n")


def of_openbao(lab: Lab) -> dict[str, str]:
    """{path, version and field: value} of what OpenBao holds, as its rotation identity reads it."""
    deploy = json.loads((lab.state / "openbao/deploy.json").read_text(encoding="utf-8"))["deploy"]
    found = lab.python(lab.groups["openbao"][0], filled("host_values", "DEPLOY", deploy), "https://127.0.0.1:8200", "/etc/hnai/openbao/tls/ca.pem")
    # A journal holds fingerprints; what it is about to publish lies beside it.
    values = {name: value for name, value in found.items()
              if isinstance(value, str) and name.split()[-1] not in OPEN_FIELDS and not name.split()[0].endswith("/_rotation")}
    assert min(map(len, values.values())) >= 16, "not a secret: it is everywhere"
    assert len(values) >= len({name.split()[0] for name in values}) >= 10, sorted(values)
    return values


def of_the_controller(lab: Lab) -> dict[str, str]:
    """What the site's keepers hold: shares, identities, the plant's passwords, the run's own key."""
    keys = json.loads((lab.state / "openbao/init.json").read_text(encoding="utf-8"))
    known = json.loads((lab.state / "openbao/deploy.json").read_text(encoding="utf-8"))
    values = {f"share {number}": share for number, share in enumerate(keys["keys"])}
    values |= {f"identity {name}": known[name]["secret_id"] for name in ("deploy", "site_admin")}
    values |= {path.name: path.read_text(encoding="utf-8").strip() for path in (lab.state / "lab/plc1").glob("*.password")}
    return values


def search(values: dict[str, str]) -> str:
    """The program that looks for them."""
    return filled("host_search", "VALUES", values)


def elsewhere(files: dict[str, list[str]], places: dict[str, str], folder: str = "") -> dict[str, list[str]]:
    """The files that no place allows."""
    return {path: found for path, found in files.items() if not any(re.fullmatch(folder + place, path) for place in places)}


@contextmanager
def watched(values: dict[str, str], folder: Path) -> Iterator[dict[str, Any]]:
    """Every process of this machine, the hosts' included, while something runs."""
    stop, seen = folder / "stop", {}
    with subprocess.Popen([*SUDO, sys.executable, "-", "watch", "900", str(stop)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        process.stdin.write(search(values))
        process.stdin.close()
        try:
            yield seen
        finally:
            stop.touch()
            seen.update(json.loads(process.stdout.read()))


def test_a_machine_that_can_open_none_of_its_credentials_has_them_again_by_one_command(lab: Lab) -> None:
    """A new mainboard, or a disk that was restored into another machine: what lies there was encrypted for the old one."""
    host, store = lab.groups["victoriametrics"][0], "/etc/credstore.encrypted"
    before = lab.run(host, "ls", store).stdout
    lab.run(host, "rm", "/var/lib/systemd/credential.secret")
    lab.run(host, "systemctl", "restart", "hnai-victoriametrics-auth.service", check=False)
    run = lab.play("site.yml", "--limit", host)
    assert run.rc == 0, run.stdout[-3000:]
    assert lab.run(host, "ls", store).stdout == before
    assert not lab.run(host, "systemctl", "list-units", "--failed", "--no-legend", "hnai-*").stdout
    lab.run(host, "sh", "-c", f"rm {store}/hnai-*")
    run = lab.play("site.yml", "--limit", host)
    assert run.rc == 0, run.stdout[-3000:]
    assert lab.run(host, "ls", store).stdout == before


def test_the_search_finds_what_is_planted(lab: Lab) -> None:
    """The control: a file, a journal, an argument and an environment, in plain and inside of a basic authentication."""
    value = secrets.token_urlsafe(24)
    host = lab.groups["canary"][0]
    plant = f"""
import base64, json, os, subprocess, time
value = {value!r}
os.makedirs("/var/tmp/hnai-test", exist_ok=True)
open("/var/tmp/hnai-test/basic", "wb").write(b"x" * 5000 + base64.b64encode(b"user:" + value.encode() + b"more"))
subprocess.run(["logger", "-t", "hnai-test"], input="login as user:" + value, text=True, check=True)
subprocess.Popen(["sleep", "20"], env={{"LEAK": value}}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
subprocess.Popen(["sh", "-c", "sleep 20; : $0", value], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
time.sleep(1)
print("null")
"""
    lab.python(host, plant)
    try:
        found = lab.python(host, search({"planted": value}), "files", "/var/tmp", timeout=300)
    finally:
        lab.run(host, "rm", "-rf", "/var/tmp/hnai-test")
    assert found["files"] == {"/var/tmp/hnai-test/basic": ["planted"]}
    assert found["journal"] == ["planted"]
    assert set(found["processes"]) == {"sleep", "sh"}


def test_no_secret_stands_where_nobody_expects_it(lab: Lab, tmp_path: Path) -> None:
    before = {**of_openbao(lab), **of_the_controller(lab)}
    log = tmp_path / "log"
    environment = {**os.environ, "ANSIBLE_LOG_PATH": str(log), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    command = [
        str(lab.python_path / "ansible-playbook"), "-vvvv", "--diff", "-i", str(lab.inventory), "playbooks/rotate.yml",
        "-e", json.dumps({"rotate_secret": ROTATED, "rotate_reason": "request"}),
    ]  # fmt: skip
    with watched(before, tmp_path) as seen:
        said = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=600)
    (tmp_path / "said").write_text(said.stdout + said.stderr, encoding="utf-8")
    assert said.returncode == 0, said.stdout[-3000:]
    values = {**before, **of_openbao(lab)}
    assert set(values) - set(before), "nothing was rotated"
    print(f"{len(values)} values; {seen['known']} processes seen during the rotation")
    assert seen["processes"] == {}

    # Events and facts of a run as AWX would keep them, what is published, and how it came to be.
    site = lab.play("site.yml", "--skip-tags", "verify", "--diff", "-vvvv")
    assert site.rc == 0, site.stdout[-3000:]
    (tmp_path / "events").write_text(json.dumps(site.events) + site.stdout, encoding="utf-8")
    subprocess.run([str(lab.python_path / "ansible-galaxy"), "collection", "build", "--output-path", str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    subprocess.run(["tar", "-xzf", next(tmp_path.glob("*.tar.gz")).name], cwd=tmp_path, check=True, timeout=120)
    with (tmp_path / "history").open("wb") as stream:
        subprocess.run(["git", "log", "-p", "--all", "--text"], cwd=ROOT, check=True, stdout=stream, timeout=120)
    here = [str(path) for path in (tmp_path, lab.state, Path.home() / ".ansible", ROOT) if path.exists()]
    done = subprocess.run([*SUDO, sys.executable, "-", "files", *here], input=search(values), check=True, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)
    assert elsewhere(found["files"], STATE_PLACES, re.escape(str(lab.state)) + "/") == {}
    assert found["processes"] == {}
    assert found["journal"] == []

    def look(host: str) -> dict[str, Any]:
        return lab.python(host, search(values), "files", *PATHS, timeout=600)

    for host, found in lab.each(lab.groups["managed"], look).items():
        print(host, found["searched"], "files:", {path: len(labels) for path, labels in found["files"].items()})
        assert found["searched"] > 100, host
        assert elsewhere(found["files"], HOST_PLACES) == {}, host
        assert found["journal"] == [], host
        assert found["processes"] == {}, host
