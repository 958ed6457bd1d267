# SPDX-License-Identifier: Apache-2.0
"""MQTT: a small client and the judgement of the site's broker. Standard library, Python 3.9."""
