# SPDX-License-Identifier: Apache-2.0
"""verify --tags zones on the lab, and a rule planted by hand that goes away in every case."""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conftest import Lab, Run

COMMENT = "hnai-test-opened-by-hand"
Checks = dict[tuple[str, str], dict[str, Any]]


def verify(lab: Lab, *more: str) -> tuple[Run, Checks]:
    """A run of the verb, and its checks by id and subject. What is read on each host (ZS1 to ZS6) has the host in its subject."""
    run = lab.play("playbooks/verify.yml", "--tags", "zones", *more, timeout=600)
    record = json.loads((lab.state / "verdicts" / "latest" / "record.json").read_text(encoding="utf-8"))
    checks: Checks = {}
    for verdict in record["verdicts"]:
        for check in verdict["checks"]:
            host = verdict["host"] if check["id"].startswith("ZS") else ""
            key = (check["id"], " ".join(filter(None, (host, check.get("subject", "")))))
            assert key not in checks, key
            checks[key] = check
    assert checks, run.stdout[-4000:]
    return run, checks


def bad(checks: Checks) -> dict[tuple[str, str], str]:
    return {key: f"{check['status']}: {check.get('reason', '')}" for key, check in checks.items() if check["status"] != "pass"}


def without_rules(found: dict[tuple[str, str], str], planted: dict[str, str]) -> dict[tuple[str, str], str]:
    """What is bad beside what the rules say of themselves; they must name each planted rule, {host: chain}, and no other host."""
    of_rules = {key: text for key, text in found.items() if key[0].startswith("ZS")}
    for host, chain in planted.items():
        for key in (("ZS1", f"{host} {chain}"), ("ZS4", host)):
            assert of_rules.get(key, "").startswith("fail") and COMMENT in of_rules[key], (key, of_rules)
    assert {subject.split()[0] for _ident, subject in of_rules} == set(planted), of_rules
    return {key: text for key, text in found.items() if key not in of_rules}


@contextmanager
def opened(lab: Lab, host: str, chain: str, *match: str, verdict: str = "accept") -> Iterator[None]:
    """A rule too many, first in a chain of our table; taken away in every case."""
    try:
        lab.run(host, "nft", "insert", "rule", "inet", "hnai", chain, *match, verdict, "comment", f'"{COMMENT}"')
        yield
    finally:
        for line in lab.run(host, "nft", "-a", "list", "chain", "inet", "hnai", chain).stdout.splitlines():
            if COMMENT in line:
                lab.run(host, "nft", "delete", "rule", "inet", "hnai", chain, "handle", line.rsplit(" ", 1)[1])
        assert COMMENT not in lab.run(host, "nft", "list", "chain", "inet", "hnai", chain).stdout
