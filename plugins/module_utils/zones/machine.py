# SPDX-License-Identifier: Apache-2.0
"""What a program does to whole sets of packets.

A packet whose fate hangs on an Unknown appears with both fates, and both carry it as a doubt.

Semantics (nft(8), kernel nf_tables): base chains of a hook run by priority; accept ends its base chain only, drop is final; a chain that
ends returns to its caller, a base chain to its policy; goto never comes back; before conntrack (priority -200) no packet has a state; oifname
is empty before routing and iifname is empty for what a host sends itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.hnai.platform.plugins.module_utils.zones.boxes import MOST_BOXES, Box, Classes, Cube, RulesetError, Values, minus, names, split
from ansible_collections.hnai.platform.plugins.module_utils.zones.program import Act, Chain, Choice, Match, Program, Rule, Unknown, Where

_CONNTRACK = -200


def _every(program: Program) -> Iterator[Cube]:
    """Every cube that a program mentions."""
    for chain in program.chains.values():
        yield {"iif": names(*chain.devices), "oif": names(*chain.devices)}
        for rule in chain.rules:
            for step in rule.steps:
                ways = [step] if isinstance(step, Match) else [one for one, _act in step.ways] if isinstance(step, Choice) else []
                for match in ways:
                    yield match.needs
                    yield from match.cubes
                if isinstance(step, Act) and step.value is not None:
                    yield {step.dimension: step.value}


class Part(NamedTuple):
    """A box on its way. `over`: what was rewritten, (dimension, mask); `doubts`: Unknowns its fate hangs on; `trail`: who let it go on."""

    box: Box
    over: tuple[tuple[int, int], ...] = ()
    doubts: frozenset[Unknown] = frozenset()
    trail: tuple[Where, ...] = ()


class Event(NamedTuple):
    """A way around that packets reach."""

    kind: str
    where: Where
    what: str
    path: str
    example: dict[str, Any]


@dataclass
class Outcome:
    """What becomes of every packet of a path. `accepts`: the boxes that each accept ended; `reached`: the places that a packet gets to."""

    path: str
    passed: list[Part] = field(default_factory=list)
    dropped: list[Part] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    accepts: dict[Where, list[Part]] = field(default_factory=dict)
    reached: set[Where] = field(default_factory=set)


_Ready = tuple[str, Any]


class Machine:
    """Runs a program. Raises RulesetError where the sets of packets become too many."""

    def __init__(self, program: Program, classes: Classes) -> None:
        self.program = program
        self.classes = classes
        self._chains: dict[tuple[str, str, str], list[tuple[Rule, list[_Ready]]]] = {}
        self._ready: dict[int, list[_Ready]] = {}
        for key, chain in program.chains.items():
            ready = [(rule, self._prepare(rule)) for rule in chain.rules]
            self._ready.update({id(rule): steps for rule, steps in ready})
            self._chains[key] = [(rule, steps) for rule, steps in ready if any(kind != "match" for kind, _body in steps)]

    def concerns(self, rule: Rule) -> bool:
        """Can any packet of this version match the rule?"""
        return bool(self._ready[id(rule)])

    def asked(self, rule: Rule) -> list[Box]:
        """What a rule asks for, whatever stands before it."""
        parts = [Part(self.classes.full)] if self._ready[id(rule)] else []
        for kind, body in self._ready[id(rule)]:
            if kind == "match":
                parts, _others = self._matching(parts, body, ())
        return [part.box for part in parts]

    def alone(self, rules: Sequence[Rule], boxes: Sequence[Box]) -> list[Box]:
        """What of `boxes` these rules alone would not accept."""
        place = Chain(Where("", "", ""), rules=list(rules))
        self._chains["", "", ""] = [(rule, self._ready[id(rule)]) for rule in rules]
        accepted, _dropped, _rest = self._chain(place, [Part(box) for box in boxes], Outcome(""), (), 0)
        cubes = [tuple((number, mask) for number, mask in enumerate(part.box)) for part in accepted]
        return minus(boxes, cubes)

    def _condition(self, match: Match) -> tuple[Any, Any, bool, Unknown | None] | None:
        """(needs, cubes, negate, doubt); None: never."""
        needs = self.classes.cube(match.needs)
        if needs is None:
            return None
        cubes = [one for one in map(self.classes.cube, match.cubes) if one is not None]
        negate = match.negate
        if match.doubt is None and len(cubes) == 1 and len(cubes[0]) == 1 and negate:
            # One dimension: all others are a cube again.
            ((number, mask),) = cubes[0]
            cubes, negate = [((number, self.classes.full[number] & ~mask),)], False
        if match.doubt is None and not negate and len(cubes) == 1:
            both: dict[int, int] = dict(needs)
            for number, mask in cubes[0]:
                both[number] = both.get(number, self.classes.full[number]) & mask
            return tuple(both.items()), [()], False, None
        return needs, cubes, negate, match.doubt

    def _prepare(self, rule: Rule) -> list[_Ready]:
        ready: list[_Ready] = []
        for step in rule.steps:
            if isinstance(step, Match):
                condition = self._condition(step)
                if condition is None:
                    return []
                ready.append(("match", condition))
            elif isinstance(step, Choice):
                ready.append(("choice", [(self._condition(match), act) for match, act in step.ways]))
            else:
                ready.append(("act", step))
        return ready

    # -- running

    def run(self, path: str, interfaces: Iterable[str] | None = None) -> Outcome:
        """Every packet of a path through its hooks."""
        outcome = Outcome(path)
        classes = self.classes
        outside = names("", negate=True)
        start = {
            "input": {"iif": outside, "oif": names("")},
            "output": {"iif": names(""), "oif": outside},
            "forward": {"iif": names("", "lo", negate=True), "oif": names("", "lo", negate=True)},
        }[path]
        box = classes.box(start)
        parts = [Part(box)] if box else []
        hooks = {
            "input": ("ingress", "prerouting", "input"),
            "output": ("output", "postrouting", "egress"),
            "forward": ("ingress", "prerouting", "forward", "postrouting", "egress"),
        }[path]
        for hook in hooks:
            for chain in self.program.base(hook):
                parts = self._base(chain, parts, outcome)
                if len(parts) > MOST_BOXES:
                    raise RulesetError("the ruleset falls into more than %d sets of packets" % MOST_BOXES)
        outcome.passed += parts
        return outcome

    def _base(self, chain: Chain, parts: list[Part], outcome: Outcome) -> list[Part]:
        classes = self.classes
        view: list[tuple[int, int]] = []
        if chain.hook in ("ingress", "prerouting"):
            view.append((classes.index["oif"], classes.mask("oif", names(""))))
        before = chain.hook in ("ingress",) or (chain.hook in ("prerouting", "output") and chain.priority <= _CONNTRACK)
        if before:
            view.append((classes.index["ct"], classes.mask("ct", names("invalid"))))
        around: list[Part] = []
        if chain.devices:
            number = classes.index["iif" if chain.hook == "ingress" else "oif"]
            mask = classes.mask("iif" if chain.hook == "ingress" else "oif", names(*chain.devices))
            parts, around = self._divide(parts, ((number, mask),), ())
        elif chain.hook in ("ingress", "egress"):
            doubt = Unknown(chain.where, "a chain at a device, and nobody says which")
            parts = around = [part._replace(doubts=part.doubts | {doubt}) for part in parts]
        if chain.type == "nat":
            # Only the first packet of a connection is shown to nat.
            first, rest = self._divide(parts, ((classes.index["ct"], classes.mask("ct", names("new", "related"))),), ())
            parts, around = first, around + rest
        self._untrack = not before
        ended, dropped, rest = self._chain(chain, parts, outcome, tuple(view), 0)
        if chain.policy == "drop":
            dropped += [part._replace(trail=(*part.trail, chain.where)) for part in rest]
        else:
            if rest:
                outcome.accepts.setdefault(chain.where, []).extend(rest)
            ended += [part._replace(trail=(*part.trail, chain.where)) for part in rest]
        if any(part for part in parts):
            outcome.reached.add(chain.where)
        outcome.dropped += dropped
        return ended + around

    def _divide(self, parts: Sequence[Part], cube: Sequence[tuple[int, int]], view: Sequence[tuple[int, int]]) -> tuple[list[Part], list[Part]]:
        inside: list[Part] = []
        outside: list[Part] = []
        for part in parts:
            over = dict(view)
            over.update(part.over)
            wanted = cube
            if over:
                wanted = []
                never = False
                for number, mask in cube:
                    if number in over:
                        never = never or not over[number] & mask
                    else:
                        wanted.append((number, mask))
                if never:
                    outside.append(part)
                    continue
            box, rest = split(part.box, wanted)
            if box is None:
                outside.append(part)
                continue
            inside.append(part if box is part.box else part._replace(box=box))
            outside += [part._replace(box=one) for one in rest]
        return inside, outside

    def _matching(self, parts: list[Part], condition: Any, view: Sequence[tuple[int, int]]) -> tuple[list[Part], list[Part]]:
        """(those that match, those that do not)."""
        if condition is None:
            return [], parts
        needs, cubes, negate, doubt = condition
        able, failed = self._divide(parts, needs, view)
        if doubt is not None:
            both = [part._replace(doubts=part.doubts | {doubt}) for part in able]
            return both, failed + both
        inside: list[Part] = []
        for cube in cubes:
            more, able = self._divide(able, cube, view)
            inside += more
        return (able, failed + inside) if negate else (inside, failed + able)

    def _chain(
        self, chain: Chain, parts: list[Part], outcome: Outcome, view: Sequence[tuple[int, int]], depth: int
    ) -> tuple[list[Part], list[Part], list[Part]]:
        """(accepted, dropped, those that come to its end)."""
        if depth > 32:
            raise RulesetError("%s jumps in a circle" % chain.where.text)
        accepted: list[Part] = []
        dropped: list[Part] = []
        returned: list[Part] = []
        key = (chain.where.family, chain.where.table, chain.where.chain)
        for rule, steps in self._chains[key]:
            if not parts:
                break
            current, after = parts, []
            for kind, body in steps:
                if not current:
                    break
                if kind == "match":
                    current, failed = self._matching(current, body, view)
                    after += failed
                    continue
                ways = body if kind == "choice" else [(((), [()], False, None), body)]
                waiting = current
                current = []
                for condition, act in ways:
                    inside, waiting = self._matching(waiting, condition, view)
                    if inside:
                        current += self._act(act, inside, rule, chain, outcome, view, depth, accepted, dropped, returned)
                current += waiting
            parts = after + current
            if len(parts) > MOST_BOXES:
                raise RulesetError("the ruleset falls into more than %d sets of packets" % MOST_BOXES)
        return accepted, dropped, returned + parts

    def _act(
        self,
        act: Act,
        inside: list[Part],
        rule: Rule,
        chain: Chain,
        outcome: Outcome,
        view: Sequence[tuple[int, int]],
        depth: int,
        accepted: list[Part],
        dropped: list[Part],
        returned: list[Part],
    ) -> list[Part]:
        """What goes on to the next statement; the rest is appended where it belongs."""
        outcome.reached.add(rule.where)
        if act.verb in ("accept", "unknown"):
            doubted = inside if act.doubt is None else [part._replace(doubts=part.doubts | {act.doubt}) for part in inside]
            outcome.accepts.setdefault(rule.where, []).extend(doubted)
            accepted += [part._replace(trail=(*part.trail, rule.where)) for part in doubted]
            if act.verb == "accept":
                return []
            dropped += [part._replace(trail=(*part.trail, rule.where)) for part in doubted]
            return doubted
        if act.verb in ("drop", "reject"):
            dropped += [part._replace(trail=(*part.trail, rule.where)) for part in inside]
            return []
        if act.verb == "return":
            returned += inside
            return []
        if act.verb in ("jump", "goto"):
            target = self.program.chains.get((rule.where.family, rule.where.table, act.target))
            if target is None:
                raise RulesetError("%s jumps to chain %s, which is not listed" % (rule.where.text, act.target))
            more, less, rest = self._chain(target, inside, outcome, view, depth + 1)
            accepted += more
            dropped += less
            if act.verb == "jump":
                return rest
            returned += rest
            return []
        if act.verb == "edit":
            return inside
        if act.verb == "set":
            return self._set(act, inside, rule, outcome)
        outcome.events.append(Event(act.verb, rule.where, act.target, outcome.path, self.classes.example(inside[0].box)))
        if act.verb == "queue":
            # A program decides, or nobody if it is gone.
            doubt = Unknown(rule.where, "a program behind %s decides" % act.target)
            both = [part._replace(doubts=part.doubts | {doubt}, trail=(*part.trail, rule.where)) for part in inside]
            accepted += both
            dropped += both
            return []
        if act.target.startswith('{"fwd"'):
            dropped += [part._replace(trail=(*part.trail, rule.where)) for part in inside]
            return []
        if act.verb == "nat":
            doubt = Unknown(rule.where, "what is judged is not what leaves: %s" % act.target)
            return [part._replace(doubts=part.doubts | {doubt}) for part in inside]
        return inside

    _untrack = False

    def _set(self, act: Act, inside: list[Part], rule: Rule, outcome: Outcome) -> list[Part]:
        if act.dimension == "ct":
            if self._untrack:
                # After conntrack has seen a packet, notrack does nothing.
                return inside
            outcome.events.append(Event("notrack", rule.where, act.target, outcome.path, self.classes.example(inside[0].box)))
        number = self.classes.index[act.dimension]
        mask = self.classes.mask(act.dimension, act.value or Values())
        return [part._replace(over=(*(pair for pair in part.over if pair[0] != number), (number, mask))) for part in inside]


def classes_of(program: Program, more: Iterable[Cube]) -> Classes:
    """The classes of a program and of what it is compared with."""
    return Classes(program.version, [*_every(program), *more])
