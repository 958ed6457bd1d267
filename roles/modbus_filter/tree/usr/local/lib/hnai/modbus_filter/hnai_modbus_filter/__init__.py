# SPDX-License-Identifier: Apache-2.0
"""The filter of hnai.platform, from plugins/module_utils/modbus."""
