# SPDX-License-Identifier: Apache-2.0
"""Runs on OpenBao's host: every version of every secret that OpenBao still holds, as JSON {"path vN field": value}.

usage: - ADDRESS CA; the test fills in DEPLOY, so that it stands in no argument.
"""
from __future__ import annotations

import json
import ssl
import sys
import urllib.error
import urllib.request

DEPLOY: dict[str, str] = {}
ADDRESS, CA = sys.argv[1:]
CONTEXT = ssl.create_default_context(cafile=CA)


def call(method: str, path: str, token: str = "", body: object = None, wrap: str = "") -> dict:
    """One request; {} where nothing is."""
    headers = {"X-Vault-Token": token, "X-Vault-Wrap-TTL": wrap, "Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{ADDRESS}/v1/{path}", None if body is None else json.dumps(body).encode(),
        {name: value for name, value in headers.items() if value}, method=method,
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=10, context=CONTEXT) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return {}
        raise


def names(token: str, folder: str = "") -> list[str]:
    """Paths of all secrets below a folder."""
    found = []
    for name in call("LIST", f"hnai/metadata/{folder}", token).get("data", {}).get("keys", []):
        found += names(token, folder + name) if name.endswith("/") else [folder + name]
    return found


deploy = call("POST", "auth/approle/login", body=DEPLOY)["auth"]["client_token"]
role = "auth/hnai/role/hnai-rotation"
entry = {"role_id": call("GET", f"{role}/role-id", deploy)["data"]["role_id"]}
wrapped = call("POST", f"{role}/secret-id", deploy, {}, "60s")["wrap_info"]["token"]
entry["secret_id"] = call("POST", "sys/wrapping/unwrap", wrapped, {})["data"]["secret_id"]
token = call("POST", "auth/hnai/login", body=entry)["auth"]["client_token"]
values = {}
for path in names(token):
    for version, about in call("GET", f"hnai/metadata/{path}", token)["data"]["versions"].items():
        if about["destroyed"] or about["deletion_time"]:
            continue
        for field, value in call("GET", f"hnai/data/{path}?version={version}", token)["data"]["data"].items():
            values[f"{path} v{version} {field}"] = value
for one in (token, deploy):
    call("POST", "auth/token/revoke-self", one, {})
print(json.dumps(values))
