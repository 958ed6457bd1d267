# SPDX-License-Identifier: Apache-2.0
"""The confirmed-or-reverted life of a ruleset, against a host that is played; the shell script is the real one."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.action import firewall as action
from ansible_collections.hnai.platform.plugins.module_utils import firewall_proof as proof
from ansible_collections.hnai.platform.plugins.module_utils.firewall import (
    Firewall,
    FirewallError,
    cut,
    normalise,
    own_table_only,
    uncovered,
)
from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes
from ansible_collections.hnai.platform.plugins.plugin_utils import ssh_login

SCRIPT = Path(__file__).parents[2] / "roles/firewall/tree/usr/local/sbin/hnai-firewall"
TABLE = "table inet hnai\ndelete table inet hnai\ntable inet hnai {\n  chain input {\n    RULE\n  }\n}\n"
GOOD = TABLE.replace("RULE", 'counter accept comment "good"')
NEXT = TABLE.replace("RULE", 'counter accept comment "next"')
BOUNDARY: dict[str, Any] = {
    "id": "plant", "mode": "enforce", "approved_by": "their engineer", "zones": [["10.0.2.0/24"], ["10.0.3.0/24"]], "own": ["10.0.2.254", "10.0.3.254"],
}  # fmt: skip
BAD = TABLE.replace("RULE", "nonsense")


class Host:
    """Plays nft and systemd: the loaded table is a file, so that the script's own nft sees it too."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.bootstrap = root / "bootstrap.nft"
        self.loaded = root / "loaded"
        self.armed: list[str] = []
        self.arming_fails = False
        self.load_fails = False
        self.events: list[str] = []

    def run(self, argv: list[str], stdin: str | None) -> tuple[int, str, str]:
        if argv[0] == "nft":
            return self.nft(argv, stdin or "")
        if argv[0] == "systemd-run":
            self.events.append("arm")
            if self.arming_fails:
                return 1, "", "no bus"
            self.armed.append(argv[-1])
            assert "--on-active=30s" in argv
            return 0, "", ""
        assert argv[:2] == ["systemctl", "stop"]
        self.armed = [run for run in self.armed if f"-{run}." not in argv[2]]
        return 0, "", ""

    def nft(self, argv: list[str], stdin: str) -> tuple[int, str, str]:
        if argv[1] == "-j":
            if not self.loaded.exists():
                return 1, "", "No such file or directory"
            assert argv[1:4] == ["-j", "list", "table"]
            rule = {"rule": {"handle": len(self.events), "expr": [self.loaded.read_text(encoding="utf-8")]}}
            return 0, json.dumps({"nftables": [{"metainfo": {"version": "1"}}, rule]}), ""
        if argv[1] == "-s":
            return (0, self.loaded.read_text(encoding="utf-8"), "") if self.loaded.exists() else (1, "", "No such file or directory")
        if "nonsense" in stdin:
            return 1, "", "syntax error"
        if "-c" not in argv:
            self.events.append("load")
            if self.load_fails:
                return 1, "", "out of memory"
            # In one transaction with the table that looks at what passes.
            assert stdin.endswith(proof.rules())
            self.loaded.write_text(stdin[: -len(proof.rules())], encoding="utf-8")
        return 0, "", ""

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The role's script with its paths moved below root, and an nft that copies the file it loads."""
        tools = self.root / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "nft").write_text(f'#!/bin/sh\n[ "$2" = - ] && cat >{self.loaded} || cp "$2" {self.loaded}\n', encoding="utf-8")
        (tools / "systemctl").write_text("#!/bin/sh\n", encoding="utf-8")
        for tool in ("nft", "systemctl"):
            (tools / tool).chmod(0o755)
        text = SCRIPT.read_text(encoding="utf-8")
        for old, new in (("/var/lib/hnai/firewall", self.state), ("/etc/hnai/firewall/bootstrap.nft", self.bootstrap)):
            assert str(old) in text
            text = text.replace(str(old), str(new))
        text = text.replace("PATH=/usr/sbin", f"PATH={tools}:/usr/sbin")
        copy = self.root / "hnai-firewall"
        copy.write_text(text, encoding="utf-8")
        return subprocess.run(["sh", str(copy), *arguments], capture_output=True, text=True, check=False, env=dict(os.environ))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def firewall(host: Host) -> Firewall:
    return Firewall(host.run, host.state)


def change(firewall: Firewall, host: Host, ruleset: str, run_id: str = "run001") -> None:
    """Apply and confirm."""
    firewall.apply(ruleset, run_id, 30, lambda: 0.0)
    assert host.script("confirm", run_id).returncode == 0


def test_first_change_and_nothing_to_do_afterwards(host: Host, firewall: Firewall) -> None:
    assert firewall.reasons(GOOD) == ["no confirmed ruleset", "the table is not loaded"]
    change(firewall, host, GOOD)
    assert firewall.reasons(GOOD) == []
    assert firewall.reasons(NEXT) == ["the ruleset changed"]
    assert sorted(path.name for path in host.state.iterdir()) == ["confirmed.json", "confirmed.list", "confirmed.nft", "lock"]


def test_armed_before_loaded(host: Host, firewall: Firewall) -> None:
    firewall.apply(GOOD, "run001", 30, lambda: 0.0)
    assert host.events == ["arm", "load"]
    assert host.armed == ["run001"]


def test_not_armed_not_changed(host: Host, firewall: Firewall) -> None:
    host.arming_fails = True
    with pytest.raises(FirewallError, match="nothing was changed"):
        firewall.apply(GOOD, "run001", 30, lambda: 0.0)
    assert host.events == ["arm"]
    assert not (host.state / "pending.json").exists()


def test_a_bad_ruleset_never_replaces_a_good_one(host: Host, firewall: Firewall) -> None:
    change(firewall, host, GOOD)
    before = list(host.events)
    with pytest.raises(FirewallError, match="nft refuses"):
        firewall.apply(BAD, "run002", 30, lambda: 0.0)
    assert host.events == before
    assert host.loaded.read_text(encoding="utf-8") == GOOD


def test_a_ruleset_that_fails_in_earnest_leaves_nothing_behind(host: Host, firewall: Firewall) -> None:
    change(firewall, host, GOOD)
    host.load_fails = True
    host.armed.clear()
    with pytest.raises(FirewallError, match="the old one stays"):
        firewall.apply(NEXT, "run002", 30, lambda: 0.0)
    assert host.armed == []
    assert firewall.reasons(GOOD) == []


def test_an_unconfirmed_change_is_taken_back(host: Host, firewall: Firewall) -> None:
    change(firewall, host, GOOD)
    firewall.apply(NEXT, "run002", 30, lambda: 0.0)
    assert firewall.reasons(GOOD) == ["the loaded table was changed by hand", "a change was never confirmed"]
    assert host.script("revert", "run002").returncode == 0
    assert host.loaded.read_text(encoding="utf-8") == GOOD
    assert firewall.reasons(GOOD) == []
    late = host.script("confirm", "run002")
    assert late.returncode == 1
    assert "taken back" in late.stderr


def test_the_first_change_reverts_to_management_never_to_open(host: Host, firewall: Firewall) -> None:
    host.bootstrap.write_text("bootstrap", encoding="utf-8")
    firewall.apply(GOOD, "run001", 30, lambda: 0.0)
    host.script("revert", "run001")
    assert host.loaded.read_text(encoding="utf-8") == "bootstrap"
    host.bootstrap.unlink()
    firewall.apply(GOOD, "run002", 30, lambda: 0.0)
    assert host.script("revert", "run002").returncode == 1
    assert "policy drop" in host.loaded.read_text(encoding="utf-8")


def test_a_revert_after_the_confirm_or_of_an_older_run_does_nothing(host: Host, firewall: Firewall) -> None:
    change(firewall, host, GOOD)
    host.script("revert", "run001")
    assert host.loaded.read_text(encoding="utf-8") == GOOD
    firewall.apply(NEXT, "run002", 30, lambda: 0.0)
    host.script("revert", "run001")
    assert host.loaded.read_text(encoding="utf-8") == NEXT


def test_boot_loads_confirmed_rules_only(host: Host, firewall: Firewall) -> None:
    change(firewall, host, GOOD)
    firewall.apply(NEXT, "run002", 30, lambda: 0.0)
    host.loaded.unlink()
    assert host.script("load").returncode == 0
    assert host.loaded.read_text(encoding="utf-8") == GOOD
    assert firewall.reasons(GOOD) == []


def test_a_confirm_that_was_cut_in_the_middle_is_done_again(host: Host, firewall: Firewall) -> None:
    change(firewall, host, GOOD)
    firewall.apply(NEXT, "run002", 30, lambda: 0.0)
    (host.state / "pending.nft").replace(host.state / "confirmed.nft")
    assert "no confirmed ruleset" in firewall.reasons(NEXT)
    change(firewall, host, NEXT, "run003")
    assert firewall.reasons(NEXT) == []


def test_a_confirm_that_was_cut_in_the_middle_counts_at_boot_and_for_the_dead_man(host: Host, firewall: Firewall) -> None:
    """The ruleset is renamed after everything was proven."""
    for number, verb in enumerate((["load"], ["revert", "run102"])):
        change(firewall, host, GOOD, f"run{number}01")
        firewall.apply(NEXT, f"run{number}02", 30, lambda: 0.0)
        (host.state / "pending.nft").replace(host.state / "confirmed.nft")
        assert host.script(*verb).returncode == 0
        assert host.loaded.read_text(encoding="utf-8") == NEXT and firewall.reasons(NEXT) == []


@pytest.mark.parametrize("text", [NEXT, GOOD[:-20], ""])
def test_boot_loads_nothing_that_is_not_what_was_confirmed(host: Host, firewall: Firewall, text: str) -> None:
    """Half a file, one that somebody edited, one that was never confirmed: management only."""
    host.bootstrap.write_text("bootstrap", encoding="utf-8")
    change(firewall, host, GOOD)
    (host.state / "confirmed.nft").write_text(text, encoding="utf-8")
    done = host.script("load")
    assert host.loaded.read_text(encoding="utf-8") == "bootstrap"
    assert "is not what was confirmed" in done.stderr and "management and established" in done.stderr
    (host.state / "confirmed.nft").unlink()
    assert host.script("load").returncode == 0 and host.loaded.read_text(encoding="utf-8") == "bootstrap"


def test_boot_loads_before_the_network() -> None:
    unit = (SCRIPT.parents[3] / "etc/systemd/system/hnai-firewall.service.j2").read_text(encoding="utf-8")
    for line in ("DefaultDependencies=no", "Before=network-pre.target shutdown.target", "Wants=network-pre.target", "After=nftables.service",
                 "RequiresMountsFor=/var/lib/hnai/firewall", "WantedBy=sysinit.target"):  # fmt: skip
        assert f"\n{line}\n" in unit, line


def test_the_drift_is_shown_as_nft_lists_it(host: Host, firewall: Firewall) -> None:
    change(firewall, host, GOOD)
    assert firewall.drift() == ("", "")
    host.loaded.write_text(GOOD + "tcp dport 4444 accept", encoding="utf-8")
    assert firewall.drift() == (GOOD, GOOD + "tcp dport 4444 accept")


def test_who_approved_is_recorded(host: Host, firewall: Firewall) -> None:
    firewall.apply(GOOD, "run001", 30, lambda: 0.0, Modes("enforce", [BOUNDARY], "an engineer"))
    host.script("confirm", "run001")
    record = json.loads((host.state / "confirmed.json").read_text(encoding="utf-8"))
    assert (record["approved_by"], record["boundaries_approved_by"]) == ("an engineer", {"plant": "their engineer"})
    firewall.apply(GOOD, "run002", 30, lambda: 0.0, Modes("enforce"))
    assert not {"approved_by", "boundaries_approved_by"} & set(json.loads((host.state / "pending.json").read_text(encoding="utf-8")))


def packet(number: int, port: int = 9094) -> proof.Packet:
    return proof.Packet("10.0.3.11", "10.0.35.11", "tcp", number, port)


def test_a_pair_is_alive_cut_or_idle() -> None:
    book = proof.book([{**APPROVED[0], "id": "C-201"}])
    one = packet(40000)
    (pair,) = proof.carrying({one, one.back(), packet(5, 99), packet(5, 99).back()}, book)
    assert pair == proof.Pair("C-201", "10.0.3.11", "10.0.35.11", "tcp", 9094)
    assert proof.carrying({one}, book) == []
    both = {one, one.back()}
    assert proof.judge([pair], both, both) == {pair: "alive"}
    # One way is no life: what comes back arrives and does not pass.
    assert proof.judge([pair], both, {one}) == {pair: "cut"}
    assert proof.judge([pair], {one}, {one}) == proof.judge([pair], set(), set()) == {pair: "idle"}
    # Another connection of the same conduit between the same two goes on.
    assert proof.judge([pair], {*both, packet(40001)}, both) == {pair: "alive"}


def test_a_stray_packet_is_no_cut_and_a_cut_needs_no_more_than_seconds() -> None:
    (pair,) = proof.book([{**APPROVED[0], "id": "C-201", "source": ["10.0.3.11"], "target": ["10.0.35.11"]}]).values()
    one = packet(40000)
    both = {one, one.back()}
    now = [0.0]

    def wait(reads: list[tuple[set[proof.Packet], set[proof.Packet]]], seconds: float) -> tuple[str, float]:
        now[0] = 0.0

        def read() -> tuple[set[proof.Packet], set[proof.Packet], bool]:
            return (*(reads.pop(0) if len(reads) > 1 else reads[0]), False)

        state = proof.wait([pair], read, seconds, lambda: now[0], lambda pause: now.__setitem__(0, now[0] + pause))
        return state[pair], now[0]

    assert wait([(both, {one}), (both, both)], 9.0) == ("alive", 0.5)
    assert wait([(both, {one})], 9.0) == ("cut", proof.CUT_AFTER_S)
    assert wait([(set(), set())], 3.0) == ("idle", 3.0)
    assert wait([(both, {one})], 0.0) == ("cut", 0.0)


def test_a_new_connection_is_tried_where_it_may_be_and_a_refusal_is_an_answer(host: Host, firewall: Firewall) -> None:
    items = [
        {**APPROVED[0], "id": "C-1", "source": ["10.0.3.11"], "target": ["10.0.35.11"]},
        {**APPROVED[0], "id": "C-2", "source": ["10.0.3.11"], "target": ["10.0.2.11"], "port": 4840, "plant": True},
        {**APPROVED[0], "id": "C-3", "source": ["10.0.3.11"], "target": ["10.0.35.12"], "uid": 902},
        {**APPROVED[0], "id": "C-4", "source": ["10.0.3.11"], "target": ["10.0.35.13"], "proto": "udp"},
    ]
    pairs = list(proof.book(items).values())
    tried: list[tuple[str, str, int]] = []

    def connect(*one: Any) -> bool | None:
        tried.append(one)
        return one[1] == "10.0.35.11"

    host.run = lambda argv, _stdin: (0, json.dumps({"nftables": []}), "")  # type: ignore[method-assign]
    quiet = Firewall(host.run, host.state)
    looked = {"carrying": [list(pair) for pair in pairs], "answering": [], "idle": []}
    found = quiet.still(looked, items, 0.0, lambda: 0.0, lambda _s: None, connect)
    assert tried == [("10.0.3.11", "10.0.35.11", 9094)]
    assert found["alive"] == ["C-1 10.0.3.11 → 10.0.35.11 tcp/9094"] and len(found["idle"]) == 3 and not found["cut"]
    found = quiet.still(looked, items, 0.0, lambda: 0.0, lambda _s: None, lambda *_one: False)
    assert found["cut"] == ["C-1 10.0.3.11 → 10.0.35.11 tcp/9094"]
    assert proof.connect("192.0.2.1", "127.0.0.1", 9) is None
    assert proof.connect("127.0.0.1", "127.0.0.1", 1) is True


def test_a_rule_added_by_hand_is_seen_and_repaired(host: Host, firewall: Firewall) -> None:
    change(firewall, host, GOOD)
    host.loaded.write_text(GOOD + "tcp dport 4444 accept", encoding="utf-8")
    assert firewall.reasons(GOOD) == ["the loaded table was changed by hand"]
    change(firewall, host, GOOD, "run002")
    assert firewall.reasons(GOOD) == []


def test_tables_of_others_are_named_unless_the_site_knows_of_them(tmp_path: Path) -> None:
    said = "table inet hnai\ntable inet hnai_proof\ntable ip filter\ntable inet f2b-table\n"
    firewall = Firewall(lambda argv, _stdin: (0, said, "") if argv == ["nft", "list", "tables"] else (1, "", ""), tmp_path)
    assert firewall.strangers(["inet f2b-table"]) == ["ip filter"]
    with pytest.raises(FirewallError, match="nft list tables: Operation not permitted"):
        Firewall(lambda _argv, _stdin: (1, "", "Operation not permitted\n"), tmp_path).strangers([])


def test_counters_and_handles_are_no_drift() -> None:
    def listing(handle: int, packets: int, port: int) -> str:
        expr = [{"match": {"right": port}}, {"counter": {"packets": packets, "bytes": packets * 60}}, {"accept": None}]
        return json.dumps({"nftables": [{"metainfo": {"version": handle}}, {"rule": {"handle": handle, "expr": expr}}]})

    assert normalise(listing(1, 0, 22)) == normalise(listing(9, 500, 22))
    assert normalise(listing(1, 0, 22)) != normalise(listing(1, 0, 23))


@pytest.mark.parametrize(
    "text",
    [
        "flush ruleset\n" + GOOD,
        GOOD + "table ip other {\n}\n",
        GOOD + "delete table ip other\n",
        "table inet hnai\n",
        GOOD.rstrip("}\n"),
        "",
        'include "/etc/x"\n' + GOOD,
        GOOD.replace("\n}\n", "\n} table ip other {\n}\n"),
    ],
)
def test_own_table_only(text: str) -> None:
    with pytest.raises(FirewallError):
        own_table_only(text)


@pytest.mark.parametrize("run_id", ["", "x", "../../etc", "run 1", "RUN001"])
def test_run_ids_are_plain(firewall: Firewall, run_id: str) -> None:
    with pytest.raises(FirewallError, match="run_id"):
        firewall.apply(GOOD, run_id, 30, lambda: 0.0)


APPROVED = [{"source": ["10.0.3.11", "fd00:3::11"], "target": ["10.0.35.11", "fd00:35::11"], "proto": "tcp", "port": 9094}]
LISTING = """\
tcp      6 431999 ESTABLISHED src=10.0.3.11 dst=10.0.35.11 sport=40000 dport=9094 src=10.0.35.11 dst=10.0.3.11 sport=9094 dport=40000 [ASSURED] use=1
tcp      6 431999 ESTABLISHED src=10.0.35.11 dst=10.0.3.11 sport=9094 dport=40001 src=10.0.3.11 dst=10.0.35.11 sport=40001 dport=9094 [ASSURED] use=1
tcp      6 431999 ESTABLISHED src=10.0.4.12 dst=10.0.35.11 sport=50000 dport=9094 src=10.0.35.11 dst=10.0.4.12 sport=9094 dport=50000 [ASSURED] use=1
tcp      6 431999 ESTABLISHED src=fd00:0003:0::11 dst=fd00:35::11 sport=40002 dport=9094 src=fd00:35::11 dst=fd00:3::11 sport=9094 dport=40002 use=1
udp      17 20 src=10.0.3.11 dst=10.0.35.11 sport=5 dport=9094 [UNREPLIED] src=10.0.35.11 dst=10.0.3.11 sport=9094 dport=5 use=1
tcp      6 9 ESTABLISHED src=127.0.0.1 dst=127.0.0.1 sport=1 dport=2 src=127.0.0.1 dst=127.0.0.1 sport=2 dport=1 use=1
tcp      6 9 ESTABLISHED src=10.0.3.11 dst=10.0.3.11 sport=1 dport=2 src=10.0.3.11 dst=10.0.3.11 sport=2 dport=1 use=1
icmp     1 9 src=10.0.3.11 dst=10.0.35.11 type=8 code=0 id=1 src=10.0.35.11 dst=10.0.3.11 type=0 code=0 id=1 use=1
unknown  47 599 src=10.0.3.11 dst=10.0.35.11 src=10.0.35.11 dst=10.0.3.11 use=1
"""


def test_only_what_no_conduit_covers_is_uncovered() -> None:
    found = [(item["src"], item["proto"]) for item in uncovered(LISTING, APPROVED)]
    # No conduit speaks anything but TCP and UDP, so nothing else is covered.
    assert found == [("10.0.4.12", "tcp"), ("10.0.3.11", "udp"), ("10.0.3.11", "icmp"), ("10.0.3.11", "47")]


def test_exactly_the_uncovered_connections_are_cut() -> None:
    calls: list[list[str]] = []

    def run(argv: list[str], _stdin: str | None) -> tuple[int, str, str]:
        calls.append(argv)
        return 0, LISTING if argv[-1] == "ipv4" else "", ""

    deleted, note = cut(run, APPROVED, Modes("enforce"))
    assert [(item["src"], item.get("sport")) for item in deleted] == [("10.0.4.12", "50000"), ("10.0.3.11", "5"), ("10.0.3.11", None), ("10.0.3.11", None)]
    assert note == ""
    removals = [argv for argv in calls if "-D" in argv]
    assert len(removals) == 4
    assert removals[0][-4:] == ["--sport", "50000", "--dport", "9094"]
    assert removals[2][-6:] == ["--icmp-type", "8", "--icmp-code", "0", "--icmp-id", "1"]
    assert removals[3][4:] == ["-p", "47", "-s", "10.0.3.11", "-d", "10.0.35.11"]


def test_what_could_not_be_deleted_is_said() -> None:
    def run(argv: list[str], _stdin: str | None) -> tuple[int, str, str]:
        if "-L" in argv:
            return 0, LISTING if argv[-1] == "ipv4" else "", ""
        gone = "50000" in argv
        return 1, "", "conntrack v1.4.7: 0 flow entries have been deleted." if gone else "Operation not permitted"

    deleted, note = cut(run, APPROVED, Modes("enforce"))
    assert deleted == [] and "udp 10.0.3.11 → 10.0.35.11: Operation not permitted" in note and "tcp" not in note


def test_without_conntrack_it_says_so() -> None:
    def run(_argv: list[str], _stdin: str | None) -> tuple[int, str, str]:
        raise FileNotFoundError

    assert cut(run, APPROVED, Modes("enforce"))[1].startswith("conntrack is not installed")


def test_the_proof_shares_no_connection() -> None:
    options = {"ssh_common_args": "-F /x/config -o 'UserKnownHostsFile=/a b'", "remote_user": "ansible", "host": "10.0.3.11", "port": 2222}
    command = ssh_login.ssh_command(options, "edge1")
    assert command[:5] == ["ssh", "-o", "ControlMaster=no", "-o", "ControlPath=none"]
    assert command.index("ControlPath=none") < command.index("-F")
    assert command[-2:] == ["10.0.3.11", "true"]
    assert "UserKnownHostsFile=/a b" in command
    through = ssh_login.fresh_jump(command, "user ansible\nproxyjump ops@jump1:2200\n")
    proxy = through[through.index("ControlPath=none") :]
    proxy = [word for word in proxy if word.startswith("ProxyCommand=")]
    assert len(proxy) == 1
    assert "ControlPath=none" in proxy[0]
    assert "-F /x/config" in proxy[0]
    assert proxy[0].endswith("-p 2200 -W '[%h]:%p' ops@jump1")
    assert ssh_login.fresh_jump(command, "user ansible\n") == command
    assert ssh_login.fresh_jump(command, "proxyjump a,b\n") == command


def test_all_groups_are_asked_at_the_same_time_and_answered_for_in_order() -> None:
    """The slowest login is what all of them take; a group without an answer does not hide the others'."""
    meeting = threading.Barrier(3, timeout=10)
    met: set[str] = set()

    def run(command: list[str], _left: float) -> tuple[bool, str]:
        if command[0] not in met:
            met.add(command[0])
            meeting.wait()  # Nobody gets on before all three are asked.
        return command[0] != "lost", "refused"

    groups = [{"a": ["a"]}, {"b": ["lost"]}, {"c": ["c"]}]
    assert action.prove_all(groups, time.monotonic() + 0.5, run) == [("a", ""), ("", "refused"), ("c", "")]


def test_prove_waits_for_one_and_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(action.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(action.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    tries: list[str] = []

    def run(command: list[str], left: float) -> tuple[bool, str]:
        assert left > 0
        tries.append(command[0])
        now[0] += 2.0
        return len(tries) == 3, "refused"

    commands: dict[str, Any] = {"a": ["a"], "b": ["b"]}
    assert action.prove(commands, 10.0, run) == ("a", "")
    assert tries == ["a", "b", "a"]
    tries.extend(["x"] * 10)
    assert action.prove(commands, now[0] + 5.0, run) == ("", "refused")
