# SPDX-License-Identifier: Apache-2.0
"""What every unit test shares: the same examples on every machine, and no waiting for a slow one."""
from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

ROOT = Path(__file__).resolve().parents[2]
#: What tests import by its bare name: what lies beside them, what all suites share, and the programs that are packages.
sys.path[:0] = [str(ROOT / path) for path in ("tests/unit", "tests", "roles/ot_simulator/tree/usr/local/lib/hnai/ot_simulator")]

from namespaces import lacks
from put_programs import collector_here

collector_here()

SSHD = os.geteuid() == 0 and Path("/usr/sbin/sshd").exists()

settings.register_profile(
    "hnai",
    deadline=None,
    derandomize=True,
    max_examples=60,
    database=None,
)
settings.register_profile(
    "search",
    deadline=None,
    max_examples=2000,
    database=DirectoryBasedExampleDatabase(ROOT / ".cache" / "hypothesis"),
)
settings.load_profile("hnai")


@pytest.fixture(scope="session")
def model_runs() -> int:
    """How many random histories a model plays, from seed 0 on. `make test-all` asks for 10 000."""
    return int(os.environ.get("HNAI_MODEL_RUNS", "1000"))


def pytest_configure(config: pytest.Config) -> None:
    found = Path(str(importlib.import_module("ansible_collections.hnai.platform.plugins.module_utils.verdict").__file__)).resolve()
    if not found.is_relative_to(ROOT):
        pytest.exit(f"the collection that would be tested is {found.parents[2]}, not this checkout: `make setup` here, without another's .venv", 4)
    config.addinivalue_line("markers", "sshd: needs an SSH server on loopback (root, package openssh-server); left out where there is none")
    config.addinivalue_line("markers", "namespaces: needs network namespaces of this machine (root); left out where there are none, which the header says")


def pytest_report_header() -> str | None:
    """Nobody shall take a green run for more than it was."""
    said = [f"NOT RUN: the tests in network namespaces; this machine lacks {lacks()}"] if lacks() else []
    if not SSHD:
        said.append("NOT RUN: the tests with a real sshd; they need root and the package openssh-server")
    return "\n".join(said) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking = [name for name, missing in (("namespaces", lacks()), ("sshd", not SSHD)) if missing]
    away = [item for item in items if any(item.get_closest_marker(name) for name in lacking)]
    if away:
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in away]
