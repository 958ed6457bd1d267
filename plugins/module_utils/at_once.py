# SPDX-License-Identifier: Apache-2.0
"""Several are asked at the same time: who is silent costs the time of one question, and holds up nobody else's.

In threads, for questions that wait for the network; ``fanout`` is for work that needs a process of its own. Pure standard library, Python 3.9.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

Key = TypeVar("Key")
Answer = TypeVar("Answer")


def ask(question: Callable[[Key], Answer], keys: Iterable[Key], limit_s: float | None) -> dict[Key, Answer | Exception]:
    """Key → its answer, or what the question raised; TimeoutError where neither is there after *limit_s* (None: each is waited for).

    A question that is late goes on by itself and ends with the process.
    """
    found: dict[Key, Answer | Exception] = {}

    def one(key: Key) -> None:
        try:
            found[key] = question(key)
        except Exception as error:
            found[key] = error

    threads = {key: threading.Thread(target=one, args=(key,), daemon=True) for key in keys}
    end = None if limit_s is None else time.monotonic() + limit_s
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(None if end is None else max(0.0, end - time.monotonic()))
    return {key: found.get(key, TimeoutError("no answer in time")) for key in threads}
