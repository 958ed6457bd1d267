# SPDX-License-Identifier: Apache-2.0
"""The verb itself, in a minute: verify --tags zones passes on the lab, and a rule that somebody plants on the router turns its checks."""
from __future__ import annotations

from conftest import Lab
from opened import bad, opened, verify, without_rules


def test_the_network_is_the_model_and_a_planted_rule_is_named(lab: Lab) -> None:
    run, checks = verify(lab)
    assert run.rc == 0 and bad(checks) == {}, bad(checks)
    hosts = set(lab.groups["managed"])
    assert {subject.split()[0] for ident, subject in checks if ident == "ZS1"} == hosts
    assert {subject for ident, subject in checks if ident == "ZC5"} == hosts and ("ZC2", "l4 → l35") in checks
    with opened(lab, "router", "forward", "iifname", "l4", "oifname", "l35", "tcp", "dport", "22", "ct", "state", "new"):
        run, checks = verify(lab)
    found = without_rules(bad(checks), {"router": "forward"})
    assert run.rc != 0 and found.pop(("ZC5", "router"), "").startswith("fail: router lets through"), found
    # Every host of l35 still refuses by itself.
    assert found == {}, found
