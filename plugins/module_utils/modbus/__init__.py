# SPDX-License-Identifier: Apache-2.0
"""Modbus/TCP: the read-only filter, and the proof that nothing but its allow list passes."""
