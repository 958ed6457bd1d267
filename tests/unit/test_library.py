# SPDX-License-Identifier: Apache-2.0
"""What a carried program needs is what it gets: every form of import that the collection is written in, packages included, and nothing of others."""
from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.plugin_utils import library

ROOT = Path(__file__).resolve().parents[2]
UTILS = ROOT / "plugins" / "module_utils"
FILES = {
    "alone.py": "", "first.py": f"from {library.PACKAGE}.deep import (\n    core,\n    shape as form,\n)\n", "other.py": "", "json.py": "",
    "deep/__init__.py": "", "deep/core.py": "from . import peer\nfrom .. import alone\n", "deep/shape.py": "def late():\n    from .lower.end import x\n",
    "deep/peer.py": "from json import loads\nimport other\n", "deep/lower/__init__.py": "", "deep/lower/end.py": "from ...first import y\nx = 1\n",
    "deep/unused.py": "",
}


def test_every_form_of_import_is_followed(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = library.imported(tmp_path, [f"import os\nfrom {library.PACKAGE} import first\n"])
    assert set(found) == set(FILES) - {"other.py", "json.py", "deep/unused.py"}
    assert found["deep/core.py"] == FILES["deep/core.py"]
    assert library.imported(tmp_path, ["from json import loads\n"]) == {}
    with zipfile.ZipFile(io.BytesIO(library.packed(found))) as archive:
        assert {name: archive.read(name).decode() for name in archive.namelist()} == found
    assert library.packed(found) == library.packed(dict(reversed(found.items())))


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*_health.py")))
def test_a_check_module_loads_from_what_it_is_sent(module: str, tmp_path: Path) -> None:
    program = (ROOT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8")
    place = tmp_path / "ansible_collections" / "hnai" / "platform" / "plugins" / "module_utils"
    place.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(library.packed(library.imported(UTILS, [program])))) as archive:
        archive.extractall(place)
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", "import program"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
