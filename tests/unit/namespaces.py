# SPDX-License-Identifier: Apache-2.0
"""Whether this machine lends a test network namespaces (mark `namespaces`); where it does not, they are left out and the header says so."""
from __future__ import annotations

import functools
import os
import shutil
import subprocess

#: Beside those of the user: Debian keeps nft and conntrack where only root looks.
PATHS = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
TOOLS = ("conntrack", "ip", "nft", "setpriv", "ss", "unshare")


@functools.cache
def lacks() -> str:
    """What is missing here, '' if nothing."""
    if os.geteuid():
        return "root"
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATHS)]
    if missing:
        return ", ".join(missing)
    # A link of the kind that the stands use, nft, and an answer from the kernel's switches.
    script = "ip link add try0 type veth peer name try1 && nft list ruleset && test -w /proc/sys/net/ipv6/conf/all/disable_ipv6"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], env={"PATH": PATHS}, capture_output=True, text=True, timeout=20, check=False)
    return "" if done.returncode == 0 else "the right to make network namespaces (%s)" % (done.stderr.strip() or "switches cannot be set")
