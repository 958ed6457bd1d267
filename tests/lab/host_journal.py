# SPDX-License-Identifier: Apache-2.0
"""Runs on a device of the plant: the lines of a simulator's journal between two instants.

usage: - DIRECTORY DEVICE START END      (100-ns ticks since 1970-01-01Z; START included, END not)

The lines as they are, oldest first. A journal that does not reach back to START is an error: it could not say what is missing.
"""
from __future__ import annotations

import os
import sys

HEAD = len('{"t":')


def main(directory: str, device: str, first: str, last: str) -> None:
    start, end = int(first), int(last)
    found: list[str] = []
    reached = False
    number = 0
    while not reached:
        path = os.path.join(directory, "%s%s.jsonl" % (device, ".%d" % number if number else ""))
        if not os.path.exists(path):
            break
        lines = []
        with open(path, encoding="utf-8") as file:
            for line in file:
                t = int(line[HEAD:line.index(",", HEAD)])
                if t < start:
                    reached = True
                elif t < end:
                    lines.append(line)
        found = lines + found
        number += 1
    if not reached:
        raise SystemExit("the journal of %s begins after the window" % device)
    sys.stdout.write("".join(found))


main(*sys.argv[1:])
