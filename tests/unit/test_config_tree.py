# SPDX-License-Identifier: Apache-2.0
"""The core of config_tree on a temporary root, with accounts and systemd scripted."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from own_files import KeptOwners

from ansible_collections.hnai.platform.plugins.module_utils import config_tree as core
from ansible_collections.hnai.platform.plugins.module_utils.config_tree import Directory, Entry, Outcome, Tree, Validator
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.unit import causes, manifest

CONF = "/etc/hnai/x/x.conf"
UNIT = "/etc/systemd/system/hnai-x.service"
SYSUSERS = "/etc/sysusers.d/hnai-x.conf"
TMPFILES = "/etc/tmpfiles.d/hnai-x.conf"


class Killed(BaseException):
    """The run was killed at this point."""


class Machine(KeptOwners):
    """A host below a temporary root; `fuse` counts down to a kill before the next side effect."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.users = {"root": 0}
        self.groups = {"root": 0}
        self.commands: list[list[str]] = []
        self.fuse: int | None = None
        self.stale_units = False
        self.checker: Callable[[list[str]], Completed] = lambda argv: Completed(0, b"", b"")

    def burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Killed

    def uid(self, name: str) -> int | None:
        return self.users.get(name)

    def gid(self, name: str) -> int | None:
        return self.groups.get(name)

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        self.burn()
        super().chown(target, uid, gid)

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        if argv[:2] == ["systemctl", "show"]:
            return Completed(0, b"NeedDaemonReload=" + (b"yes" if self.stale_units else b"no") + b"\n", b"")
        self.burn()
        self.commands.append(argv)
        if argv[0] == "systemd-sysusers":
            self.users["hnai-x"] = self.groups["hnai-x"] = 900
        elif argv[0] == "systemd-tmpfiles":
            os.makedirs(self.at("/var/lib/hnai/x"), mode=0o750, exist_ok=True)
            os.chmod(self.at("/var/lib/hnai/x"), 0o750)
            self.owners[os.stat(self.at("/var/lib/hnai/x")).st_ino] = (900, 900)
        elif argv[:2] == ["systemctl", "daemon-reload"]:
            self.stale_units = False
        elif argv[0] == "check-x":
            return self.checker(argv)
        return Completed(0, b"", b"")


def entry(path: str, content: str = "a = 1\n", mode: int = 0o644, group: str = "root") -> Entry:
    return Entry(path, content.encode(), mode, "root", group)


def standard(conf: str = "a = 1\n") -> list[Entry]:
    return [
        entry(CONF, conf, 0o640, "hnai-x"),
        entry(UNIT, "[Service]\n"),
        entry(SYSUSERS, "u hnai-x - - -\n"),
        entry(TMPFILES, "d /var/lib/hnai/x 0750 hnai-x hnai-x -\n"),
    ]


def converge(host: Host, entries: list[Entry], check: bool = False, validators: list[Validator] | None = None) -> Outcome:
    return Tree(host, "x", entries, [Directory("/etc/hnai/x", 0o750, "root", "hnai-x")], validators or [], check).converge()


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path.relative_to(root)): (stat.S_IMODE(path.lstat().st_mode), path.read_bytes() if path.is_file() else b"") for path in root.rglob("*")}


@pytest.fixture
def host(tmp_path: Path) -> Machine:
    (tmp_path / "run").mkdir()
    return Machine(tmp_path)


def test_a_bare_host_is_converged_in_order_and_then_nothing_changes(host: Machine, tmp_path: Path) -> None:
    outcome = converge(host, standard())
    assert outcome.changed
    assert outcome.accounts
    assert outcome.tmpfiles
    assert outcome.daemon_reload
    assert [command[0] for command in host.commands] == ["systemd-sysusers", "systemd-tmpfiles", "systemctl"]
    assert outcome.changed_paths[-1] == UNIT
    info = (tmp_path / CONF[1:]).stat()
    assert (stat.S_IMODE(info.st_mode), host.owner(info)) == (0o640, (0, 900))
    assert stat.S_IMODE((tmp_path / "etc/hnai/x").stat().st_mode) == 0o750
    host.commands.clear()
    again = converge(host, standard())
    assert not again.changed
    assert not again.diff
    assert not host.commands


def test_check_mode_on_a_bare_host_predicts_exactly_and_touches_nothing(host: Machine, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    predicted = converge(host, standard(), check=True)
    assert snapshot(tmp_path) == before
    assert not host.commands
    real = converge(host, standard())
    assert (predicted.changed_paths, predicted.removed, predicted.daemon_reload, predicted.tmpfiles) == (
        real.changed_paths,
        real.removed,
        real.daemon_reload,
        real.tmpfiles,
    )
    assert not converge(host, standard(), check=True).changed


@pytest.mark.parametrize("spoil", ["content", "mode", "owner", "directory", "state"])
def test_drift_is_predicted_and_repaired(host: Machine, tmp_path: Path, spoil: str) -> None:
    converge(host, standard())
    conf = tmp_path / CONF[1:]
    if spoil == "content":
        conf.write_text("b")
    elif spoil == "mode":
        conf.chmod(0o666)
    elif spoil == "owner":
        host.owners[conf.stat().st_ino] = (7, 7)
    elif spoil == "directory":
        conf.parent.chmod(0o777)
    else:
        (tmp_path / "var/lib/hnai/x").rmdir()
    named = {"directory": "/etc/hnai/x/", "state": TMPFILES}.get(spoil, CONF)
    for check in (True, False):
        outcome = converge(host, standard(), check=check)
        assert outcome.changed
        assert [item["before_header"] for item in outcome.diff if item["before"] != item["after"]] == [named]
    assert not converge(host, standard()).changed
    info = conf.stat()
    assert (conf.read_text(), stat.S_IMODE(info.st_mode), host.owner(info)) == ("a = 1\n", 0o640, (0, 900))


def test_a_missing_account_is_made_again_although_its_file_is_unchanged(host: Machine) -> None:
    converge(host, standard())
    del host.users["hnai-x"]
    predicted = converge(host, standard(), check=True)
    assert predicted.diff[0] == {"before": "", "after": "hnai-x\n", "before_header": "accounts", "after_header": "accounts"}
    assert converge(host, standard()).accounts
    assert host.uid("hnai-x") == 900


ACCOUNT = "hnai-x:x:900:900::/:/usr/sbin/nologin\n"


@pytest.mark.parametrize(
    ("passwd", "group", "shadow", "said", "command"),
    [
        (ACCOUNT.replace("/usr/sbin/nologin", "/bin/bash"), "", "", "hnai-x shell /bin/bash", "usermod --shell /usr/sbin/nologin hnai-x"),
        (ACCOUNT.replace(":/:", ":/tmp:"), "", "", "hnai-x home /tmp", "usermod --home / hnai-x"),
        (ACCOUNT, "", "hnai-x:$y$j9T$a:20000::::::\n", "hnai-x has a password", "usermod --password !* hnai-x"),
        (ACCOUNT, "docker:x:999:eve,hnai-x\n", "", "hnai-x is in group docker", "gpasswd --delete hnai-x docker"),
        (ACCOUNT, "hnai-x:x:900:hnai-y,eve\n", "", "eve is in group hnai-x", "gpasswd --delete eve hnai-x"),
    ],
)
def test_what_somebody_changed_of_a_services_account_is_named_and_put_right(
    host: Machine, tmp_path: Path, passwd: str, group: str, shadow: str, said: str, command: str
) -> None:
    (tmp_path / "etc/sysusers.d").mkdir(parents=True)
    # Another component says who of it is in this group.
    (tmp_path / "etc/sysusers.d/hnai-y.conf").write_text("m hnai-y hnai-x\n")
    (tmp_path / "etc/passwd").write_text(ACCOUNT)
    converge(host, standard())
    assert not converge(host, standard()).changed
    (tmp_path / "etc/passwd").write_text(passwd)
    (tmp_path / "etc/group").write_text(group)
    (tmp_path / "etc/shadow").write_text(shadow or "hnai-x:!*:20000::::::\n")
    host.commands.clear()
    predicted = converge(host, standard(), check=True)
    assert (predicted.changed, host.commands) == (True, [])
    assert [item["before"] for item in predicted.diff] == [f"{said}\n"]
    assert "$y$" not in str(predicted.diff)
    assert converge(host, standard()).changed
    assert host.commands == [command.split()]


def test_an_account_that_is_in_use_keeps_its_home_and_that_is_told(host: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converge(host, standard())
    (tmp_path / "etc/passwd").write_text(ACCOUNT.replace(":/:", ":/tmp:"))
    run = host.run
    monkeypatch.setattr(host, "run", lambda argv, *rest, **named: Completed(8, b"", b"busy") if argv[0] == "usermod" else run(argv, *rest, **named))
    outcome = converge(host, standard())
    assert outcome.warnings == ["hnai-x home /tmp, which cannot be put right while its unit runs; stop it, then usermod --home / hnai-x"]
    assert not outcome.changed


def test_the_account_of_a_person_is_his_own(host: Machine, tmp_path: Path) -> None:
    entries = [entry("/etc/sysusers.d/people.conf", 'u ada 2001 "site operator" /home/ada /bin/bash\n')]
    host.users["ada"] = host.groups["ada"] = 2001
    converge(host, entries)
    (tmp_path / "etc/passwd").write_text("ada:x:2001:2001::/home/ada:/bin/zsh\n")
    (tmp_path / "etc/group").write_text("adm:x:4:ada\n")
    (tmp_path / "etc/shadow").write_text("ada:$y$j9T$a:20000::::::\n")
    assert not converge(host, entries).changed


PERSON, SERVICE = 'u ada 2001 "site operator" /home/ada /bin/bash\n', "u hnai-x 902 - / /usr/sbin/nologin\n"


@pytest.mark.parametrize(("declared", "there", "said"), [
    (PERSON, "bob:x:2001:2001::/home/bob:/bin/bash\n", "ada is to have the number 2001, which is bob's on this host"),
    (SERVICE, "backup-agent:x:902:902::/:/bin/sh\n", "hnai-x is to have the number 902, which is backup-agent's on this host"),
    (SERVICE, "hnai-x:x:950:950::/:/usr/sbin/nologin\n", "hnai-x has the number 950 on this host, not 902"),
    ("u hnai-x 902\n", "hnai-x:x:950:950::/:/usr/sbin/nologin\n", "hnai-x has the number 950 on this host, not 902"),
])  # fmt: skip
def test_a_number_is_whose_it_is_declared(host: Machine, tmp_path: Path, declared: str, there: str, said: str) -> None:
    """systemd-sysusers would take another one in silence, and the firewall knows a service by its number."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(there)
    for check in (True, False):
        with pytest.raises(HostError, match=rf"^{SYSUSERS}: {said}; nothing was changed; remedy: give it in the inventory a number that is free"):
            converge(host, [entry(SYSUSERS, declared)], check=check)
    assert host.commands == [] and not (tmp_path / "etc/sysusers.d").exists()


def test_an_account_that_is_older_than_the_site_is_left_as_it_is(host: Machine, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("ada:x:1005:1005::/srv/ada:/bin/zsh\n")
    host.users["ada"] = host.groups["ada"] = 1005
    converge(host, [entry(SYSUSERS, PERSON)])
    outcome = converge(host, [entry(SYSUSERS, PERSON)])
    assert outcome.warnings == ["ada has the number 1005 on this host, not 2001; the account was there before and is left as it is"]
    assert not outcome.changed and not [one for one in host.commands if one[0] == "usermod"]


def test_what_the_tree_no_longer_has_is_removed_and_foreign_files_stay(host: Machine, tmp_path: Path) -> None:
    extra = entry("/etc/hnai/x/sub/extra.conf", group="hnai-x", mode=0o640)
    tree = Tree(
        host,
        "x",
        [*standard(), extra],
        [Directory("/etc/hnai/x", 0o750, "root", "hnai-x"), Directory("/etc/hnai/x/sub", 0o750, "root", "hnai-x")],
        [],
    )
    tree.converge()
    (tmp_path / "etc/hnai/x/alien").write_text("theirs")
    outcome = converge(host, standard())
    assert outcome.removed == [extra.path]
    assert outcome.foreign == ["/etc/hnai/x/alien"]
    assert not (tmp_path / "etc/hnai/x/sub").exists()
    assert (tmp_path / "etc/hnai/x/alien").read_text() == "theirs"
    assert not converge(host, standard()).removed


def test_a_removed_unit_is_stopped_before_its_file_goes(host: Machine, tmp_path: Path) -> None:
    converge(host, standard())
    host.commands.clear()
    for path in ("etc/hnai/digests/hnai-x.service.restart", "run/hnai/hnai-x.service.reload", "run/hnai/hnai-xy.service.reload"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    outcome = converge(host, [item for item in standard() if item.path != UNIT])
    assert outcome.stopped == ["hnai-x.service"]
    assert host.commands == [
        ["systemctl", "disable", "--now", "hnai-x.service"], ["systemctl", "reset-failed", "hnai-x.service"], ["systemctl", "daemon-reload"],
    ]  # fmt: skip
    assert not (tmp_path / UNIT[1:]).exists()
    assert [path.name for path in tmp_path.glob("*/hnai/**/hnai-x*.re*")] == ["hnai-xy.service.reload"], "what was remembered of it"


def test_what_is_somebody_elses_now_stays_and_is_ours_again_later(host: Machine, tmp_path: Path) -> None:
    converge(host, standard())
    host.commands.clear()
    (tmp_path / UNIT[1:]).write_text("theirs")
    mine = [item for item in standard() if item.path != UNIT]
    directories = [Directory("/etc/hnai/x", 0o750, "root", "hnai-x")]
    for _turn in range(2):
        outcome = Tree(host, "x", mine, directories, [], leave=("/etc/systemd/*",)).converge()
        assert not outcome.changed and not outcome.removed and not outcome.foreign and not host.commands
    assert (tmp_path / UNIT[1:]).read_text() == "theirs"
    assert converge(host, mine).removed == [UNIT], "it was the tree's all the time"


def test_what_differs_in_its_rights_alone_is_told_apart(host: Machine, tmp_path: Path) -> None:
    converge(host, standard())
    first, second = [item.path for item in standard()][:2]
    os.chmod(tmp_path / first[1:], 0o666)
    (tmp_path / second[1:]).write_text("other")
    outcome = converge(host, standard())
    assert (set(outcome.changed_paths), outcome.rights) == ({first, second}, [first])


def test_a_file_that_moved_to_another_component_stays(host: Machine, tmp_path: Path) -> None:
    shared = entry("/etc/shared.conf")
    converge(host, [*standard(), shared])
    Tree(host, "y", [shared], [], []).converge()
    assert converge(host, standard()).removed == []
    assert (tmp_path / "etc/shared.conf").exists()


@pytest.mark.parametrize("place", ["/etc/systemd/system", "/run/systemd/system", "/etc/systemd/system.control", "/run/systemd/system.control"])
def test_a_drop_in_of_somebody_is_told_wherever_systemd_takes_it_from(host: Machine, tmp_path: Path, place: str) -> None:
    converge(host, standard())
    theirs = f"{place}/{UNIT.rpartition('/')[2]}.d/theirs.conf"
    (tmp_path / theirs[1:]).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / theirs[1:]).write_text("[Service]\nEnvironment=THEIRS=1\n")
    assert converge(host, standard()).foreign == [theirs]


def test_a_drop_in_of_another_component_is_not_foreign_and_does_not_stop_the_unit(host: Machine, tmp_path: Path) -> None:
    theirs = entry(f"{UNIT}.d/theirs.conf", "[Service]\n")
    mine = entry(f"{UNIT}.d/mine.conf", "[Service]\n")
    Tree(host, "y", [theirs], [], []).converge()
    assert converge(host, [*standard(), mine]).foreign == []
    (tmp_path / f"{UNIT}.d/local.conf"[1:]).write_text("")
    assert converge(host, [*standard(), mine]).foreign == [f"{UNIT}.d/local.conf"]
    outcome = Tree(host, "y", [entry("/etc/y")], [], []).converge()
    assert (outcome.removed, outcome.stopped, outcome.daemon_reload) == ([theirs.path], [], True)


def test_an_invalid_candidate_replaces_nothing_and_the_error_has_file_and_reason(host: Machine, tmp_path: Path) -> None:
    converge(host, standard())
    seen: list[str] = []

    def checker(argv: list[str]) -> Completed:
        seen.append(Path(argv[1]).read_text())
        assert Path(argv[2] + UNIT).is_file()
        return Completed(1, b"", b"line 1: bad password=hunter2") if "bad" in seen[-1] else Completed(0, b"", b"")

    host.checker = checker
    rule = [Validator(CONF, ("check-x", "%s", "%d"))]
    for check in (True, False):
        with pytest.raises(HostError, match=r"/etc/hnai/x/x.conf: refused by its checker.*line 1: bad") as caught:
            converge(host, standard("bad\n"), check=check, validators=rule)
        assert "hunter2" not in str(caught.value)
        assert (tmp_path / CONF[1:]).read_text() == "a = 1\n"
    assert converge(host, standard("good\n"), validators=rule).changed
    assert seen == ["bad\n", "bad\n", "good\n"]
    assert not list((tmp_path / "run").iterdir())


def test_the_checker_may_be_absent_in_check_mode_only(host: Machine) -> None:
    host.checker = lambda argv: Completed(127, b"", b"check-x: not installed")
    rule = [Validator(CONF, ("check-x", "%s"))]
    assert converge(host, standard(), check=True, validators=rule).changed
    with pytest.raises(HostError, match="not installed"):
        converge(host, standard(), validators=rule)


def test_a_private_key_is_refused(host: Machine, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="private key"):
        converge(host, standard("-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\n"))
    assert not (tmp_path / "etc").exists()


@pytest.mark.parametrize("changed", [True, False])
def test_the_diff_masks_secrets_on_both_sides(host: Machine, tmp_path: Path, changed: bool) -> None:
    converge(host, standard("password = one\nkeep = 1\n"))
    diff = converge(host, standard("password = two\nkeep = 2\n" if changed else "password = two\nkeep = 1\n"), check=True).diff[0]
    assert "one" not in str(diff)
    assert "two" not in str(diff)
    assert core.MASK in diff["before"]
    assert diff["before"] != diff["after"], "a change must be visible although the value is not"
    (tmp_path / CONF[1:]).write_text("-----BEGIN PRIVATE KEY-----\nabcdef\n-----END PRIVATE KEY-----\n")
    assert "abcdef" not in str(converge(host, standard(), check=True).diff)


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ('  "client_secret": "abc",', "abc"),
        ("sasl.jaas.config=x password='abc';", "abc"),
        ("Token: abc", "abc"),
        ("admin_passwd abc", "abc"),
        ("apikey=abc", "abc"),
    ],
)
def test_lines_that_name_a_secret_lose_their_value(line: str, secret: str) -> None:
    assert secret not in core.masked(line)
    assert core.MASK in core.masked(line)


def test_binary_content_is_shown_by_its_digest(host: Machine) -> None:
    blob = Entry("/etc/hnai/x/blob", b"\0\xff", 0o640, "root", "hnai-x")
    diff = converge(host, [*standard(), blob], check=True).diff
    assert any("binary, 2 bytes, sha256" in item["after"] for item in diff)
    converge(host, [*standard(), blob])
    assert Path(host.at(blob.path)).read_bytes() == b"\0\xff"


def test_daemon_reload_is_made_up_for_when_a_killed_run_left_it_out(host: Machine) -> None:
    converge(host, standard())
    host.stale_units = True
    assert converge(host, standard(), check=True).daemon_reload
    assert converge(host, standard()).daemon_reload
    assert not converge(host, standard()).changed


def test_a_kill_before_any_single_step_loses_nothing(tmp_path: Path) -> None:
    """First tree, then a second one that changes, removes and adds; killed before each side effect in turn, then run again."""
    old = entry("/etc/hnai/x/old.conf", group="hnai-x", mode=0o640)
    new = entry("/etc/hnai/x/new.conf", group="hnai-x", mode=0o640)
    for fuse in range(60):
        root = tmp_path / str(fuse)
        (root / "run").mkdir(parents=True)
        host = Machine(root)
        converge(host, [*standard(), old])
        host.fuse = fuse
        try:
            converge(host, [*standard("a = 2\n"), new])
        except Killed:
            finished = False
        else:
            finished = True
        host.fuse = None
        converge(host, [*standard("a = 2\n"), new])
        assert not converge(host, [*standard("a = 2\n"), new]).changed
        assert (root / CONF[1:]).read_text() == "a = 2\n"
        assert (root / new.path[1:]).exists()
        assert not (root / old.path[1:]).exists()
        assert json.loads((root / "var/lib/hnai/trees/x.json").read_text())["intended"] == {}
        if finished:
            assert fuse > 3
            return
    pytest.fail("the run never finished")


def test_a_file_that_never_became_ours_is_not_removed_after_a_kill(host: Machine, tmp_path: Path) -> None:
    converge(host, standard())
    (tmp_path / "etc/foreign.conf").write_text("theirs")
    host.fuse = 1
    with pytest.raises(Killed):
        converge(host, [*standard("a = 3\n"), entry("/etc/foreign.conf", "ours")])
    host.fuse = None
    assert (tmp_path / "etc/foreign.conf").read_text() == "theirs"
    assert converge(host, standard()).removed == []
    assert (tmp_path / "etc/foreign.conf").read_text() == "theirs"


def test_a_bind_mount_is_written_in_place(host: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = tmp_path / "etc/hosts"
    hosts.parent.mkdir()
    hosts.write_text("old and longer than the new content\n")
    inode = hosts.stat().st_ino
    real = os.replace

    def busy(source: str, target: str) -> None:
        if target == str(hosts):
            raise OSError(16, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr(os, "replace", busy)
    converge(host, [entry("/etc/hosts", "new\n")] + standard())
    assert hosts.read_text() == "new\n"
    assert hosts.stat().st_ino == inode
    assert [path.name for path in hosts.parent.iterdir() if path.name.startswith(".")] == []


def test_errors_name_path_and_remedy(host: Machine, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no group 'hnai-none'.*sysusers.d"):
        converge(host, [*standard(), entry("/etc/y", group="hnai-none")])
    with pytest.raises(HostError, match="two files of the tree"):
        converge(host, [*standard(), entry(CONF)])
    with pytest.raises(HostError, match="not a file of the tree"):
        converge(host, standard(), validators=[Validator("/etc/none", ("true",))])
    (tmp_path / "etc/directory").mkdir()
    with pytest.raises(HostError, match=r"/etc/directory.*something else"):
        converge(host, [*standard(), entry("/etc/directory")])
    (tmp_path / "var/lib/hnai/trees/x.json").write_text("{")
    with pytest.raises(HostError, match=r"trees/x.json: not a registry"):
        converge(host, standard())


def test_a_link_in_the_way_is_replaced_and_its_target_left_alone(host: Machine, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("theirs")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/z").symlink_to(target)
    converge(host, [*standard(), entry("/etc/z", "ours\n")])
    assert not (tmp_path / "etc/z").is_symlink()
    assert target.read_text() == "theirs"


def test_two_runs_do_not_overlap(host: Machine) -> None:
    second = host.lock("tree-x", timeout=0.3)
    with host.lock("tree-x"), pytest.raises(HostError, match="another run still holds this lock"), second:
        pytest.fail("the lock was given twice")
    with host.lock("tree-x", timeout=0.3):
        pass
    assert os.listdir(host.at("/run/hnai/lock")) == [], "a host keeps nothing of a component that left"


def test_a_lock_whose_file_went_meanwhile_is_none(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever held it took its file away between our opening it and our locking it: a third run may hold one of that name already."""
    real, calls = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not calls:
            os.unlink(host.at("/run/hnai/lock/tree-x"))
            os.close(os.open(host.at("/run/hnai/lock/tree-x"), os.O_CREAT))
        calls.append(descriptor)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with host.lock("tree-x", timeout=5), pytest.raises(HostError, match="another run"), host.lock("tree-x", timeout=0.1):
        pytest.fail("the lock was given twice")
    assert len(calls) > 2


def test_what_is_held_is_checked_and_told_but_not_written(host: Machine, tmp_path: Path) -> None:
    converge(host, standard("old\n"))
    (tmp_path / "mark").write_text("")
    seen: list[list[str]] = []

    def checker(argv: list[str]) -> Completed:
        seen.append(argv)
        return Completed(0, b"", b"")

    host.checker = checker

    def held(conf: str, check: bool = False) -> Outcome:
        entries = [*standard(conf), entry("/etc/hnai/x/other", conf)]
        return Tree(host, "x", entries, [Directory("/etc/hnai/x", 0o750, "root", "hnai-x")], [Validator(CONF, ("/bin/checker", "%s"))], check,
                    hold=(CONF,), watch=("/mark", "/none*")).converge()

    for check in (True, False):
        outcome = held("new\n", check)
        assert outcome.held == [{"path": CONF, "before": "old\n", "after": "new\n"}] and outcome.watched == [host.at("/mark")]
        assert CONF not in outcome.changed_paths and "/etc/hnai/x/other" in outcome.changed_paths
        assert Path(host.at(CONF)).read_text() == "old\n"
    assert any(argv[0] == "/bin/checker" for argv in host.commands), "its checker has seen the candidate"
    outcome = held("old\n")
    assert not outcome.held
    with pytest.raises(HostError, match="hold: /etc/hnai/x/none"):
        Tree(host, "x", standard(), [], [], hold=("/etc/hnai/x/none",))


def test_what_is_held_is_still_ours(host: Machine) -> None:
    entries = standard()
    Tree(host, "x", entries, [Directory("/etc/hnai/x", 0o750, "root", "hnai-x")], [], hold=(CONF,)).converge()
    assert not Path(host.at(CONF)).exists()
    converge(host, entries)
    assert Path(host.at(CONF)).exists() and not converge(host, entries).changed


def test_a_drop_in_of_nobody_is_named_also_where_the_tree_has_none(host: Machine, tmp_path: Path) -> None:
    converge(host, standard())
    stray = f"{UNIT}.d/override.conf"
    (tmp_path / stray[1:]).parent.mkdir()
    (tmp_path / stray[1:]).write_text("[Service]\nExecStart=\n")
    assert converge(host, standard()).foreign == [stray]
    assert (tmp_path / stray[1:]).exists()


def test_a_unit_of_our_name_and_of_no_component_is_named_once(host: Machine, tmp_path: Path) -> None:
    """By the tree of every host; also in check mode, on a bare host, and not what a killed run of another component began."""
    for name in ("etc/systemd/system/hnai-evil.service", "etc/systemd/system/hnai-evil.timer", "usr/lib/systemd/system/hnai-packaged.path",
                 "etc/systemd/system/hnai-let.service", "etc/systemd/system/hnai-x.txt", "etc/systemd/system/mine.service"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("[Service]\n")
    (tmp_path / "etc/systemd/system/hnai-dir.service").mkdir()
    (tmp_path / "etc/systemd/system/hnai-link.service").symlink_to("/nowhere")
    converge(host, standard())
    begun = tmp_path / "var/lib/hnai/trees/y.json"
    begun.write_text(json.dumps({"files": [], "intended": {"/etc/systemd/system/hnai-y.service": "0"}, "directories": []}))
    (tmp_path / "etc/systemd/system/hnai-y.service").write_text("[Service]\n")
    strange = ["/etc/systemd/system/hnai-evil.service", "/etc/systemd/system/hnai-evil.timer", "/etc/systemd/system/hnai-link.service",
               "/usr/lib/systemd/system/hnai-packaged.path"]  # fmt: skip
    for check in (True, False):
        outcome = Tree(host, "host", [], [], [], check, foreign_ignore=("/etc/systemd/system/hnai-let*",)).converge()
        assert outcome.foreign == strange and not outcome.changed
    assert converge(host, standard()).foreign == [], "by nobody else"
    assert (tmp_path / "etc/systemd/system/hnai-evil.service").exists()


def test_what_lies_beside_a_program_and_a_link_to_a_directory_are_named(host: Machine, tmp_path: Path) -> None:
    """`import json` in a script takes the json.py of its own directory first."""
    script = entry("/usr/local/lib/hnai/x/run", "#!/usr/bin/python3\nimport json\n", 0o755)
    tree = [*standard(), script]
    converge(host, tree)
    programs, home = tmp_path / "usr/local/lib/hnai/x", tmp_path / "etc/hnai/x"
    (programs / "__pycache__").mkdir()
    (programs / "__pycache__/run.cpython-313.pyc").write_bytes(b"")
    (home / "tls").mkdir()
    assert converge(host, tree).foreign == []
    (programs / "json.py").write_text("")
    (home / "more").symlink_to("/tmp")
    (home / "tls/cert.pem").write_text("")
    assert converge(host, tree).foreign == ["/etc/hnai/x/more", "/usr/local/lib/hnai/x/json.py"]
    (programs / "json.py").unlink()
    (home / "more").unlink()
    home.rename(tmp_path / "elsewhere")
    home.symlink_to(tmp_path / "elsewhere")
    assert converge(host, tree).foreign == ["/etc/hnai/x"]


# -- kernel settings in force
SYSCTL = "/etc/sysctl.d/60-x.conf"


class Kernel(Machine):
    """systemd-sysctl as a program; `stuck` keys do not take a value."""

    stuck: tuple[str, ...] = ()

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        if argv[0].endswith("systemd-sysctl"):
            for key, value in core.sysctl.parse(Path(argv[1]).read_text()).items():
                if key not in self.stuck:
                    Path(self.at("/proc/sys"), key.replace(".", "/")).write_text(value + "\n")
        return super().run(argv, stdin, timeout)


def kernel(tmp_path: Path) -> Kernel:
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "proc/sys/net").mkdir(parents=True)
    for key in ("a", "b"):
        (tmp_path / "proc/sys/net" / key).write_text("0\n")
    return Kernel(tmp_path)


def test_a_kernel_setting_that_somebody_changed_is_named_and_put_in_force_again(tmp_path: Path) -> None:
    host = kernel(tmp_path)
    entries = [entry(SYSCTL, "# ours\n-net.a = 1\n-net.b = 0\n-net.gone = 1\n")]
    assert converge_sysctl(host, entries).sysctl == ["net.a"]
    assert not converge_sysctl(host, entries).changed
    (tmp_path / "proc/sys/net/b").write_text("2\n")
    host.commands.clear()
    predicted = converge_sysctl(host, entries, check=True)
    assert not host.commands
    assert (predicted.changed, predicted.sysctl) == (True, ["net.b"])
    header = f"{SYSCTL}, in force"
    assert predicted.diff == [{"before": "net.b = 2\n", "after": "net.b = 0\n", "before_header": header, "after_header": header}]
    assert converge_sysctl(host, entries).sysctl == ["net.b"]
    assert (tmp_path / "proc/sys/net/b").read_text() == "0\n"
    assert not converge_sysctl(host, entries).changed


def test_a_setting_that_the_kernel_does_not_take_is_no_change(tmp_path: Path) -> None:
    host = kernel(tmp_path)
    host.stuck = ("net.a",)
    entries = [entry(SYSCTL, "-net.a = 1\n")]
    converge_sysctl(host, entries)
    assert not converge_sysctl(host, entries).changed


def converge_sysctl(host: Machine, entries: list[Entry], check: bool = False) -> Outcome:
    return Tree(host, "x", entries, [], [], check).converge()


# -- what a unit took up of somebody's change
RAN = "/run/hnai/hnai-x.service"


def started(host: Machine, *watched: str, kind: str = "restart") -> bytes:
    """The unit has started with what lies there: what was wanted is recorded, and that it runs."""
    wanted = manifest(host, watched)
    for path in (f"/etc/hnai/digests/hnai-x.service.{kind}", f"{RAN}.{kind}"):
        target = Path(host.at(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(wanted)
    return wanted


@pytest.mark.parametrize("kind", ["restart", "reload"])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_put_back_is_due_where_the_change_was_taken_up(host: Machine, tmp_path: Path, kind: str, restarted: bool) -> None:
    converge(host, standard())
    wanted = started(host, CONF, UNIT, kind=kind)
    running = tmp_path / f"{RAN[1:]}.{kind}"
    (tmp_path / CONF[1:]).write_text("a = 2\n")
    moment = (tmp_path / CONF[1:]).stat().st_ctime + (1 if restarted else -1)
    os.utime(running, (moment, moment))
    converge(host, standard(), check=True)
    assert running.read_bytes() == wanted
    converge(host, standard())
    assert (tmp_path / CONF[1:]).read_text() == "a = 1\n"
    # Nobody knows of a reload by hand, so one is due in any case.
    assert (running.read_bytes() != wanted) is (restarted or kind == "reload")
    if restarted or kind == "reload":
        assert causes(running.read_bytes(), wanted) == [CONF]


def test_a_changed_mode_is_nothing_that_a_unit_runs(host: Machine, tmp_path: Path) -> None:
    converge(host, standard())
    wanted = started(host, CONF, kind="reload")
    (tmp_path / CONF[1:]).chmod(0o666)
    converge(host, standard())
    assert (tmp_path / f"{RAN[1:]}.reload").read_bytes() == wanted


def test_a_change_of_our_own_is_due_by_itself_and_nothing_is_noted(host: Machine, tmp_path: Path) -> None:
    converge(host, standard())
    wanted = started(host, CONF)
    converge(host, standard("a = 3\n"))
    assert (tmp_path / f"{RAN[1:]}.restart").read_bytes() == wanted
