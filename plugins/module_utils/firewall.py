# SPDX-License-Identifier: Apache-2.0
"""The confirmed-or-reverted life of a host's ruleset.

States on disk, in /var/lib/hnai/firewall (0700):
  confirmed.nft, confirmed.json   what was proven; the json has the digests of that text and of the table it became
  pending.nft, pending.json       what is loaded and not yet proven, and by which run
A change is armed (a timer that reverts), then pending, then loaded, and only a confirm of the same run ends it. Confirm and
revert are one shell script on the host (roles/firewall/tree), under the lock that apply takes. Killed anywhere, the host
either has the old ruleset or gets it back: the timer reverts, and a boot loads confirmed rules only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

#: run(argv, stdin) -> (rc, stdout, stderr)
Run = Callable[[list[str], Optional[str]], tuple[int, str, str]]
STATE = Path("/var/lib/hnai/firewall")
TOOL = "/usr/local/sbin/hnai-firewall"
TABLE = "table inet hnai"
_RUN_ID = re.compile(r"^[a-z0-9]{6,32}$")
#: Parts of a listing that change without anybody changing a rule.
_VOLATILE = frozenset(("handle", "packets", "bytes", "metainfo", "used"))


class FirewallError(Exception):
    """A change that was refused or did not hold. The text names the remedy."""


def digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def normalise(listing: str) -> str:
    """`nft -j list table` without counters and handles, as canonical JSON: equal exactly when the rules are."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in _VOLATILE}
        if isinstance(value, list):
            return [strip(item) for item in value]
        return value

    items = [item for item in json.loads(listing)["nftables"] if "metainfo" not in item]
    return json.dumps(strip(items), sort_keys=True, separators=(",", ":"))


def own_table_only(ruleset: str) -> None:
    """Raises FirewallError unless the text defines `table inet hnai` and nothing else."""
    depth = 0
    seen = False
    for number, line in enumerate(ruleset.splitlines(), 1):
        code = line.strip()
        if depth == 0 and (not code or code.startswith("#")):
            continue
        outside = depth == 0 and code not in (TABLE, f"delete {TABLE}", f"{TABLE} {{")
        seen = seen or (depth == 0 and code == f"{TABLE} {{")
        for character in code:
            depth += {"{": 1, "}": -1}.get(character, 0)
            outside = outside or (depth <= 0 and character == "}" and code != "}")
        if outside or code.startswith("include"):
            raise FirewallError(f"line {number}: {code!r} leaves {TABLE}; a ruleset of ours defines its own table only")
    if not seen or depth:
        raise FirewallError(f"the ruleset does not define {TABLE} completely")


class Firewall:
    """One host's ruleset. `run` executes a command; `state` is the directory of the files above."""

    def __init__(self, run: Run, state: Path = STATE) -> None:
        self.run = run
        self.state = state

    # -- reading

    def table(self) -> str:
        """Digest of the loaded table; '' if there is none. Raises FileNotFoundError where nft is absent."""
        rc, out, _err = self.run(["nft", "-j", "list", *TABLE.split()], None)
        return digest(normalise(out)) if rc == 0 else ""

    def _read(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self.state / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def confirmed_text(self) -> str:
        """The confirmed ruleset, '' if none."""
        try:
            return (self.state / "confirmed.nft").read_text(encoding="utf-8")
        except OSError:
            return ""

    def reasons(self, ruleset: str) -> list[str]:
        """Why the host is not at `ruleset`; [] if it is confirmed and loaded, unchanged."""
        record = self._read("confirmed.json")
        found = []
        if not record or digest(self.confirmed_text()) != record.get("ruleset"):
            found.append("no confirmed ruleset")
        elif record["ruleset"] != digest(ruleset):
            found.append("the ruleset changed")
        table = self.table()
        if not table:
            found.append("the table is not loaded")
        elif not found and table != record.get("table"):
            found.append("the loaded table was changed by hand")
        if (self.state / "pending.json").exists():
            found.append("a change was never confirmed")
        return found

    def check(self, ruleset: str) -> None:
        """Raises FirewallError if nft would not take it."""
        own_table_only(ruleset)
        rc, _out, err = self.run(["nft", "-c", "-f", "-"], ruleset)
        if rc != 0:
            raise FirewallError(f"nft refuses the ruleset; nothing was changed: {err.strip()[:2000]}")

    # -- changing

    def apply(self, ruleset: str, run_id: str, seconds: int, clock: Callable[[], float]) -> float:
        """Arm the dead-man, then load; returns the seconds since the arming.

        Raises FirewallError; then the old rules are (or come back) in force.
        """
        if not _RUN_ID.match(run_id):
            raise FirewallError(f"run_id {run_id!r} is not 6 to 32 lower-case letters and digits")
        self.check(ruleset)
        with self._locked():
            unit = self._timer(run_id)
            armed = clock()
            rc, _out, err = self.run(
                [
                    "systemd-run",
                    f"--unit={unit}",
                    f"--on-active={seconds}s",
                    "--timer-property=AccuracySec=100ms",
                    "--collect",
                    "--quiet",
                    TOOL,
                    "revert",
                    run_id,
                ],
                None,
            )
            if rc != 0:
                raise FirewallError(f"cannot arm the dead-man, so nothing was changed: {err.strip()}")
            self._write("pending.nft", ruleset)
            self._write("pending.json", json.dumps({"run_id": run_id, "ruleset": digest(ruleset)}))
            rc, _out, err = self.run(["nft", "-f", "-"], ruleset)
            if rc != 0:
                self._forget()
                self.run(["systemctl", "stop", f"{unit}.timer"], None)
                raise FirewallError(f"nft took the ruleset in the check and not in earnest; the old one stays: {err.strip()[:2000]}")
            record = {"run_id": run_id, "ruleset": digest(ruleset), "table": self.table()}
            self._write("pending.json", json.dumps(record, sort_keys=True))
            return clock() - armed

    @staticmethod
    def _timer(run_id: str) -> str:
        return f"hnai-firewall-deadman-{run_id}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The same lock that the revert takes."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.state / "lock").open("w", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all, also over a power cut."""
        temporary = self.state / f".{name}.new"
        with temporary.open("w", encoding="utf-8") as handle:
            os.fchmod(handle.fileno(), 0o600)
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(self.state / name)
        directory = os.open(self.state, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _forget(self) -> None:
        for name in ("pending.json", "pending.nft"):
            (self.state / name).unlink(missing_ok=True)


_FIELD = re.compile(r"\b(src|dst|sport|dport)=(\S+)")


def uncovered(listing: str, approved: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Entries of `conntrack -L` that no approved conduit covers, as {proto, src, dst, sport, dport}.

    `approved`: [{source: [address], target: [address], proto, port}]. Loopback and a host's talk to itself never count.
    An entry may have been picked up in the middle of a connection, so it is covered if either direction is approved.
    """
    pairs = {
        (str(ipaddress.ip_address(source)), str(ipaddress.ip_address(target)), item["proto"], str(item["port"]))
        for item in approved
        for source in item["source"]
        for target in item["target"]
    }
    found = []
    for line in listing.splitlines():
        words = line.split()
        proto = next((word for word in words[:3] if word in ("tcp", "udp")), "")
        fields: dict[str, str] = {}
        for key, value in _FIELD.findall(line):
            fields.setdefault(key, value)
        if not proto or set(fields) != {"src", "dst", "sport", "dport"}:
            continue
        source, target = ipaddress.ip_address(fields["src"]), ipaddress.ip_address(fields["dst"])
        if source == target or source.is_loopback or target.is_loopback:
            continue
        there = (str(source), str(target), proto, fields["dport"])
        back = (str(target), str(source), proto, fields["sport"])
        if there not in pairs and back not in pairs:
            found.append({"proto": proto, **fields})
    return found


def cut(run: Run, approved: list[dict[str, Any]]) -> tuple[list[dict[str, str]], str]:
    """Delete exactly the connections that no conduit covers; (deleted, note). A flush would kill every OPC UA session."""
    deleted: list[dict[str, str]] = []
    for family in ("ipv4", "ipv6"):
        try:
            rc, out, err = run(["conntrack", "-L", "-f", family], None)
        except FileNotFoundError:
            return deleted, "conntrack is not installed: connections of removed conduits live until they end"
        if rc != 0:
            return deleted, f"conntrack cannot list: {err.strip()[:200]}"
        for entry in uncovered(out, approved):
            arguments = ["-p", entry["proto"], "-s", entry["src"], "-d", entry["dst"]]
            rc, _out, _err = run(["conntrack", "-D", "-f", family, *arguments, "--sport", entry["sport"], "--dport", entry["dport"]], None)
            if rc == 0:
                deleted.append(entry)
    return deleted, ""
