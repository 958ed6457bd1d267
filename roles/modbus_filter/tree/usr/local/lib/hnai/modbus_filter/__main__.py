# SPDX-License-Identifier: Apache-2.0
"""The read-only Modbus filter: ``python3 -I /usr/local/lib/hnai/modbus_filter --config /etc/hnai/modbus_filter/filter.json [--check]``.

Ends with 78 for a configuration that cannot be used, 1 when a socket or the status file cannot be opened; then nothing listens.
"""
from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from hnai_modbus_filter.filter import Config, ConfigError, names, parse
from hnai_modbus_filter.filter_server import Filter

EX_CONFIG = 78


async def run(config: Config, log: logging.Logger) -> None:
    """Until SIGTERM. Raises OSError."""
    filtering = Filter(config, log)
    await filtering.start()
    log.info("stands for %s", names(config.devices))
    reporting = asyncio.ensure_future(filtering.report())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, reporting.cancel)
    try:
        await reporting
    except asyncio.CancelledError:
        log.info("stopped")
    finally:
        await filtering.stop()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="modbus_filter")
    parser.add_argument("--config", required=True)
    parser.add_argument("--check", action="store_true", help="only say whether the configuration can be used")
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    log = logging.getLogger("modbus_filter")
    try:
        config = parse(Path(options.config).read_text(encoding="utf-8"), options.config)
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        log.error("%s", error)
        return EX_CONFIG
    if options.check:
        return 0
    try:
        asyncio.run(run(config, log))
    except OSError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
