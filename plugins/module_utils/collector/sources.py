# SPDX-License-Identifier: Apache-2.0
"""Which sources a new configuration of the collector reads otherwise than the deployed one. Pure."""
from __future__ import annotations

import json
from typing import Any


class NotReadable(ValueError):
    """A configuration that is none."""


def _sources(text: str, what: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        return {str(one["id"]): one for one in json.loads(text)["sources"]}
    except (ValueError, KeyError, TypeError) as error:
        raise NotReadable("the %s configuration of the collector is none: %s" % (what, error)) from None


def changed(before: str, after: str) -> list[str]:
    """Ids of the sources in *after* (text of collector.json) that *before* (empty: there is none) does not have, or has otherwise.

    Sorted. What is gone from *after* needs no audit. A deployed file that cannot be read knows no source. Raises NotReadable for *after*.
    """
    try:
        old = _sources(before, "deployed")
    except NotReadable:
        old = {}
    return sorted(name for name, source in _sources(after, "new").items() if old.get(name) != source)
