# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of ssh_host_signature: it is told by the site who asks, and where."""

from __future__ import annotations

from ansible_collections.hnai.platform.plugins.plugin_utils.openly import Openly


class ActionModule(Openly):
    """See the module's documentation."""

    module = "hnai.platform.ssh_host_signature"
    asks = ("deploy", "external")
