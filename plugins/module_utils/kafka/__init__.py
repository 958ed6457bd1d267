# SPDX-License-Identifier: Apache-2.0
"""Cores of the Kafka modules. Only `adapter` needs a third-party library; everything else is standard library."""
