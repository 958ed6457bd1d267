#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Host side of conduit_verify."""

from __future__ import annotations

DOCUMENTATION = r"""
module: conduit_verify
short_description: Prove that the network is the model - tries every pair of hosts, and names who refuses
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Parts, each a task of its own over all hosts, so that nobody tries before everybody listens. V(static) judges what is loaded on a host, ZS1 to
    ZS6 - its rulesets against what the model approves, over every packet that there can be, addresses and routes. V(listen) leaves a receiver on the host that
    ends by itself, reads the sessions and the counters of C(table inet hnai). V(probe) makes the host's attempts of the probe matrix. V(collect)
    asks the receiver, which ends, and reads the counters again. V(judge), once, on the controller, holds all of it against the model.
  - "Every ordered pair of hosts, every port that a contract, an asset or a conduit names, both families. Each host tries as its programs do (users
    and second addresses of conduits too), and once more what no conduit allows by packets that its own rules never see: so the router and the
    target have to refuse by themselves. What passes an interface is noted by the receivers, so each refusal has a place."
  - ZC1 each conduit carries. ZC2 each denied pair, by pair of zones, is refused while its target answers somebody. ZC3 the same for UDP, told by
    receivers that know each datagram. ZC4 each established session belongs to a conduit and was opened by its C(from). ZC5 each point refuses by
    itself, and its drop counter rose. ZC6 what was tried, how fast, and what was not.
  - Towards level 2 (and every other asset) only what the model allows is tried, once, and a denied port only at an asset with C(canary) true. Nothing
    listens there. Probes come from the source ports 61000 to 64999.
  - Changes nothing. A receiver lives 60 s at most, whatever becomes of the run.
options:
  part:
    description: The part of the work.
    type: str
    choices: [static, listen, probe, collect, judge]
    required: true
  run:
    description: Name of the receiver, as V(listen) returned it. For V(collect) and V(probe).
    type: str
    default: ''
  seconds:
    description: How long the receiver lives at most.
    type: float
    default: 60.0
  budget:
    description: Seconds for the attempts of V(probe). What does not fit at the rates is told by ZC6, and comes earlier another time.
    type: float
    default: 40.0
  timeout:
    description: Seconds after which an attempt is silent. Above 1 the kernel has repeated its first packet.
    type: float
    default: 2.5
  per_source:
    description: Most new attempts a second of one host.
    type: float
    default: 200.0
  per_target:
    description: Most new attempts a second at one address, over all hosts together.
    type: float
    default: 20.0
  mode:
    description: The host's firewall_mode. For V(static).
    type: str
    default: enforce
  foreign:
    description: Tables of others that the site declared, as C(inet NAME); they are judged, but their presence is no finding. For V(static).
    type: list
    elements: str
    default: []
  work:
    description: Set by the action.
    type: dict
    default: {}
extends_documentation_fragment:
  - hnai.platform.verdict
  - hnai.platform.reading
"""

EXAMPLES = r"""
- name: Read the rules
  hnai.platform.conduit_verify:
    part: static
    collect: true
  register: firewall_verdict__rules

- name: Listen
  hnai.platform.conduit_verify:
    part: listen
  register: __firewall_listening

- name: Try every pair
  hnai.platform.conduit_verify:
    part: probe
    run: "{{ __firewall_listening.run | default('') }}"
  register: __firewall_probed

- name: Read what arrived
  hnai.platform.conduit_verify:
    part: collect
    run: "{{ __firewall_listening.run | default('') }}"
  register: __firewall_collected

- name: Judge
  hnai.platform.conduit_verify:
    part: judge
  run_once: true
  register: firewall_verdict__conduits
"""

RETURN = r"""
status:
  description: V(pass), V(fail), V(inconclusive) or V(skipped).
  returned: for V(static) and V(judge)
  type: str
checks:
  description: The checks, one by one. The verdict on each pair is raw evidence.
  returned: for V(static) and V(judge)
  type: list
  elements: dict
summary:
  description: One line.
  returned: for V(static) and V(judge)
  type: str
run:
  description: Name of the receiver.
  returned: for V(listen)
  type: str
error:
  description: Why a part could not be done. The module does not fail then; V(judge) says what is missing.
  returned: when a part could not be done
  type: str
"""

import secrets
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.host.health import run_command
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start
from ansible_collections.hnai.platform.plugins.module_utils.zones import live
from ansible_collections.hnai.platform.plugins.module_utils.zones import static as rules
from ansible_collections.hnai.platform.plugins.module_utils.zones.sessions import read_counters, read_sessions


def _text_of(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as stream:
        return stream.read()


def listen(params: dict[str, Any]) -> dict[str, Any]:
    """Sessions and counters before anything is tried; then the receiver."""
    work = params["work"]
    run = "hnai-zones-" + secrets.token_hex(8)
    found: dict[str, Any] = {"run": run, "slot": secrets.randbelow(100)}
    if work.get("managed", True):
        found |= {"sessions": read_sessions(run_command, _text_of), "before": read_counters(run_command)}
        found |= live.listen(work["addresses"], work["tcp"], work["udp"], run, params["seconds"])
    return found


def probe(params: dict[str, Any]) -> dict[str, Any]:
    """The host's attempts."""
    work = params["work"]
    rates = (params["per_source"], params["per_target"] / max(1, int(work["sources"])))
    return live.probe(work["probes"], work["origins"], int(work["slot"]), params["timeout"], *rates, params["budget"])


def collect(params: dict[str, Any]) -> dict[str, Any]:
    """The counters, and what the receiver noted."""
    if not params["work"].get("managed", True):
        return {}
    found: dict[str, Any] = {"after": read_counters(run_command)}
    try:
        return {**found, **live.collect(params["run"], params["call_timeout"])}
    except OSError as error:
        return {**found, "error": f"the receiver is gone: {error}"}


def static(module: AnsibleModule) -> None:
    """The rulesets, addresses and routes of this host."""
    report = start(module, "firewall")
    rules.run(report, {"expected": module.params["work"]["expected"], "mode": module.params["mode"], "foreign": module.params["foreign"]}, run_command)
    finish(module, report)


#: What a part does on the host; `static` judges by itself.
PARTS = {"listen": listen, "probe": probe, "collect": collect}


def main() -> None:
    """One part."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            part={"type": "str", "choices": ["static", "listen", "probe", "collect", "judge"], "required": True},
            run={"type": "str", "default": ""},
            seconds={"type": "float", "default": 60.0},
            budget={"type": "float", "default": 40.0},
            timeout={"type": "float", "default": 2.5},
            per_source={"type": "float", "default": 200.0},
            per_target={"type": "float", "default": 20.0},
            mode={"type": "str", "default": "enforce"},
            foreign={"type": "list", "elements": "str", "default": []},
            work={"type": "dict", "default": {}},
        ),
        supports_check_mode=True,
    )
    if module.params["part"] == "static" and module.params["work"]:
        static(module)
    if module.params["part"] not in PARTS or not module.params["work"]:
        module.fail_json(msg="conduit_verify: what is tried and judged comes from the controller: call hnai.platform.conduit_verify by its full name")
    try:
        module.exit_json(changed=False, invocation={}, **PARTS[module.params["part"]](module.params))
    except OSError as error:
        module.exit_json(changed=False, invocation={}, error=str(error))


if __name__ == "__main__":
    main()
