# SPDX-License-Identifier: Apache-2.0
"""A stub: hosts that are not there and have everything as it should be. Only for bench/scale.py.

A module that would be sent is taken, and answered in its host's place: it changes nothing. What Ansible and this collection do on the controller
before (variables, templates, the module's package) and after is what it is with real hosts; what is left out is ssh, sudo and the module's run.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: stub
short_description: answers in the place of a host that has everything as it should be
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description: Takes modules over a pipeline and answers that nothing has to be changed.
extends_documentation_fragment: [connection_pipelining]
options:
  answers:
    description: JSON file, C({Debian release of the host; {module; its result}}). A module that it does not name changes nothing.
    type: path
    required: true
    vars: [{name: bench_stub_answers}]
  release:
    description: Debian release of the host.
    type: str
    required: true
    vars: [{name: hnai_debian}]
"""

import functools
import json
import re
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

_MODULE = re.compile(rb"^module_fqn='ansible(?:_collections)?\.([\w.]+)',$", re.MULTILINE)


@functools.cache
def answers(path: str) -> dict[str, dict[str, Any]]:
    """{release: {module: result}}, read once by each process."""
    with open(path, encoding="utf-8") as stream:
        return dict(json.load(stream))


class Connection(ConnectionBase):
    """See DOCUMENTATION."""

    transport = "stub"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """The answer to a module; anything else is refused, so that nothing is measured that would not run so."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        found = _MODULE.search(in_data or b"", (in_data or b"").rfind(b"_ansiballz_main("))
        if found is None:
            raise AnsibleError(f"stub: only modules over a pipeline, not {cmd!r}")
        known = answers(self.get_option("answers"))[self.get_option("release")]
        return 0, json.dumps({"changed": False, **known.get(found[1].decode(), {})}).encode(), b""

    def put_file(self, in_path: str, out_path: str) -> None:
        """Refused: a run that changes nothing sends no file."""
        raise AnsibleError(f"stub: {in_path} would be sent")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Refused, as `put_file`."""
        raise AnsibleError(f"stub: {in_path} would be fetched")

    def close(self) -> None:
        """Nothing is open."""
        self._connected = False
