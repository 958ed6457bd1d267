# SPDX-License-Identifier: Apache-2.0
"""Third-party Python on hosts: the virtual environment that role `probe` installs, made importable.

Modules run on the system's interpreter; `activate()` puts the environment's site-packages behind the standard library
and before the distribution's own packages, which may be older than what the checks were tested with.
"""

from __future__ import annotations

import sys
from pathlib import Path

CURRENT = Path("/opt/hnai/probe/current")


class ProbeMissing(Exception):
    """The environment is not there or is for another Python; the message names the remedy."""


def site_packages(root: Path = CURRENT) -> Path:
    """Where its packages lie for the running interpreter. Raises ProbeMissing."""
    version = "python%d.%d" % sys.version_info[:2]
    path = root / "lib" / version / "site-packages"
    if path.is_dir():
        return path
    others = sorted(entry.name for entry in (root / "lib").glob("python*")) if (root / "lib").is_dir() else []
    if others:
        raise ProbeMissing(
            "%s is for %s, this module runs on %s; remedy: set ansible_python_interpreter to /usr/bin/python3" % (root, ", ".join(others), version)
        )
    raise ProbeMissing("%s is not there; remedy: put the host into the group `probe` and run site.yml with the tag probe" % root)


def activate(root: Path = CURRENT, path: list[str] | None = None) -> str:
    """Make the environment's packages importable (once) and return their path. Raises ProbeMissing."""
    packages = str(site_packages(root))
    target = sys.path if path is None else path
    if packages not in target:
        places = [index for index, entry in enumerate(target) if entry.endswith(("dist-packages", "site-packages"))]
        target.insert(places[0] if places else len(target), packages)
    return packages
