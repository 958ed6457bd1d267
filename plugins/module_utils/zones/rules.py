# SPDX-License-Identifier: Apache-2.0
"""Is the loaded ruleset of a host the model? Judged over every packet that there can be, not by the text of rules (V1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.hnai.platform.plugins.module_utils.zones import observe
from ansible_collections.hnai.platform.plugins.module_utils.zones.boxes import Box, Cube, minus, names, numbers, within
from ansible_collections.hnai.platform.plugins.module_utils.zones.dimensions import PATHS
from ansible_collections.hnai.platform.plugins.module_utils.zones.expectation import LIVE, TABLE, crossings, wanted
from ansible_collections.hnai.platform.plugins.module_utils.zones.findings import OBSERVED, Finding, Judgement
from ansible_collections.hnai.platform.plugins.module_utils.zones.machine import Event, Machine, Outcome, Part, classes_of
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import L2_LIMITS
from ansible_collections.hnai.platform.plugins.module_utils.zones.program import Act, Chain, Choice, Match, Program, Rule, Where
from ansible_collections.hnai.platform.plugins.module_utils.zones.ruleset import parse

#: What a rule asks for that ends what conntrack cannot place.
_INVALID = Match({}, ({"ct": names("invalid")},), False)
_WAYS = {"input": "in", "output": "out", "forward": "forward"}


def judge(
    listing: str,
    expected: Mapping[str, Any],
    mode: str,
    declared: Iterable[str],
    uid_of: Callable[[str], int | None],
    interfaces: Sequence[str] | None = None,
    sleeping: Iterable[tuple[str, str]] = (),
    bridged: bool | None = None,
    owned: Iterable[tuple[str, str]] = (),
    at: Mapping[tuple[str, str, str], tuple[str, ...]] | None = None,
) -> Judgement:
    """Compare a listing with an expectation.

    `interfaces`: those that the host has (None: not known, so any); `sleeping`: dormant tables; `bridged`: whether frames are switched here;
    `owned`: tables that belong to a process; `at`: the devices of chains of which the listing does not say them.
    Raises RulesetError where it is no listing or cannot be judged.
    """
    found = Judgement()
    seen: dict[Where, bool] = {}
    programs = []
    for version in (4, 6):
        program = parse(listing, version, uid_of)
        program.dormant |= set(sleeping)
        for place, names_there in (at or {}).items():
            if place in program.chains:
                program.chains[place].devices = names_there
        programs.append(program)
        _Family(program, expected, version, mode, interfaces, found, seen).judge()
        found.unknown += [one for one in program.unknown if one not in found.unknown]
    chains = frozenset("boundary_%s" % one["id"] for one in expected["boundaries"])
    writes = _writing(observe.places(bool(expected["router"]), mode, [one["id"] for one in expected["boundaries"] if one["mode"] == "observe"]))
    _tables(programs, found, seen, {tuple(one.split()) for one in declared}, bridged, writes, chains)
    if TABLE in set(owned):
        text = "our table belongs to a process: it goes when that ends, and nobody else can replace it"
        found.add(found.around, Finding("bypass", "", 0, Where(*TABLE), text))
    found.rules = [one for one in found.rules if one.kind in ("missing", "extra") or (mode == "enforce" and one.kind != OBSERVED)]
    found.state = [one for one in found.state if one.kind != OBSERVED]
    return found


class _Writing(NamedTuple):
    """What a ruleset in `observe` has beside the rules, to write down what it would drop: the sets and how long they keep how much, and each chain."""

    sets: dict[str, str]
    chains: dict[str, list[str]]


def _writing(where: Sequence[str]) -> _Writing:
    told = [re.match(r"  set (\S+) .*size (\d+);.* timeout (\d+)d;", line) for line in observe.sets(where)]
    kept = {one[1]: "size %s timeout %d" % (one[2], int(one[3]) * 86400) for one in told if one}
    return _Writing(kept, {"observed_%s" % place: list(observe.chain(place)) for place in where})


class _Family:
    """The judgement of one IP version."""

    def __init__(
        self,
        program: Program,
        expected: Mapping[str, Any],
        version: int,
        mode: str,
        interfaces: Sequence[str] | None,
        found: Judgement,
        seen: dict[Where, bool],
    ) -> None:
        self.program = program
        self.expected = expected
        self.version = version
        self.mode = mode
        self.found = found
        self.seen = seen
        self.wanted = wanted(expected, version)
        real: list[Cube] = [{"iif": names(*interfaces), "oif": names(*interfaces)}] if interfaces is not None else []
        self.boundaries = {"boundary_%s" % one["id"]: one for one in expected["boundaries"]}
        apart = [cube for one in expected["boundaries"] if one["mode"] != mode for cube in crossings(expected, one)]
        self.classes = classes_of(program, [*(one.cube for one in self.wanted), *real, *apart])
        self.apart = [cube for cube in map(self.classes.cube, apart) if cube is not None]
        self.interfaces = interfaces
        self.machine = Machine(program, self.classes)
        self.ids = {str(entry["id"]) for entry in expected["conduits"]}

    def judge(self) -> None:
        for path in PATHS:
            outcome = self.machine.run(path)
            self.found.boxes += len(outcome.passed) + len(outcome.dropped)
            self._policy(path)
            self._extra(outcome)
            self._missing(outcome)
            self._events(outcome)
            self._ours(outcome)
            self._counted(outcome)

    def _cubes(self, path: str, must: bool, ident: str | None = None) -> list[Any]:
        found = [
            self.classes.cube(one.cube)
            for one in self.wanted
            if one.path == path and (one.must if must else one.may) and (ident is None or one.id in ("", ident))
        ]
        return [one for one in found if one is not None]

    def _policy(self, path: str) -> None:
        chains = [one for one in self.program.base(path) if (one.where.family, one.where.table) == TABLE]
        place = Where(*TABLE, path)
        if not chains:
            self.found.add(self.found.rules, Finding("policy", path, self.version, place, "no chain of ours stands at hook %s" % path))
        for chain in chains:
            if chain.policy != "drop" and self.mode == "enforce":
                self.found.add(
                    self.found.rules, Finding("policy", path, self.version, chain.where, "its policy is %s: what no rule names passes" % chain.policy)
                )

    def _split(self, box: Box) -> Iterator[tuple[bool, Box]]:
        """(belongs to a connection, box)."""
        number = self.classes.index["ct"]
        live = self.classes.mask("ct", LIVE)
        for alive, mask in ((False, box[number] & ~live), (True, box[number] & live)):
            if mask:
                yield alive, (*box[:number], mask, *box[number + 1 :])

    def _judged(self, path: str, boxes: list[Box]) -> Iterator[tuple[bool, Box]]:
        """(does it have to be refused there, box): not on a host that observes, nor over a boundary that does."""
        apart = self.apart if path == "forward" else []
        strict = self.mode == "enforce"
        yield from ((strict, box) for box in minus(boxes, apart))
        yield from ((not strict, box) for box in within(boxes, apart))

    def _extra(self, outcome: Outcome) -> None:
        may = self._cubes(outcome.path, False)
        for part in outcome.passed:
            for refused, left in self._judged(outcome.path, minus([part.box], may)):
                for alive, box in self._split(left):
                    where = self._decider(part)
                    doubt = "; ".join(sorted(one.text for one in part.doubts))
                    text = "lets through %s, which no conduit names" % ("packets of connections" if alive else "packets")
                    finding = Finding(
                        "extra" if refused else OBSERVED,
                        outcome.path,
                        self.version,
                        where,
                        "%s on the way %s" % (text, _WAYS[outcome.path]),
                        self.classes.example(box),
                        where.comment if where.comment in self.ids else "",
                        not part.doubts,
                        doubt,
                    )
                    self.found.add(self.found.state if alive else self.found.rules, finding)

    @staticmethod
    def _decider(part: Part) -> Where:
        ours = [one for one in part.trail if (one.family, one.table) == TABLE]
        return ours[-1] if ours else part.trail[-1] if part.trail else Where(*TABLE)

    def _missing(self, outcome: Outcome) -> None:
        for one in self.wanted:
            if one.path != outcome.path or not one.must:
                continue
            box = self.classes.box(one.cube)
            if box is None:
                continue
            box = self._real(box)
            if box is None:
                continue
            for part in outcome.dropped:
                hit = tuple(have & want for have, want in zip(part.box, box))
                if not all(hit):
                    continue
                for alive, piece in self._split(hit):
                    where = part.trail[-1]
                    doubt = "; ".join(sorted(each.text for each in part.doubts))
                    text = "cuts %s on the way %s" % (
                        "what belongs to connections of %s" % (one.id or "the host") if alive else one.id or "what every host needs",
                        _WAYS[outcome.path],
                    )
                    kind = "no_established" if alive else "missing"
                    finding = Finding(kind, outcome.path, self.version, where, text, self.classes.example(piece), one.id, not part.doubts, doubt)
                    self.found.add(self.found.state if alive else self.found.rules, finding)

    def _real(self, box: Box) -> Box | None:
        """Without interfaces that the host has not."""
        if self.interfaces is None:
            return box
        found = list(box)
        for name in ("iif", "oif"):
            number = self.classes.index[name]
            found[number] &= self.classes.mask(name, names("", *self.interfaces))
        return tuple(found) if all(found) else None

    def _events(self, outcome: Outcome) -> None:
        for event in outcome.events:
            self.found.add(self.found.around, _around(event, self.version))

    # -- our own table

    def _hook(self, chain: Chain) -> str:
        return "forward" if chain.where.chain in self.boundaries else ""

    def _mode(self, chain: Chain) -> str:
        return str(self.boundaries[chain.where.chain]["mode"]) if self._hook(chain) else self.mode

    def _own_rules(self, path: str) -> Iterator[tuple[Chain, Rule]]:
        for chain in self.program.chains.values():
            if (chain.where.family, chain.where.table) == TABLE and (chain.hook or self._hook(chain)) == path:
                for rule in chain.rules:
                    yield chain, rule

    def _ours(self, outcome: Outcome) -> None:
        """Is each rule of our table one of the model's? `seen`: whether some packet of some version vouched for it."""
        spoof = self.program.chains.get((*TABLE, "antispoof"))
        zones = {"spoof-%s" % leg["zone"] for leg in self.expected["legs"] if self.expected["router"]}
        if spoof is not None:
            for rule in spoof.rules:
                good = rule.where.comment in zones and rule.counted and not any(map(_metered, rule.steps))
                self.seen[rule.where] = good and self._refuses(spoof, rule, "spoof")
        for chain, rule in self._own_rules(outcome.path):
            verbs = _verbs(rule)
            comment = rule.where.comment
            if verbs == {"accept"}:
                parts = outcome.accepts.get(rule.where, [])
                allowed = self._cubes(outcome.path, False, comment if comment in self.ids else "-")
                good = not minus([part.box for part in parts], allowed) if self._mode(chain) == "enforce" or comment else True
                # What lets through more than its conduit because another rule is gone has been named already.
                good = good or (comment in self.ids and any(one.kind in ("extra", OBSERVED) and one.where == rule.where for one in self.found.rules))
                known = comment in self.ids if comment else bool(parts)
                if not good:
                    self.seen[rule.where] = False
                elif known:
                    self.seen.setdefault(rule.where, True)
                if comment in self.ids and not parts:
                    self._shadowed(outcome, rule)
            else:
                self.seen[rule.where] = self.seen.get(rule.where, True) and self._known(chain, rule, verbs, outcome.path)

    def _shadowed(self, outcome: Outcome, rule: Rule) -> None:
        if self.machine.concerns(rule):
            text = "no IPv%d packet gets to it: what stands before it takes all" % self.version
            self.found.add(self.found.shadowed, Finding("shadowed", outcome.path, self.version, rule.where, text, {}, rule.where.comment))

    def _known(self, chain: Chain, rule: Rule, verbs: set[str], path: str) -> bool:
        comment, way = rule.where.comment, _WAYS[path]
        asked = [step for step in rule.steps if not isinstance(step, Act)]
        metered = [step for step in asked if _metered(step)]
        if comment == "drop-%s" % way:
            return rule.counted and not asked and self._refuses(chain, rule, way)
        if comment == "invalid-%s" % way:
            return rule.counted and asked == [_INVALID] and verbs == ({"drop"} if self._mode(chain) == "enforce" else set())
        if path == "forward" and comment in {"%s %s" % (ident, limit) for ident in self.ids for limit in L2_LIMITS}:
            over = len(metered) == 1 and asked[-1] is metered[0] and _over(metered[0])
            return rule.counted and over and self._one_budget(rule, comment.split()[0]) and self._refuses(chain, rule, "limits")
        if self._hook(chain):
            zones = self.boundaries[chain.where.chain]["zones"]
            return rule.counted and not metered and comment in {"spoof-%s" % zone for zone in zones} and self._refuses(chain, rule, "spoof")
        targets = {"antispoof", *(self.boundaries if path == "forward" else ())}
        return [act.verb for act in _acts(rule)] == ["jump"] and _acts(rule)[0].target in targets and not comment

    def _one_budget(self, rule: Rule, ident: str) -> bool:
        """Does only one target of the conduit spend what the rule allows? What comes by before a limit is asked spends it, be it refused or not."""
        firsts = [one.cube for one in self.wanted if one.path == "forward" and one.id == ident and one.must and one.may]
        limits = {name for cube in firsts for name in cube if name == "connections" or name.startswith("rate")}
        each = [{**cube, "daddr": numbers(target)} for cube in firsts for target in cube["daddr"].numbers]
        cubes = [self.classes.cube({name: values for name, values in cube.items() if name not in limits}) for cube in each]
        return any(not minus(self.machine.asked(rule), [cube]) for cube in cubes if cube is not None)

    def _refuses(self, chain: Chain, rule: Rule, place: str) -> bool:
        """Does the rule drop, or write down where the host, or the boundary, observes?"""
        name = "observed_%s" % place + ("_%s" % self.boundaries[chain.where.chain]["id"] if self._hook(chain) else "")
        return [(act.verb, act.target) for act in _acts(rule)] == [("drop", "") if self._mode(chain) == "enforce" else ("jump", name)]

    def _counted(self, outcome: Outcome) -> None:
        """Has each conduit, and the end of each chain, a counter of its own?"""
        path = outcome.path
        chains = list(self._own_rules(path))
        rules = [rule for _chain, rule in chains]
        if not rules and not [one for one in self.program.base(path) if (one.where.family, one.where.table) == TABLE]:
            return
        end = "drop-%s" % _WAYS[path]
        place = Where(*TABLE, path)
        for name in (path, *(self.boundaries if path == "forward" else ())):
            if not any(chain.where.chain == name and rule.where.comment == end and rule.counted for chain, rule in chains):
                text = "no counted rule %r at its end" % end
                self.found.add(self.found.rules, Finding("uncounted", path, self.version, Where(*TABLE, name), text))
        for ident in sorted(self.ids):
            mine = [rule for rule in rules if rule.where.comment == ident and rule.counted and _verbs(rule) == {"accept"}]
            boxes = [
                box
                for one in self.wanted
                if one.path == path and one.id == ident and one.must and one.may
                for box in [self.classes.box(one.cube)]
                if box is not None
            ]
            if not boxes:
                continue
            left = self.machine.alone(mine, boxes)
            if left:
                text = "%s has no counted rule of its own on the way %s" % (ident, _WAYS[path])
                self.found.add(self.found.rules, Finding("uncounted", path, self.version, place, text, self.classes.example(left[0]), ident))


def _acts(rule: Rule) -> list[Act]:
    found = []
    for step in rule.steps:
        if isinstance(step, Act):
            found.append(step)
        elif isinstance(step, Choice):
            found += [act for _match, act in step.ways]
    return found


def _metered(step: Any) -> bool:
    """Does it count packets or connections? Two such rules have two budgets, and the judgement sees one."""
    cubes = step.cubes if isinstance(step, Match) else ()
    return any(name == "connections" or name.startswith(("rate", "quota")) for cube in cubes for name in cube)


def _over(step: Any) -> bool:
    """Does it match what is more than a limit, as opposed to what is within?"""
    cubes = step.cubes if isinstance(step, Match) else ()
    limits = [values for cube in cubes for name, values in cube.items() if name == "connections" or name.startswith("rate with")]
    return any(values.numbers[0][0] > 0 for values in limits)


def _verbs(rule: Rule) -> set[str]:
    return {act.verb for act in _acts(rule)} | ({"vmap"} if any(isinstance(step, Choice) for step in rule.steps) else set())


def _around(event: Event, version: int) -> Finding:
    words = {
        "nat": "rewrites where packets come from or go to",
        "flowtable": "sends flows past the chains",
        "notrack": "takes packets out of conntrack",
        "queue": "leaves the verdict to a program",
        "helper": "lets a helper open further connections",
        "bypass": "sends packets past the chains",
    }
    return Finding(event.kind, event.path, version, event.where, "%s: %s" % (words.get(event.kind, event.kind), event.what), event.example)


def _tables(
    programs: Sequence[Program],
    found: Judgement,
    seen: Mapping[Where, bool],
    declared: set[tuple[str, ...]],
    bridged: bool | None,
    writes: _Writing,
    boundaries: frozenset[str],
) -> None:
    """What is not ours, and what it does."""
    first = programs[0]
    for family, table in first.tables:
        if (family, table) == TABLE or (family, table) in declared:
            continue
        does = _effect(first, family, table, found, bridged)
        found.add(found.foreign, Finding("foreign_table", "", 0, Where(family, table), "is not ours; it %s" % does))
    if TABLE in first.dormant:
        found.add(found.around, Finding("bypass", "", 0, Where(*TABLE), "our table is dormant: it is there and does nothing"))
    for kind, where, keeps in first.others:
        if (where.family, where.table) == TABLE and not (kind == "set" and writes.sets.get(where.chain) == keeps):
            found.add(found.foreign, Finding("foreign_rule", "", 0, where, "a %s of our table that no model has" % kind))
    for chain in first.chains.values():
        place = (chain.where.family, chain.where.table)
        if place != TABLE:
            _beside(chain, found, bridged)
            continue
        if chain.where.chain in writes.chains and not chain.hook:
            _writes_down(chain, writes.chains[chain.where.chain], found)
            continue
        if chain.where.chain not in ({chain.hook}.intersection(PATHS) if chain.hook else {"antispoof", *boundaries}):
            found.add(found.foreign, Finding("foreign_rule", "", 0, chain.where, "a chain of our table that no model has"))
            continue
        if chain.hook and (chain.type, chain.priority, chain.devices) != ("filter", 0, ()):
            text = "a chain of type %s at priority %d: the model's are of type filter at priority 0" % (chain.type, chain.priority)
            found.add(found.foreign, Finding("foreign_rule", chain.hook, 0, chain.where, text))
        for rule in chain.rules:
            if not seen.get(rule.where):
                found.add(found.foreign, Finding("foreign_rule", chain.hook, 0, rule.where, "a rule of our table that no model has"))


def _writes_down(chain: Chain, expected: Sequence[str], found: Judgement) -> None:
    """Is nothing forgotten that a host in `observe` has to write down? Otherwise `enforce` cuts what nobody saw."""
    listed = [rule.text for rule in chain.rules]
    for rule, one in zip(chain.rules, listed):
        if one not in expected:
            found.add(found.foreign, Finding("foreign_rule", "", 0, rule.where, "a rule of our table that no model has"))
    if [one for one in listed if one in expected] != list(expected):
        gone = sorted({name for one in expected if one not in listed for name in re.findall(r" @(\S+)", one)}) or ["its rules stand in another order"]
        text = "does not write down all that enforce would cut: %s" % ", ".join(gone)
        found.add(found.foreign, Finding("foreign_rule", "", 0, chain.where, text))


def _effect(program: Program, family: str, table: str, found: Judgement, bridged: bool | None) -> str:
    findings = [one for one in [*found.rules, *found.state, *found.around] if one.kind != OBSERVED]
    does = sorted({one.kind for one in findings if (one.where.family, one.where.table) == (family, table)})
    if (family, table) in program.dormant:
        return "is dormant and does nothing"
    if any((one.where.family, one.where.table) == (family, table) for one in found.unknown):
        does.append("unknown")
    if family == "bridge":
        return "concerns bridged frames" + (", of which this host has none" if bridged is False else "")
    if does:
        words = {"missing": "cuts approved packets", "no_established": "cuts connections", "unknown": "has constructs that are not understood"}
        return ", ".join(words.get(one, "is a way around (%s)" % one) for one in does)
    return "opens nothing (an accept ends its own chain only) and cuts nothing that is approved"


def _beside(chain: Chain, found: Judgement, bridged: bool | None) -> None:
    """Chains that no IP packet meets as such: bridged frames, and ARP."""
    if chain.where.family == "arp" and chain.hook and (chain.policy != "accept" or any(_verbs(rule) - {"accept"} for rule in chain.rules)):
        text = "decides about ARP: without an answer to it no IPv4 conduit carries"
        found.add(
            found.rules, Finding("missing", "input" if chain.hook == "input" else "output", 4, chain.where, text, sure=False, doubt="what of ARP it drops")
        )
    if (
        chain.where.family == "bridge"
        and chain.hook
        and bridged is not False
        and (chain.policy != "accept" or any(_verbs(rule) - {"accept"} for rule in chain.rules))
    ):
        text = "decides about bridged frames"
        found.add(found.around, Finding("bypass", "", 0, chain.where, text, sure=False, doubt="what is bridged here"))
