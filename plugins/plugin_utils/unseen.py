# SPDX-License-Identifier: Apache-2.0
"""The way of a module whose arguments or answer hold secrets: neither in the log nor in a file on the target."""

from __future__ import annotations

from typing import Any


def unseen(connection: Any) -> None:
    """For this task, whose own result may be shown all the same."""
    # At -vvv ssh prints what a module answers: values, secret_ids, key shares.
    connection._play_context.no_log = True
    # Without pipelining the arguments lie in ~/.ansible/tmp, and stay there where the controller dies.
    connection.always_pipeline_modules = True
