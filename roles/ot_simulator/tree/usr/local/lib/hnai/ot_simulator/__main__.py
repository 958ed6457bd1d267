# SPDX-License-Identifier: Apache-2.0
"""Entry point: ``python3 -I /usr/local/lib/hnai/ot_simulator opcua|modbus|line --config FILE``."""
from hnai_ot_simulator.main import main

if __name__ == "__main__":
    raise SystemExit(main())
