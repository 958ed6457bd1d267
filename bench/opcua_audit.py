#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The audit's speed on open62541 with 100 000 nodes: against plain batched asyncua, against a C client, and over a line of 20 ms.

All in one run on the same server, so that the ratios mean something on a shared machine. Exit code 1 when a target is missed.
"""
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "stacks"))

import kit
import speed


def main() -> int:
    """Measure, print, judge."""
    with tempfile.TemporaryDirectory(prefix="hnai-bench-") as folder:
        pki = kit.Pki(Path(folder) / "pki").make()
        found = speed.measure(pki, Path(folder), say=lambda text: print(text, flush=True))
    print(found.text())
    return 1 if found.misses() else 0


if __name__ == "__main__":
    sys.exit(main())
