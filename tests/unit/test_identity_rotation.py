# SPDX-License-Identifier: Apache-2.0
"""The run's own identities: killed after any call and any write of the file, both log in at every moment, and the next run ends with one new secret_id."""
from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from identity_stand import DAY, Bao, Controller, Killed
from jinja2.nativetypes import NativeEnvironment

from ansible_collections.hnai.platform.plugins.module_utils.openbao import files, health, inventory, policies, rotation
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Forbidden, login
from ansible_collections.hnai.platform.plugins.module_utils.openbao.kv import KvStore
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotate_approle import living
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import RotationError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation_target import CannotTell
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys

PATHS = ["approle/deploy", "approle/site-admin"]
KEYS = {"approle/deploy": "deploy", "approle/site-admin": "site_admin"}


def made(folder: Path) -> tuple[Bao, Controller]:
    folder.mkdir(parents=True, exist_ok=True)
    bao = Bao()
    openbao_keys.store(folder / "deploy.json", {"deploy": bao.issue("deploy"), "site_admin": bao.issue("site-admin"), "root_revoked_at": "then"})
    return bao, Controller(bao, folder / "deploy.json", bao.clock, bao.sleep)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither slow fingerprints nor a disk that is waited for: thousands of runs."""
    monkeypatch.setattr(rotation, "fingerprint", lambda path, text, _rounds: hashlib.sha256((path + text).encode()).hexdigest()[:16])
    monkeypatch.setattr(files.os, "fsync", lambda _handle: None)


@pytest.fixture
def site(tmp_path: Path) -> tuple[Bao, Controller]:
    return made(tmp_path)


def enters(bao: Bao, held: dict[str, Any]) -> None:
    """Both of the file log in."""
    for key in KEYS.values():
        login(bao, "approle", held[key]["role_id"], held[key]["secret_id"])


def settled(bao: Bao, controller: Controller, path: str, before: dict[str, Any]) -> dict[str, Any]:
    """One new secret_id, the file clean, the other identity as it was, the journal closed; the journal's `last`."""
    held, key = controller.held, KEYS[path]
    assert set(held) == {"deploy", "site_admin", "root_revoked_at"}
    assert bao.alive(policies.IDENTITIES[path]) == [held[key]["secret_id"]]
    assert held[key]["secret_id"] != before[key]["secret_id"]
    (other,) = set(KEYS.values()) - {key}
    assert held[other] == before[other]
    enters(bao, held)
    journal = bao.kv[path + "/_rotation"][-1]
    assert not journal["run_id"]
    assert not any(value in json.dumps(bao.kv) for value in (held[key]["secret_id"], before[key]["secret_id"])), "a value in the journal"
    return dict(journal["last"])


@pytest.mark.parametrize("path", PATHS)
def test_a_rotation_ends_with_one_new_one_and_the_old_one_refused(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    bao, controller = site
    before = controller.held
    done = controller.rotate(path, monkeypatch)
    last = settled(bao, controller, path, before)
    assert (done["step"], done["changed"], last["outcome"], last["version"]) == ("closed", True, "rotated", 2)
    assert {key for key, value in last["proof"].items() if value is True} >= {"new_works", "wrong_refused", "old_refused", "no_old_session"}
    assert last["proof"]["alive"] == 1
    assert bao.refused == ["id-of-" + policies.IDENTITIES[path]] * 2, "a wrong one, and the old one when it was over"
    assert controller.refusals == 2
    assert not any(value in json.dumps(done) for value in bao.ids), "a value in the result"
    assert controller.rotate(path, monkeypatch)["rotation"]["last"]["version"] == 3


def killed_after_each_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> Iterator[tuple[int, Bao, Controller, dict[str, Any]]]:
    """(event, OpenBao, controller, what it held before) of a rotation that was killed after its first event, its second, until one comes to its end."""
    for last in itertools.count(1):
        bao, controller = made(tmp_path / str(last))
        before = controller.held
        try:
            controller.rotate(path, monkeypatch, last)
        except Killed:
            yield last, bao, controller, before
        else:
            return


@pytest.mark.parametrize("path", PATHS)
def test_killed_after_any_event_both_log_in_and_the_next_run_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    died = 0
    for last, bao, controller, before in killed_after_each_event(tmp_path, monkeypatch, path):
        died += 1
        enters(bao, controller.held)
        if controller.held[KEYS[path]] != before[KEYS[path]] and "old" not in controller.held:
            continue  # it was over
        # The one after it dies as well, a little later; the third ends it.
        try:
            controller.rotate(path, monkeypatch, 20)
        except Killed:
            enters(bao, controller.held)
            if controller.held.keys() & {"next", "old"} or bao.kv[path + "/_rotation"][-1]["run_id"]:
                controller.rotate(path, monkeypatch)
        found = settled(bao, controller, path, before)
        assert found["outcome"] == "rotated"
        assert found["version"] == 2, last
    assert died > 50, "it was killed nowhere"


@pytest.mark.parametrize("path", PATHS)
def test_rolled_back_from_any_event_the_old_one_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    back = 0
    for last, bao, controller, before in killed_after_each_event(tmp_path, monkeypatch, path):
        journal = (bao.kv.get(path + "/_rotation") or [{}])[-1]
        if not journal.get("run_id") or journal["state"] == "COMMITTED":
            continue
        try:
            controller.rotate(path, monkeypatch, 8, rollback="run-c1")
        except Killed:
            enters(bao, controller.held)
        controller.rotate(path, monkeypatch, rollback="run-c1")
        assert controller.held == before
        assert bao.alive(policies.IDENTITIES[path]) == [before[KEYS[path]]["secret_id"]], last
        assert bao.kv[path + "/_rotation"][-1]["last"]["outcome"] == "rolled back"
        back += 1
    assert back > 15


@pytest.mark.parametrize("path", PATHS)
def test_a_new_one_that_a_hand_ended_never_becomes_the_controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """A run that was killed had proven it; with what the file holds then nobody would enter OpenBao any more."""
    ended = 0
    for last, bao, controller, before in killed_after_each_event(tmp_path, monkeypatch, path):
        if "next" not in controller.held:
            continue
        del bao.ids[controller.held["next"][KEYS[path]]["secret_id"]]
        with pytest.raises((RotationError, CannotTell), match=r"roll (it|the run) back"):
            controller.rotate(path, monkeypatch)
        enters(bao, controller.held)
        controller.rotate(path, monkeypatch, rollback="run-c1")
        assert controller.held == before and bao.alive(policies.IDENTITIES[path]) == [before[KEYS[path]]["secret_id"]], last
        ended += 1
    assert ended > 10


def test_after_the_commit_it_only_goes_forward(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site
    last = 0
    while (bao.kv.get("approle/deploy/_rotation") or [{}])[-1].get("state") != "COMMITTED":
        last += 1
        bao, controller = made(controller.file.parent / str(last))
        with pytest.raises(Killed):
            controller.rotate("approle/deploy", monkeypatch, last)
    with pytest.raises(RotationError, match="only goes forward"):
        controller.rotate("approle/deploy", monkeypatch, rollback="run-c1")
    controller.rotate("approle/deploy", monkeypatch)
    assert "old" not in controller.held


def test_another_controller_waits_and_can_take_back_what_it_does_not_hold(
    site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    bao, first = site
    before = first.held
    openbao_keys.store(tmp_path / "copy" / "deploy.json", before)
    second = Controller(bao, tmp_path / "copy" / "deploy.json", bao.clock, bao.sleep)
    last = 0
    while len(bao.alive("deploy")) < 2 or "next" not in first.held:
        last += 1
        with pytest.raises(Killed):
            first.rotate("approle/deploy", monkeypatch, last)
    with pytest.raises(Killed):
        first.rotate("approle/deploy", monkeypatch, 25)
    run_id = bao.kv["approle/deploy/_rotation"][-1]["run_id"]
    refused = second.rotate("approle/deploy", monkeypatch, name="d")
    assert refused["failed"] and "Another controller works on it until" in refused["msg"]
    bao.sleep(3600)
    with pytest.raises(RotationError, match=r"gone. Roll the run back"):
        second.rotate("approle/deploy", monkeypatch, name="d", resume=run_id)
    done = second.rotate("approle/deploy", monkeypatch, name="d", rollback=run_id)
    assert done["rotation"]["last"]["outcome"] == "rolled back"
    assert bao.alive("deploy") == [before["deploy"]["secret_id"]] and second.held == before


@pytest.mark.parametrize(("others", "behind_s"), [(0, 0.0), (2 * health.MAX_ACCESSORS, 0.0), (0, 3600.0)])
def test_a_session_of_the_old_one_is_waited_for(
    site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch, others: int, behind_s: float,
) -> None:  # fmt: skip
    """Also among many, and where this host's clock is behind that of the OpenBao that leads."""
    bao, controller = site
    controller._now = lambda: bao.now - behind_s
    for _number in range(others):
        bao.enter("hnai", "hnai-kafka")
    bao.enter("approle", "deploy")
    bao.enter("approle", "site-admin")
    start = bao.now
    done = controller.rotate("approle/deploy", monkeypatch)
    assert done["step"] == "closed" and 300 <= bao.now - start < 400, "a token lives five minutes"
    assert done["rotation"]["last"]["proof"]["no_old_session"]


def test_a_compromise_ends_every_other_one(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site
    copy = bao.issue("deploy")["secret_id"]
    done = controller.rotate("approle/deploy", monkeypatch)
    assert copy in bao.ids and done["rotation"]["last"]["proof"]["alive"] == 2
    controller.rotate("approle/deploy", monkeypatch, reason="compromise")
    assert bao.alive("deploy") == [controller.held["deploy"]["secret_id"]] and len(bao.alive("site-admin")) == 1


def intruded(bao: Bao) -> tuple[set[str], set[str]]:
    """(tokens, secret_ids) of somebody who has the secret_id of deploy: it, a component, and the way into another one."""
    tokens = {bao.enter("approle", "deploy")["auth"]["client_token"], bao.enter("hnai", "hnai-kafka")["auth"]["client_token"]}
    return tokens, {bao.issue("hnai-openbao")["secret_id"], bao.issue("hnai-rotation")["secret_id"]}


def test_after_a_compromise_all_that_the_old_one_opened_ends_at_once(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is opened between the commit and the end of the last other secret_id."""
    bao, controller = site
    copy = bao.issue("deploy")["secret_id"]
    accessor, plain, start = bao.ids[copy]["accessor"], bao.call, bao.now
    tokens, secret_ids = intruded(bao)

    def call(method: str, path: str, body: Any = None, *more: Any, **named: Any) -> dict[str, Any]:
        if path.endswith("/destroy") and body["secret_id_accessor"] == accessor:
            for mine, new in zip((tokens, secret_ids), intruded(bao), strict=True):
                mine |= new
        return plain(method, path, body, *more, **named)

    monkeypatch.setattr(bao, "call", call)
    proof = controller.rotate("approle/deploy", monkeypatch, reason="compromise")["rotation"]["last"]["proof"]
    assert bao.now - start < 60
    assert not tokens & set(bao.tokens) and not secret_ids & set(bao.ids)
    assert (proof["cut"], proof["no_old_session"], len(tokens) + len(secret_ids)) == (8, True, 8)


def test_without_a_compromise_it_is_waited_for(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    """A login with the last secret_id that it got, in its last second, as well."""
    bao, controller = site
    _tokens, secret_ids = intruded(bao)
    start, plain = bao.now, bao.sleep

    def sleep(seconds: float) -> None:
        plain(seconds)
        if secret_ids and bao.now - start > 270:
            bao.enter("hnai", bao.ids.pop(secret_ids.pop())["role"])

    controller._sleep = sleep
    done = controller.rotate("approle/deploy", monkeypatch)
    assert done["step"] == "closed" and 560 < bao.now - start < 700 and not bao.tokens and "cut" not in done["rotation"]["last"]["proof"]


def test_a_compromise_of_site_admin_ends_no_visit_of_a_component(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site
    tokens, secret_ids = intruded(bao)
    own = bao.enter("approle", "site-admin")["auth"]["client_token"]
    controller.rotate("approle/site-admin", monkeypatch, reason="compromise")
    assert tokens <= set(bao.tokens) and secret_ids <= set(bao.ids) and own not in bao.tokens


@pytest.mark.parametrize(("given", "taken"), [
    ({}, ["site-admin", "deploy"]), ({"rotate_secret": "approle/deploy", "rotate_reason": "compromise"}, ["deploy"]),
    ({"rotate_secret": "approle/site-admin"}, ["site-admin"]),
    ({"rotate_secret": "approle/site-admin", "rotate_reason": "compromise"}, ["site-admin", "deploy"]),
    ({"rotate_secret": "approle/site-admin", "rotate_reason": "compromise", "rotate_rollback": "r1"}, ["site-admin"]),
])  # fmt: skip
def test_whoever_has_site_admin_has_deploy_so_it_is_the_last(given: dict[str, str], taken: list[str]) -> None:
    (play,) = yaml.safe_load((Path(__file__).parents[2] / "playbooks/parts/rotate/identities.yml").read_text(encoding="utf-8"))
    (task,) = [task for task in play["tasks"] if "hnai.platform.approle_rotation" in task]
    given = {**given, "__rotate_identities": play["vars"]["__rotate_identities"], "__rotate_identity_named": bool(given)}
    assert NativeEnvironment(autoescape=False).from_string(task["loop"]).render(given) == ["approle/" + name for name in taken]


def test_killed_after_any_event_of_a_compromise_the_next_run_ends_what_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, died = 0, 0
    while True:
        last += 1
        bao, controller = made(tmp_path / str(last))
        tokens, secret_ids = intruded(bao)
        try:
            controller.rotate("approle/deploy", monkeypatch, last, reason="compromise")
            break
        except Killed:
            died += 1
        enters(bao, controller.held)
        controller.rotate("approle/deploy", monkeypatch, reason="compromise")
        assert not tokens & set(bao.tokens) and not secret_ids & set(bao.ids), last
    assert died > 100


def test_a_secret_id_that_has_run_out_is_none_though_it_is_still_listed(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site
    left = bao.issue("deploy")["secret_id"]
    bao.ids[left]["dies"] = bao.now
    assert controller.rotate("approle/deploy", monkeypatch, check=True)["alive"] == 1
    assert controller.rotate("approle/deploy", monkeypatch)["rotation"]["last"]["proof"]["alive"] == 1


def test_tokens_are_not_taken_for_dead_where_the_one_that_asks_has_ended() -> None:
    asked: list[str] = []

    class Api:
        def call(self, method: str, path: str, *_more: Any, **_named: Any) -> dict[str, Any]:
            asked.append(method)
            if len(asked) > 2:
                raise Forbidden(method, path, 403, ["permission denied"])
            return {"data": {"keys": ["a", "b"], "accessor": "a"}}

    with pytest.raises(Forbidden):
        health.tokens(Api(), "t", lambda _seconds: None)


def test_by_age_only_what_is_due(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site
    before = controller.held
    plan = controller.rotate("approle/deploy", monkeypatch, check=True)
    assert "age 0.0 d of 60 d: not due" in plan["plan"][0] and plan["alive"] == 1 and not plan["changed"] and not bao.kv.get("approle/deploy/_rotation")
    bao.now += 59 * DAY
    done = controller.rotate("approle/deploy", monkeypatch, forced=False)
    assert (done["step"], done["changed"]) == ("idle", False) and controller.held == before
    bao.now += 2 * DAY
    assert controller.rotate("approle/deploy", monkeypatch, forced=False)["step"] == "closed"


def test_the_grace_time_leaves_the_old_one_valid(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site
    before = controller.held["deploy"]["secret_id"]
    with pytest.raises(RotationError, match="1000 s of the grace time are left"):
        controller.rotate("approle/deploy", monkeypatch, grace=1000.0)
    assert before in bao.ids and controller.held["deploy"]["secret_id"] != before
    bao.sleep(1000)
    controller.rotate("approle/deploy", monkeypatch)
    assert before not in bao.ids


def test_what_is_in_the_way_is_said_and_nothing_was_changed(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site
    before = controller.held
    with pytest.raises(AnsibleActionFail, match="comes from elsewhere"):
        controller.rotate("approle/deploy", monkeypatch, deploy={"role_id": "r", "secret_id": "an AWX credential's"})
    bao.listable = False
    with pytest.raises(Forbidden, match=r"components/openbao\.yml gives it the right"):
        controller.rotate("approle/deploy", monkeypatch)
    assert not bao.kv.get("approle/deploy/_rotation") and controller.held == before
    bao.listable = True
    del bao.ids[before["site_admin"]["secret_id"]]
    with pytest.raises(RotationError, match="Break-glass"):
        controller.rotate("approle/deploy", monkeypatch)
    openbao_keys.store(controller.file, {"deploy": before["deploy"]})
    with pytest.raises(AnsibleActionFail, match="does not hold both"):
        controller.rotate("approle/site-admin", monkeypatch)


def test_a_secret_id_that_was_renewed_meanwhile_is_not_taken_for_the_old_one(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site
    last = 0
    while (bao.kv.get("approle/deploy/_rotation") or [{}])[-1].get("state") != "PREPARED":
        last += 1
        bao, controller = made(controller.file.parent / str(last))
        with pytest.raises(Killed):
            controller.rotate("approle/deploy", monkeypatch, last)
    renewed = bao.issue("deploy")
    openbao_keys.store(controller.file, {**controller.held, "deploy": renewed})
    with pytest.raises(RotationError, match="another secret_id than run run-c1 began with"):
        controller.rotate("approle/deploy", monkeypatch)
    controller.rotate("approle/deploy", monkeypatch, rollback="run-c1")
    assert controller.held["deploy"] == renewed and "next" not in controller.held and len(bao.alive("deploy")) == 2


def test_the_policy_of_the_rotation_ends_secret_ids_and_issues_none() -> None:
    """deploy enters it: a right to issue one for site-admin would make deploy site-admin."""
    rules = policies.rotation("hnai").split("path ")
    of_roles = {rule.split('"')[1]: rule for rule in rules if "/role" in rule}
    assert len(of_roles) == 10
    for path, rule in of_roles.items():
        wanted = '["list"]' if path.endswith(("/secret-id", "hnai/role")) else '["update"]'
        assert f"capabilities = {wanted}" in rule
        assert path == "auth/hnai/role" or path.rsplit("/", 2)[-1] in ("secret-id", "lookup", "destroy")
        assert path.endswith(("/secret-id", "hnai/role")) or "/secret-id-accessor/" in path


def test_the_inventory_tells_their_age_and_how_many_are_alive(site: tuple[Bao, Controller], monkeypatch: pytest.MonkeyPatch) -> None:
    bao, controller = site

    def judged() -> dict[tuple[str, str], dict[str, Any]]:
        report = Report(component="openbao", deadline_s=30)
        watcher = bao.enter("hnai", "hnai-openbao")["auth"]["client_token"]
        inventory.judge(
            report, KvStore(bao, watcher, "hnai"), inventory.identities(), lambda: ({}, 0.0, bao.now), bao.clock,
            lambda path: living(bao, watcher, policies.IDENTITIES[path]),
        )  # fmt: skip
        return {(check["id"], check.get("subject", "")): check for check in report.result(collect=True)["checks"]}

    bao.now += 61 * DAY
    found = judged()
    assert {key: check["status"] for key, check in found.items()} == {
        **{("SI1", path): "fail" for path in PATHS}, **{("SI2", path): "pass" for path in PATHS}, ("SI4", ""): "pass",
    }  # fmt: skip
    assert found["SI1", PATHS[0]]["observed"] == 61 * DAY
    controller.rotate(PATHS[0], monkeypatch)
    bao.issue("deploy")
    bao.now += DAY
    row = judged()["SI1", PATHS[0]]
    assert (row["status"], row["observed"], row["evidence"]["alive"], row["evidence"]["last_outcome"]) == ("pass", DAY, 2, "rotated")
    bao.ids.clear()
    assert judged()["SI1", PATHS[0]]["status"] == "fail", "there is none"
    bao.listable = False
    assert judged()["SI1", PATHS[0]]["status"] == "inconclusive"
