# SPDX-License-Identifier: Apache-2.0
"""Zones and conduits: the site model and what follows from it (flows, invariants, rulesets, ACLs)."""
