# SPDX-License-Identifier: Apache-2.0
"""Runs on a host: tries many TCP connections at once and says what came of each.

usage: - TIMEOUT_S UID FROM ADDRESS… -- PORT…      UID: -1 = as it is started; FROM: own addresses to dial from, by comma, or -

One JSON object {"ADDRESS PORT": "open" | "refused" | "silent" | "errno NAME"}; "silent" is left out. Refused means that a packet
got there and back: for a deny rule that is as much as open.
"""
from __future__ import annotations

import asyncio
import errno
import json
import os
import sys

AT_ONCE = 500


async def attempt(address: str, port: int, timeout_s: float, gate: asyncio.Semaphore, local: dict[bool, str]) -> str:
    own = local.get(":" in address)
    async with gate:
        try:
            _reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port, local_addr=(own, 0) if own else None), timeout_s)
        except asyncio.TimeoutError:
            return "silent"
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
                return "refused"
            # A packet that the host's own output chain dropped.
            return "silent" if error.errno == errno.EPERM else "errno %s" % errno.errorcode.get(error.errno or 0, str(error))
        writer.transport.abort()
        return "open"


async def main(timeout_s: float, local: dict[bool, str], addresses: list[str], ports: list[int]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    pairs = [(address, port) for address in addresses for port in ports]
    answers = await asyncio.gather(*(attempt(address, port, timeout_s, gate, local) for address, port in pairs))
    found = {"%s %d" % pair: answer for pair, answer in zip(pairs, answers) if answer != "silent"}
    print(json.dumps(found))


arguments = sys.argv[1:]
middle = arguments.index("--")
if int(arguments[1]) >= 0:
    os.setgroups([])
    os.setgid(int(arguments[1]))
    os.setuid(int(arguments[1]))
origins = {":" in text: text for text in arguments[2].split(",") if text != "-"}
asyncio.run(main(float(arguments[0]), origins, arguments[3:middle], [int(port) for port in arguments[middle + 1:]]))
