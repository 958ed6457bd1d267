# SPDX-License-Identifier: Apache-2.0
"""Is the loaded ruleset of a host the model? Judged over every packet that there can be, not by the text of rules (V1), and do routes and
forwarding leave the packets to it (V2).

``run`` makes ZS1 to ZS6 on the host of what the model means for it (expectation.py), of the loaded rules (rules.py) and of addresses, routes and
forwarding (routes.py):

    params = {"expected": expectation(site, host), "mode": "enforce" | "observe", "foreign": ["inet f2b-table"]}

*mode* is the host's firewall_mode (default enforce; boundaries with a mode of their own stand in the expectation); *foreign* are tables of
others that the site declared (default none): they are judged all the same, only their presence is no finding. *read* runs a command and
returns what it says: read(argv, timeout_s) -> stdout; it raises OSError or subprocess.SubprocessError where that is not possible
(``host/health.py: run_command``). Nothing else touches the host.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report
from ansible_collections.hnai.platform.plugins.module_utils.zones.boxes import RulesetError
from ansible_collections.hnai.platform.plugins.module_utils.zones.dimensions import PATHS
from ansible_collections.hnai.platform.plugins.module_utils.zones.findings import SR, Finding, Judgement
from ansible_collections.hnai.platform.plugins.module_utils.zones.program import Where
from ansible_collections.hnai.platform.plugins.module_utils.zones.routes import (
    SETTINGS,
    CannotTell,
    Links,
    forwarding,
    links,
    proxied,
    routed,
    settings,
    standing,
    strange_routes,
    strange_rules,
)
from ansible_collections.hnai.platform.plugins.module_utils.zones.rules import judge
from ansible_collections.hnai.platform.plugins.module_utils.zones.ruleset import devices, dormant, flagged

Read = Callable[[Sequence[str], float], str]
#: Most findings that a check lists one by one.
_SHOWN = 8
#: Actions of tc that give packets another way, another address or another wrapping.
_TAKES = frozenset(("mirred", "nat", "pedit", "ct", "mpls", "tunnel_key", "skbmod"))
_NFT = ("nft", "-j", "list", "ruleset")
_LEGACY = ("iptables-legacy-save", "ip6tables-legacy-save")
#: Beside ZS1, which is one for each way.
_CHECKS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "state",
        {
            "id": "ZS2",
            "title": "what belongs to a connection passes by its state alone, both ways",
            "unit": "deviations",
            "controls": ["SR 5.1", "SR 5.2"],
            "hint": "ct state established,related stands in each chain before what drops",
            "explain": "nft -a list table inet hnai",
        },
    ),
    (
        "around",
        {
            "id": "ZS3",
            "title": "nothing leads past the rules: nat, flowtable, notrack, queue, helper, legacy rules, other hooks",
            "unit": "ways",
            "controls": ["SR 5.2"],
            "hint": "remove what the row names",
            "explain": "nft -a list ruleset; cat /proc/net/ip_tables_names /proc/net/ip_vs; tc filter show dev INTERFACE ingress",
        },
    ),
    (
        "foreign",
        {
            "id": "ZS4",
            "title": "no tables and rules but the model's",
            "unit": "tables and rules",
            "controls": ["SR 7.6", "SR 3.4"],
            "hint": "remove it, or declare the table; rules in our own table are taken away by site.yml --tags firewall",
            "explain": "nft -a list ruleset",
        },
    ),
    (
        "understood",
        {
            "id": "ZS5",
            "title": "every construct of the ruleset is understood",
            "unit": "constructs",
            "controls": ["SR 3.3"],
            "hint": "look at the construct by hand",
            "explain": "nft -a list ruleset",
        },
    ),
    (
        "routes",
        {
            "id": "ZS6",
            "title": "addresses, routes and forwarding are the model's",
            "unit": "deviations",
            "controls": ["SR 5.1", "SR 7.6"],
            "hint": "interfaces and routes of the host, and its sysctl (role host)",
            "explain": "ip -d address; ip route get ADDRESS; ip route show table all; sysctl net.ipv4.ip_forward",
        },
    ),
)


def run(report: Report, params: Mapping[str, Any], read: Read) -> dict[str, Any]:
    """Make ZS1 to ZS6. Returns {findings: [Finding as JSON], boxes: sets of packets that were told apart, unknown: [text]}."""
    checks = _Checks(report, params, read)
    for path in PATHS:
        with report.check(
            "ZS1",
            "the rules let through what the model approves, no more and no less",
            subject=path,
            expected=0,
            unit="deviations",
            controls=["SR 5.1", "SR 5.2"],
            hint="the row names table, chain and handle; site.yml --tags firewall loads the approved rules again",
            explain="nft -a list ruleset",
        ) as check:
            checks.rules(check, path)
    for name, spec in _CHECKS:
        with report.check(expected=0, **spec) as check:
            getattr(checks, name)(check)
    return checks.result()


class _Checks:
    def __init__(self, report: Report, params: Mapping[str, Any], read: Read) -> None:
        self.report = report
        self.expected: Mapping[str, Any] = params["expected"]
        self.mode = str(params.get("mode") or "enforce")
        self.declared = [str(one) for one in params.get("foreign") or ()]
        self._read = read
        self._links: Links | None = None
        self._judgement: Judgement | None = None
        self._listing = ""

    def read(self, *argv: str) -> str:
        try:
            return self._read(argv, self.report.timeout(10))
        except OSError as error:
            raise CannotTell("%s cannot be run: %s" % (argv[0], error)) from None

    @property
    def links(self) -> Links:
        if self._links is None:
            self._links = links(self.read("ip", "-j", "-d", "address", "show"))
        return self._links

    @property
    def judgement(self) -> Judgement:
        if self._judgement is None:
            self._listing = self.read(*_NFT)
            text = self.read("nft", "-s", "list", "ruleset")
            interfaces, bridged, owned = self.links.names, bool(self.links.bridges), flagged(text, "owner")
            try:
                found = judge(self._listing, self.expected, self.mode, self.declared, self._uid, interfaces, dormant(text), bridged, owned, devices(text))
            except RulesetError as error:
                if not owned:
                    raise
                # nft 1.0.6 breaks its JSON off there.
                raise CannotTell("%s; tables that belong to a process: %s" % (error, ", ".join(sorted(" ".join(one) for one in owned)))) from None
            self._judgement = found
        return self._judgement

    def _uid(self, name: str) -> int | None:
        try:
            fields = self.read("getent", "passwd", name).split(":")
        except subprocess.CalledProcessError:
            return None
        return int(fields[2]) if len(fields) > 3 and fields[2].isdigit() else None

    def result(self) -> dict[str, Any]:
        found = self._judgement
        return {} if found is None else {"findings": [one.as_dict() for one in found.all], "boxes": found.boxes, "unknown": [one.text for one in found.unknown]}

    # -- verdicts

    @staticmethod
    def _verdict(check: Check, found: Sequence[Finding], open_reason: str = "") -> None:
        sure = [one for one in found if one.sure]
        shown = sure or list(found)
        check.observed = len(sure)
        check.evidence["findings"] = [one.as_dict() for one in found[:50]]
        if found:
            check.controls = sorted({*check.controls, *(text for one in found for text in SR.get(one.kind, []))})
        text = "; ".join(one.line for one in shown[:_SHOWN]) + ("; and %d more" % (len(shown) - _SHOWN) if len(shown) > _SHOWN else "")
        if sure:
            check.fail(text)
        elif found or open_reason:
            check.inconclusive(text or open_reason)
        else:
            check.passed(True)

    def rules(self, check: Check, path: str) -> None:
        found = self.judgement
        if path == PATHS[0]:
            check.raw("nft-ruleset.json", self._listing)
        check.evidence = {
            **check.evidence,
            "mode": self.mode,
            "sets_of_packets": found.boxes,
            "conduits": sorted({str(one["id"]) for one in self.expected["conduits"] if one["path"] == path}),
        }
        shadowed = [one.line for one in found.shadowed if one.path == path]
        if shadowed:
            check.evidence["never_reached"] = shadowed
        observing = [] if self.mode == "enforce" else ["firewall_mode is %s" % self.mode]
        if path == "forward" and self.expected["boundaries"]:
            check.evidence["boundaries"] = {str(one["id"]): str(one["mode"]) for one in self.expected["boundaries"]}
            observing += ["%s (%s) observes" % (one["id"], ", ".join(one["zones"])) for one in self.expected["boundaries"] if one["mode"] == "observe"]
        open_reason = "%s: what no conduit names is counted, not refused" % "; ".join(observing) if observing else ""
        self._verdict(check, [one for one in found.rules if one.path == path], open_reason)

    def state(self, check: Check) -> None:
        self._verdict(check, self.judgement.state)

    def around(self, check: Check) -> None:
        found = self.judgement
        legacy = [*self._legacy(), *self._queues()]
        check.evidence["legacy"] = [one.text for one in legacy]
        self._verdict(check, [*found.around, *legacy])

    def _queues(self) -> Iterator[Finding]:
        """Filters of tc see packets before the rules on the way in, and after them on the way out."""
        queues: dict[str, set[str]] = {}
        for one in json.loads(self.read("tc", "-j", "qdisc", "show") or "[]"):
            if one.get("kind") != "noqueue":
                queues.setdefault(str(one.get("dev")), set()).add(str(one.get("kind")))
        for device, kinds in sorted(queues.items()):
            sides = [("ingress",)] if "ingress" in kinds else [("ingress",), ("egress",)] if "clsact" in kinds else []
            for side in [(), *sides]:
                words = self.read("tc", "filter", "show", "dev", device, *side).split()
                takes = sorted(_TAKES.intersection(words))
                if words:
                    yield Finding(
                        "bypass",
                        "",
                        0,
                        Where("tc", device),
                        "filters of tc (%s) see packets past the rules%s" % (" ".join(side) or "root", ": %s" % ", ".join(takes) if takes else ""),
                        sure=bool(takes),
                        doubt="" if takes else "what they do",
                    )

    def _legacy(self) -> Iterator[Finding]:
        # With its slash, for /proc/net is a link and find follows none.
        names_found = self.read("find", "/proc/net/", "-maxdepth", "1", "(", "-name", "*_tables_names", "-o", "-name", "ip_vs", ")").split()
        for path in (one for one in names_found if one.endswith("/ip_vs")):
            services = [line for line in self.read("cat", path).splitlines() if line.split(" ", 1)[0] in ("TCP", "UDP", "SCTP", "FWM")]
            if services:
                text = "%d virtual services, whose packets go to others than they are addressed to; the first: %s" % (len(services), services[0].strip())
                yield Finding("nat", "", 0, Where("ipvs", path), text)
        tables = {path: self.read("cat", path).split() for path in sorted(names_found) if path.endswith("_tables_names")}
        for path, present in tables.items():
            if not present:
                continue
            what = "%s knows the tables %s" % (path, ", ".join(present))
            tool = {"ip_tables_names": _LEGACY[0], "ip6_tables_names": _LEGACY[1]}.get(path.rpartition("/")[2])
            try:
                lines = self.read(tool).splitlines() if tool else None
            except (CannotTell, subprocess.SubprocessError) as error:
                lines, what = None, "%s, and nobody says what is in them (%s)" % (what, error)
            rules = None if lines is None else [line for line in lines if line.startswith("-A ") or (line.startswith(":") and " DROP" in line)]
            if rules is None:
                yield Finding("legacy", "", 0, Where("legacy", path), what, sure=False, doubt="what is in them")
            elif rules:
                rewrites = any(
                    " -j %s" % verb in rule
                    for rule in rules
                    for verb in ("DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "TPROXY", "NFQUEUE", "NOTRACK", "CT", "TEE")
                )
                yield Finding(
                    "legacy",
                    "",
                    0,
                    Where("legacy", path),
                    "%s with %d rules, the first: %s" % (what, len(rules), rules[0]),
                    sure=rewrites,
                    doubt="" if rewrites else "what these rules drop",
                )

    def foreign(self, check: Check) -> None:
        self._verdict(check, self.judgement.foreign)

    def understood(self, check: Check) -> None:
        unknown = self.judgement.unknown
        check.observed = len(unknown)
        check.evidence["unknown"] = [one.text for one in unknown]
        if unknown:
            check.inconclusive("; ".join(one.text for one in unknown[:_SHOWN]))
        else:
            check.passed(True)

    def routes(self, check: Check) -> None:
        wrong = standing(self.links, self.expected)
        paths = self.read("find", "/proc/sys/net/", "-maxdepth", "2", "-name", "conf").split()
        text = self.read("grep", "-rH", *("--include=%s" % name for name in SETTINGS), ".", *paths)
        wrong += forwarding(settings(text), self.expected, self.links.names)
        for peer in self.expected["peers"]:
            try:
                answer = self.read("ip", "-j", "route", "get", peer["address"])
            except subprocess.CalledProcessError as error:
                wrong.append("there is no way to %s (%s): %s" % (peer["name"], peer["address"], str(error.stderr or error).strip()[-200:]))
                continue
            wrong += routed(answer, peer, self.links, self.expected)
        for family in ("-4", "-6"):
            wrong += [
                "a rule of its own leads some packets elsewhere (ip %s rule): %s" % (family, one)
                for one in strange_rules(self.read("ip", family, "-j", "rule", "show"))
            ]
        wrong += strange_routes(self.read("ip", "-j", "route", "show", "table", "all"), self.links, self.expected)
        wrong += proxied(self.read("ip", "-j", "neigh", "show", "proxy"))
        check.observed = len(wrong)
        check.evidence = {"addresses": dict(sorted(self.links.holders.items())), "peers": len(self.expected["peers"]), "wrong": wrong}
        check.passed(not wrong, "; ".join(wrong[:_SHOWN]) + ("; and %d more" % (len(wrong) - _SHOWN) if len(wrong) > _SHOWN else ""))
