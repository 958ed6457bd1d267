# SPDX-License-Identifier: Apache-2.0
"""MQTT topic filters [MQTT 3.1.1, 4.7]. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def mqtt_overlap(first: str, second: str) -> bool:
    """Can one topic match both MQTT filters?

    >>> mqtt_overlap("ot/#", "ot/a/+"), mqtt_overlap("line/1/cmd", "ot/#")
    (True, False)
    """
    left, right = first.split("/"), second.split("/")
    while left and right:
        if "#" in (left[0], right[0]):
            return True
        if left[0] != right[0] and "+" not in (left[0], right[0]):
            return False
        left, right = left[1:], right[1:]
    return (not left and not right) or (left or right) == ["#"]


def valid_filter(text: str) -> bool:
    """Is it a filter [4.7.1]? A wildcard stands alone in its level, `#` at the end."""
    levels = text.split("/")
    return bool(text) and all(
        level in ("+", "#") or not set(level) & {"+", "#"} for level in levels
    ) and "#" not in levels[:-1]


def matches(pattern: str, topic: str) -> bool:
    """Does the topic match the filter? A wildcard at the beginning never covers what begins with $ [4.7.2].

    >>> matches("a/#", "a"), matches("+/b", "$x/b")
    (True, False)
    """
    levels, names = pattern.split("/"), topic.split("/")
    if topic.startswith("$") and levels[0] in ("+", "#"):
        return False
    for at, level in enumerate(levels):
        if level == "#":
            return True
        if at >= len(names) or level not in ("+", names[at]):
            return False
    return len(levels) == len(names)


def intersect(first: str, second: str) -> str | None:
    """The filter of exactly those topics that match both; None where there is none.

    >>> intersect("a/#", "+/b"), intersect("a/#", "a"), intersect("#", "$SYS/x"), intersect("a", "b")
    ('a/b', 'a', None, None)
    """
    left, right = first.split("/"), second.split("/")
    for one, other in ((left, right), (right, left)):
        if one[0] in ("+", "#") and other[0].startswith("$"):
            return None
    common: list[str] = []
    for at in range(max(len(left), len(right)) + 1):
        for one, other in ((left, right), (right, left)):
            if one[at:] == ["#"]:
                # `#` covers its parent too: what is left of the other one decides, even if it is nothing.
                return "/".join(common + other[at:])
        if at == len(left) or at == len(right):
            return "/".join(common) if len(left) == len(right) else None
        a, b = left[at], right[at]
        if a != b and "+" not in (a, b):
            return None
        common.append(b if a == "+" else a)
    return None


def example(filters: Sequence[str], without: Iterable[str] = ()) -> str | None:
    """A topic that matches every one of *filters* and none of *without*; None exactly when there is none.

    Exact: of all topics of one depth, the one whose wildcard levels hold a name that stands nowhere else is matched by the fewest filters, and beyond
    the deepest of *without* nothing changes any more.

    >>> example(["a/#"], ["a/+"]), example(["a/+"], ["a/#"])
    ('a/x/x', None)
    """
    common: str | None = filters[0]
    for one in filters[1:]:
        common = None if common is None else intersect(common, one)
    if common is None:
        return None
    denied = list(without)
    fresh = "x"
    while any(fresh in one.split("/") for one in denied):
        fresh += "x"
    levels = common.split("/")
    fixed = [fresh if level == "+" else level for level in levels]
    depths = [fixed]
    if levels[-1] == "#":
        stem = fixed[:-1]
        deepest = max([len(one.split("/")) for one in denied] + [len(stem)]) + 1
        # `a/x` says more to a reader than the parent `a`; all are tried.
        depths = [stem + [fresh] * more for more in [1, *range(2, deepest - len(stem) + 1), 0] if stem or more]
    for names in depths:
        topic = "/".join(names)
        if not any(matches(one, topic) for one in denied):
            return topic
    return None
