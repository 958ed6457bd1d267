#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of host_certificate."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_certificate
short_description: A TLS key that never leaves its host, and the certificate for it
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - With O(state=request) makes the key (EC P-256, C(key.pem), 0640 root and O(group)) where there is none, keeps C(ca.pem)
    equal to O(root), and returns a certificate request when a certificate is due.
  - A certificate is due when there is none, when it does not belong to the key, when its names or usages differ, when it does
    not chain to the root, or when less than O(renew_before) of its life is left.
  - With O(state=present) installs what was signed, after checking it against key, names, usages and root. C(cert.pem) is the
    leaf and its intermediates, C(ca.pem) the root bundle, C(keystore.pem) (with O(combined)) the PKCS#8 key and the chain in
    one file. Each is replaced atomically.
  - B(Not for OPC UA application certificates.) Their servers trust a thumbprint, so they are never renewed by remaining life;
    the module refuses names that are URIs and directories called opcua.
options:
  component:
    description: Name of the component.
    type: str
    required: true
  dir:
    description: Directory of the files; C(/etc/hnai/<component>/tls) by default.
    type: path
  group:
    description: Group that may read the key; C(hnai-<component>) by default.
    type: str
  common_name:
    description: Common name; also one of the DNS names. Required unless O(ca_only).
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
    description: Extended key usages that are asked for and that the certificate must have.
    type: list
    elements: str
    choices: [server, client]
    default: [server, client]
  renew_before:
    description: Fraction of the lifetime; with less left, a new certificate is due.
    type: float
    default: 0.3333
  combined:
    description: Also keep C(keystore.pem), as Kafka's C(ssl.keystore.type=PEM) reads it.
    type: bool
    default: false
  ca_only:
    description: Only keep C(ca.pem); for components that verify others but have no certificate of their own.
    type: bool
    default: false
  state:
    description: Which of the two steps.
    type: str
    choices: [request, present]
    required: true
  certificate:
    description: With O(state=present), the signed leaf (PEM).
    type: str
  chain:
    description: With O(state=present), the intermediates (PEM), leaf's issuer first. A root among them belongs into O(root).
    type: list
    elements: str
    default: []
  root:
    description: The root bundle (PEM). In O(state=request) optional, then the installed C(ca.pem) judges.
    type: str
    default: ""
  controller_time:
    description:
      - With O(state=request), what the controller's clock says (unix s). A host whose clock differs by more than a minute is refused before anything is
        changed - certificates are judged by clocks.
    type: float
attributes:
  check_mode:
    description: Predicts, also where neither the group nor the key exists yet; then a certificate is due but there is no
      request.
    support: full
  diff_mode:
    description: Names the files, and why a certificate is due.
    support: full
"""

EXAMPLES = r"""
- name: Ask for a certificate
  hnai.platform.host_certificate:
    component: kafka
    common_name: kafka1
    dns: [kafka1, localhost]
    ips: ["10.77.35.11", "fd77:0:0:35::11", "127.0.0.1", "::1"]
    combined: true
    state: request
  register: __kafka_request
"""

RETURN = r"""
due:
  description: Whether a certificate must be signed.
  returned: state is request
  type: bool
reasons:
  description: Why it is due.
  returned: state is request
  type: list
  elements: str
csr:
  description: The request to sign (PEM); empty when nothing is due, and in check mode where there is no key yet.
  returned: state is request
  type: str
not_after:
  description: Until when the certificate that was judged is valid (UTC); empty when there is none.
  returned: always
  type: str
changed_paths:
  description: Files that were written or repaired; directories end in a slash.
  returned: always
  type: list
  elements: str
"""

import contextlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.host_certificate import CERTIFICATE_ARGS, Certificate, Wanted
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError


def main() -> None:
    """Reads the arguments, converges, reports."""
    module = AnsibleModule(
        argument_spec={
            "component": {"type": "str", "required": True},
            **CERTIFICATE_ARGS,
            "renew_before": {"type": "float", "default": 0.3333},
            "ca_only": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["request", "present"], "required": True},
            "certificate": {"type": "str"},
            "root": {"type": "str", "default": ""},
            "controller_time": {"type": "float"},
        },
        required_if=[("state", "present", ("certificate",))],
        supports_check_mode=True,
    )
    given = module.params
    host = Host()
    component = given["component"]
    try:
        wanted = Wanted(
            component=component,
            directory=given["dir"] or f"/etc/hnai/{component}/tls",
            group=given["group"] or f"hnai-{component}",
            common_name=given["common_name"],
            dns=tuple(given["dns"]),
            ips=tuple(given["ips"]),
            usages=tuple(given["usages"]),
            renew_before=given["renew_before"],
            combined=given["combined"],
            ca_only=given["ca_only"],
        )
        certificate = Certificate(host, wanted, module.check_mode)
        with contextlib.nullcontext() if module.check_mode else host.lock(f"certificate-{component}"):
            if given["state"] == "request":
                outcome = certificate.request(given["root"], given["controller_time"])
            else:
                outcome = certificate.install(given["certificate"], given["chain"], given["root"])
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))
    asked = {"due": outcome.due, "reasons": outcome.reasons, "csr": outcome.csr} if given["state"] == "request" else {}
    difference = {
        "before": "".join(f"{reason}\n" for reason in outcome.reasons),
        "after": "".join(f"{path}\n" for path in outcome.changed_paths),
        "before_header": wanted.directory,
        "after_header": wanted.directory,
    }
    module.exit_json(
        changed=outcome.changed,
        changed_paths=outcome.changed_paths,
        not_after=outcome.not_after,
        **asked,
        **({"diff": difference} if module._diff else {}),
    )


if __name__ == "__main__":
    main()
