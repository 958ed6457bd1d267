# SPDX-License-Identifier: Apache-2.0
"""The controller's side of config_tree: which files, with which content, mode and owner, are sent."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from ansible_collections.hnai.platform.plugins.action.config_tree import ActionModule, expand, place

ARGS = {"component": "x", "owner": "root", "group": "hnai-x", "modes": [], "foreach": [], "exclude": [], "leave": []}


def write(role: Path, path: str, content: str | bytes, mode: int = 0o644) -> None:
    (role / path).parent.mkdir(parents=True, exist_ok=True)
    (role / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    (role / path).chmod(mode)


def render(role: Path, variables: dict[str, Any] | None = None, **args: Any) -> tuple[dict[str, bytes], dict[str, str], list[str]]:
    """Content and "mode owner:group" by path, and the directories that are kept."""
    action = ActionModule(
        SimpleNamespace(args={}, async_val=0, _role=None),
        None,
        None,
        DataLoader(),
        Templar(DataLoader(), variables={}),
        None,
    )
    files, directories = action._render(role, role / "tree", {**ARGS, **args}, {"hnai_debian": "13", **(variables or {})})
    return (
        {item["path"]: base64.b64decode(item["content"]) for item in files},
        {item["path"]: f"{item['mode']} {item['owner']}:{item['group']}" for item in files},
        [f"{item['path']} {item['mode']}" for item in directories],
    )


def test_templates_are_rendered_and_everything_else_is_sent_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "tree/etc/hnai/x/a.conf.j2", "{% if on %}\na = {{ a }}\n{% endif %}\n{% include 'part.j2' %}\n")
    write(tmp_path, "tree/etc/hnai/x/raw.conf", "{{ not rendered }}\n")
    write(tmp_path, "tree/etc/hnai/x/blob", b"\0\xff\xfe")
    write(tmp_path, "templates/part.j2", "part {{ a }}")
    content, _, _ = render(tmp_path, {"on": True, "a": 1})
    assert content == {
        "/etc/hnai/x/a.conf": b"a = 1\npart 1\n",
        "/etc/hnai/x/raw.conf": b"{{ not rendered }}\n",
        "/etc/hnai/x/blob": b"\0\xff\xfe",
    }


def test_modes_and_owners(tmp_path: Path) -> None:
    for path, mode in (("etc/hnai/x/sub/a", 0o644), ("etc/hnai/x/run.sh", 0o755), ("etc/systemd/system/u.service", 0o644)):
        write(tmp_path, f"tree/{path}", "", mode)
    write(tmp_path, "tree/usr/local/bin/x", "", 0o755)
    _, modes, directories = render(
        tmp_path, modes=[{"path": "/etc/hnai/x/sub/*", "mode": "0600", "owner": "hnai-x"}, {"path": "/etc/hnai/x/sub/", "mode": "0700"}]
    )
    assert modes == {
        "/etc/hnai/x/sub/a": "0600 hnai-x:hnai-x",
        "/etc/hnai/x/run.sh": "0750 root:hnai-x",
        "/etc/systemd/system/u.service": "0644 root:root",
        "/usr/local/bin/x": "0755 root:root",
    }
    assert sorted(directories) == ["/etc/hnai/x 0750", "/etc/hnai/x/sub 0700"]


def test_foreach_and_exclude(tmp_path: Path) -> None:
    write(tmp_path, "tree/etc/hnai/x/__instance__.conf.j2", "{{ instance }} {{ port }}")
    write(tmp_path, "tree/etc/systemd/system/hnai-x-__instance__.service", "")
    write(tmp_path, "tree/etc/hnai/x/common.conf", "")
    content, _, _ = render(tmp_path, foreach=[{"instance": "a", "port": 1}, {"instance": "b", "port": 2}], exclude=["/etc/hnai/x/c*"])
    assert content == {
        "/etc/hnai/x/a.conf": b"a 1",
        "/etc/hnai/x/b.conf": b"b 2",
        "/etc/systemd/system/hnai-x-a.service": b"",
        "/etc/systemd/system/hnai-x-b.service": b"",
    }
    content, _, _ = render(tmp_path, foreach=[{"instance": "a", "port": 1}], leave=["/etc/systemd/*"])
    assert sorted(content) == ["/etc/hnai/x/a.conf", "/etc/hnai/x/common.conf"]
    assert list(expand("/plain", [{"instance": "a"}])) == [("/plain", {})]
    assert list(expand("/__other__", [{"instance": "a"}])) == []


def test_the_first_matching_directory_rule_does_not_touch_files() -> None:
    assert place("/etc/hnai/x/a", False, {**ARGS, "modes": [{"path": "/etc/hnai/x/*/", "mode": "0700"}]})["mode"] == "0640"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.j2", "{{ nothing_of_that_name }}", "a.j2.*nothing_of_that_name"),
        ("a.j2", "{% if %}", "a.j2"),
        ("a.pem", "-----BEGIN PRIVATE KEY-----", "a.pem.*private key"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, name: str, content: str, message: str) -> None:
    write(tmp_path, f"tree/etc/hnai/x/{name}", content)
    with pytest.raises(AnsibleActionFail, match=message):
        render(tmp_path)


def test_a_link_in_the_tree_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "tree/etc/a", "")
    (tmp_path / "tree/etc/b").symlink_to("a")
    with pytest.raises(AnsibleActionFail, match="files, not links"):
        render(tmp_path)


# -- the shared unit templates


UNIT = "[Unit]\n{% include 'unit_policy.j2' %}\nAfter=x\n[Service]\n{{ sets }}{% include 'sandbox.service.j2' %}\n\n[Install]\n"


def unit(role: Path, sets: str = "", **variables: Any) -> list[str]:
    write(role, "tree/etc/systemd/system/u.service.j2", UNIT.replace("{{ sets }}", sets))
    return render(role, variables)[0]["/etc/systemd/system/u.service"].decode().splitlines()


def test_the_sandbox_of_a_plain_unit(tmp_path: Path) -> None:
    lines = unit(tmp_path)
    assert lines[1:3] == ["StartLimitIntervalSec=0", "After=x"]
    for expected in (
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "MemoryDenyWriteExecute=yes",
        "ProcSubset=pid",
        "UMask=0027",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestartSteps=6",
        "RestartMaxDelaySec=60",
        "ExecStartPre=-+/usr/bin/install -D -m0644 /etc/hnai/digests/%n.restart /run/hnai/%n.restart",
    ):
        assert expected in lines
    assert not any(line.startswith("ReadWritePaths") for line in lines)
    assert "[Install]" in lines


def test_the_sandbox_follows_its_variables(tmp_path: Path) -> None:
    lines = unit(
        tmp_path,
        "{% set sandbox_jvm = true %}{% set sandbox_writable = ['/a', '/b'] %}{% set sandbox_digest = false %}"
        "{% set sandbox_capabilities = ['CAP_NET_ADMIN'] %}{% set sandbox_families = ['AF_UNIX'] %}",
    )
    assert {"ReadWritePaths=/a /b", "CapabilityBoundingSet=CAP_NET_ADMIN", "AmbientCapabilities=CAP_NET_ADMIN", "RestrictAddressFamilies=AF_UNIX"} <= set(lines)
    for absent in ("MemoryDenyWriteExecute=yes", "ProcSubset=pid"):
        assert absent not in lines
        assert any(line.startswith("#") and absent in line for line in lines), "an exception has its reason beside it"
    assert not any(line.startswith("ExecStartPre") for line in lines)


@pytest.mark.parametrize(
    ("debian", "sets", "present", "absent"),
    [
        ("12", "", "RestartSec=5", "RestartSteps"),
        ("13", "", "RestartSteps=6", "RestartSec=60"),
        ("12", "{% set sandbox_l2 = true %}", "RestartSec=60", "RestartSteps"),
        ("13", "{% set sandbox_l2 = true %}", "RestartSec=60", "RestartSteps"),
        ("13", "{% set sandbox_restart = false %}", "UMask=0027", "Restart=always"),
    ],
)
def test_the_restart_policy(tmp_path: Path, debian: str, sets: str, present: str, absent: str) -> None:
    lines = unit(tmp_path, sets, hnai_debian=debian)
    assert present in lines
    assert not any(absent in line for line in lines)
