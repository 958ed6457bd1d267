#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our check modules against a plain playbook of the products' own tools: the same facts, the same cluster, both by ansible-playbook.

Both run in turn; the ratio of the medians is printed, and exit code 1 says that it is below --least.
"""
from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def measure(playbook: str, inventory: str) -> float:
    """Wall seconds of one run, which must succeed."""
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", inventory, f"bench/{playbook}.yml"]
    begin = time.monotonic()
    run = subprocess.run(argv, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=600)
    wall = time.monotonic() - begin
    if run.returncode:
        sys.exit(f"bench: bench/{playbook}.yml ended with {run.returncode}:\n{run.stdout[-3000:]}{run.stderr[-1000:]}")
    return wall


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inventory", default="inventories/lab/hosts.yml")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--least", type=float, default=5.0, help="ratio that must be reached")
    args = parser.parse_args()
    walls: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(args.runs):
        for playbook, found in walls.items():
            found.append(measure(playbook, args.inventory))
            print(f"run {number + 1}  {playbook:5}  {found[-1]:6.1f} s", flush=True)
    ours, plain = (statistics.median(walls[name]) for name in ("ours", "plain"))
    ratio = plain / ours
    print(f"health of Kafka and Flink: ours {ours:.1f} s, plain {plain:.1f} s, ratio {ratio:.1f} (at least {args.least:g})")
    return 0 if ratio >= args.least else 1


if __name__ == "__main__":
    sys.exit(main())
