# SPDX-License-Identifier: Apache-2.0
"""The audit as the module runs it, pointed at a server of a test."""
from __future__ import annotations

import asyncio
import time
from datetime import date
from typing import Any

from kit import CLIENT_URI, Pki

from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_run
from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_reader import FastReader, Target, der, describe
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_judge import Context, Judge
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_policy import Policy
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report


def target(pki: Pki, port: int, mode: str = "SignAndEncrypt", **change: Any) -> Target:
    values: dict[str, Any] = dict(
        endpoint="opc.tcp://127.0.0.1:%d/" % port, policy="Basic256Sha256", mode=mode, application_uri=CLIENT_URI, certificate=pki.read("client.pem"),
        private_key=pki.read("client.key.pem"), server_certificate=pki.read("server.pem"), username="observer", password="secret", name="audit-stacks",
        connect_timeout_s=20.0, request_timeout_s=30.0)
    return Target(**{**values, **change})


class Seen:
    """What one audit found out and said."""

    def __init__(self, pki: Pki, port: int, mode: str = "SignAndEncrypt", reader: Any = FastReader, want: Target | None = None,
                 thumbprints: dict[str, str] | None = None, **change: Any) -> None:
        values: dict[str, Any] = dict(
            source="plc1", endpoint="opc.tcp://127.0.0.1:%d/" % port, policy="Basic256Sha256", mode=mode, username="observer", application_uri=CLIENT_URI,
            budget_per_s=10_000_000, in_flight=4, batch=1000, latency_floor_s=30.0, rest_s=0.1, deadline_s=300.0, environment="test")
        plan = audit_run.Plan(**{**values, **change})
        self.channel = reader(want or target(pki, port, mode))
        begin = time.monotonic()
        self.facts = asyncio.run(audit_run.gather(self.channel, plan, time.monotonic, asyncio.sleep))
        self.seconds = time.monotonic() - begin
        self.report = Report("ot_audit", deadline_s=None)
        pin = describe(der(pki.read("server.pem"))).sha256
        self.record = Judge(self.report, self.facts, Context(plan, Policy(today=date(2026, 1, 1)), time.time(), pin_sha256=pin,
                                                             thumbprints=thumbprints or {})).run()

    @property
    def verdict(self) -> str:
        return str(self.record["verdict"])

    def status(self) -> dict[str, str]:
        return {check.id: check.status for check in self.report.checks}

    def bad(self) -> set[str]:
        return {check.id for check in self.report.checks if check.status in ("fail", "inconclusive")}

    def why(self) -> list[tuple[str, str]]:
        return [(check.id, check.reason) for check in self.report.checks if check.status in ("fail", "inconclusive")]

    def reason(self, check: str) -> str:
        return next(one.reason for one in self.report.checks if one.id == check)

    def nodes(self, check: str, kinds: tuple[str, ...] = ("grant", "lie")) -> set[str]:
        """Stable ids of all findings of a check, those of the standard's namespace left out."""
        return {one.node for one in self.facts.result.findings if one.check == check and one.kind in kinds and one.node.startswith("nsu=")}

    def standard(self) -> set[tuple[str, str]]:
        """(check, last name of the path) of the findings in the standard's namespace."""
        return {(one.check, one.path.rsplit("/", 1)[-1]) for one in self.facts.result.findings if one.kind != "info" and not one.node.startswith("nsu=")}
