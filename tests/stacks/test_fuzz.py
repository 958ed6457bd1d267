# SPDX-License-Identifier: Apache-2.0
"""A longer fuzz of the audit's decoder: an input that reaches a line or a jump that none before it reached is kept and changed further."""
from __future__ import annotations

import os
import random
import resource
import sys
import time
from types import CodeType

import pytest
from opcua_hostile import Space, audit, decode, mutate

from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_codec

pytestmark = pytest.mark.scenario("opcua-fuzz")
SECONDS = float(os.environ.get("HNAI_FUZZ_SECONDS") or 60)
TOOL = sys.monitoring.PROFILER_ID


class Coverage:
    """Jumps of the decoder that were taken, by sys.monitoring."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int, int]] = set()
        self.fresh = False

    def __enter__(self) -> Coverage:
        events = sys.monitoring.events
        sys.monitoring.use_tool_id(TOOL, "opcua-fuzz")
        sys.monitoring.register_callback(TOOL, events.BRANCH, self._branch)
        for owner in (audit_codec.Decoder, audit_codec):
            for one in vars(owner).values():
                code = getattr(one, "__code__", None)
                if isinstance(code, CodeType) and code.co_filename == audit_codec.__file__:
                    sys.monitoring.set_local_events(TOOL, code, events.BRANCH)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.monitoring.register_callback(TOOL, sys.monitoring.events.BRANCH, None)
        sys.monitoring.free_tool_id(TOOL)

    def _branch(self, code: CodeType, here: int, there: int) -> None:
        place = (id(code), here, there)
        if place not in self.seen:
            self.seen.add(place)
            self.fresh = True


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_hostile_bytes_for_a_while(seed: int) -> None:
    rng, space = random.Random(seed), Space()
    corpus = [space.answer(audit_codec.READ_ID, audit_codec.read_request([(audit_codec.numeric(2, 70001), attribute) for attribute in (2, 25, 18)])),
              space.answer(audit_codec.READ_ID, audit_codec.read_request([(audit_codec.numeric(0, number), 13) for number in (2255, 2257)])),
              space.answer(audit_codec.BROWSE_ID, audit_codec.browse_request([audit_codec.numeric(0, 85), audit_codec.numeric(0, 33)], 9))]
    begin, before = time.monotonic(), peak_mib()
    ends: dict[str, int] = {}
    runs = audits = 0
    with Coverage() as coverage:
        while time.monotonic() < begin + SECONDS:
            data = mutate(rng, rng.choice(corpus))[:1 << 16]
            coverage.fresh = False
            started = time.monotonic()
            for end in decode(data):
                ends[end] = ends.get(end, 0) + 1
            assert time.monotonic() - started < 5.0, data.hex()
            assert peak_mib() - before < 200, data.hex()
            runs += 1
            if coverage.fresh:
                corpus.append(data)
            if runs % 500 == 0:
                facts = audit(lambda plain: mutate(rng, plain) if rng.random() < 0.1 else plain)
                assert facts.complete or facts.error or facts.result.unread or facts.result.truncated
                assert "unforeseen" not in facts.error, facts.error
                audits += 1
    grown = peak_mib() - before
    print("%d inputs, %d audits, %d kept, %d jumps, memory +%.0f MiB, ends %s" % (runs, audits, len(corpus), len(coverage.seen), grown, ends))
    assert grown < 200 and runs > 100 and len(corpus) > 3
