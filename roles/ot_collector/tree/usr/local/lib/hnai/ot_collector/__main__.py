# SPDX-License-Identifier: Apache-2.0
"""Entry point: ``python3 -I /usr/local/lib/hnai/ot_collector --config /etc/hnai/ot_collector/collector.json``."""
from hnai_ot_collector.main import main

if __name__ == "__main__":
    raise SystemExit(main())
