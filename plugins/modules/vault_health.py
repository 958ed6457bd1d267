#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of vault_health."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vault_health
short_description: Whether OpenBao (or Vault) is unsealed, led, audited and without a root token
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the host of the server. Checks seal, version, leader and raft voters, audit devices (at least two on
    different file systems, each having
    recorded this very check, with space left), that no root token is alive, the served certificate against the site's
    root and the file on disk,
    that root is not made without a login, that secrets need check-and-set, that the deploy identity reads no secret by itself,
    that nothing lets anybody in that no contract names,
    and that nothing of the site's opens more than the site declares.
  - Of a server that somebody else runs (O(external)) only what bears a name of ours or holds a policy of ours is a finding of BAO13, and nothing of the whole
    server's is one of BAO14. At an address, what its host alone can tell is V(skipped).
  - Checks behind a login are made as C(hnai-openbao). Without O(deploy) they are V(inconclusive).
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.maybe_deploy
  - hnai.platform.verdict
  - hnai.platform.reading
options:
  ca_file:
    description: Root of the site's PKI on the host; the served certificate must chain to it.
    type: path
    default: /etc/hnai/openbao/tls/ca.pem
  cert_file:
    description: The server's certificate on disk.
    type: path
    default: /etc/hnai/openbao/tls/cert.pem
  expected_version:
    description: Version that must run; empty for any.
    type: str
    default: ""
  expected_voters:
    description: Number of raft voters.
    type: int
    default: 1
  min_audit_devices:
    description: Number of audit devices on different file systems (a device that is no file counts as one of its own).
    type: int
    default: 2
  min_free_percent:
    description: Free space that each audit device's file system must have, unless it has O(min_free_mib).
    type: float
    default: 30
  min_free_mib:
    description: Free space that is enough whatever share of the file system it is.
    type: int
    default: 4096
  min_days:
    description: Days that the served certificate must still be valid.
    type: float
    default: 14
  min_ca_days:
    description: Days that the authority which issues certificates must still be valid.
    type: float
    default: 180
  paths:
    description: Secrets of the site, relative to the KV mount, of which the deploy identity may read none. It is asked for a version that none has.
    type: list
    elements: str
    default: []
  pki:
    description: Mount of the authority that issues certificates.
    type: str
    default: pki_int
  pki_root:
    description: Mount of the root above it.
    type: str
    default: pki_root
  min_threshold:
    description: Key shares that must be needed at least to open the seal; V(0) for any.
    type: int
    default: 0
  contracts:
    description: >-
      Components whose AppRole, policy and PKI role may be there. Without them BAO13 is not made: whether anything else lies there that lets somebody in,
      or signs.
    type: list
    elements: str
    default: []
  ssh_host:
    description: Mount of the hosts' SSH authority; empty for none.
    type: str
    default: ""
  audit_files:
    description: Where audit devices may write; another one is a finding of BAO13. Empty for anywhere.
    type: list
    elements: path
    default: []
  spec:
    description: >-
      What the site declares, as P(hnai.platform.openbao_spec#filter) returns it. Without it BAO14 is not made: whether what bears a name of the site's
      opens more.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Judge OpenBao
  hnai.platform.vault_health:
    deploy: "{{ hnai_openbao_deploy }}"
    expected_version: "2.7.2"
    collect: true
  register: verdict_openbao
"""

RETURN = r"""
status:
  description: Verdict of the whole.
  returned: always
  type: str
checks:
  description: The checks, see the verdict format.
  returned: always
  type: list
  elements: dict
sealed:
  description: Whether the store is sealed.
  returned: always
  type: bool
leader:
  description: Address of the active node.
  returned: always
  type: str
voters:
  description: Number of raft voters.
  returned: always
  type: int
audit:
  description: Audit devices and where they write.
  returned: always
  type: dict
days_left:
  description: Days until the served certificate ends.
  returned: always
  type: float
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import health, policies, strangers
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import MAYBE_DEPLOY_ARGS, OPENBAO_ARGS, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Reads the arguments, makes the checks, reports."""
    module = AnsibleModule(
        argument_spec=dict(
            {**OPENBAO_ARGS, **MAYBE_DEPLOY_ARGS, **VERDICT_ARGS},
            ca_file={"type": "path", "default": "/etc/hnai/openbao/tls/ca.pem"},
            cert_file={"type": "path", "default": "/etc/hnai/openbao/tls/cert.pem"},
            expected_version={"type": "str", "default": ""},
            expected_voters={"type": "int", "default": 1},
            min_audit_devices={"type": "int", "default": 2},
            min_free_percent={"type": "float", "default": 30},
            min_free_mib={"type": "int", "default": 4096},
            min_days={"type": "float", "default": 14},
            min_ca_days={"type": "float", "default": 180},
            paths={"type": "list", "elements": "str", "default": []},
            pki={"type": "str", "default": "pki_int"},
            pki_root={"type": "str", "default": "pki_root"},
            min_threshold={"type": "int", "default": 0},
            contracts={"type": "list", "elements": "str", "default": []},
            ssh_host={"type": "str", "default": ""},
            audit_files={"type": "list", "elements": "path", "default": []},
            spec={"type": "dict", "default": {}},
        ),
        supports_check_mode=True,
    )
    given = module.params
    report = start(module, "openbao")
    try:
        client = connect(given, timeout_s=lambda: report.timeout(10))
    except Unreachable as error:
        module.fail_json(msg=str(error))

    def serial_on_disk() -> str:
        return health.pem_serial(module.run_command(["openssl", "x509", "-in", given["cert_file"], "-noout", "-serial"])[1])

    external = given["external"]
    # The run's own identities are entered as components are.
    names = given["contracts"] and [*given["contracts"], *policies.internal("", "", "", given["ssh_host"])]
    placed = given["spec"].get("components", {})
    signing = [name for name in names if name not in placed or placed[name]["certificate"]]
    facts = health.run(
        report,
        client,
        given["deploy"] or {},
        health.Wanted(
            version=given["expected_version"],
            voters=given["expected_voters"],
            audit_devices=given["min_audit_devices"],
            free=given["min_free_percent"] / 100.0,
            free_mib=given["min_free_mib"],
            days=given["min_days"],
            ca_days=given["min_ca_days"],
            kv=given["kv"],
            pki=given["pki"],
            pki_root=given["pki_root"],
            secrets=given["paths"],
            threshold=given["min_threshold"],
            own=strangers.Own(
                given["kv"], given["pki_root"], given["pki"], given["ssh_host"], names, signing, bool(external.get("owner"))) if names else None,
            audit_files=given["audit_files"],
            spec=given["spec"],
            owner=(external.get("owner") or "somebody else") if external.get("address") else "",
        ),
        health.Host(served=lambda: client.served(report.timeout(5)), serial_on_disk=serial_on_disk),
    )
    finish(module, report, **facts)


if __name__ == "__main__":
    main()
