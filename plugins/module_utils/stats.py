# SPDX-License-Identifier: Apache-2.0
"""The few statistics that a verdict needs, in pure standard library, Python 3.9.

Sources: order-statistic bound of a quantile (distribution-free) and the interval of Clopper and Pearson (1934);
the regularised incomplete beta function by Lentz's continued fraction (DLMF 8.17.22).
Every bound assumes independent samples; whoever prints one says so.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


def betainc(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b), for a, b > 0 and 0 <= x <= 1. Raises ValueError outside."""
    if a <= 0 or b <= 0 or not 0.0 <= x <= 1.0:
        raise ValueError("betainc(%r, %r, %r): needs a, b > 0 and 0 <= x <= 1" % (a, b, x))
    if x in (0.0, 1.0):
        return x
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - betainc(b, a, 1.0 - x)
    # Of 10**17 and more the logarithms have no digits left behind the point: no number may come of it, but no error either.
    front = math.exp(
        min(700.0, math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    )
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 100000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + numerator / c
            c = c if abs(c) > tiny else tiny
            step = c * d
            value *= step
        if abs(step - 1.0) < 1e-15:
            break
    return min(1.0, front * value / a)


def binom_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return betainc(n - k, k + 1.0, 1.0 - p)


def percentile(values: Iterable[float], q: float) -> float:
    """The q-quantile (0 < q <= 1) as an observed value: the ceil(q*n)-th of the sorted values.

    Raises ValueError for no values or a q outside.
    """
    ordered = sorted(values)
    if not ordered or not 0.0 < q <= 1.0:
        raise ValueError("percentile: needs at least one value and 0 < q <= 1")
    return ordered[max(0, math.ceil(q * len(ordered) - 1e-9) - 1)]


def quantile_upper_rank(n: int, q: float = 0.95, confidence: float = CONFIDENCE) -> int | None:
    """Rank k (1-based) of the sorted value that bounds the q-quantile from above with *confidence*.

    The smallest k with BinomCDF(k-1; n, q) >= confidence; None where n is too small for any claim
    (n < 59 for the 95th percentile at 95 %).
    """
    if n < 1 or binom_cdf(n - 1, n, q) < confidence:
        return None
    low, high = 1, n
    while low < high:
        middle = (low + high) // 2
        if binom_cdf(middle - 1, n, q) >= confidence:
            high = middle
        else:
            low = middle + 1
    return low


def quantile_upper_bound(values: Iterable[float], q: float = 0.95, confidence: float = CONFIDENCE) -> float | None:
    """Upper confidence bound of the q-quantile, an observed value; None where there are too few."""
    ordered = sorted(values)
    rank = quantile_upper_rank(len(ordered), q, confidence)
    return None if rank is None else ordered[rank - 1]


def proportion_lower_bound(successes: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Clopper-Pearson lower confidence bound of a proportion, *successes* of *n*; 0.0 where n is 0.

    Raises ValueError where successes are not in 0..n.
    """
    if not 0 <= successes <= n:
        raise ValueError("proportion_lower_bound: %r successes of %r" % (successes, n))
    if successes == 0:
        return 0.0
    if successes == n:
        return (1.0 - confidence) ** (1.0 / n)
    low, high = 0.0, successes / n
    for _step in range(200):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        if betainc(successes, n - successes + 1.0, middle) < 1.0 - confidence:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Gap:
    """A silence: *length* seconds that began at *start* (the time of the last sample before it)."""

    length: float
    start: float


def longest_gap(times: Iterable[float], start: float | None = None, end: float | None = None) -> Gap | None:
    """The longest silence between neighbours of *times*; with *start* and *end* the edges of the window count too.

    None where fewer than two instants are known.
    """
    ordered = sorted(times)
    if start is not None:
        ordered.insert(0, start)
    if end is not None:
        ordered.append(end)
    pairs = list(zip(ordered, ordered[1:]))
    if not pairs:
        return None
    before, after = max(pairs, key=lambda pair: pair[1] - pair[0])
    return Gap(after - before, before)


@dataclass(frozen=True)
class SequenceAccount:
    """What a numbered stream lost and repeated. *expected* counts first..last; *missing* names up to 100."""

    received: int
    distinct: int
    expected: int
    lost: int
    duplicates: int
    reordered: int
    missing: tuple[int, ...]

    @property
    def completeness(self) -> float:
        """Observed proportion; 0.0 for an empty stream."""
        return self.distinct / self.expected if self.expected else 0.0


def sequence_account(numbers: Sequence[int], first: int | None = None, last: int | None = None) -> SequenceAccount:
    """Account for a stream of sequence numbers in order of arrival.

    *first* and *last* say what was sent where the sender knows better than the stream itself.
    A number outside first..last counts as received only.
    """
    if not numbers and (first is None or last is None):
        return SequenceAccount(0, 0, 0, 0, 0, 0, ())
    low = min(numbers) if first is None else first
    high = max(numbers) if last is None else last
    seen: set[int] = set()
    duplicates = reordered = 0
    newest: int | None = None
    for number in numbers:
        if number in seen:
            duplicates += 1
            continue
        seen.add(number)
        if newest is not None and number < newest:
            reordered += 1
        else:
            newest = number
    inside = {number for number in seen if low <= number <= high}
    expected = max(0, high - low + 1)
    missing: list[int] = []
    if len(inside) < expected:
        for number in range(low, high + 1):
            if number not in inside:
                missing.append(number)
                if len(missing) == 100:
                    break
    return SequenceAccount(
        len(numbers), len(inside), expected, expected - len(inside), duplicates, reordered, tuple(missing)
    )


def latency_summary(seconds: Sequence[float]) -> dict[str, float | int | None]:
    """n, p50, p95, max and the upper 95 % bound of P95 (``p95_upper``, None where n < 59), all in the given unit."""
    if not seconds:
        return {"n": 0, "p50": None, "p95": None, "max": None, "p95_upper": None}
    return {
        "n": len(seconds),
        "p50": percentile(seconds, 0.5),
        "p95": percentile(seconds, 0.95),
        "max": max(seconds),
        "p95_upper": quantile_upper_bound(seconds),
    }


@dataclass(frozen=True)
class Statement:
    """A measured number beside what carries it: how many samples, in which window, with which hole, and the bound that
    would hold if the samples were independent. *what* says what is bounded; *side* is "at most" or "at least".
    """

    what: str
    observed: float | None
    side: str
    bound: float | None
    n: int
    window_s: float
    longest_gap_s: float | None
    unit: str = ""
    too_few: str = ""

    def text(self) -> str:
        """One line: ``P95 1.3 s; n 150 in 75 s, longest gap 0.6 s; at most 1.4 s with 95 % if independent``."""

        def value(number: float) -> str:
            return ("%.6g %s" % (number, self.unit)).strip()

        observed = "unknown" if self.observed is None else value(self.observed)
        gap = "unknown" if self.longest_gap_s is None else "%.3g s" % self.longest_gap_s
        bound = self.too_few if self.bound is None else "%s %s with %g %% if independent" % (self.side, value(self.bound), 100 * CONFIDENCE)
        return "%s %s; n %d in %.4g s, longest gap %s; %s" % (self.what, observed, self.n, self.window_s, gap, bound)

    def evidence(self) -> dict[str, object]:
        """For ``check.evidence["statistics"]``, which table, page and explain print."""
        return {
            "what": self.what, "observed": self.observed, "side": self.side, "bound_if_independent": self.bound, "confidence": CONFIDENCE,
            "n": self.n, "window_s": round(self.window_s, 3), "longest_gap_s": self.longest_gap_s, "text": self.text(),
        }


def p95_statement(values: Sequence[float], times: Sequence[float], start: float, end: float, unit: str = "s") -> Statement:
    """P95 of *values* seen at *times* in the window *start* to *end*, with its upper bound (order statistics)."""
    gap = longest_gap(times, start, end)
    return Statement(
        "P95", percentile(values, 0.95) if values else None, "at most", quantile_upper_bound(values), len(values), end - start,
        None if gap is None else gap.length, unit, "too few samples for a bound (59 are needed)",
    )


def completeness_statement(arrived: int, expected: int, times: Sequence[float], start: float, end: float) -> Statement:
    """Share of *expected* that *arrived* in the window, with its lower bound (Clopper and Pearson). 0 of 0 is unknown."""
    gap = longest_gap(times, start, end)
    known = expected > 0
    return Statement(
        "completeness", arrived / expected if known else None, "at least", proportion_lower_bound(arrived, expected) if known else None,
        expected, end - start, None if gap is None else gap.length, "", "nothing was expected, so nothing is bounded",
    )
