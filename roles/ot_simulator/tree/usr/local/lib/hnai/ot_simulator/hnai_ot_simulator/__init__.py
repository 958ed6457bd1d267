# SPDX-License-Identifier: Apache-2.0
"""A small well pad that produces data worth mirroring, with a journal of every sample (lab only)."""
