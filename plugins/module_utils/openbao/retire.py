# SPDX-License-Identifier: Apache-2.0
"""Takes away what OpenBao holds for a component that stands nowhere any more: AppRole, PKI role, policy. As the identity site-admin.

The AppRole goes first: from then on nobody enters as the component. Secrets stay: site-admin may create one, but neither read nor erase any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import policies
from .client import Api, BaoError, NotFound, leave, login


class RetireError(Exception):
    """What could not be taken away, with the remedy."""


def retire(api: Api, admin: Mapping[str, str], components: Iterable[str], pki: str, check: bool) -> list[str]:
    """What was (or would be) removed, in words. Raises RetireError, BaoError, Unreachable."""
    if not admin.get("secret_id"):
        raise RetireError("the controller has no site-admin identity; give it as openbao_site_admin, or bring openbao/deploy.json of the state directory back")
    token = str(login(api, policies.IDENTITY_AUTH, admin["role_id"], admin["secret_id"])["client_token"])
    removed = []
    try:
        for component in components:
            name = policies.PREFIX + component
            for what, path in (
                (f"AppRole {name}", f"auth/{policies.COMPONENT_AUTH}/role/{name}"),
                (f"PKI role {name}", f"{pki}/roles/{name}"),
                (f"policy {name}", f"sys/policies/acl/{name}"),
            ):
                if not _there(api, path, token):
                    continue
                removed.append(what)
                if check:
                    continue
                api.call("DELETE", path, token=token)
                if _there(api, path, token):
                    raise RetireError(f"{what} is still there after it was deleted")
    finally:
        leave(api, token)
    return removed


def _there(api: Api, path: str, token: str) -> bool:
    try:
        api.call("GET", path, token=token)
    except NotFound:
        return False
    except BaoError as error:
        raise RetireError(f"{path} cannot be looked at as site-admin: {error}") from error
    return True
