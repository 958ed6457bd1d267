#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of ssh_host_certificate."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_host_certificate
short_description: The certificate of a host's own SSH key
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Puts a certificate beside the host's ed25519 key, names it in a drop-in of sshd, and lets sshd read its files anew. The key is neither changed nor read.
  - The certificate is checked against the host's key, its names and the CA; C(sshd -t) comes before the reload, and where it complains what was there is
    there again. Sessions live on.
options:
  state:
    description:
      - V(looked) says what is there. V(installed) puts O(certificate) in place. V(closed) ends the run, with the proof that its serial is served.
      - V(absent) takes certificate and drop-in away; the plain key is served as ever.
    type: str
    default: looked
    choices: [looked, installed, closed, absent]
  certificate:
    description: What was signed.
    type: str
    default: ""
  ca:
    description: Public key of the CA.
    type: str
    default: ""
  principals:
    description: Names and addresses that it must bear, and no others.
    type: list
    elements: str
    default: []
  run_id:
    description: Name of the run.
    type: str
    default: ""
  serial:
    description: Serial that was seen on the port.
    type: str
    default: ""
  proof:
    description: What was proven.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Predicts.
    support: full
  diff_mode:
    description: Serials before and after.
    support: full
"""

EXAMPLES = r"""
- name: See whether the host's key is certified
  hnai.platform.ssh_host_certificate:
"""

RETURN = r"""
found:
  description: >-
    C(public) key, C(serial) (empty where there is no certificate), the C(line) in its file, C(end), C(principals), C(ca), the C(open) run and the C(last) one.
  returned: always
  type: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.host.ssh_certificate import CertificateError, HostCertificate
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError


def main() -> None:
    """Reads the arguments, acts, reports."""
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "default": "looked", "choices": ["looked", "installed", "closed", "absent"]},
            "certificate": text,
            "ca": text,
            "principals": {"type": "list", "elements": "str", "default": []},
            "run_id": text,
            "serial": text,
            "proof": {"type": "dict", "default": {}},
        },
        required_if=[("state", "installed", ("certificate", "ca", "principals")), ("state", "closed", ("serial",))],
        supports_check_mode=True,
    )
    given, host, changed = module.params, Host(), False
    work = HostCertificate(host, module.check_mode, time.time)
    try:
        before = work.look()
        if given["state"] == "looked":
            module.exit_json(changed=False, found=before)
        with host.lock("ssh-host-certificate"):
            if given["state"] == "installed":
                changed = work.install(given["certificate"], given["principals"], given["ca"], given["run_id"])
            elif given["state"] == "closed":
                work.close(given["serial"], given["proof"])
            else:
                changed = work.remove()
        after = work.look()
    except (CertificateError, HostError, OSError) as error:
        module.fail_json(msg=str(error))
    serials = {"before": "serial %s\n" % (before["serial"] or "-"), "after": "serial %s\n" % (after["serial"] or "-")}
    module.exit_json(changed=changed, found=after, **({"diff": serials} if module._diff else {}))


if __name__ == "__main__":
    main()
