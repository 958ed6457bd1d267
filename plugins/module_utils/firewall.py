# SPDX-License-Identifier: Apache-2.0
"""The confirmed-or-reverted life of a host's ruleset.

States on disk, in /var/lib/hnai/firewall (0700):
  confirmed.nft, .json, .list     what was proven; the json has the digests of that text and of the table it became, and who approved a
                                  change from observe to enforce, of the host and of boundaries; the list is that table as nft lists it, for people
  pending.nft, .json, .list       what is loaded and not yet proven, and by which run
  observed/                       what `observe` had seen in tables that have been replaced, and what was open when rules that observe
                                  were loaded, for those rules never see it begin (firewall_observed.py)
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
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Callable, Optional

from ansible_collections.hnai.platform.plugins.module_utils import firewall_proof
from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes

#: run(argv, stdin) -> (rc, stdout, stderr)
Run = Callable[[list[str], Optional[str]], tuple[int, str, str]]
STATE = Path("/var/lib/hnai/firewall")
TOOL = "/usr/local/sbin/hnai-firewall"
TABLE = "table inet hnai"
_RUN_ID = re.compile(r"^[a-z0-9]{6,32}$")
#: Parts of a listing that change without anybody changing a rule.
_VOLATILE = frozenset(("handle", "packets", "bytes", "metainfo", "used"))
#: A ruleset that observes, or a boundary of which does, writes down what it lets pass.
_OBSERVING = "@observed_"


class FirewallError(Exception):
    """A change that was refused or did not hold. The text names the remedy."""


def digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def normalise(listing: str) -> str:
    """`nft -j list table` without counters and handles, as canonical JSON: equal exactly when the rules are."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            # The elements of a set with timeouts were put there by packets, not by a person.
            grown = {"elem"} if {"timeout", "dynamic"} & set(value.get("flags") or ()) else set()
            return {key: strip(item) for key, item in value.items() if key not in _VOLATILE | grown}
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

    def listing(self) -> str:
        """The loaded table as nft lists it, without counters and without what packets put into sets; '' if there is none."""
        rc, out, _err = self.run(["nft", "-s", "list", *TABLE.split()], None)
        if rc == 0 and "flags dynamic" in out:
            rc, out, _err = self.run(["nft", "-s", "-t", "list", *TABLE.split()], None)
        return out if rc == 0 else ""

    def strangers(self, declared: Collection[str]) -> list[str]:
        """Tables of others that are not among `declared`, as `inet NAME`. Raises FirewallError where nft does not say."""
        rc, out, err = self.run(["nft", "list", "tables"], None)
        if rc != 0:
            raise FirewallError(f"nft list tables: {err.strip() or f'ended with {rc}'}")
        found = [line.strip().partition("table ")[2] for line in out.splitlines() if line.strip()]
        return [table for table in found if table not in declared and f"table {table}" not in (TABLE, firewall_proof.TABLE)]

    def observing(self) -> bool:
        """Whether the confirmed ruleset, or a boundary in it, observes."""
        return _OBSERVING in self.confirmed_text()

    def drift(self) -> tuple[str, str]:
        """(the table as it was confirmed, the table as it is), as nft lists them; ('', '') where they are the same."""
        try:
            kept = (self.state / "confirmed.list").read_text(encoding="utf-8")
        except OSError:
            kept = ""
        now = self.listing()
        return ("", "") if now == kept else (kept, now)

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

    # -- the connections that a change must not cut

    def look(self, approved: list[dict[str, Any]], seconds: float, sleep: Callable[[float], None], connect: firewall_proof.Connect) -> dict[str, list[Any]]:
        """What the approved conduits carry through this host now: {carrying: [pair], idle: [pair], answering: [pair]}.

        `carrying`: packets of a connection passed in both directions within `seconds`. `idle`: a connection that says nothing. `answering`:
        those of the idle ones that this host itself may open, and whose target answered a new connection. Raises FirewallError.
        """
        rc, _out, err = self.run(["nft", "-f", "-"], firewall_proof.rules())
        if rc != 0:
            raise FirewallError(f"the connections cannot be looked at, so nothing was changed: {err.strip()[:500]}")
        try:
            sleep(seconds)
            _before, behind, full = self._noted()
        finally:
            # Where our rules are the first, it stays until they are loaded: what is tracked already is not new to them.
            if self.table():
                self.run(["nft", "delete", *firewall_proof.TABLE.split()], None)
        if full:
            raise FirewallError(f"more than {firewall_proof.SIZE} connections pass in {seconds:g} s; they cannot be told apart, so nothing was changed")
        approvals = firewall_proof.book(approved)
        carrying = firewall_proof.carrying(behind, approvals)
        idle = sorted(set(self._established(approvals)) - set(carrying))
        answers = firewall_proof.ask(self._askable(idle, approved), connect)
        return {"carrying": carrying, "idle": idle, "answering": [pair for pair, reached in answers.items() if reached]}

    def still(
        self, looked: dict[str, list[Any]], approved: list[dict[str, Any]], seconds: float, clock: Callable[[], float], sleep: Callable[[float], None],
        connect: firewall_proof.Connect,
    ) -> dict[str, list[str]]:  # fmt: skip
        """After the change: {cut: [text], idle: [text], alive: [text]} of what `look` found."""
        carrying = [firewall_proof.Pair(*pair) for pair in looked["carrying"]]
        answering = [firewall_proof.Pair(*pair) for pair in looked["answering"]]
        state = firewall_proof.wait(carrying, self._noted, seconds, clock, sleep)
        quiet = [pair for pair, what in state.items() if what == "idle"]
        state.update(dict.fromkeys(answering, "idle"))
        for pair, reached in firewall_proof.ask([*self._askable(quiet, approved), *answering], connect).items():
            state[pair] = "alive" if reached else "cut"
        state.update({pair: "idle" for pair in (firewall_proof.Pair(*one) for one in looked["idle"]) if pair not in state})
        return {what: [pair.text() for pair in sorted(state) if state[pair] == what] for what in ("cut", "idle", "alive")}

    def _noted(self) -> tuple[set[firewall_proof.Packet], set[firewall_proof.Packet], bool]:
        rc, out, err = self.run(["nft", "-j", "list", *firewall_proof.TABLE.split()], None)
        if rc != 0:
            raise FirewallError(f"{firewall_proof.TABLE} is gone in the middle of a change: {err.strip()[:200]}")
        return firewall_proof.noted(out)

    def _established(self, approvals: dict[tuple[str, str, str, int], firewall_proof.Pair]) -> Iterator[firewall_proof.Pair]:
        for family in ("ipv4", "ipv6"):
            try:
                rc, out, _err = self.run(["conntrack", "-L", "-f", family], None)
            except FileNotFoundError:
                return
            lines = [line for line in out.splitlines() if " ESTABLISHED " in line or (line.startswith("udp") and "[ASSURED]" in line)]
            for entry in tracked("\n".join(lines)) if rc == 0 else ():
                pair = firewall_proof.covered(packet(entry), approvals) if entry["proto"] in ("tcp", "udp") else None
                if pair is not None:
                    yield pair

    @staticmethod
    def _askable(pairs: list[firewall_proof.Pair], approved: list[dict[str, Any]]) -> list[firewall_proof.Pair]:
        """Those that a new connection may be tried for: never into level 2, and only by a user who may."""
        closed = {item.get("id") for item in approved if item.get("plant") or item.get("uid") is not None}
        return [pair for pair in pairs if pair.proto == "tcp" and pair.conduit not in closed]

    # -- changing

    def apply(
        self, ruleset: str, run_id: str, seconds: int, clock: Callable[[], float], modes: Modes | None = None, approved: list[dict[str, Any]] | None = None
    ) -> float:
        """Arm the dead-man, then load, with the table of firewall_proof around it; returns the seconds since the arming.

        Of rules that observe, with `approved` as for `uncovered`, it is kept what was open and no conduit covers. Raises FirewallError; then
        the old rules are (or come back) in force.
        """
        if not _RUN_ID.match(run_id):
            raise FirewallError(f"run_id {run_id!r} is not 6 to 32 lower-case letters and digits")
        self.check(ruleset)
        kept = approved if _OBSERVING in ruleset else None
        modes = modes or Modes("observe" if kept is not None else "enforce")
        with self._locked():
            before = self._open(kept, modes)
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
            self._keep_observed()
            rc, _out, err = self.run(["nft", "-f", "-"], ruleset + firewall_proof.rules())
            if rc != 0:
                self._forget()
                self.run(["systemctl", "stop", f"{unit}.timer"], None)
                raise FirewallError(f"nft took the ruleset in the check and not in earnest; the old one stays: {err.strip()[:2000]}")
            # Before and after: what begins in between is known to the one or to the other.
            self._keep_open(run_id, [*before, *self._open(kept, modes)])
            self._write("pending.list", self.listing())
            record: dict[str, Any] = {"run_id": run_id, "ruleset": digest(ruleset), "table": self.table()}
            names = {side.id: side.approved_by for side in modes.sides if side.approved_by}
            record.update({"approved_by": names.pop("")} if "" in names else {})
            record.update({"boundaries_approved_by": names} if names else {})
            self._write("pending.json", json.dumps(record, sort_keys=True))
            return clock() - armed

    def _keep_observed(self) -> None:
        """What `observe` saw goes with the table; it is kept as it was, named by its handle, as the script does it."""
        rc, out, _err = self.run(["nft", "-j", "list", *TABLE.split()], None)
        if rc == 0 and '"observed_' in out:
            (self.state / "observed").mkdir(mode=0o700, exist_ok=True)
            self._write(f"observed/{table_name(out)}.json", out)

    def _open(self, approved: list[dict[str, Any]] | None, modes: Modes) -> list[dict[str, str]]:
        """Connections that no conduit covers and that are observed; [] for None, and where nobody can list them (which the list of flows says)."""
        found: list[dict[str, str]] = []
        for family in ("ipv4", "ipv6") if approved is not None else ():
            try:
                rc, out, _err = self.run(["conntrack", "-L", "-f", family], None)
            except FileNotFoundError:
                return []
            for entry in uncovered(out, approved or []) if rc == 0 else ():
                side = modes.charge(entry["src"], entry["dst"])
                if side.mode == "observe":
                    found.append({**entry, "boundary": side.id} if side.id else entry)
        return found

    def _keep_open(self, name: str, entries: list[dict[str, str]]) -> None:
        """With the sockets of that moment: they tell who opened what."""
        if entries:
            try:
                _rc, sockets, _err = self.run(["ss", "-Hanptu"], None)
            except FileNotFoundError:
                sockets = ""
            (self.state / "observed").mkdir(mode=0o700, exist_ok=True)
            unique = [dict(one) for one in sorted({tuple(sorted(entry.items())) for entry in entries})]
            self._write(f"observed/{name}.open", json.dumps({"open": unique, "sockets": sockets}))

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
        temporary = self.state / f"{name}.new"
        with temporary.open("w", encoding="utf-8") as handle:
            os.fchmod(handle.fileno(), 0o600)
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(self.state / name)
        directory = os.open(temporary.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _forget(self) -> None:
        for name in ("pending.json", "pending.nft", "pending.list"):
            (self.state / name).unlink(missing_ok=True)


def table_name(listing: str) -> str:
    """Names a loaded table until the next boot: its handle."""
    tables = [item["table"] for item in json.loads(listing)["nftables"] if "table" in item]
    return str(tables[0]["handle"])


_FIELD = re.compile(r"\b(src|dst|sport|dport|type|code|id)=(\S+)")
_PORTS = frozenset(("sport", "dport"))


def tracked(listing: str) -> Iterator[dict[str, str]]:
    """Entries of `conntrack -L` by their original direction: {proto, src, dst}, with sport and dport, or type, code and id, where there are.

    Loopback and a host's talk to itself are left out.
    """
    for line in listing.splitlines():
        words = line.split()
        fields: dict[str, str] = {}
        for key, value in _FIELD.findall(line):
            fields.setdefault(key, value)
        if len(words) < 3 or not words[1].isdigit() or not {"src", "dst"} <= set(fields):
            continue
        source, target = ipaddress.ip_address(fields["src"]), ipaddress.ip_address(fields["dst"])
        if source != target and not source.is_loopback and not target.is_loopback:
            yield {"proto": words[1] if words[0] == "unknown" else words[0], **fields}


def packet(entry: dict[str, str]) -> firewall_proof.Packet:
    """The original direction of a tracked TCP or UDP connection."""
    source, target = (str(ipaddress.ip_address(entry[key])) for key in ("src", "dst"))
    return firewall_proof.Packet(source, target, entry["proto"], int(entry["sport"]), int(entry["dport"]))


def uncovered(listing: str, approved: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Entries of `conntrack -L` that no approved conduit covers, as `tracked`; of any protocol, for conduits speak TCP and UDP only.

    `approved`: [{source: [address], target: [address], proto, port}]. An entry may have been picked up in the middle of a connection, so
    it is covered if either direction is approved.
    """
    pairs = firewall_proof.book(approved)
    found = []
    for entry in tracked(listing):
        if entry["proto"] in ("tcp", "udp") and set(entry) >= _PORTS and firewall_proof.covered(packet(entry), pairs):
            continue
        found.append(entry)
    return found


def _deletion(entry: dict[str, str]) -> list[str]:
    """The arguments of `conntrack -D` that name exactly one entry."""
    arguments = ["-p", entry["proto"], "-s", entry["src"], "-d", entry["dst"]]
    if set(entry) >= _PORTS:
        return [*arguments, "--sport", entry["sport"], "--dport", entry["dport"]]
    if entry["proto"] in ("icmp", "icmpv6") and {"type", "code", "id"} <= set(entry):
        return [*arguments, *(word for key in ("type", "code", "id") for word in (f"--{entry['proto']}-{key}", entry[key]))]
    return arguments


def cut(run: Run, approved: list[dict[str, Any]], modes: Modes) -> tuple[list[dict[str, str]], str]:
    """Delete exactly the connections that no conduit covers, where `modes` enforce; (deleted, note). A flush would kill every OPC UA session.

    Without its entry a packet is the first of a new connection, and those are let in by a conduit only: the session ends, whichever end
    speaks first (net.netfilter.nf_conntrack_tcp_loose does not matter).
    """
    deleted: list[dict[str, str]] = []
    left: list[str] = []
    for family in ("ipv4", "ipv6"):
        try:
            rc, out, err = run(["conntrack", "-L", "-f", family], None)
        except FileNotFoundError:
            return deleted, "conntrack is not installed: connections of removed conduits live until they end"
        if rc != 0:
            return deleted, f"conntrack cannot list: {err.strip()[:200]}"
        for entry in uncovered(out, approved):
            if modes.charge(entry["src"], entry["dst"]).mode != "enforce":
                continue
            rc, _out, err = run(["conntrack", "-D", "-f", family, *_deletion(entry)], None)
            if rc == 0:
                deleted.append(entry)
            elif "0 flow entries" not in err:
                left.append(f"{entry['proto']} {entry['src']} → {entry['dst']}: {err.strip()[-200:]}")
    return deleted, f"not deleted: {'; '.join(left[:5])}" if left else ""
