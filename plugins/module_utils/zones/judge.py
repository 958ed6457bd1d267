# SPDX-License-Identifier: Apache-2.0
"""What the probe matrix found, held against the model: ZC1 to ZC6. Pure; the matrix is made again from the model, never taken from a host.

`answers`: host → {listen, probe, collect}, each the result of that part of conduit_verify, or {error: why there is none}.

A denied pair that crosses a boundary in observe is `observed, not enforced` whatever came of it: never pass, and never the router's failure.

A denial counts only while its target is there: the same address answered an allowed source in this run, or something arrived at it, and
the receiver of a managed target outlived the attempts. Who refused is told by what passed which interface, and by the drop counter there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, Check, Report, aggregate
from ansible_collections.hnai.platform.plugins.module_utils.zones import live, matrix, sessions
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Conduit, Node, Site

SHOWN = 5
LISTED = 40
CONTROLS = ("SR 5.1", "SR 5.2", "SR 3.3")
_DROPS = {"out": "output drop-out", "in": "input drop-in", "forward": "forward drop-forward"}


@dataclass
class Pair:
    """One attempt with what came of it. `point`: where it was stopped, by what was seen; '' where nobody can say."""

    source: str
    probe: matrix.Probe
    outcome: str
    detail: str
    point: str = ""
    status: str = ""
    reason: str = ""

    def text(self) -> str:
        """For people: who, whom, what, and what came of it."""
        probe = self.probe
        who = "" if probe.layer == matrix.OWN else ", past its own rules"
        by = "/".join(probe.conduits) or "no conduit"
        reason = f": {self.reason}" if self.reason else ""
        came = self.outcome + (f" ({self.detail})" if self.detail else "")
        return f"{self.source} {probe.source}{who} → {probe.target} {probe.address} {probe.proto}/{probe.port} [{by}] {came}{reason}"


def approved_sessions(site: Site) -> dict[tuple[str, str, int], list[Conduit]]:
    """(initiator's address, target's address, port) → conduits, TCP."""
    found: dict[tuple[str, str, int], list[Conduit]] = {}
    for conduit in site.conduits:
        for source, target in conduit.pairs() if conduit.service.proto == "tcp" else ():
            first, second = site.nodes[source], site.nodes[target]
            for version in (4, 6):
                ends = _end(first, second, version, conduit.source_address), _end(second, first, version, "")
                if all(ends):
                    found.setdefault((*ends, conduit.service.port), []).append(conduit)
    return found


def _end(node: Node, peer: Node, version: int, second: str) -> str:
    return node.address(version, peer.zone_towards(node.zone), second)


class Evidence:
    """What hosts said, in the form that questions are asked in."""

    def __init__(self, site: Site, answers: Mapping[str, Mapping[str, Any]]) -> None:
        self.site = site
        self.approved = approved_sessions(site)
        self.plans = {name: matrix.plan(site, name) for name in sorted(answers) if name in site.nodes}
        self.missing: dict[str, str] = {}
        self.blind: dict[str, str] = {}
        self.seen: dict[str, Mapping[str, int]] = {}
        self.received: dict[str, set[int]] = {}
        self.bound: dict[str, set[str]] = {}
        self.rise: dict[str, dict[str, int]] = {}
        self.no_counters: dict[str, str] = {}
        self.sessions: dict[str, list[sessions.Session]] = {}
        self.session_notes: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.slots: dict[str, int] = {}
        self.pairs: list[Pair] = []
        self.routers = [node.name for node in site.routers()]
        for name in self.plans:
            self._read(name, answers[name])
        self.there = set(self._there())

    def _read(self, name: str, answer: Mapping[str, Any]) -> None:
        listened, probed, collected = (answer.get(part) or {"error": "nothing arrived"} for part in ("listen", "probe", "collect"))
        results: Mapping[str, Any] = {}
        if "results" in probed:
            results = live.unpacked(probed["results"])
            self.seconds[name] = float(probed["seconds"])
            self.slots[name] = int(probed["slot"])
        else:
            self.missing[name] = str(probed.get("error") or "no result")
        absent = [live.ERROR, self.missing.get(name, "the host did not report it")]
        for probe in self.plans[name].probes:
            outcome, detail = results.get(str(probe.index), absent)
            self.pairs.append(Pair(name, probe, outcome, detail))
        if self.site.nodes[name].kind != "host":
            return
        self.received[name] = set(collected.get("received", ()))
        if "seen" in collected:
            self.seen[name] = live.unpacked(collected["seen"])
            self.bound[name] = set(collected["bound"])
        problem = listened.get("error") or collected.get("error") or collected.get("sight")
        if collected.get("lost"):
            problem = f"{collected['lost']} packets were not looked at"
        if problem or "seen" not in collected:
            self.blind[name] = str(problem or "no receiver")
        before, after = listened.get("before", {}), collected.get("after", {})
        if "counters" in before and "counters" in after:
            self.rise[name] = {key: value - before["counters"].get(key, 0) for key, value in after["counters"].items()}
        else:
            self.no_counters[name] = str(before.get("error") or after.get("error") or "nothing was read")
        told = listened.get("sessions", {})
        self.sessions[name] = [sessions.Session(*one) for one in told.get("sessions", ())]
        if not told.get("from"):
            self.session_notes[name] = "; ".join(told.get("notes", ())) or str(listened.get("error") or "nothing was read")

    # -- what passed where

    def passed(self, host: str, way: str, pair: Pair) -> bool:
        """Did an attempt of this pair pass an interface of `host`, in or out?"""
        probe = pair.probe
        seen = self.seen.get(host)
        if not seen or pair.source not in self.slots:
            return False
        ports = {live.port_of(self.slots[pair.source], probe.layer, probe.origin, attempt) for attempt in range(2)}
        return any(f"{way} {probe.proto} {probe.source} {port} {probe.address} {probe.port}" in seen for port in ports)

    def arrived(self, pair: Pair) -> bool:
        """Did it come to the target's interface?"""
        return self.passed(pair.probe.target, "in", pair)

    def left(self, pair: Pair) -> bool:
        """Did it leave the source?"""
        return self.passed(pair.source, "out", pair)

    def forwarded(self, pair: Pair) -> str:
        """The router that sent it on, '' for none."""
        return next((name for name in self.routers if name != pair.source and self.passed(name, "out", pair)), "")

    def met(self, pair: Pair) -> str:
        """The router that it came to, '' for none."""
        return next((name for name in self.routers if name != pair.source and self.passed(name, "in", pair)), "")

    def stopped(self, pair: Pair) -> str:
        """Where an attempt that nobody answered ended, by what was seen; '' where nobody can say."""
        node, target = self.site.nodes[pair.source], pair.probe.target
        if pair.outcome == live.UNTRIED or pair.outcome == live.ERROR:
            return ""
        if node.kind == "host":
            if pair.source in self.blind:
                return ""
            if not self.left(pair):
                return pair.source if pair.probe.layer == matrix.OWN else ""
        if self.arrived(pair):
            return target
        router = self.met(pair)
        if router and router not in self.blind and router != target and not self.forwarded(pair):
            return router
        return ""

    def counted(self, point: str, key: str) -> int:
        """By how much a counter ("chain comment") of refusals rose; on a router also in the chains of boundaries that enforce on their own."""
        chain, _space, comment = key.partition(" ")
        own = [f"boundary_{one.id}" for one in self.site.moded(self.site.nodes[point]) if chain == "forward" and one.mode == "enforce"]
        return sum(self.rise.get(point, {}).get(f"{name} {comment}", 0) for name in (chain, *own))

    def _there(self) -> Iterator[str]:
        """Addresses that were proven to be there."""
        for pair in self.pairs:
            if (pair.probe.conduits and pair.outcome in live.REACHED) or self.arrived(pair):
                yield pair.probe.address

    def listener(self, probe: matrix.Probe) -> bool:
        """Does a receiver of ours stand there?"""
        return f"{probe.proto} {probe.address} {probe.port}" in self.bound.get(probe.target, ())

    def nonce_arrived(self, pair: Pair) -> bool:
        """Did the target's receiver get this datagram?"""
        slot = self.slots.get(pair.source, -1)
        return pair.probe.proto == "udp" and live.udp_nonce(pair.probe.source, slot, pair.probe.index) in self.received.get(pair.probe.target, ())


# -- one pair


def judge_pair(evidence: Evidence, pair: Pair) -> None:
    """Status, reason and point of a pair."""
    pair.point = evidence.stopped(pair)
    if pair.outcome == live.UNTRIED:
        pair.status, pair.reason = "", ""
    elif pair.outcome == live.ERROR:
        pair.status, pair.reason = INCONCLUSIVE, "it could not be tried"
    elif pair.probe.conduits:
        pair.status, pair.reason = _approved(evidence, pair)
    else:
        pair.status, pair.reason = _denied(evidence, pair)
        boundary = matrix.observing(evidence.site, pair.source, pair.probe)
        if boundary is not None:
            worst = INCONCLUSIVE if pair.status == PASS else pair.status
            pair.status, pair.reason = worst, "; ".join(filter(None, (f"observed, not enforced: boundary {boundary.text}", pair.reason)))


def _approved(evidence: Evidence, pair: Pair) -> tuple[str, str]:
    probe = pair.probe
    watched = evidence.site.nodes[probe.target].kind == "host" and probe.target not in evidence.blind
    if pair.outcome in live.REACHED:
        if watched and not evidence.arrived(pair):
            return FAIL, "somebody else answers in the target's place: nothing arrived there"
        if pair.outcome == live.RESET and probe.proto == "tcp" and evidence.listener(probe):
            return FAIL, "a reset, although our receiver listens there: something on the way refuses"
        return PASS, ""
    if probe.limited:
        spent = [name for name in evidence.routers for ident in probe.conduits for kind in ("connections", "new_per_minute")
                 if evidence.counted(name, f"forward {ident} {kind}") > 0]
        if spent:
            return INCONCLUSIVE, f"the conduit's budget was used up ({spent[0]} counted it): somebody else's connections"
    where = _where(evidence, pair)
    if probe.address not in evidence.there:
        return INCONCLUSIVE, f"the target answered nobody: {where}"
    if probe.proto == "udp" and watched and evidence.arrived(pair) and not evidence.listener(probe):
        return INCONCLUSIVE, "it arrived, and whoever has that port there does not answer it"
    return FAIL, f"approved, but cut: {where}"


def _where(evidence: Evidence, pair: Pair) -> str:
    """How far an attempt came."""
    if evidence.arrived(pair):
        return f"it came to {pair.probe.target}, which does not answer"
    router = evidence.forwarded(pair)
    if router:
        return f"{router} sent it on, and it did not come to {pair.probe.target}"
    router = evidence.met(pair)
    if router:
        return f"it came to {router}, which did not send it on"
    node = evidence.site.nodes[pair.source]
    if node.kind == "host" and pair.source not in evidence.blind:
        return "it left the source and was seen nowhere else" if evidence.left(pair) else "it did not leave the source"
    return "nobody saw where it ended"


def _denied(evidence: Evidence, pair: Pair) -> tuple[str, str]:
    probe = pair.probe
    if pair.outcome in live.REACHED or evidence.nonce_arrived(pair):
        return FAIL, "no conduit allows it, and it got there"
    if probe.address not in evidence.there:
        return INCONCLUSIVE, "no positive control: this address answered nobody in this run"
    if evidence.site.nodes[probe.target].kind == "host" and probe.target in evidence.blind:
        return INCONCLUSIVE, f"no positive control: the receiver of {probe.target} says nothing ({evidence.blind[probe.target]})"
    if probe.proto == "udp" and not evidence.listener(probe) and pair.point in ("", probe.target):
        return INCONCLUSIVE, "silence of a datagram proves nothing: no receiver stands there, and nobody saw it stopped"
    return PASS, ""


# -- checks


def run(report: Report, site: Site, answers: Mapping[str, Mapping[str, Any]], lab: bool) -> None:
    """Judge everything into `report`."""
    evidence = Evidence(site, answers)
    for pair in evidence.pairs:
        judge_pair(evidence, pair)
    _carry(report, site, evidence)
    _refuse(report, site, evidence)
    _datagrams(report, evidence)
    _initiators(report, site, evidence)
    _points(report, site, evidence)
    _coverage(report, site, evidence, lab)


def _status(check: Check, pairs: Iterable[Pair]) -> None:
    """The verdict on several pairs: the worst, its first offenders by name; the whole is raw evidence."""
    tried = [pair for pair in pairs if pair.status]
    worst = aggregate(pair.status for pair in tried) if tried else INCONCLUSIVE
    bad = [pair.text() for pair in tried if pair.status == worst]
    more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    if worst == PASS:
        check.passed(True)
    elif worst == FAIL:
        check.fail("; ".join(bad[:SHOWN]) + more)
    else:
        check.inconclusive(("; ".join(bad[:SHOWN]) + more) or "none of its pairs was tried")
    check.evidence["statuses"] = dict(Counter(pair.status or live.UNTRIED for pair in pairs))
    if worst != PASS:
        check.evidence["pairs"] = bad[:LISTED]


def _rows(pairs: Iterable[Pair]) -> str:
    """The raw evidence: a line a pair."""
    return "".join(
        "\t".join((pair.status or live.UNTRIED, pair.source, pair.probe.layer, str(pair.probe.origin), pair.probe.source, pair.probe.target,
                   pair.probe.address, f"{pair.probe.proto}/{pair.probe.port}", ",".join(pair.probe.conduits) or "-", pair.outcome,
                   pair.detail or "-", pair.point or "-", pair.reason or "-")) + "\n"
        for pair in pairs
    )


def _carry(report: Report, site: Site, evidence: Evidence) -> None:
    """ZC1: each approved conduit carries."""
    mine: dict[str, list[Pair]] = {}
    for pair in evidence.pairs:
        for ident in pair.probe.conduits:
            mine.setdefault(ident, []).append(pair)
    for conduit in site.conduits:
        pairs = mine.get(conduit.id, [])
        open_now = [one.text for one in _open_sessions(evidence, conduit)]
        if not pairs and not open_now:
            continue
        with report.check(
            "ZC1", "the conduit carries", expected="every pair answers, in both families", controls=CONTROLS, subject=conduit.id,
            hint="compare the reason with the counters of the named point: nft list table inet hnai; site.yml --tags zones",
            explain=f"from {', '.join(conduit.sources[:3])}: nc -vz TARGET {conduit.service.port} ({conduit.service.text})",
        ) as check:
            check.evidence["sessions"] = open_now[:SHOWN]
            check.observed = f"{sum(pair.status == PASS for pair in pairs)} of {len(pairs)} pairs"
            if pairs:
                _status(check, pairs)
                check.raw(f"zc1-{conduit.id}.tsv", _rows(pairs))
            else:
                check.observed = "a session that is open now"
                check.passed(True)


def _denied_pairs(evidence: Evidence, proto: str) -> list[Pair]:
    return [pair for pair in evidence.pairs if not pair.probe.conduits and pair.probe.proto == proto]


def _refuse(report: Report, site: Site, evidence: Evidence) -> None:
    """ZC2: each denied pair is refused, a check a pair of zones."""
    zones: dict[tuple[str, str], list[Pair]] = {}
    cache: dict[str, str] = {}
    for pair in _denied_pairs(evidence, "tcp"):
        here, there = (cache.setdefault(one, matrix.zone_of(site, one)) for one in (pair.probe.source, pair.probe.address))
        zones.setdefault((here, there), []).append(pair)
    for (here, there), pairs in sorted(zones.items()):
        with report.check(
            "ZC2", "what no conduit allows is refused", expected="silence, while the target answers others", controls=CONTROLS, subject=f"{here} → {there}",
            hint="the named point has a rule too many, or none of ours is loaded: nft list ruleset there; site.yml --tags zones",
            explain="from the named host: nc -vz ADDRESS PORT; then from a host whose conduit allows it",
        ) as check:
            _status(check, pairs)
            check.observed = f"{sum(pair.status == PASS for pair in pairs)} of {len(pairs)} refused"
            check.raw(f"zc2-{here}-{there}.tsv", _rows(pairs))


def _datagrams(report: Report, evidence: Evidence) -> None:
    """ZC3: UDP."""
    denied = _denied_pairs(evidence, "udp")
    carried = [pair for pair in evidence.pairs if pair.probe.conduits and pair.probe.proto == "udp"]
    if not denied and not carried:
        return
    with report.check(
        "ZC3", "datagrams arrive where a conduit says so, and nowhere else", expected="every datagram known by its number", controls=CONTROLS,
        hint="as ZC1 and ZC2; silence alone is no verdict for UDP: a receiver, or a look at the interface, must say it",
        explain="tcpdump -ni any udp and portrange 61000-64999, at the source, the router and the target",
    ) as check:
        _status(check, [*carried, *denied])
        check.observed = (f"{sum(pair.status == PASS for pair in carried)} of {len(carried)} carried, "
                          f"{sum(pair.status == PASS for pair in denied)} of {len(denied)} refused")
        check.raw("zc3.tsv", _rows([*carried, *denied]))


def _open_sessions(evidence: Evidence, conduit: Conduit) -> list[sessions.Session]:
    """Sessions that are open by a conduit."""
    every = sorted({one for found in evidence.sessions.values() for one in found})
    return [one for one in every if conduit in evidence.approved.get((one.source, one.target, one.port), ())]


def _initiators(report: Report, site: Site, evidence: Evidence) -> None:
    """ZC4: who opened what is open."""
    with report.check(
        "ZC4", "each established session belongs to a conduit, opened by its initiator", expected="a conduit for each", unit="sessions",
        controls=(*CONTROLS, "SR 2.1"), hint="ss -tnp at both ends says whose it is; conntrack -D ends it; then who let it in: site.yml --tags zones",
        explain="conntrack -L on the router; ss -Htne state established on each host",
    ) as check:
        approved = evidence.approved
        owners = matrix.owners(site)
        wrong: list[str] = []
        number = 0
        for host, found in sorted(evidence.sessions.items()):
            for session in found:
                number += 1
                conduits = approved.get((session.source, session.target, session.port), [])
                if not conduits and sessions.might_be_turned(session):
                    conduits = approved.get((session.target, session.source, session.sport), [])
                names = f"{owners.get(session.source, 'nobody of the model')} → {owners.get(session.target, 'nobody of the model')}"
                if not conduits:
                    backwards = approved.get((session.target, session.source, session.sport))
                    what = f"opened by the target of {backwards[0].id}" if backwards else "no conduit"
                    wrong.append(f"{host}: {session.text} ({names}): {what}")
                elif session.uid >= 0 and owners.get(session.source) == host and not any(one.uid in (None, session.uid) for one in conduits):
                    wrong.append(f"{host}: {session.text} ({names}): {conduits[0].id} is user {conduits[0].uid}'s, opened by user {session.uid}")
        check.observed = number
        check.evidence.update(wrong=wrong[:LISTED], unread=evidence.session_notes)
        if wrong:
            check.fail("; ".join(wrong[:SHOWN]) + (f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""))
        elif evidence.session_notes:
            check.inconclusive("not read: " + "; ".join(f"{host}: {why}" for host, why in sorted(evidence.session_notes.items())[:SHOWN]))
        elif not number:
            check.inconclusive("no session is open anywhere, not even the one that asks")
        else:
            check.passed(True)


def _points(report: Report, site: Site, evidence: Evidence) -> None:
    """ZC5: each point of enforcement refuses by itself, and its own drop counter says so."""
    stopped: dict[str, Counter[str]] = {}
    wrong: dict[str, list[Pair]] = {}
    vague: dict[str, list[Pair]] = {}
    observed: dict[str, list[Pair]] = {}
    points = [node.name for node in site.managed() if node.name in evidence.plans]
    for pair in evidence.pairs:
        if pair.probe.conduits or not pair.status or pair.outcome == live.ERROR:
            continue
        expected = matrix.enforcer(site, pair.source, pair.probe)
        reached = pair.status == FAIL
        lenient = matrix.observing(site, pair.source, pair.probe) is not None
        for point in _blamed(evidence, pair, expected, reached):
            (observed if lenient and point in evidence.routers else wrong).setdefault(point, []).append(pair)
        if reached or not expected:
            continue
        if pair.point == expected or (expected == matrix.ROUTERS and pair.point in evidence.routers and pair.point != pair.source):
            way = "out" if pair.point == pair.source else "forward" if expected == matrix.ROUTERS else "in"
            stopped.setdefault(pair.point, Counter())[way] += 1
        elif not pair.point:
            for point in [expected] if expected != matrix.ROUTERS else evidence.routers:
                vague.setdefault(point, []).append(pair)
    for point in points:
        counted = stopped.get(point, Counter())
        with report.check(
            "ZC5", "it refuses by itself, by a rule of ours", expected="nothing passes, and its drop counters rose by as much", subject=point,
            controls=CONTROLS, hint="nft list table inet hnai there: a rule too many, policy accept, or another table that drops first; site.yml --tags zones",
            explain="nft -j list table inet hnai on the host before and after verify --tags zones; counters drop-out, drop-in, drop-forward",
        ) as check:
            rise = {way: evidence.counted(point, name) for way, name in _DROPS.items()}
            check.observed = ", ".join(f"{way}: {number} refused, counter +{rise[way]}" for way, number in sorted(counted.items())) or "nothing"
            short = [way for way, number in sorted(counted.items()) if rise[way] < number]
            bad, dim, seen = wrong.get(point, []), vague.get(point, []), observed.get(point, [])
            check.evidence.update(refused=dict(counted), counters={_DROPS[way]: number for way, number in rise.items()},
                                  let_through=[pair.text() for pair in bad[:LISTED]], unexplained=[pair.text() for pair in dim[:LISTED]])
            if seen:
                check.evidence["observed_not_enforced"] = [pair.text() for pair in seen[:LISTED]]
            if bad:
                check.fail(f"{point} lets through {len(bad)} that no conduit allows: " + "; ".join(pair.text() for pair in bad[:SHOWN]))
            elif point in evidence.blind:
                check.inconclusive(f"what passed {point} was not seen: {evidence.blind[point]}")
            elif seen:
                check.inconclusive(f"observed, not enforced: it lets {len(seen)} through: " + "; ".join(pair.text() for pair in seen[:SHOWN]))
            elif dim:
                check.inconclusive(f"{len(dim)} ended unseen: " + "; ".join(pair.text() for pair in dim[:SHOWN]))
            elif not counted:
                check.inconclusive(f"nothing came to {point} that it had to refuse")
            elif point in evidence.no_counters:
                check.inconclusive(f"no counter says so: {evidence.no_counters[point]}")
            elif short:
                check.inconclusive("refused, but not by our rule: " + ", ".join(f"{_DROPS[way]} rose by {rise[way]}" for way in short))
            else:
                check.passed(True)


def _blamed(evidence: Evidence, pair: Pair, expected: str, reached: bool) -> list[str]:
    """Points that let a denied pair through."""
    node, target = evidence.site.nodes[pair.source], evidence.site.nodes[pair.probe.target]
    found = []
    if pair.probe.layer == matrix.OWN and node.kind == "host" and (reached or evidence.left(pair)):
        found.append(pair.source)
    if expected == matrix.ROUTERS or pair.probe.layer == matrix.OWN:
        router = evidence.forwarded(pair)
        if router and router != pair.source:
            found.append(router)
    if reached and target.kind == "host":
        found.append(target.name)
    return found


def _coverage(report: Report, site: Site, evidence: Evidence, lab: bool) -> None:
    """ZC6: how much was tried, and what was not."""
    with report.check(
        "ZC6", "every pair was tried", controls=("SR 3.3",),
        hint="firewall_verify_per_source, firewall_verify_per_target and firewall_verify_budget_s; each run begins somewhere else",
        explain="the probe matrix follows from the model: hosts × addresses × ports of the registry; verify --tags zones on the whole site, without --limit",
    ) as check:
        done = sum(pair.outcome not in (live.UNTRIED, live.ERROR) for pair in evidence.pairs)
        longest = max(evidence.seconds.values(), default=0.0)
        silent = sorted(set(matrix.sources(site)) - set(evidence.plans))
        silent = [name for name in silent if lab or site.nodes[name].kind == "host"]
        not_tested = matrix.untested(site, lab) + [f"{name}: as source, it was not part of this run" for name in silent]
        rate = round(done / longest, 1) if longest else 0.0
        check.expected = f"{len(evidence.pairs)} pairs"
        check.observed = f"{done} pairs in {longest:g} s, {rate:g} pairs/s; not tested: {'; '.join(not_tested) or 'nothing'}"
        check.evidence.update(sources=len(evidence.plans), seconds=longest, pairs_per_second=rate, not_tested=not_tested, missing=evidence.missing,
                              by_layer=dict(Counter(pair.probe.layer for pair in evidence.pairs)))
        if evidence.missing or silent:
            why = [*(f"{name}: {reason}" for name, reason in sorted(evidence.missing.items())), *(f"{name}: not part of this run" for name in silent)]
            check.inconclusive("; ".join(why[:SHOWN]))
        elif done < len(evidence.pairs):
            left = [pair.text() for pair in evidence.pairs if pair.outcome in (live.UNTRIED, live.ERROR)]
            check.inconclusive(f"{len(left)} were not tried: " + "; ".join(left[:3]))
        else:
            check.passed(bool(evidence.pairs), "the model has no pair")
