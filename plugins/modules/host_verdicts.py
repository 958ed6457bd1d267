#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Host side of host_verdicts: runs check modules side by side."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_verdicts
short_description: Collect the verdicts of everything that stands on a host, in one round trip
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Reads C(tasks/verify.yml) of every component that stands on this host by its contract and is chosen by the run's C(--tags), renders the
    arguments of the check modules there with the role's variables, and runs all of them at the same time in one remote call.
  - A task there has C(name), one module of this collection, C(register), and may have C(when); it may read C(verify_profile). What needs
    more (C(delegate_to), C(run_once), C(no_log)) stands in C(tasks/verify_full.yml), which Ansible runs itself.
  - A check module that breaks, or that is not done 5 s after its own deadline, gives the reason in RV(broken) and no verdict; the
    others are not held up. A host that cannot be reached is unreachable as in every task.
  - Changes nothing.
options:
  work:
    description: Set by the action. JSON with C(checks), the variable that a verdict is registered as to C(module), C(args) and C(seconds),
      C(programs), the text of each check module, and C(library), what they import of this collection, a zip as base64. One text, so that no
      argument is logged.
    type: str
    required: true
extends_documentation_fragment: hnai.platform.reading
"""

EXAMPLES = r"""
- name: Judge what stands on this host
  hnai.platform.host_verdicts:
  register: hnai_verdicts
"""

RETURN = r"""
verdicts:
  description: Variable that tasks/verify.yml registers to the result of its check module; C(skipped) where its C(when) is false.
  returned: always
  type: dict
broken:
  description: Variable to the reason why there is no verdict.
  returned: always
  type: dict
"""

import base64
import importlib
import json
import re
import runpy
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils import basic

from ansible_collections.hnai.platform.plugins import module_utils
from ansible_collections.hnai.platform.plugins.module_utils import fanout

_IMPORT = re.compile(r"^from (ansible_collections\.\S+) import ", re.MULTILINE)


def shared(programs: Mapping[str, str]) -> list[str]:
    """What several programs import at their top: loaded once, before the fork."""
    counted = Counter(name for text in programs.values() for name in set(_IMPORT.findall(text)))
    return sorted(name for name, number in counted.items() if number > 1)


def start(program: Path, arguments: dict[str, Any]) -> None:
    """Run a check module as Ansible's own loader does: its arguments where AnsibleModule looks for them, then as a script."""
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode("utf-8")
    runpy.run_path(str(program), run_name="__main__")


def result_of(ended: fanout.Ended, seconds: float) -> tuple[str, str]:
    """The result that a check module printed, as JSON text, and '', or '' and why there is none."""
    if ended.late:
        return "", f"the check module was not done after {seconds:g} s and was killed"
    lines = [line for line in ended.out.splitlines() if line.startswith("{")]
    if lines:
        try:
            json.loads(lines[-1])
        except ValueError:
            return "", f"the answer of the check module was cut after {len(lines[-1])} characters: is there room in {tempfile.gettempdir()}?"
        return lines[-1], ""
    said = (ended.err.strip() or ended.out.strip()).splitlines()
    return "", f"the check module ended with {ended.code}: {said[-1] if said else 'it said nothing'}"


def main() -> None:
    """Reads the arguments, runs the check modules, gives what they said as it is."""
    module = basic.AnsibleModule(argument_spec=dict(work={"type": "str", "required": True, "no_log": True}), supports_check_mode=True)
    work = json.loads(module.params["work"])
    checks: dict[str, dict[str, Any]] = work["checks"]
    with tempfile.TemporaryDirectory(prefix="hnai-verify-") as folder:
        place = Path(folder)
        for name, text in work["programs"].items():
            (place / f"{name}.py").write_text(text, encoding="utf-8")
        (place / "library.zip").write_bytes(base64.b64decode(work["library"]))
        module_utils.__path__.append(str(place / "library.zip"))
        for name in shared(work["programs"]):
            importlib.import_module(name)

        def piece(name: str, arguments: dict[str, Any]) -> Callable[[], None]:
            given = {**arguments, "_ansible_check_mode": module.check_mode, "_ansible_module_name": name}
            return lambda: start(place / f"{name}.py", given)

        done = fanout.run({name: (piece(check["module"], check["args"]), float(check["seconds"])) for name, check in checks.items()}, place)
    answers = {name: result_of(ended, float(checks[name]["seconds"])) for name, ended in done.items()}
    module.exit_json(
        changed=False,
        results={name: text for name, (text, _reason) in answers.items() if text},
        broken={name: reason for name, (_text, reason) in answers.items() if reason},
        invocation={},
    )


if __name__ == "__main__":
    main()
