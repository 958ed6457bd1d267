# SPDX-License-Identifier: Apache-2.0
"""MQTT topic filters [MQTT 3.1.1, 4.7]. Standard library, Python 3.9."""

from __future__ import annotations


def mqtt_overlap(first: str, second: str) -> bool:
    """Can one topic match both MQTT filters?

    >>> mqtt_overlap("ot/#", "ot/a/+"), mqtt_overlap("line/1/cmd", "ot/#")
    (True, False)
    """
    left, right = first.split("/"), second.split("/")
    while left and right:
        if "#" in (left[0], right[0]):
            return True
        if left[0] != right[0] and "+" not in (left[0], right[0]):
            return False
        left, right = left[1:], right[1:]
    return (not left and not right) or (left or right) == ["#"]
