# SPDX-License-Identifier: Apache-2.0
"""Scenarios that need no lab: `make scenario NAME=opcua-stacks` and `NAME=opcua-fuzz`."""
from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path

import pytest

# Tests share the programs beside this file, and the scenarios' machinery with those of the lab.
sys.path.insert(0, str(Path(__file__).parent))
_spec = importlib.util.spec_from_file_location("lab_conftest", Path(__file__).parents[1] / "lab" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_lab = sys.modules["lab_conftest"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_lab)
pytest_addoption, pytest_configure, pytest_collection_modifyitems = _lab.pytest_addoption, _lab.pytest_configure, _lab.pytest_collection_modifyitems
pytest_runtest_makereport, pytest_sessionfinish = _lab.pytest_runtest_makereport, _lab.pytest_sessionfinish

import kit


@pytest.fixture(scope="session")
def built() -> None:
    """All three stacks; what is missing is fetched and built once."""
    kit.modules()
    kit.program("server_c")
    kit.program("client_c")


@pytest.fixture(scope="session")
def pki(built: None, tmp_path_factory: pytest.TempPathFactory) -> kit.Pki:
    """Certificates of a server and of the mirror; with them come the stacks."""
    return kit.Pki(tmp_path_factory.mktemp("pki")).make()


@pytest.fixture(scope="session")
def seed() -> int:
    """HNAI_SEED, or a new one; printed, so that a run can be repeated."""
    number = int(os.environ.get("HNAI_SEED") or random.SystemRandom().randrange(10**6))
    print("HNAI_SEED=%d" % number)
    return number
