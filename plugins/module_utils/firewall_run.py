# SPDX-License-Identifier: Apache-2.0
"""How the firewall's modules run a command on the host."""

from __future__ import annotations

import subprocess


def run(argv: list[str], stdin: str | None) -> tuple[int, str, str]:
    """(exit code, standard output, standard error). Raises FileNotFoundError and subprocess.TimeoutExpired."""
    done = subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    )
    return done.returncode, done.stdout, done.stderr
