# SPDX-License-Identifier: Apache-2.0
"""The register of check ids, and what is made from it: runbook, alert rules, dashboard."""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.plugin_utils import checks, contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.report import metrics, monitoring

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = checks.load()
REGISTER = checks.by_id(SECTIONS)
GOOD = {"severity": "warning", "title": "t", "meaning": "m", "action": "a", "repeat": "r"}


def written(base: Path, **components: Any) -> Path:
    """A checkout with these registers: component -> content, or text as it is."""
    own = base / "plugins/plugin_utils/report"
    own.mkdir(parents=True)
    (own / "checks.yml").write_text(yaml.safe_dump({"heading": "Own", "order": 0, "checks": {"V-COMPONENT": GOOD, "V-full": GOOD}}))
    for name, content in components.items():
        (base / "roles" / name / "meta").mkdir(parents=True)
        (base / "roles" / name / "meta/checks.yml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return base


def register(**entries: Any) -> dict[str, Any]:
    return {"heading": "H", "order": 1, "checks": entries}


def test_every_component_with_a_health_check_has_a_register() -> None:
    with_health = {name for name, contract in contracts.all(ROOT).items() if isinstance(contract["health"], dict)}
    assert {section.component for section in SECTIONS} == with_health | {checks.SITE}


@pytest.mark.parametrize(("content", "named"), [
    (register(Q1={**GOOD, "severity": "bad"}), "checks.Q1.severity"),
    (register(Q1={key: value for key, value in GOOD.items() if key != "action"}), "checks.Q1"),
    (register(Q1={**GOOD, "extra": "x"}), "checks.Q1"),
    (register(Q1={**GOOD, "action": " "}), "checks.Q1"),
    (register(Q1={**GOOD, "action": 5}), "checks.Q1"),
    (register(q1=GOOD), "checks.q1"),
    ({"heading": "H", "order": 1}, "needs heading, order and checks"),
    ("{", "is not YAML"),
])
def test_a_wrong_register_names_file_and_key(tmp_path: Path, content: Any, named: str) -> None:
    with pytest.raises(checks.RegisterError, match=re.escape("roles/alpha/meta/checks.yml")) as error:
        checks.load(written(tmp_path, alpha=content))
    assert named in str(error.value)


def test_an_id_has_one_owner(tmp_path: Path) -> None:
    with pytest.raises(checks.RegisterError, match="Q1 stands in alpha and beta"):
        checks.load(written(tmp_path, alpha=register(Q1=GOOD), beta=register(Q1=GOOD)))


def test_sections_come_in_their_order(tmp_path: Path) -> None:
    base = written(tmp_path, alpha={**register(A1=GOOD), "order": 9}, beta={**register(B1=GOOD), "order": 3})
    assert [section.component for section in checks.load(base)] == [checks.SITE, "beta", "alpha"]


@pytest.mark.parametrize(("asked", "found"), [("q1", "Q1"), ("V-full", "V-full"), ("v-KAFKA", "V-COMPONENT"), ("Q99", None), ("", None)])
def test_find(asked: str, found: str | None) -> None:
    entry = checks.find(REGISTER, asked)
    assert (entry.id if entry else None) == found


def test_the_nearest_stay_in_the_family() -> None:
    assert checks.nearest(REGISTER, "OC55")[0] == "OC5"
    assert all(re.fullmatch(r"BAO\d+", one) for one in checks.nearest(REGISTER, "BAO99"))
    assert checks.nearest(REGISTER, "ZZZZ9") == []


# -- runbook ----------------------------------------------------------------------------------------------
def test_the_runbook_has_a_row_for_every_id() -> None:
    text = monitoring.runbook(SECTIONS)
    rows = [line for line in text.splitlines() if re.match(r"\| .* \| (V-|[A-Z]+[0-9]+ \|)", line)]
    assert len(rows) == len(REGISTER)
    for entry in REGISTER.values():
        assert entry.meaning.replace("|", "\\|") in text and entry.action.replace("|", "\\|") in text


# -- alert rules ------------------------------------------------------------------------------------------
EXPRESSION = re.compile(r"max by \(site, host, component, id, subject\) \(hnai_check_problem\{(id=\"[^\"]+\"|id=~\"[^\"]+\",id!~?=?\"[^\"]+\")\}\) > 0")
RULES = monitoring.alerts(SECTIONS)


def rules() -> Iterator[dict[str, Any]]:
    for group in RULES["groups"]:
        yield from group["rules"]


def test_every_id_has_an_alert_of_its_own() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) == len(REGISTER) + 2
    assert all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) for name in names)
    for entry in REGISTER.values():
        (rule,) = [one for one in rules() if one["alert"] == monitoring.alert_name(entry)]
        assert EXPRESSION.fullmatch(rule["expr"]), rule["expr"]
        assert rule["labels"] == {"severity": entry.severity}
        assert ("for" in rule) == (entry.severity != "critical"), "what is critical does not wait"
        assert rule["annotations"]["action"] == entry.action
        assert not any("{{" in text for text in rule["annotations"].values()), "Prometheus would take it for a template"


def test_rules_and_dashboard_ask_only_for_metrics_that_are_written() -> None:
    board = monitoring.dashboard(SECTIONS)
    expressions = [rule["expr"] for rule in rules()] + [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"hnai_[a-z_]+", " ".join(expressions)))
    assert asked
    assert asked <= set(metrics.HELP), asked - set(metrics.HELP)


def test_the_tests_of_the_rules_try_every_alert_before_during_and_after() -> None:
    tests = monitoring.alert_tests(SECTIONS, "alerts.yml")["tests"]
    tried = {case["alertname"] for one in tests for case in one["alert_rule_test"]}
    assert tried == {rule["alert"] for rule in rules()}
    for one in tests:
        expected = [bool(case["exp_alerts"]) for case in one["alert_rule_test"]]
        assert True in expected and False in expected


def test_the_dashboard_shows_every_component() -> None:
    board = monitoring.dashboard(SECTIONS)
    assert {panel["title"] for panel in board["panels"]} >= {section.heading for section in SECTIONS if section.component != checks.SITE}
    identities = [panel["id"] for panel in board["panels"]]
    assert len(identities) == len(set(identities))
    taken = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(taken) == len(set(taken)) and all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in board["panels"])
    for entry in REGISTER.values():
        if entry.component != checks.SITE:
            assert any(f"**{entry.id}**" in panel.get("description", "") for panel in board["panels"])
