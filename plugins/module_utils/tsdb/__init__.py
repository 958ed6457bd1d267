# SPDX-License-Identifier: Apache-2.0
"""VictoriaMetrics: client, expected series, and the judgement of freshness and completeness. Standard library, Python 3.9."""
