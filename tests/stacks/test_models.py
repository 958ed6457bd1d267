# SPDX-License-Identifier: Apache-2.0
"""More than 10 000 damaged site models; `HNAI_SEED` repeats a run, `HNAI_FUZZ_MODELS` says how many."""
from __future__ import annotations

import os
import random
import time

import kit
import model_fuzz
import pytest

pytestmark = pytest.mark.scenario("model-fuzz")
MODELS = int(os.environ.get("HNAI_FUZZ_MODELS") or 10_000)
#: Of these, changes of which it is known which rule they break.
BROKEN = 20


def test_no_damaged_model_ends_in_a_traceback(seed: int) -> None:
    assert kit.ROOT == model_fuzz.ROOT
    mutator, begin = model_fuzz.Mutator(model_fuzz.lab(), random.Random(seed)), time.monotonic()
    quiet, bad = 0, []
    for number in range(MODELS):
        what, data = mutator.damaged()
        try:
            quiet += not model_fuzz.survives(data)
        except Exception as error:
            bad.append((number, what, repr(error)[:200]))
    print(f"{MODELS} models in {time.monotonic() - begin:.0f} s, {quiet} without a finding (the change meant nothing), {len(bad)} tracebacks")
    assert not bad, bad[:10]


def test_no_broken_rule_passes_in_silence(seed: int) -> None:
    lab, silent, rng = model_fuzz.lab(), [], random.Random(seed)
    mutator = model_fuzz.Mutator(lab, rng)
    for name, breaker in model_fuzz.BREAKERS.items():
        for _turn in range(BROKEN):
            _data, found = model_fuzz.broken(lab, name, rng)
            if breaker.invariant not in {one["invariant"] for one in found}:
                silent.append((name, breaker.invariant, found[:3]))
    # A rule that is broken and something damaged beside it: still refused, whatever is named first.
    for _turn in range(BROKEN * 20):
        what, data = mutator.damaged()
        name = rng.choice([key for key, breaker in model_fuzz.BREAKERS.items() if breaker.invariant in ("I1", "I2", "I12", "I13")])
        try:
            model_fuzz.BREAKERS[name].change(data, rng)
        except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
            continue  # the damage took away what the change needs
        if not model_fuzz.errors(data):
            silent.append((name, what, []))
    assert not silent, silent[:10]
