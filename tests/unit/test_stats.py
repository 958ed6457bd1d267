# SPDX-License-Identifier: Apache-2.0
"""The bounds against their definitions, computed another way."""
from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils import stats

FINITE = st.floats(min_value=-1e9, max_value=1e9)


def exact_cdf(k: int, n: int, p: Fraction) -> Fraction:
    """Binomial CDF by exact arithmetic."""
    return sum((Fraction(math.comb(n, i)) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), Fraction(0))


@given(st.integers(1, 60), st.integers(-1, 61), st.fractions(min_value=Fraction(1, 50), max_value=Fraction(49, 50), max_denominator=50))
def test_binom_cdf_equals_exact_arithmetic(n: int, k: int, p: Fraction) -> None:
    k = min(k, n)
    assert stats.binom_cdf(k, n, float(p)) == pytest.approx(float(exact_cdf(k, n, p)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("n", "rank"), [(58, None), (59, 59), (92, 92), (93, 92), (10000, 9537)])
def test_rank_of_the_p95_bound(n: int, rank: int | None) -> None:
    assert stats.quantile_upper_rank(n) == rank


@given(st.integers(59, 2000))
def test_rank_is_the_smallest(n: int) -> None:
    rank = stats.quantile_upper_rank(n)
    assert rank is not None
    assert stats.binom_cdf(rank - 1, n, 0.95) >= 0.95
    assert stats.binom_cdf(rank - 2, n, 0.95) < 0.95


@given(st.lists(FINITE, min_size=59, max_size=300))
def test_upper_bound_is_observed_and_not_below_p95(values: list[float]) -> None:
    bound = stats.quantile_upper_bound(values)
    assert bound in values
    assert bound >= stats.percentile(values, 0.95)


def test_no_bound_from_too_few() -> None:
    assert stats.quantile_upper_bound([1.0] * 58) is None
    assert stats.quantile_upper_bound([]) is None


@pytest.mark.parametrize(("lost", "enough"), [(0, 2995), (1, 4742)])
def test_completeness_sample_sizes(lost: int, enough: int) -> None:
    assert stats.proportion_lower_bound(enough - lost, enough) >= 0.999
    assert stats.proportion_lower_bound(enough - 1 - lost, enough - 1) < 0.999


@given(st.integers(1, 400), st.data())
def test_lower_bound_solves_its_equation(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(1, n))
    bound = stats.proportion_lower_bound(successes, n)
    assert 0.0 < bound <= successes / n
    assert 1.0 - stats.binom_cdf(successes - 1, n, bound) == pytest.approx(0.05, rel=1e-6)


def test_lower_bound_edges() -> None:
    assert stats.proportion_lower_bound(0, 10) == 0.0
    assert stats.proportion_lower_bound(0, 0) == 0.0
    with pytest.raises(ValueError, match="11 successes of 10"):
        stats.proportion_lower_bound(11, 10)


@given(st.lists(FINITE, min_size=1, max_size=200), st.floats(min_value=0.01, max_value=1.0))
def test_percentile_by_definition(values: list[float], q: float) -> None:
    value = stats.percentile(values, q)
    at_most = sum(1 for other in values if other <= value)
    below = sum(1 for other in values if other < value)
    assert at_most >= q * len(values) - 1e-6
    assert below < q * len(values) + 1e-6


def test_percentile_refuses_nothing() -> None:
    with pytest.raises(ValueError):
        stats.percentile([], 0.5)


def test_percentile_of_twenty() -> None:
    values = list(range(1, 21))
    assert (stats.percentile(values, 0.5), stats.percentile(values, 0.95), stats.percentile(values, 1)) == (10, 19, 20)


def test_longest_gap_counts_the_edges_of_the_window() -> None:
    assert stats.longest_gap([3.0, 1.0, 2.0]) == stats.Gap(1.0, 1.0)
    assert stats.longest_gap([1.0, 2.0], start=0.5, end=9.0) == stats.Gap(7.0, 2.0)
    assert stats.longest_gap([], start=0.0, end=60.0) == stats.Gap(60.0, 0.0)
    assert stats.longest_gap([5.0]) is None


def test_sequence_account_names_what_is_missing() -> None:
    account = stats.sequence_account([5, 6, 8, 7, 8, 10])
    assert (account.lost, account.duplicates, account.reordered, account.missing) == (1, 1, 1, (9,))
    assert account.completeness == pytest.approx(5 / 6)
    assert stats.sequence_account([5], first=4, last=6).missing == (4, 6)
    assert stats.sequence_account([]).completeness == 0.0
    assert stats.sequence_account([], first=1, last=200).lost == 200


@given(st.sets(st.integers(0, 300), min_size=1), st.integers(0, 5))
def test_sequence_account_adds_up(numbers: set[int], repeats: int) -> None:
    stream = sorted(numbers) + [min(numbers)] * repeats
    account = stats.sequence_account(stream)
    assert account.distinct + account.lost == account.expected
    assert account.duplicates == repeats
    assert account.received == account.distinct + account.duplicates


def test_latency_summary() -> None:
    assert stats.latency_summary([])["p95"] is None
    summary = stats.latency_summary([float(i) for i in range(1, 121)])
    assert (summary["n"], summary["p50"], summary["p95"], summary["max"]) == (120, 60.0, 114.0, 120.0)
    assert summary["p95_upper"] == 119.0


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=200), st.floats(min_value=1, max_value=1e4))
def test_a_p95_statement_names_what_carries_it(values: list[float], window: float) -> None:
    times = [window * (i + 1) / (len(values) + 1) for i in range(len(values))]
    said = stats.p95_statement(values, times, 0.0, window)
    assert said.observed == stats.percentile(values, 0.95)
    assert (said.bound is None) == (len(values) < 59)
    assert said.bound is None or (said.bound in values and said.bound >= said.observed)
    assert said.longest_gap_s == pytest.approx(window / (len(values) + 1), rel=1e-6)
    text = said.text()
    assert f"n {len(values)} in " in text and "longest gap" in text
    assert ("with 95 % if independent" in text) != ("too few samples" in text)
    assert said.evidence()["text"] == text


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_completeness_statement_never_claims_more_than_it_saw(arrived: int, more: int) -> None:
    expected = arrived + more
    said = stats.completeness_statement(arrived, expected, [1.0, 2.0], 0.0, 10.0)
    if not expected:
        assert said.observed is None and said.bound is None and "nothing was expected" in said.text()
        return
    assert said.observed == arrived / expected
    assert 0.0 <= said.bound <= said.observed <= 1.0
    assert said.bound < 1.0, "no sample size proves completeness"
    assert said.longest_gap_s == 8.0


def test_what_was_never_seen_drives_the_statement() -> None:
    said = stats.p95_statement([1.0] * 90 + [math.inf] * 10, [float(i) for i in range(90)], 0.0, 100.0)
    assert (said.observed, said.bound) == (math.inf, math.inf)
    assert "P95 inf s" in said.text()
    assert stats.p95_statement([], [], 0.0, 60.0).text().startswith("P95 unknown; n 0 in 60 s, longest gap 60 s;")
