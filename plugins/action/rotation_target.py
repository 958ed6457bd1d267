# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of rotation_target: of a module that broke nothing is shown, for its arguments are passwords."""

from __future__ import annotations

from ansible_collections.hnai.platform.plugins.plugin_utils.openly import Openly


class ActionModule(Openly):
    """See the module's documentation."""

    module = "hnai.platform.rotation_target"
