# SPDX-License-Identifier: Apache-2.0
"""Observed flows as a list, a table and a proposal; and what `validate` says before a host may enforce."""
from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.action import firewall as action
from ansible_collections.hnai.platform.plugins.module_utils import firewall_observed as seen
from ansible_collections.hnai.platform.plugins.module_utils.firewall import FirewallError
from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes
from ansible_collections.hnai.platform.plugins.module_utils.zones import nft, observe
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.plugin_utils import observed

FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8"))
AT = 1_700_000_000.0
DAY = 86400.0


def element(parts: list[Any], left: float, packets: int | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"val": {"concat": parts}, "expires": left}
    return {"elem": {**body, "counter": {"packets": packets, "bytes": 1}} if packets is not None else body}


def listing(sets: dict[str, list[dict[str, Any]]], full: str = "", handle: int = 7) -> str:
    """As `nft -j list table inet hnai` prints it."""
    items: list[dict[str, Any]] = [{"metainfo": {}}, {"table": {"family": "inet", "name": "hnai", "handle": handle}}]
    for name, elements in sets.items():
        lifetime = 30 * DAY if "first" in name else 7 * DAY
        items.append({"set": {"name": name, "flags": ["timeout"], "timeout": lifetime, "elem": elements}})
    for place in observe.ROUTER_PLACES:
        counter = {"counter": {"packets": 3 if place == full else 0, "bytes": 0}}
        items.append({"rule": {"comment": f"observed-full-{place}", "expr": [counter]}})
    return json.dumps({"nftables": items})


SSH = ["10.0.9.50", "10.0.3.11", "tcp", 8080]
SETS = {
    "observed_first4_in": [element(SSH, 30 * DAY - 500)],
    "observed_last4_in": [element(SSH, 7 * DAY - 20, 9)],
    "observed_last4_out": [element(["10.0.3.11", "10.0.4.12", "udp", 514], 7 * DAY - 5, 2), element(["10.0.3.11", "10.0.35.11", 6, 9094], 7 * DAY, 1)],
    "observed_user4_out": [element(["10.0.3.11", "10.0.4.12", "udp", 514, 0], 7 * DAY)],
    "observed_olast6_out": [element(["fd00:3::11", "ff02::2", "ipv6-icmp"], 7 * DAY - 1, 1)],
    "observed_mid4_in": [
        element(["10.0.4.12", "10.0.3.11", "tcp", 50000, 8883], 7 * DAY),  # we listen
        element(["10.0.35.11", "10.0.3.11", "tcp", 9094, 50001], 7 * DAY),  # approved, the other way round
        element(["10.0.35.12", "10.0.3.11", "tcp", 443, 50002], 7 * DAY),  # we dialled
    ],
    "observed_mid4_forward": [element(["10.0.4.12", "10.0.35.11", "tcp", 9999, 51000], 7 * DAY)],
}
SOCKETS = """\
udp   UNCONN 0 0 0.0.0.0:514 0.0.0.0:* users:(("rsyslogd",pid=1,fd=3))
tcp   LISTEN 0 9 *:8883 *:* users:(("mosquitto",pid=2,fd=3))
tcp   ESTAB  0 0 [::ffff:10.0.3.11]:40000 [::ffff:10.0.4.99]:7001 users:(("java",pid=3,fd=3))
"""
TRACKED = """\
tcp      6 9 ESTABLISHED src=10.0.3.11 dst=10.0.4.99 sport=40000 dport=7001 src=10.0.4.99 dst=10.0.3.11 sport=7001 dport=40000 [ASSURED] use=1
tcp      6 9 ESTABLISHED src=10.0.3.11 dst=10.0.35.11 sport=40001 dport=9094 src=10.0.35.11 dst=10.0.3.11 sport=9094 dport=40001 [ASSURED] use=1
icmp     1 9 src=10.0.3.11 dst=10.0.4.12 type=8 code=0 id=1 src=10.0.4.12 dst=10.0.3.11 type=0 code=0 id=1 use=1
"""


def result(state: Path, text: str, items: list[dict[str, Any]], conntrack: str = TRACKED) -> dict[str, Any]:
    def run(argv: list[str], _stdin: str | None) -> tuple[int, str, str]:
        if argv[0] == "nft":
            return (0, text, "") if text else (1, "", "No such file or directory")
        return (0, SOCKETS, "") if argv[0] == "ss" else (0, conntrack if "ipv4" in argv else "", "")

    return seen.observed(run, state, AT, items, Modes("observe"))


@pytest.mark.parametrize(("code", "said"), [(1, "Operation not permitted (you must be root)"), (-9, "")])
def test_an_nft_that_says_nothing_has_not_seen_nothing(tmp_path: Path, code: int, said: str) -> None:
    """Whoever took it for an empty list would enforce, and cut what is open."""
    with pytest.raises(FirewallError, match="nobody knows which flows"):
        seen.observed(lambda argv, _stdin: (code, "", said) if argv[0] == "nft" else (0, "", ""), tmp_path, AT, [], Modes("observe"))


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_listing_that_was_cut_is_none(tmp_path: Path, cut: int) -> None:
    text = listing(SETS)
    with pytest.raises(ValueError):
        result(tmp_path, text[: len(text) - 1 - cut], [])


@pytest.fixture
def site() -> Site:
    return Site.from_dict(copy.deepcopy(FIXTURE))


def test_each_flow_once_with_its_times_users_and_direction(site: Site, tmp_path: Path) -> None:
    found = result(tmp_path, listing(SETS), nft.approved(site, "edge1"))
    flows = {seen.text(flow): flow for flow in found["flows"]}
    assert set(flows) == {
        "10.0.9.50 → 10.0.3.11 tcp/8080", "10.0.3.11 → 10.0.4.12 udp/514", "10.0.3.11 → 10.0.35.11 tcp/9094", "fd00:3::11 → ff02::2 ipv6-icmp",
        "10.0.4.12 → 10.0.3.11 tcp/8883", "10.0.3.11 → 10.0.35.12 tcp/443", "10.0.35.11 → 10.0.4.12 tcp/51000", "10.0.3.11 → 10.0.4.99 tcp/7001",
        "10.0.3.11 → 10.0.4.12 icmp",
    } - {"10.0.35.11 → 10.0.4.12 tcp/51000"} | {"10.0.35.11 → 10.0.4.12 tcp/9999"}  # fmt: skip
    one = flows["10.0.9.50 → 10.0.3.11 tcp/8080"]
    assert (one["first"], one["last"], one["count"], one["where"], one["guessed"]) == (int(AT) - 500, int(AT) - 20, 9, ["in"], False)
    assert flows["10.0.3.11 → 10.0.4.12 udp/514"]["users"] == ["root"]
    assert flows["10.0.3.11 → 10.0.35.11 tcp/9094"]["conduit"] == "C-201"
    assert [flows[f"10.0.3.11 → {end}"]["where"] for end in ("10.0.35.12 tcp/443", "10.0.4.99 tcp/7001", "10.0.4.12 icmp")] == [["out"], ["out"], ["tracked"]]
    assert flows["10.0.3.11 → 10.0.4.99 tcp/7001"]["processes"] == ["java"] and flows["10.0.3.11 → 10.0.4.99 tcp/7001"]["open"] == 1
    assert flows["10.0.4.12 → 10.0.3.11 tcp/8883"]["processes"] == ["mosquitto"]
    assert [text for text, flow in flows.items() if flow["guessed"]] == ["10.0.35.11 → 10.0.4.12 tcp/9999"]
    assert found["full"] == []


def test_what_replaced_tables_had_seen_is_added_and_their_own_twin_is_not(site: Site, tmp_path: Path) -> None:
    (tmp_path / "observed").mkdir()
    for name in ("7.json", "6.json", "1699999000-5.json"):
        (tmp_path / "observed" / name).write_text(listing(SETS, full="out" if name == "6.json" else ""), encoding="utf-8")
    found = result(tmp_path, listing(SETS), nft.approved(site, "edge1"))
    flows = {seen.text(flow): flow for flow in found["flows"]}
    assert flows["10.0.9.50 → 10.0.3.11 tcp/8080"]["count"] == 27
    assert found["full"] == ["out"]
    seen.forget(tmp_path, Modes("enforce"))
    assert result(tmp_path, listing(SETS), [])["full"] == []
    gone = result(tmp_path, "", [])
    assert (gone["flows"], gone["observing"]) == ([], False)


def test_what_was_open_at_a_load_is_listed_as_it_was_then_unless_a_conduit_covers_it(site: Site, tmp_path: Path) -> None:
    ends = {"src": "10.0.3.11", "dst": "10.0.4.99", "sport": "40000", "dport": "7001"}
    covered = {"src": "10.0.3.11", "dst": "10.0.35.11", "sport": "40001", "dport": "9094"}
    ping = {"proto": "icmp", "src": "10.0.3.11", "dst": "10.0.35.11", "type": "8"}
    kept = {"open": [{"proto": "tcp", **ends}, {"proto": "tcp", **covered}, ping], "sockets": SOCKETS}
    (tmp_path / "observed").mkdir()
    (tmp_path / "observed" / "run001.open").write_text(json.dumps(kept), encoding="utf-8")
    os.utime(tmp_path / "observed" / "run001.open", (AT - 900, AT - 900))
    found = {seen.text(flow): flow for flow in result(tmp_path, listing({}), nft.approved(site, "edge1"), "")["flows"]}
    assert set(found) == {"10.0.3.11 → 10.0.4.99 tcp/7001", "10.0.3.11 → 10.0.35.11 icmp"}
    one = found["10.0.3.11 → 10.0.4.99 tcp/7001"]
    assert (one["first"], one["last"], one["open"], one["count"], one["where"]) == (int(AT) - 900, int(AT) - 900, 0, 0, ["out"])


def flow(source: str, target: str, proto: str, port: int, **more: Any) -> dict[str, Any]:
    plain = {"first": int(AT), "last": int(AT) + 5, "count": 1, "open": 0, "users": [], "processes": [], "guessed": False, "conduit": "", "where": ["in"]}
    return {"source": source, "target": target, "proto": proto, "port": port, **plain, **more}


RESULTS: dict[str, dict[str, Any]] = {
    "edge1": {
        "observing": True, "observes": [""], "full": ["in"], "note": "",
        "flows": [
            flow("10.0.4.12", "10.0.3.11", "tcp", 8883), flow("10.0.3.11", "10.0.35.12", "tcp", 443, where=["out"], users=["root"]),
            flow("10.0.3.50", "10.0.3.11", "tcp", 80), flow("10.0.4.12", "10.0.3.11", "icmp", 0),
            flow("10.0.3.11", "10.0.35.11", "tcp", 9094, conduit="C-201"),
        ],
    },
    "kafka2": {"observing": True, "observes": [""], "full": [], "note": "", "flows": [flow("10.0.3.11", "10.0.35.12", "tcp", 443, first=int(AT) - 9)]},
    "sec1": {"observing": False, "observes": [], "full": [], "note": "", "flows": []},
}  # fmt: skip


def test_one_row_a_flow_and_a_proposal_that_a_person_must_complete(site: Site, tmp_path: Path) -> None:
    found = observed.report(site, RESULTS, "2026-11-26T09:00:00Z")
    rows = {(row["from"], row["to"], row["port"]): row for row in found["record"]["flows"]}
    assert rows["edge1", "kafka2", 443]["seen_by"] == ["edge1", "kafka2"] and rows["edge1", "kafka2", 443]["first"] == int(AT) - 9
    assert rows["edge1", "kafka2", 443]["where"] == ["edge1:out", "kafka2:in"] and rows["edge1", "kafka2", 443]["users"] == ["edge1:root"]
    assert set(found["record"]["hosts"]) == {"edge1", "kafka2"}
    assert "observing: edge1, kafka2; 4 flow(s) that enforce would cut" in found["table"] and "could not" not in found["table"].splitlines()[0]
    assert "edge1: more was seen than could be written down (in)" in found["table"]
    (conduit,) = yaml.safe_load(found["proposal"])["hnai_conduits"]
    assert conduit["from"] == {"host": "edge1"} and conduit["service"] == {"proto": "tcp", "port": 443} and conduit["expires"] == "2027-02-24"
    assert "# 10.0.4.12 → 10.0.3.11 tcp/8883 (edge1:in): [I1]" in found["proposal"]
    assert "10.0.3.50 is nobody in the model" in found["proposal"] and "icmp (edge1:in): a conduit is one port" in found["proposal"]
    # The model refuses it as it is, and takes it when somebody has put his name to it.
    data = copy.deepcopy(FIXTURE)
    assert {problem.key for problem in Site.from_dict({**data, "conduits": [*data["conduits"], conduit]}).problems} == {
        "hnai_conduits[OBSERVED-1].owner", "hnai_conduits[OBSERVED-1].reason"
    }  # fmt: skip
    done = Site.from_dict({**data, "conduits": [*data["conduits"], {**conduit, "owner": "a", "reason": "b"}]})
    assert not done.problems and "dport 443" in nft.ruleset(done, "edge1")
    # Another run on some hosts keeps what is known of the others.
    kept = tmp_path / "observed.json"
    kept.write_text(json.dumps(found["record"]), encoding="utf-8")
    again = observed.report(site, {"kafka2": {**RESULTS["kafka2"], "flows": []}}, "2026-11-27T09:00:00Z", str(kept))
    assert len(again["record"]["hosts"]["edge1"]["flows"]) == 5 and again["record"]["hosts"]["kafka2"]["flows"] == []
    kept.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="remove it"):
        observed.read(str(kept))


def test_validate_refuses_enforce_until_each_flow_is_explained_and_somebody_is_named(site: Site) -> None:
    record = observed.report(site, {"edge1": RESULTS["edge1"]}, "2026-11-26T09:00:00Z")["record"]
    cut_flows = [{"source": "10.0.0.0/8", "target": "10.0.3.11", "proto": proto, "port": None, "reason": "x"} for proto in ("tcp", "icmp")]
    cut_flows.append({"source": "10.0.3.11", "target": "10.0.35.12", "proto": "tcp", "port": 443, "reason": "x"})

    def said(**variables: Any) -> list[tuple[str, str]]:
        return [(one.key, one.message) for one in observed.problems(site, record, {"edge1": variables})]

    assert said(firewall_mode="observe") == []
    ((key, message),) = said()
    assert key == "edge1: firewall_mode" and "would cut 4 flow(s)" in message and "10.0.4.12 → 10.0.3.11 tcp/8883" in message
    ((key, message),) = said(firewall_mode="enforce", firewall_cut_flows=cut_flows)
    assert key == "edge1: firewall_approved_by" and "5 flow(s)" in message
    assert said(firewall_cut_flows=cut_flows, firewall_approved_by="a name") == []
    assert [key for key, _message in said(firewall_cut_flows=["x"], firewall_approved_by="a name")] == ["edge1: firewall_cut_flows"]
    assert observed.problems(site, {"hosts": {"gone": record["hosts"]["edge1"]}}, {}) == observed.problems(site, {}, {}) == []
    assert all(one.remedy and one.file for one in observed.problems(site, record, {}))


class Action(action.ActionModule):
    """The controller's part with a host that is played."""

    def __init__(self, steps: dict[str, dict[str, Any]]) -> None:
        self.steps, self.called, self.shell = steps, [], []
        self._task = type("Task", (), {"args": {"ruleset": "x", "approved": [{"id": "C-1"}], "proof_hosts": []}, "check_mode": False})()
        self._display = type("Display", (), {"warning": staticmethod(lambda _text: None)})()

    def _step(self, step: str, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        self.called.append(step)
        return {"changed": True, "failed": False, "armed_s": 0.1, "looked": {}, "alive": [], "idle": [], "cut": [], **self.steps.get(step, {})}

    def _own_command(self, task_vars: dict[str, Any]) -> list[str]:
        return ["ssh"]

    def _low_level_execute_command(self, command: str) -> dict[str, Any]:  # type: ignore[override]
        self.shell.append(command.split()[1])
        return {"rc": 0, "stdout": "", "stderr": ""}


def played(monkeypatch: pytest.MonkeyPatch, good: bool = True, **steps: dict[str, Any]) -> tuple[dict[str, Any], Action]:
    monkeypatch.setattr(action.ActionBase, "run", lambda *_args: {})
    monkeypatch.setattr(action, "prove_all", lambda groups, _deadline, _run: [("edge1" if good else "", "" if good else "refused") for _one in groups])
    module = Action(steps)
    return module.run(None, {"inventory_hostname": "edge1"}), module


def test_a_cut_conduit_is_taken_back_at_once_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found, module = played(monkeypatch, still={"cut": ["C-1 a → b tcp/9094"]})
    assert found["failed"] and not found["confirmed"] and not found["changed"]
    assert "edge1" in found["msg"] and "C-1 a → b tcp/9094" in found["msg"] and "in force again" in found["msg"]
    assert module.called == ["check", "look", "apply", "still"] and module.shell == ["revert"]


def test_nothing_is_confirmed_that_could_not_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for step, called in (("look", ["check", "look"]), ("still", ["check", "look", "apply", "still"])):
        found, module = played(monkeypatch, **{step: {"failed": True, "msg": "broken"}})
        assert found["failed"] and "broken" in found["msg"] and module.called == called and "confirm" not in module.shell


def test_without_a_login_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found, module = played(monkeypatch, good=False)
    assert found["failed"] and "taken back within 30 s" in found["msg"] and module.called == ["check", "look", "apply"] and module.shell == []


def test_a_change_that_holds_is_confirmed_and_then_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    found, module = played(monkeypatch, still={"alive": ["C-1 a → b tcp/1"]}, settle={"deleted_connections": [{"src": "x"}]})
    assert found["confirmed"] and found["alive"] == ["C-1 a → b tcp/1"] and found["deleted_connections"] == [{"src": "x"}]
    assert module.called == ["check", "look", "apply", "still", "settle"] and module.shell == ["confirm"]
