# SPDX-License-Identifier: Apache-2.0
"""Command line: one process per simulated device."""
from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from .control import read_faults, serve
from .journal import Journal


def credential(name: str) -> str:
    """Text of the systemd credential *name*. Raises SystemExit naming what is missing."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise SystemExit("E! no CREDENTIALS_DIRECTORY: start this by its unit (LoadCredential=%s)" % name)
    path = Path(directory) / name
    if not path.exists():
        raise SystemExit("E! credential %s is missing (LoadCredential= of the unit)" % name)
    return path.read_text(encoding="utf-8").strip()


def line_identity(config: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The line's (configuration, password): the credential is a password, or `user:password` where a rotation gave it another user."""
    user, _colon, password = credential("line").rpartition(":")
    return (dict(config, username=user) if user else config), password


def load(path: Path) -> dict[str, Any]:
    """The configuration. Raises SystemExit naming the file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit("E! %s: %s" % (path, error)) from error
    if not isinstance(config, dict):
        raise SystemExit("E! %s: must be a JSON object" % path)
    return config


async def _until_told(simulator: Any, control: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await simulator.start()
    listener = await serve(control, simulator.command)
    work = asyncio.create_task(simulator.run())
    told = asyncio.create_task(stop.wait())
    await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
    if listener is not None:
        listener.close()
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        logging.getLogger("hnai").info("I! told to stop")
    await asyncio.wait_for(simulator.stop(), 5)


def _make(device: str, config: dict[str, Any]) -> Any:
    journal_dir = Path(config["journal"]["directory"])
    journal = Journal(journal_dir, device, int(config["journal"]["limit_bytes"]), int(config["journal"]["keep"]))
    faults = read_faults(Path(config["faults"])) if config.get("faults") else {}
    if device == "opcua":
        from .opcua import OpcuaSimulator
        from .plant import Plant

        passwords = {name: credential(name) for name in ("observer", "engineer")}
        return OpcuaSimulator(config["opcua"], credential("server_key"), Plant(config["plant"]), journal, passwords,
                              faults.get("opcua", {}))
    if device == "modbus":
        from .modbus import ModbusSimulator

        return ModbusSimulator(config["modbus"], config["plant"], journal)
    from .line import LineSimulator

    line, password = line_identity(config["line"])
    beside = None
    if "sparkplug" in config["plant"]["line"]:
        from .sparkplug_line import SparkplugLine

        own = Journal(journal_dir, "sparkplug", int(config["journal"]["limit_bytes"]), int(config["journal"]["keep"]))
        beside = SparkplugLine({**line, "bdseq": str(journal_dir / "sparkplug.bdseq")}, config["plant"], own, password)
    return LineSimulator(line, config["plant"], journal, password, beside)


def main() -> int:
    """Run one device until SIGTERM."""
    parser = argparse.ArgumentParser(prog="hnai-ot-simulator", description=__doc__)
    parser.add_argument("device", choices=["opcua", "modbus", "line"])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--control", type=Path, default=None)
    args = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message).400s")
    logging.getLogger("hnai").setLevel(logging.INFO)

    async def run() -> None:
        await _until_told(_make(args.device, load(args.config)), args.control)

    asyncio.run(run())
    return 0
