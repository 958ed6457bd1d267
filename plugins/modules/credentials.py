#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of credentials."""

from __future__ import annotations

DOCUMENTATION = r"""
module: credentials
short_description: Store what OpenBao issued to a component, encrypted on its host
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Encrypts each value with the host's key (C(systemd-creds), through standard input) into
    C(/etc/credstore.encrypted/hnai-<component>.<name>), 0600 root. A unit loads it with
    C(LoadCredentialEncrypted=<name>:/etc/credstore.encrypted/hnai-<component>.<name>).
  - Compares by decrypting on the host, so an unchanged value is not written again although each encryption differs.
  - Optionally installs the certificate that was signed in the same visit to OpenBao (O(tls)), as
    M(hnai.platform.host_certificate) with C(state=present) does, so that delivering an identity is one task.
options:
  component:
    description: Name of the component.
    type: str
    required: true
  items:
    description: Values by name of the credential.
    type: dict
    default: {}
  select:
    description: Which secrets of O(secrets) become which credential.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path of the secret, relative to the mount.
        type: str
        required: true
      field:
        description: Field of the secret.
        type: str
        required: true
      as:
        description: Name of the credential.
        type: str
        required: true
      wrap:
        description: >-
          Text of the file that the product reads, with one V(%s) where the value stands and V(%{field}) for others of
          the same secret. By default the value alone.
        type: str
      default:
        description: Value where the secret is there and does not have the field.
        type: str
      name_field:
        description: >-
          Field of the secret that says which of a pair of identities it is for; its value, O(select[].as) itself or with C(.b), names
          the credential.
        type: str
  secrets:
    description: Secrets as OpenBao returned them, by path and then by field.
    type: dict
    default: {}
  tls:
    description: A signed certificate to install. Left out when none was signed.
    type: dict
    suboptions:
      certificate:
        description: The signed leaf (PEM).
        type: str
        required: true
      root:
        description: The root bundle (PEM).
        type: str
        required: true
      chain:
        description: The intermediates (PEM), leaf's issuer first.
        type: list
        elements: str
        default: []
      dir:
        description: Directory of the files; C(/etc/hnai/<component>/tls) by default.
        type: path
      group:
        description: Group that may read the key; C(hnai-<component>) by default.
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
      combined:
        description: Also keep C(keystore.pem).
        type: bool
        default: false
attributes:
  check_mode:
    description: Predicts. Where OpenBao delivered no values (it is not there yet), a credential that lies on the host counts
      as unchanged.
    support: full
  diff_mode:
    description: Names only.
    support: full
"""

EXAMPLES = r"""
- name: Store the credentials
  hnai.platform.credentials:
    component: kafka
    items:
      admin_password: "{{ __kafka_admin_password }}"
  no_log: true
"""

RETURN = r"""
changed_names:
  description: Credentials that were written or repaired.
  returned: always
  type: list
  elements: str
changed_paths:
  description: Files of the certificate that were written.
  returned: always
  type: list
  elements: str
"""

import contextlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import credentials
from ansible_collections.hnai.platform.plugins.module_utils.host_certificate import CERTIFICATE_ARGS, Certificate, Wanted
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError


def main() -> None:
    """Reads the arguments, converges, reports."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "component": text,
            "items": {"type": "dict", "default": {}, "no_log": True},
            "select": {"type": "list", "elements": "dict", "default": [], "options": {
                "path": text, "field": text, "as": text, "wrap": {"type": "str"}, "default": {"type": "str"}, "name_field": {"type": "str"},
            }},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "tls": {"type": "dict", "options": {"certificate": text, "root": text, **CERTIFICATE_ARGS}},
        },
        supports_check_mode=True,
    )
    given = module.params
    host = Host()
    component = given["component"]
    paths = []
    try:
        items = {**credentials.select(given["select"], given["secrets"], predict=module.check_mode), **given["items"]}
        with contextlib.nullcontext() if module.check_mode else host.lock(f"credentials-{component}"):
            if given["tls"]:
                tls = given["tls"]
                wanted = Wanted(
                    component=component,
                    directory=tls["dir"] or f"/etc/hnai/{component}/tls",
                    group=tls["group"] or f"hnai-{component}",
                    common_name=tls["common_name"],
                    dns=tuple(tls["dns"]),
                    ips=tuple(tls["ips"]),
                    usages=tuple(tls["usages"]),
                    combined=tls["combined"],
                )
                paths = Certificate(host, wanted, module.check_mode).install(tls["certificate"], tls["chain"], tls["root"]).changed_paths
            changed = credentials.converge(host, component, items, module.check_mode)
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))
    difference = {
        "before": "",
        "after": "".join(f"{name}: (new value)\n" for name in changed) + "".join(f"{path}\n" for path in paths),
        "before_header": component,
        "after_header": component,
    }
    module.exit_json(
        changed=bool(changed or paths),
        changed_names=changed,
        changed_paths=paths,
        **({"diff": difference} if module._diff else {}),
    )


if __name__ == "__main__":
    main()
