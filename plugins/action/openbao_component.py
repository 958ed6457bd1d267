# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of openbao_component: its result is secret, the reason why it refuses is not."""

from __future__ import annotations

from ansible_collections.hnai.platform.plugins.plugin_utils.openly import Openly


class ActionModule(Openly):
    """See the module's documentation."""

    module = "hnai.platform.openbao_component"
    asks = ("deploy", "external", "kv", "pki_root", "pki_int")
