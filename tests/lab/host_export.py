# SPDX-License-Identifier: Apache-2.0
"""Runs on a host: what lies in the store between two instants, as its dashboard identity may see it.

usage: - URL USERNAME CA_FILE COMPONENT CREDENTIAL START_MS END_MS SELECTOR …

One JSON object: {selector: [{"metric", "values": [[s, "value"]]}]} of /api/v1/export. `reduce_mem_usage` leaves out the store's
own removal of duplicates, so that a sample that was written twice is seen twice; `promapi` is one document, so that an answer that
was cut is none. The password never leaves this process.
"""
from __future__ import annotations

import base64
import http.client
import json
import ssl
import subprocess
import sys
import urllib.parse


def main(url: str, username: str, ca_file: str, component: str, name: str, start: str, end: str, *selectors: str) -> None:
    path = "/etc/credstore.encrypted/hnai-%s.%s" % (component, name)
    decrypt = ["systemd-creds", "decrypt", "--name=" + name, path, "-"]
    password = subprocess.run(decrypt, check=True, stdout=subprocess.PIPE, timeout=20).stdout
    login = base64.b64encode(username.encode("ascii") + b":" + password).decode("ascii")
    parts = urllib.parse.urlsplit(url)
    context = ssl.create_default_context(cafile=ca_file)
    found = {}
    for selector in selectors:
        wanted = {"match[]": selector, "start": "%.3f" % (int(start) / 1000), "end": "%.3f" % (int(end) / 1000), "format": "promapi", "reduce_mem_usage": "1"}
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=60, context=context)
        connection.request("GET", "/api/v1/export?" + urllib.parse.urlencode(wanted), headers={"Authorization": "Basic " + login})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit("%s: HTTP %d: %s" % (url, answer.status, body[:200]))
        found[selector] = json.loads(body)["data"]["result"]
    json.dump(found, sys.stdout, separators=(",", ":"))


main(*sys.argv[1:])
