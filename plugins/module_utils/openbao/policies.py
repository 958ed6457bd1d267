# SPDX-License-Identifier: Apache-2.0
"""The least-privilege policies, as text. Pure functions of the site's spec.

Three kinds of identity, none of them root:

* a component (``hnai-<component>``, AppRole on the auth mount ``hnai``): reads its own secrets and those that a
  contract grants it, asks for certificates of its own PKI role, nothing else;
* ``deploy`` (AppRole on ``approle``): issues *wrapped* secret_ids for components; reads no secret itself;
* ``site-admin`` (AppRole on ``approle``): keeps policies, AppRoles, PKI roles and *absent* secrets in step with the
  contracts; may create a secret, never read or replace one.

Components have an auth mount of their own so that the deploy identity can be limited to
``auth/hnai/role/+/secret-id``: with the identities on the same mount it could make itself site-admin, and a glob
``hnai-*`` would reach the sub-paths by which a role's policies are changed.

What this cannot do: whoever may write policies can write one for itself. site-admin is therefore used by the openbao
play alone, is bound to the loopback of the OpenBao host, and every step of it stands in the audit log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

COMPONENT_AUTH = "hnai"
IDENTITY_AUTH = "approle"
PREFIX = "hnai-"
#: The component that OpenBao itself is; its identity also makes the health checks.
SELF = "openbao"

#: The run's own identities, by the path under which their secret_ids are rotated and listed.
IDENTITIES = {"approle/deploy": "deploy", "approle/site-admin": "site-admin"}

#: What the mount of the secrets is set to.
KV_CONFIG = {"cas_required": True, "max_versions": 10, "delete_version_after": "0s"}

#: Rotates secrets: writes versions and journals, destroys single versions, erases nothing by name. Entered through ``deploy`` as components are.
ROTATION = "rotation"

#: Rotates the certificate authorities. Keys of CAs never leave OpenBao; this identity may make issuers, choose and retire them, and sign an intermediate.
AUTHORITY = "authority"
#: Rotates the barrier's keyring and the key shares, and takes snapshots.
KEYS = "keys"

#: Has the hosts' SSH keys certified, and nothing else. There only where the site has the mount for it.
SSH_HOST = "ssh-host"
SSH_ROLE = PREFIX + "host"

Rule = tuple[str, Sequence[str], Mapping[str, str]]


def render(rules: Iterable[Rule]) -> str:
    """HCL of (path, capabilities, further attributes)."""
    blocks = []
    for path, capabilities, attributes in rules:
        lines = ['path "%s" {' % path, "  capabilities = [%s]" % ", ".join('"%s"' % item for item in capabilities)]
        lines += ['  %s = "%s"' % (key, value) for key, value in sorted(attributes.items())]
        blocks.append("\n".join([*lines, "}"]))
    return "\n".join(blocks) + "\n"


#: What the policy `default` says as OpenBao makes it; every token holds it that was not made without.
DEFAULT = {
    **{"auth/token/%s-self" % what: '["%s"]' % right for what, right in (("lookup", "read"), ("renew", "update"), ("revoke", "update"))},
    **{"identity/entity/%s/{{identity.entity.%s}}" % (key, key): '["read"]' for key in ("id", "name")},
    **{"sys/" + path: '["update"]' for path in (
        "capabilities-self", "leases/renew", "leases/lookup", "wrapping/wrap", "wrapping/lookup", "wrapping/unwrap", "tools/hash", "tools/hash/*")},
    "sys/internal/ui/resultant-acl": '["read"]',
    "cubbyhole/*": '["create", "read", "update", "delete", "list"]',
    "identity/oidc/provider/+/authorize": '["read", "update"]',
}  # fmt: skip
#: Braces within one are those of parameters that may not be given at all; a value of one may be a secret.
_RULE = re.compile(r'path\s+"([^"]*)"\s*\{((?:[^{}]|(?<=denied_parameters = )\{(?:\s*"\w+" = \[\])*\s*\})*)\}')


def granted(text: str) -> dict[str, str]:
    """{path: what it may} out of a policy, each on one line; under "" that something else stands there, which is not repeated."""
    text = re.sub(r"(?m)^\s*#.*$", "", text)
    found: dict[str, str] = {}
    for path, body in _RULE.findall(text):
        said = " ".join(body.split()).replace("capabilities = ", "", 1)
        found[path] = "%s; %s" % (found[path], said) if path in found else said
    return {**found, **({"": "something else"} if _RULE.sub("", text).strip() else {})}


def component(name: str, grants: Iterable[str], certificate: bool, kv: str, pki_root: str, pki: str, ssh: str = "") -> str:
    """Policy of one component. *grants*: secrets of other components, relative to the KV mount."""
    rules: list[Rule] = [("%s/data/%s/*" % (kv, name), ["read"], {})]
    rules += [("%s/data/%s" % (kv, path), ["read"], {}) for path in sorted(set(grants))]
    if certificate:
        rules.append(("%s/sign/%s%s" % (pki, PREFIX, name), ["update"], {}))
    rules.append(("auth/token/revoke-self", ["update"], {}))
    if name == SELF:
        rules += [
            ("sys/audit", ["read", "sudo"], {}),
            ("sys/storage/raft/configuration", ["read"], {}),
            ("sys/storage/raft/autopilot/state", ["read"], {}),
            ("%s/config" % kv, ["read"], {}),
            ("auth/token/accessors/", ["list", "sudo"], {}),
            ("auth/token/accessors", ["list", "sudo"], {}),
            ("auth/token/lookup-accessor", ["update"], {}),
            # The inventory: names, versions and journals, no value.
            ("%s/metadata/" % kv, ["list", "scan"], {}),
            ("%s/metadata/*" % kv, ["read", "list", "scan"], {}),
            ("%s/data/+/+/_rotation" % kv, ["read"], {}),
            # What lies beside the contracts: names, and the policies of entities and groups.
            ("sys/mounts", ["read"], {}),
            ("sys/auth", ["read"], {}),
            *[(path, ["list"], {}) for path in (
                "sys/policies/acl/", "auth/%s/role/" % COMPONENT_AUTH, "auth/%s/role/" % IDENTITY_AUTH, "%s/roles/" % pki_root, "%s/roles/" % pki,
                "auth/token/roles/", "sys/namespaces/")],
            *[("identity/%s/id/%s" % (kind, one), [right], {}) for kind in ("entity", "group") for one, right in (("", "list"), ("+", "read"))],
            # What the site's own say, of which none is a secret.
            *[(path, ["read"], {}) for path in (
                "sys/policies/acl/default", "sys/policies/acl/%s*" % PREFIX, "auth/%s/role/+" % COMPONENT_AUTH, "%s/roles/%s*" % (pki, PREFIX),
                *([] if not ssh else ["%s/roles/%s" % (ssh, SSH_ROLE)]), *("%s/config/acme" % mount for mount in (pki_root, pki)))],
            ("sys/config/auditing/request-headers", ["read", "sudo"], {}),
        ]
        for identity in IDENTITIES.values():
            role = "auth/%s/role/%s" % (IDENTITY_AUTH, identity)
            rules += [("sys/policies/acl/" + identity, ["read"], {}), (role, ["read"], {}),
                      (role + "/secret-id", ["list"], {}), (role + "/secret-id-accessor/lookup", ["update"], {})]
    return render(rules)


def rotation(kv: str) -> str:
    """Policy of the rotation. It reads and writes every secret of the mount, which is what rotating is; deletions are by version only.

    It ends what a secret_id of the run's own identities opened, all by accessor: secret_ids of theirs and of components, and tokens. It issues none, so
    ``deploy``, which enters it, gains no right.
    """
    rules: list[Rule] = [
        ("%s/data/*" % kv, ["create", "read", "update"], {}),
        ("%s/metadata/*" % kv, ["read", "list", "scan"], {}),
        ("%s/metadata/" % kv, ["list", "scan"], {}),
        ("%s/destroy/+/+/_next" % kv, ["update"], {}),
    ]
    for role in [*("%s/role/%s" % (IDENTITY_AUTH, identity) for identity in IDENTITIES.values()), COMPONENT_AUTH + "/role/+"]:
        rules += [
            ("auth/%s/secret-id" % role, ["list"], {}),
            ("auth/%s/secret-id-accessor/lookup" % role, ["update"], {}),
            ("auth/%s/secret-id-accessor/destroy" % role, ["update"], {}),
        ]
    rules += [("auth/%s/role" % COMPONENT_AUTH, ["list"], {}), ("auth/token/revoke-accessor", ["update"], {})]
    return render([*rules, ("auth/token/revoke-self", ["update"], {})])


def authority(kv: str, pki_root: str, pki_int: str) -> str:
    """Policy of the authorities' rotation. It signs no host's certificate: that stays with the components."""
    edit = ["create", "read", "update"]
    rules: list[Rule] = [("%s/data/pki/*" % kv, edit, {}), ("%s/metadata/pki/*" % kv, ["read"], {})]
    for mount in (pki_root, pki_int):
        rules += [
            ("%s/issuers" % mount, ["list"], {}),
            ("%s/issuer/+" % mount, ["read", "update"], {}),
            ("%s/issuer/+/revoke" % mount, ["update"], {}),
            ("%s/config/issuers" % mount, ["read", "update"], {}),
        ]
    rules += [
        ("%s/root/rotate/internal" % pki_root, ["update"], {}),
        ("%s/issuer/+/sign-intermediate" % pki_root, ["update"], {}),
        ("%s/revoke" % pki_root, ["update"], {}),
        ("%s/issuers/import/cert" % pki_root, ["update"], {}),
        ("%s/crl/rotate" % pki_root, ["read"], {}),
        ("%s/keys" % pki_int, ["list"], {}),
        ("%s/intermediate/generate/internal" % pki_int, ["update"], {}),
        ("%s/intermediate/generate/existing" % pki_int, ["update"], {}),
        ("%s/intermediate/set-signed" % pki_int, ["update"], {}),
        ("auth/token/revoke-self", ["update"], {}),
    ]
    return render(rules)


def keys(kv: str) -> str:
    """Policy of the rotation of keyring and shares. Shares alone open a store; without them this identity changes nothing but the keyring's term."""
    edit = ["create", "read", "update", "delete", "sudo"]
    return render(
        [
            ("sys/rotate/keyring", ["update", "sudo"], {}),
            ("sys/key-status", ["read"], {}),
            *[("sys/rotate/%s/%s" % (which, step), edit, {}) for which in ("root", "recovery") for step in ("init", "update", "verify")],
            ("sys/storage/raft/snapshot", ["read"], {}),
            ("%s/data/openbao/*" % kv, ["create", "read", "update"], {}),
            ("%s/metadata/openbao/*" % kv, ["read"], {}),
            ("auth/token/revoke-self", ["update"], {}),
        ]
    )


def ssh_host(mount: str) -> str:
    """Policy of who certifies the hosts' SSH keys: the names that may stand in a certificate are site-admin's."""
    return render([
        ("%s/sign/%s" % (mount, SSH_ROLE), ["update"], {}),
        ("%s/config/ca" % mount, ["read"], {}),
        ("auth/token/revoke-self", ["update"], {}),
    ])  # fmt: skip


def internal(kv: str, pki_root: str, pki_int: str, ssh: str = "") -> dict[str, str]:
    """{name: policy} of the identities that are no component: entered through ``deploy`` as components are. *ssh*: mount of the hosts' SSH CA, or ""."""
    return {ROTATION: rotation(kv), AUTHORITY: authority(kv, pki_root, pki_int), KEYS: keys(kv), **({SSH_HOST: ssh_host(ssh)} if ssh else {})}


def deploy() -> str:
    """Policy of the deploy identity."""
    return render(
        [
            ("auth/%s/role/+/role-id" % COMPONENT_AUTH, ["read"], {}),
            ("auth/%s/role/+/secret-id" % COMPONENT_AUTH, ["update"], {"min_wrapping_ttl": "15s", "max_wrapping_ttl": "120s"}),
            ("auth/token/revoke-self", ["update"], {}),
        ]
    )


def site_admin(kv: str, pki_root: str, pki_int: str, ssh: str = "") -> str:
    """Policy of the site-admin identity. *ssh*: mount of the hosts' SSH CA, "" where there is none."""
    edit = ["create", "read", "update", "delete"]
    rules: list[Rule] = [
        ("sys/mounts", ["read"], {}),
        ("sys/auth", ["read"], {}),
        ("%s/config" % kv, ["read"], {}),
        ("%s/metadata/" % kv, ["list", "scan"], {}),
        ("%s/metadata/*" % kv, ["list", "scan", "read"], {}),
        ("%s/data/*" % kv, ["create"], {}),
        ("sys/policies/acl/%s*" % PREFIX, edit, {}),
        ("auth/%s/role/" % COMPONENT_AUTH, ["list"], {}),
        ("auth/%s/role/+" % COMPONENT_AUTH, edit, {}),
        ("%s/roles/%s*" % (pki_int, PREFIX), edit, {}),
        # Names alone: what somebody made beside the contracts is told.
        *[(path, ["list"], {}) for path in ("sys/policies/acl/", "auth/%s/role/" % IDENTITY_AUTH, "%s/roles/" % pki_root, "%s/roles/" % pki_int,
                                            "auth/token/roles/", "sys/namespaces/")],
        *([("%s/roles/%s" % (ssh, SSH_ROLE), ["create", "read", "update"], {})] if ssh else []),
        # Root is made by this identity *and* a quorum of key shares (since 2.6 neither can do it alone).
        ("sys/generate-root-token/*", ["create", "read", "update", "delete", "sudo"], {}),
        ("auth/token/revoke-self", ["update"], {}),
    ]
    for identity in ("site-admin", "deploy"):
        role = "auth/%s/role/%s" % (IDENTITY_AUTH, identity)
        rules += [
            ("sys/policies/acl/%s" % identity, ["read"], {}),
            (role, ["read"], {}),
            (role + "/role-id", ["read"], {}),
            (role + "/secret-id", ["update"], {}),
            (role + "/secret-id/lookup", ["update"], {}),
        ]
    return render(rules)
