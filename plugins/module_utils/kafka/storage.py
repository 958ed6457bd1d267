# SPDX-License-Identifier: Apache-2.0
"""The log directory of a KRaft node: formatted exactly once, at the declared first bootstrap, and never after a loss.

A node that comes back with an empty directory under its old identity has forgotten its votes; a majority of such nodes forgets
acknowledged records. So an empty directory is formatted only when nothing says that this node ever was part of the cluster:
no witness file outside the directory, no broker registration of its id in a running quorum, and `bootstrap` declared.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .ids import check, derive

META = "meta.properties"
STAGING = ".formatting"


class StorageError(Exception):
    """Not formatted, or formatted as something else; the text names the remedy."""


@dataclass(frozen=True)
class Controller:
    """One member of the first quorum."""

    node_id: int
    host: str
    port: int
    directory_id: str = ""


@dataclass(frozen=True)
class Wanted:
    """What this node is declared to be. Empty ids are derived from `site`. `rejoin`: its disk was lost and it takes the place of its old
    self in a running cluster, with a directory id of its own making."""

    site: str
    node_id: int
    log_dir: str
    controllers: tuple[Controller, ...]
    bootstrap: bool
    cluster_id: str = ""
    rejoin: bool = False

    def cluster(self) -> str:
        """The cluster's id. Raises IdError."""
        return check(self.cluster_id, "kafka_cluster_id") if self.cluster_id else derive(self.site, "cluster")

    def directory(self, controller: Controller) -> str:
        """The directory id of one controller. Raises IdError."""
        if controller.directory_id:
            return check(controller.directory_id, f"kafka_directory_id of {controller.host}")
        return derive(self.site, "directory", controller.host)

    def me(self) -> Controller | None:
        """This node among the initial controllers."""
        return next((item for item in self.controllers if item.node_id == self.node_id), None)

    def initial(self) -> str:
        """--initial-controllers; "" for a node that joins a running quorum."""
        if self.rejoin:
            return ""
        return ",".join(f"{item.node_id}@{item.host}:{item.port}:{self.directory(item)}" for item in self.controllers)


_PAIR = re.compile(r"((?:\\.|[^\s=:\\])*)\s*[=:]?\s*(.*)")


def read_properties(text: str) -> dict[str, str]:
    """Keys and values of a .properties file as Java reads it (java.util.Properties): the last line of a key wins; '=', ':' or a blank ends a key; a backslash
    takes the next letter as it is, and at the end of a line goes on in the next one. Letters by number (\\u0041) are not known."""
    found: dict[str, str] = {}
    begun = ""
    for line in (*text.splitlines(), ""):
        line = line.lstrip()
        if not begun and line.startswith(("#", "!")):
            continue
        begun += line
        if (len(begun) - len(begun.rstrip("\\"))) % 2:
            begun = begun[:-1]
            continue
        match = _PAIR.fullmatch(begun)
        if match and begun:
            key, value = (re.sub(r"\\(.)", r"\1", part) for part in match.groups())
            found[key] = value.rstrip()
        begun = ""
    return found


def with_log_dir(config: str, log_dir: str) -> str:
    """The same configuration for another log directory (the directories of the original are taken out)."""
    kept = [line for line in config.splitlines() if not re.match(r"\s*(log\.dirs?|metadata\.log\.dir)\s*[=:]", line)]
    return "\n".join([*kept, f"log.dirs={log_dir}", ""])


def identity(log_dir: str) -> dict[str, str] | None:
    """What meta.properties says, None where there is none. Raises StorageError for data without identity."""
    try:
        with open(os.path.join(log_dir, META), encoding="utf-8") as stream:
            return read_properties(stream.read())
    except FileNotFoundError:
        pass
    left = [name for name in os.listdir(log_dir) if name != "lost+found"] if os.path.isdir(log_dir) else []
    if left:
        raise StorageError(f"{log_dir}: has {len(left)} entries (such as {sorted(left)[0]}) but no {META}: Kafka data without its identity. "
                           "Nothing was touched; restore the file, or move the directory away and replace the broker")
    return None


def verify(meta: dict[str, str], wanted: Wanted) -> None:
    """The directory belongs to this node of this cluster. Raises StorageError."""
    me = wanted.me()
    expected = {"cluster.id": wanted.cluster(), "node.id": str(wanted.node_id)}
    if me is not None:
        expected["directory.id"] = wanted.directory(me)
    names = {"cluster.id": "kafka_cluster_id", "node.id": "kafka_node_id", "directory.id": "kafka_directory_id"}
    for key, value in expected.items():
        # A replaced broker has a directory id of its own making; only the declared one is compared.
        if key == "directory.id" and me is not None and not me.directory_id and key in meta:
            continue
        if meta.get(key) != value:
            raise StorageError(f"{wanted.log_dir}/{META}: {key} is {meta.get(key)}, declared is {value}; correct {names[key]} in the inventory, "
                               "or the directory belongs to another node")


def refusal(wanted: Wanted, witness: bool, registered: Callable[[], bool | None]) -> str:
    """Why an empty directory must not be formatted; "" if it may.

    `witness`: this host remembers that it was formatted. `registered()`: a running quorum knows this node's id as a broker (True), a
    running quorum does not (False), no quorum answers (None).
    """
    me = wanted.me()
    verb = f"ansible-playbook hnai.platform.kafka_replace -e replace={me.host if me else 'HOST'}"
    if wanted.rejoin:
        if me is not None and me.directory_id:
            return f"kafka_directory_id of {me.host}: is declared, and the old disk had it; take it out of the inventory, a new disk gets an id of its own"
        if registered() is None:
            return ("no quorum answers, so there is nothing to join again; if most of the nodes are lost, see docs/runbooks/kafka-quorum-loss.md. "
                    "Nothing was formatted")
        return ""
    if witness:
        return (f"{wanted.log_dir} is empty, but this host was formatted before: its data are not mounted, or lost. It is not formatted again, because a "
                f"voter that forgot its votes can lose acknowledged records; remedy: mount the file system, or restore the directory; if it is lost, "
                f"replace the broker: {verb}")
    if me is None:
        return (f"node {wanted.node_id} is not in kafka_initial_controllers: it is no member of the first quorum, and is added to a running "
                "one instead of being formatted as a first member")
    known = registered()
    if known:
        return (f"{wanted.log_dir} is empty, but the running cluster {wanted.cluster()} knows broker {wanted.node_id}: its data are not mounted, or "
                f"lost; remedy: mount the file system, or restore the directory; if it is lost, replace the broker: {verb}")
    if not wanted.bootstrap:
        return (f"{wanted.log_dir} is empty and kafka_bootstrap is not declared; if this is the first deployment of this cluster set "
                f"kafka_bootstrap: true in the inventory, if it is not, the disk was lost: {verb}")
    return ""


def ask_peers(peers: Iterable[str], node_id: int, ask: Callable[[], tuple[int, dict[int, bool]]], answers: Callable[[str], bool],
              unreachable: type[Exception]) -> bool | None:
    """Whether a running quorum knows this node as a broker; None when there is no quorum to ask.

    `ask()` gives (leader or -1, id → fenced) or raises `unreachable`; `answers(address)`: something accepts connections there. A peer that
    listens but cannot be asked could be that quorum: raises StorageError, because guessing "first bootstrap" would be the dangerous side.
    """
    try:
        leader, brokers = ask()
    except unreachable as error:
        listening = [peer for peer in peers if answers(peer)]
        if listening:
            raise StorageError(f"{', '.join(listening)} listens but cannot be asked whether it knows node {node_id} ({error}); "
                               "nothing was formatted. Correct that first") from error
        return None
    return node_id in brokers if leader >= 0 else None


def accepts(address: str, timeout_s: float = 2.0) -> bool:
    """Whether something listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s):
            return True
    except OSError:
        return False


def format_directory(
    wanted: Wanted,
    config: str,
    tool: Callable[[str, str, str], None],
    own: Callable[[str], None],
) -> None:
    """Format in a directory beside the final one and rename it: at any moment there is nothing or everything.

    `tool(config_file, cluster_id, initial_controllers)` runs the storage tool; `own(path)` gives the tree to the service. Raises StorageError
    when the tool did not do what it should.
    """
    parent = os.path.dirname(wanted.log_dir.rstrip("/"))
    staging = os.path.join(parent, STAGING)
    if os.path.lexists(staging):
        shutil.rmtree(staging)  # Left by a run that was killed; it never became the log directory.
    os.mkdir(staging, 0o750)
    data = os.path.join(staging, "data")
    os.mkdir(data, 0o750)
    file = os.path.join(staging, "server.properties")
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(with_log_dir(config, data))
    own(staging)
    tool(file, wanted.cluster(), wanted.initial())
    meta = identity(data)
    if meta is None:
        raise StorageError(f"the storage tool ended well but wrote no {META}")
    verify(meta, wanted)
    own(data)
    sync_tree(data)
    try:
        os.rename(data, wanted.log_dir)
    except OSError as error:
        raise StorageError(f"{wanted.log_dir}: {error}; a mount point belongs on {parent}, not on the log directory itself") from error
    sync_directories([parent])
    shutil.rmtree(staging)


def sync_tree(top: str) -> None:
    """Every file and directory below `top` on disk."""
    directories = []
    for place, _names, files in os.walk(top):
        directories.append(place)
        for name in files:
            handle = os.open(os.path.join(place, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    sync_directories(directories)


def sync_directories(places: Sequence[str]) -> None:
    """Entries of the directories on disk."""
    for place in places:
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
