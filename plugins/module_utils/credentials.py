# SPDX-License-Identifier: Apache-2.0
"""Secrets of a component as systemd credentials, encrypted with the host's key.

A file /etc/credstore.encrypted/hnai-<component>.<name> is bound to the name <name>, so that the unit loads it with
`LoadCredentialEncrypted=<name>:/etc/credstore.encrypted/hnai-<component>.<name>`. Each encryption of a value differs, therefore
the host decrypts and compares: an unchanged value is not written again (the ciphertext is part of the unit's restart digest).
Values travel through standard input only.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Mapping, Sequence

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import (
    NAME,
    Host,
    HostError,
    atomic_write,
    ensure_directory,
    read_file,
)

STORE = "/etc/credstore.encrypted"
#: Suffix of the other identity of a pair: same rights, another password, so that a product with one password per name can overlap.
TWIN = ".b"
_CREDENTIAL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


def base(name: str) -> str:
    """The identity of a pair.

    >>> base("line1.b")
    'line1'
    """
    return name[: -len(TWIN)] if name.endswith(TWIN) else name


def path_of(component: str, name: str) -> str:
    """Where a component's credential lies."""
    return f"{STORE}/hnai-{component}.{name}"


def select(wanted: Sequence[Mapping[str, str]], secrets: Mapping[str, Mapping[str, object]], predict: bool = False) -> dict[str, str | None]:
    """{name: value} of the `wanted` ({path, field, as, wrap?, default?, name_field?}) out of `secrets` ({path: {field: value}}).

    `wrap` is the text of a file that a product reads the value from (a JAAS entry), with one `%s` where the value stands, and `%{field}` for
    other fields of the secret.

    `default` is the value of a field that a secret, which is there, does not have. `name_field` names the field that says which of a pair of
    identities the secret is for: its value, `as` itself or `as` + TWIN, becomes the credential's name.

    With `predict` a value that is not there is None; otherwise it raises HostError naming path and field.
    """
    found: dict[str, str | None] = {}
    for item in wanted:
        secret = secrets.get(item["path"]) or {}
        value = secret.get(item["field"], item.get("default") if secret else None)
        if value is None and not predict:
            raise HostError(
                f"credentials: {item['as']}: OpenBao delivered no field '{item['field']}' at hnai/{item['path']}; "
                "declare the secret in a contract (meta/component.yml, secrets), converge the openbao component, then run again"
            )
        name = str(secret.get(item.get("name_field") or "", item["as"]))
        if name not in (item["as"], item["as"] + TWIN):
            raise HostError(
                f"credentials: hnai/{item['path']} is for '{name}', and this host knows '{item['as']}' and '{item['as']}{TWIN}': "
                "put the right name back into the secret"
            )
        if name in found:
            raise HostError(f"credentials: two secrets have the name '{name}'")
        wrap = item.get("wrap") or "%s"
        if wrap.count("%s") != 1:
            raise HostError(f"credentials: {item['as']}: 'wrap' has exactly one %s, where the value stands")
        for field in re.findall(r"%\{([a-z_]+)\}", wrap):
            if field not in secret and not predict:
                raise HostError(f"credentials: {item['as']}: OpenBao delivered no field '{field}' at hnai/{item['path']}, which 'wrap' names")
            wrap = wrap.replace("%{" + field + "}", str(secret.get(field, "")))
        found[name] = None if value is None else wrap.replace("%s", str(value))
    return found


def decrypt(host: Host, component: str, name: str) -> bytes | None:
    """The stored value; None when there is none that this host can decrypt."""
    if read_file(host, path_of(component, name)) is None:
        return None
    done = host.run(["systemd-creds", "decrypt", f"--name={name}", host.at(path_of(component, name)), "-"])
    return done.out if done.rc == 0 else None


def encrypt(host: Host, name: str, value: bytes) -> bytes:
    """The value, encrypted with the host's key and bound to `name`."""
    done = host.run(["systemd-creds", "encrypt", "--with-key=host", f"--name={name}", "-", "-"], stdin=value)
    if done.rc != 0:
        raise HostError(f"credentials: systemd-creds could not encrypt '{name}': {done.message}")
    return done.out


def converge(host: Host, component: str, items: Mapping[str, str | None], check: bool = False) -> list[str]:
    """Stores what differs; returns the names of the credentials that were (or would be) written or repaired.

    A value of None (only in check mode) means: not known here; it counts as unchanged where a credential lies already, as this host can open it.
    """
    if not NAME.match(component):
        raise HostError(f"component: '{component}' is not a component's name")
    changed: list[str] = []
    for name, value in sorted(items.items()):
        path = path_of(component, name)
        if not _CREDENTIAL.match(name):
            raise HostError(f"credentials: '{name}' is no name of a credential (letters, digits, . _ -)")
        if value is None:
            if not check:
                raise HostError(f"credentials: '{name}' has no value")
            if decrypt(host, component, name) is None or _drifted(host, path):
                changed.append(name)
            continue
        if value == "":
            raise HostError(f"credentials: '{name}' is empty")
        stored = decrypt(host, component, name)
        if stored is None or not hmac.compare_digest(stored, value.encode()):
            changed.append(name)
            if not check:
                if read_file(host, path) is None:
                    ensure_directory(host, STORE, 0o700, 0, 0)
                atomic_write(host, path, encrypt(host, name, value.encode()), 0o600, 0, 0)
        elif _drifted(host, path):
            changed.append(name)
            if not check:
                content = read_file(host, path)
                atomic_write(host, path, content or b"", 0o600, 0, 0)
    return changed


def _drifted(host: Host, path: str) -> bool:
    """Whether mode or owner differ from 0600 root."""
    info = os.lstat(host.at(path))
    return stat.S_IMODE(info.st_mode) != 0o600 or host.owner(info) != (0, 0)
