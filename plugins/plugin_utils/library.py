# SPDX-License-Identifier: Apache-2.0
"""What programs of this collection import from its module_utils, as one zip: for modules that carry other modules' programs.

Ansible finds what a module imports by parsing all of it, once a run, while every host waits: 1.5 s of CPU for the check modules. This takes
some milliseconds: it looks for ``from ... import`` alone, in code or not; a file too many does no harm.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

PACKAGE = "ansible_collections.hnai.platform.plugins.module_utils"
_IMPORT = re.compile(r"^[ \t]*from (" + re.escape(PACKAGE) + r")?(\.*)([\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)


def imported(root: Path, texts: Iterable[str]) -> dict[str, str]:
    """Text of every file below *root* (module_utils) that *texts* import, at whatever depth, by its path relative to *root*."""
    found: dict[str, str] = {}
    waiting = [(Path(), text) for text in texts]
    while waiting:
        folder, text = waiting.pop()
        for absolute, dots, module, names in _IMPORT.findall(text):
            if not absolute and not dots:
                continue
            package = Path() if absolute else Path(*folder.parts[:len(folder.parts) + 1 - len(dots)])
            package /= module.strip(".").replace(".", "/")
            for place in (package, *package.parents, *(package / name for name in re.findall(r"\w+", names))):
                for path in (place.parent / f"{place.name}.py", place / "__init__.py"):
                    if str(path) not in found and (root / path).is_file():
                        found[str(path)] = (root / path).read_text(encoding="utf-8")
                        waiting.append((path.parent, found[str(path)]))
    return found


def packed(files: dict[str, str]) -> bytes:
    """The files as a zip, the same bytes for the same files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path), files[path], compress_type=zipfile.ZIP_DEFLATED, compresslevel=1)
    return made.getvalue()
