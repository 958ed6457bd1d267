#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of openbao_site."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openbao_site
short_description: Bring an OpenBao in step with the contracts of the placed components
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Makes the KV v2 mount (check-and-set required), root and intermediate CA, and per placed component one AppRole,
    one least-privilege policy,
    one PKI role and the declared secrets that are absent. Secrets are generated on the OpenBao host and never travel.
  - Everything is observed first; a second run changes nothing.
  - The foundation needs a root token, once. Then the identities C(site-admin) and C(deploy) take over, the root token
    is revoked and its
    refusal is proven. C(site-admin) may create a secret, but not read or replace one; C(deploy) may issue wrapped
    secret_ids of components only.
  - The action plugin of the same name computes the spec on the controller, keeps the identities there
    (O(identities_file)) and writes
    the root certificate to O(root_ca_file).
  - Where O(identities_file) is not there (AWX), credentials give O(site_admin) and O(deploy).
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.maybe_deploy
  - hnai.platform.openbao.site_admin
  - hnai.platform.openbao.authorities
options:
  keys_file:
    description: Controller file with the answer of C(sys/init); its root token is used until it is revoked.
    type: path
  identities_file:
    description: Controller file for the identities, mode 0600. The key C(deploy) is what C(hnai_openbao_deploy) reads.
    type: path
  root_ca_file:
    description: Controller file for the root certificate, mode 0644.
    type: path
  root_ca:
    description:
      - V(own) makes a root CA whose key never leaves OpenBao. V(site) makes none; the site's own CA signs the intermediate. As long as it has not, the
        task fails once everything else is in step, and says what is to be signed and where the answer goes.
      - A store that stands is never turned from one into the other.
    type: str
    choices: [own, site]
    default: own
  intermediate_chain:
    description: What the site's CA has signed, then what stands above it up to its root; PEM text, or a path on the controller. It is not sent as it is.
    type: str
    default: ""
  request_file:
    description: Controller file for the request, mode 0644. Needed with O(root_ca=site).
    type: path
  site:
    description: Name of the site, part of the CAs' common names.
    type: str
  root_ttl:
    description: Life of the root CA.
    type: str
    default: 10y
  intermediate_ttl:
    description: Life of the intermediate CA.
    type: str
    default: 5y
  leaf_ttl:
    description: Longest life of a host's certificate.
    type: str
    default: 90d
  identity_ttl:
    description: Life of the identities' secret_ids. A run in the last third of it issues new ones.
    type: str
    default: 90d
  ssh_host:
    description: Mount of the CA of the hosts' SSH certificates. Empty makes none.
    type: str
    default: ""
  ssh_names:
    description: Names and addresses that may stand in a host's SSH certificate.
    type: list
    elements: str
    default: []
  root_token:
    description: A root token for this run, from a key-holder ceremony. It is revoked at the end.
    type: str
    default: ""
  ca_file:
    description: Bundle on the host against which modules verify the server; the root CA is added to it.
    type: path
    default: /etc/hnai/openbao/trust.pem
  addresses:
    description: Addresses of this host under which a server at an O(external) address sees it. AppRoles are bound to them, else to the loopback.
    type: list
    elements: str
    default: []
  spec:
    description: Set by the action plugin.
    type: dict
    default: {}
  revoke_root:
    description: Set by the action plugin.
    type: bool
    default: false
attributes:
  check_mode:
    description: Predicts, also on a host without the server.
    support: full
  diff_mode:
    description: Policies and role settings before and after. Never a secret.
    support: full
"""

EXAMPLES = r"""
- name: Bring OpenBao in step with the contracts
  hnai.platform.openbao_site:
    keys_file: "{{ hnai_state_dir }}/openbao/init.json"
    identities_file: "{{ hnai_state_dir }}/openbao/deploy.json"
    root_ca_file: "{{ hnai_state_dir }}/ca.pem"
    site: "{{ hnai_site }}"
"""

RETURN = r"""
changes:
  description: What was (or would be) changed.
  returned: always
  type: list
  elements: str
pending:
  description: Parts of the foundation that differ from the collection's and need a root token; see the ceremony.
  returned: always
  type: list
  elements: str
foreign:
  description: Secrets engines, auth methods, policies, roles and namespaces that the contracts do not have, and settings that somebody tuned. They are named
    by a warning and left alone.
  returned: always
  type: list
  elements: str
orphans:
  description: AppRoles of components that are placed nowhere any more.
  returned: always
  type: list
  elements: str
root_ca:
  description: Root certificate, PEM.
  returned: always
  type: str
csr:
  description: Request for the intermediate that the site's CA has not signed, PEM.
  returned: failure for want of that signature
  type: str
root_revoked:
  description: Whether the root token that was at hand is proven dead.
  returned: when a root token was at hand
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import first_tls, site
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import (
    AUTHORITIES_ARGS,
    MAYBE_DEPLOY_ARGS,
    OPENBAO_ARGS,
    SITE_ADMIN_ARGS,
    BaoError,
    Client,
    Unreachable,
)
from ansible_collections.hnai.platform.plugins.module_utils.openbao.component import VisitError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import RotationError


def stands(api: Client) -> bool:
    """Whether there is an unsealed store to look at."""
    try:
        status = api.call("GET", "sys/seal-status")
    except (BaoError, Unreachable):
        return False
    return bool(status["initialized"]) and not status["sealed"]


def main() -> None:
    """Reads the arguments, converges or revokes root, reports."""
    span = {"type": "str"}
    module = AnsibleModule(
        argument_spec={
            "keys_file": {"type": "path", "no_log": False},
            "identities_file": {"type": "path"},
            "root_ca_file": {"type": "path"},
            "root_ca": {"type": "str", "default": "own", "choices": ["own", "site"]},
            "intermediate_chain": {"type": "str", "default": ""},
            "request_file": {"type": "path"},
            "site": {"type": "str"},
            **OPENBAO_ARGS,
            **MAYBE_DEPLOY_ARGS,
            **SITE_ADMIN_ARGS,
            **AUTHORITIES_ARGS,
            "root_ttl": dict(span, default="10y"),
            "intermediate_ttl": dict(span, default="5y"),
            "leaf_ttl": dict(span, default="90d"),
            "identity_ttl": dict(span, default="90d"),
            "ssh_host": {"type": "str", "default": ""},
            "ssh_names": {"type": "list", "elements": "str", "default": []},
            "root_token": {"type": "str", "default": "", "no_log": True},
            "addresses": {"type": "list", "elements": "str", "default": []},
            "spec": {"type": "dict", "default": {}},
            "revoke_root": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    # At an address it is verified by its own authority alone, and this host keeps no bundle.
    here = not given["external"].get("address")
    try:
        introduced = here and first_tls.introduce(given["ca_file"], (given["external"].get("ca") or "").encode(), module.check_mode)
        api = connect(given)
        if given["revoke_root"]:
            alive = site.revoke_root(api, given["root_token"], owned=here)
            module.exit_json(changed=alive, root_revoked=True)
        work = site.Site(
            api,
            given["spec"],
            {"site-admin": given["site_admin"] or {}, "deploy": given["deploy"] or {}},
            given["root_token"],
            module.check_mode,
        )
        if module.check_mode and not stands(api):
            what = "the whole site (no store is open yet)"
            diff = {"diff": {"before": "", "after": f"not predicted: {what}\n", "before_header": "OpenBao", "after_header": "OpenBao"}}
            module.exit_json(changed=True, changes=[what], pending=[], orphans=[], foreign=[], root_ca="", **(diff if module._diff else {}))
        out = work.converge()
        trusted = here and bool(out.root_ca) and first_tls.trust(given["ca_file"], out.root_ca.encode(), module.check_mode)
    except (site.SiteError, RotationError, VisitError, BaoError, Unreachable, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    if introduced:
        out.changes.append(site.Change("the server's authority trusted on the host"))
    if trusted:
        out.changes.append(site.Change("root CA trusted on the host"))
    module.exit_json(
        changed=bool(out.changes),
        changes=[change.what for change in out.changes],
        pending=out.pending,
        orphans=out.orphans,
        foreign=out.foreign,
        root_ca=out.root_ca,
        identities=out.identities,
        unsigned=out.unsigned,
        in_force=out.in_force,
        diff=[
            {"before": change.before, "after": change.after, "before_header": change.what, "after_header": change.what}
            for change in out.changes
            if change.after
        ]
        if module._diff
        else [],
    )


if __name__ == "__main__":
    main()
