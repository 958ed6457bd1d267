# SPDX-License-Identifier: Apache-2.0
"""OT collector: reads OPC UA and Modbus sources and prints one influx line per sample; never writes to a source."""
