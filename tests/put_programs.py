# SPDX-License-Identifier: Apache-2.0
"""Programs as their roles put them onto a host: with those of the collection's own files that come with them."""
from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORES = ROOT / "plugins/module_utils"
COLLECTOR_CORES = ("mqtt/sparkplug", "mqtt/sparkplug_node", "mqtt/subscriber", "opcua/asyncua_bounds")


def tree(name: str) -> Path:
    return ROOT / "roles" / name / "tree/usr/local/lib/hnai" / name


def put_program(name: str, cores: tuple[str, ...], home: Path) -> Path:
    """*cores*: below module_utils. Returns the program's directory in *home*."""
    target = home / name
    shutil.copytree(tree(name), target, ignore=shutil.ignore_patterns("*.j2", "__pycache__"))
    for core in cores:
        shutil.copy(CORES / f"{core}.py", target / f"hnai_{name}")
    return target


def collector_here() -> None:
    """The collector's modules for tests in this process, from the tree and the cores themselves."""
    sys.path.insert(0, str(tree("ot_collector")))
    import hnai_ot_collector

    for where in sorted({str((CORES / core).parent) for core in COLLECTOR_CORES}):
        if where not in hnai_ot_collector.__path__:
            hnai_ot_collector.__path__.append(where)
