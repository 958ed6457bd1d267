#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of certificate_rotation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_rotation
short_description: Replace key and certificate of a component's TLS listeners, and prove what they serve
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - One step per call, on the component's host, each of which looks first. A run that was killed is simply run again; it uses the certificate
    that was signed and makes no second one.
  - The new key is made on the host and never leaves it. C(playbooks/rotate.yml) puts the steps together; the unit takes the files up by its
    role in between.
  - Serial numbers only. A listener that cannot be asked fails the step; it never counts as one that serves the new certificate.
options:
  state:
    description:
      - V(planned) looks. V(begun) notes the serial in force, makes the new key and returns the request. V(installed) puts in place what was
        signed. V(served) asks listeners, from any host. V(closed) takes their answers.
    type: str
    default: planned
    choices: [planned, begun, installed, served, closed]
  component:
    description: Name of the component.
    type: str
    required: true
  group:
    description: Group that may read the TLS key; C(hnai-<component>) by default.
    type: str
  common_name:
    description: Common name.
    type: str
    default: ""
  dns:
    description: DNS names.
    type: list
    elements: str
    default: []
  ips:
    description: IP addresses, both families.
    type: list
    elements: str
    default: []
  usages:
    description: Extended key usages that the certificate must have.
    type: list
    elements: str
    choices: [server, client]
    default: [server, client]
  root:
    description: The root bundle (PEM); what the host trusts now by default.
    type: str
    default: ""
  run_id:
    description: Name of a new run, for O(state=begun).
    type: str
    default: ""
  reason:
    description: Why.
    type: str
    default: age
    choices: [age, request, compromise]
  signed:
    description: What OpenBao returned, for O(state=installed). Left out where it was signed before.
    type: dict
    suboptions:
      certificate:
        description: The leaf (PEM).
        type: str
        required: true
      chain:
        description: The intermediates (PEM).
        type: list
        elements: str
        default: []
  listeners:
    description: Addresses C(host:port) of the TLS listeners.
    type: list
    elements: str
    default: []
  ca_file:
    description: Bundle against which they are verified, for O(state=served). By default that of the component.
    type: path
  own:
    description: Whether this host shows the component's certificate, for O(state=served) of listeners that ask for one.
    type: bool
    default: false
  serial:
    description: Serial that O(state=served) waits for.
    type: str
    default: ""
  served:
    description: Serial by listener and vantage, for O(state=closed).
    type: dict
    default: {}
  timeout:
    description: Seconds until every listener must serve O(serial).
    type: float
    default: 20
attributes:
  check_mode:
    description: Every state but V(served) is V(planned) then.
    support: full
  diff_mode:
    description: There is nothing to show that is no key.
    support: none
"""

EXAMPLES = r"""
- name: Say which certificate the broker serves
  hnai.platform.certificate_rotation:
    state: served
    component: mosquitto
    listeners: ["edge1:8883"]
"""

RETURN = r"""
run:
  description: What is noted on the host, with C(open), C(run_id), C(old) and C(new) serial, or C(last) with its proof.
  returned: not with O(state=served)
  type: dict
csr:
  description: The request to sign (PEM); empty where that was done.
  returned: O(state=begun)
  type: str
served:
  description: Serial by listener.
  returned: O(state=served)
  type: dict
serial:
  description: Serial in place.
  returned: O(state=planned)
  type: str
due:
  description: Whether less than a third of its life is left.
  returned: O(state=planned)
  type: bool
age_s:
  description: Age of the certificate in seconds.
  returned: O(state=planned)
  type: float
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import leaf_rotation
from ansible_collections.hnai.platform.plugins.module_utils.host_certificate import SUBJECT_ARGS, Wanted
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError

CALL_S = 5.0


def ask(given: dict[str, Any]) -> dict[str, str]:
    """Serial by listener, once all serve what is waited for or the time is over. Raises LeafError for one that cannot be asked."""
    directory = "/etc/hnai/%s/tls/" % given["component"]
    own = (directory + "cert.pem", directory + "key.pem") if given["own"] else None
    end = time.monotonic() + given["timeout"]
    while True:
        found, silent = {}, []
        for listener in given["listeners"]:
            host, _colon, port = listener.rpartition(":")
            try:
                found[listener] = leaf_rotation.served((host, int(port)), given["ca_file"] or directory + "ca.pem", own, CALL_S)
            except (OSError, ValueError) as error:
                silent.append("%s: %s" % (listener, error))
        if not silent and (not given["serial"] or set(found.values()) == {given["serial"]}):
            return found
        if time.monotonic() >= end:
            if silent:
                raise leaf_rotation.LeafError("which certificate is served cannot be told: %s" % "; ".join(silent))
            return found
        time.sleep(0.5)


def plan(files: leaf_rotation.HostFiles) -> dict[str, Any]:
    """What is true."""
    begin, end = files.ends()
    left = end - time.time()
    return {"run": files.run(), "serial": files.serial(), "due": left < (end - begin) / 3, "age_s": max(0.0, time.time() - begin) if begin else 0.0}


def main() -> None:
    """Reads the arguments, takes the step, reports."""
    text = {"type": "str", "default": ""}
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "default": "planned", "choices": ["planned", "begun", "installed", "served", "closed"]},
            "component": {"type": "str", "required": True},
            **SUBJECT_ARGS,
            "root": text,
            "run_id": text,
            "reason": {"type": "str", "default": "age", "choices": ["age", "request", "compromise"]},
            "signed": {"type": "dict", "options": {"certificate": {"type": "str", "required": True}, "chain": names}},
            "listeners": names,
            "ca_file": {"type": "path"},
            "own": {"type": "bool", "default": False},
            "serial": text,
            "served": {"type": "dict", "default": {}},
            "timeout": {"type": "float", "default": 20},
        },
        required_if=[("state", "served", ("listeners",)), ("state", "begun", ("run_id",))],
        supports_check_mode=True,
    )
    given = module.params
    host = Host()
    component = given["component"]
    try:
        if given["state"] == "served":
            module.exit_json(changed=False, served=ask(given))
        wanted = Wanted(
            component=component, directory=f"/etc/hnai/{component}/tls", group=given["group"] or f"hnai-{component}",
            common_name=given["common_name"] or "localhost", dns=tuple(given["dns"]), ips=tuple(given["ips"]), usages=tuple(given["usages"]),
        )  # fmt: skip
        files = leaf_rotation.HostFiles(host, wanted, given["root"])
        if given["state"] == "planned" or module.check_mode:
            module.exit_json(changed=False, **plan(files))
        leaf = leaf_rotation.Leaf(files)
        with host.lock(f"certificate-{component}"):
            if given["state"] == "begun":
                found = leaf.begin(given["run_id"], given["reason"])
                changed = not found["resumed"]
            elif given["state"] == "installed":
                found = leaf.install(given["signed"])
                changed = bool(found.pop("changed"))
            else:
                found, changed = leaf.close(given["served"], given["listeners"]), True
    except (leaf_rotation.LeafError, HostError, OSError, ValueError) as error:
        module.fail_json(msg="%s: %s" % (component, error))
    module.exit_json(changed=changed, **found)


if __name__ == "__main__":
    main()
