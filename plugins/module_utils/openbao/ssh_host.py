# SPDX-License-Identifier: Apache-2.0
"""The site's CA of hosts' SSH keys: one visit as ``hnai-ssh-host``. https://openbao.org/api-docs/secret/ssh/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import component, policies
from .client import Api, BaoError, NotFound, leave


def visit(api: Api, deploy: Mapping[str, str], mount: str, public: str = "", principals: Sequence[str] = ()) -> dict[str, Any]:
    """{ca: public key line, certificate: line or "" where no *public* key was given}. Raises VisitError, Unreachable."""
    token = component.enter(api, policies.SSH_HOST, deploy)
    try:
        ca = str(api.call("GET", mount + "/config/ca", token=token)["data"]["public_key"]).strip()
        if not public:
            return {"ca": ca, "certificate": ""}
        body = {"public_key": public, "cert_type": "host", "valid_principals": ",".join(principals)}
        signed = api.call("POST", "%s/sign/%s" % (mount, policies.SSH_ROLE), body, token=token)["data"]
        return {"ca": ca, "certificate": str(signed["signed_key"]).strip()}
    except NotFound as error:
        remedy = "there is no CA of hosts' SSH keys: openbao_ssh_host_mount, then the openbao play with root (docs/openbao-ceremony.md)"
        raise component.VisitError("%s: %s" % (error, remedy)) from error
    except BaoError as error:
        raise component.VisitError("certificate for %s: %s. The names that it may bear follow the inventory: run playbooks/components/openbao.yml" % (
            ", ".join(principals) or "a host", error)) from error  # fmt: skip
    finally:
        leave(api, token)
