# SPDX-License-Identifier: Apache-2.0
"""Formatting: once, whole or not at all, and never after a loss. Ids as Kafka accepts them."""

from __future__ import annotations

import base64
import dataclasses
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.kafka import ids, storage

CONTROLLERS = tuple(storage.Controller(n, f"kafka{n}", 9093) for n in (1, 2, 3))


def wanted(directory: Path, **changes: object) -> storage.Wanted:
    base = storage.Wanted("lab", 1, str(directory / "data"), CONTROLLERS, True)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


class Tool:
    """Kafka's storage tool: writes what it writes."""

    def __init__(self, want: storage.Wanted, dies: bool = False, writes: Callable[[str], str] = str) -> None:
        self.want, self.dies, self.writes, self.calls = want, dies, writes, 0

    def __call__(self, file: str, cluster: str, initial: str) -> None:
        self.calls += 1
        text = Path(file).read_text()
        config = storage.read_properties(text)
        place = Path(config["log.dirs"])
        assert text == f"node.id={self.want.node_id}\nlog.dirs={place}\n", "no directory but the one that is prepared"
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (place, place.parent)} == {0o750}
        (place / "__cluster_metadata-0").mkdir()
        (place / "bootstrap.checkpoint").write_text("x")
        if self.dies:
            raise KeyboardInterrupt
        me = self.want.me()
        assert me is not None
        meta = self.writes(f"#comment\nversion=1\nnode.id={config['node.id']}\ncluster.id={cluster}\ndirectory.id={self.want.directory(me)}\n")
        if meta:
            (place / storage.META).write_text(meta)


def format_it(want: storage.Wanted, tool: Callable[[str, str, str], None], own: Callable[[str], None] = lambda path: None) -> None:
    storage.format_directory(want, f"node.id={want.node_id}\nlog.dirs=/elsewhere\n  log.dir = /x\nmetadata.log.dir=/y\n", tool, own)


def test_ids_are_kafkas_and_always_the_same() -> None:
    found = {ids.derive("lab", "directory", f"kafka{n}") for n in range(200)}
    assert len(found) == 200
    for text in found:
        assert len(text) == 22 and not text.startswith("-")
        assert len(base64.urlsafe_b64decode(text + "==")) == 16
        assert ids.check(text, "x") == text
    # Of the deployed sites: must never change.
    assert ids.derive("lab", "cluster") == "81YHRqXbWAW9-KwaDji0YA"


@pytest.mark.parametrize("text", ["", "short", "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAQ", "!" * 22, "A" * 24, "AAAAAAAAAAAAAAAAAAAAYQ"])
def test_ids_that_kafka_refuses(text: str) -> None:
    with pytest.raises(ids.IdError, match="kafka_cluster_id"):
        ids.check(text, "kafka_cluster_id")


def test_all_nodes_agree_on_the_first_quorum(tmp_path: Path) -> None:
    texts = {wanted(tmp_path, node_id=n).initial() for n in (1, 2, 3)}
    assert len(texts) == 1
    assert texts.pop().startswith("1@kafka1:9093:")


def test_format_then_verify(tmp_path: Path) -> None:
    want = wanted(tmp_path)
    assert storage.identity(want.log_dir) is None
    format_it(want, Tool(want))
    meta = storage.identity(want.log_dir)
    assert meta is not None
    storage.verify(meta, want)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    with pytest.raises(storage.StorageError, match="kafka_cluster_id"):
        storage.verify(meta, wanted(tmp_path, site="other"))
    with pytest.raises(storage.StorageError, match="kafka_node_id"):
        storage.verify(meta, wanted(tmp_path, node_id=2))


def test_a_run_that_is_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    want = wanted(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        format_it(want, Tool(want, dies=True))
    assert storage.identity(want.log_dir) is None
    format_it(want, Tool(want))
    assert storage.identity(want.log_dir) is not None
    assert not (tmp_path / storage.STAGING).exists()


def test_what_becomes_the_log_directory_is_owned_and_on_the_disk_before_and_its_name_after(tmp_path: Path) -> None:
    """No moment of a kill or of a power cut leaves an identity on half a directory."""
    want, done = wanted(tmp_path), []
    tool, fsync, rename = Tool(want), os.fsync, os.rename
    staging, data = tmp_path / storage.STAGING, tmp_path / storage.STAGING / "data"

    def tell(what: str, call: Callable[..., object] = lambda *_given: None) -> Callable[..., None]:
        def told(*given: object) -> None:
            done.append((what, os.readlink(f"/proc/self/fd/{given[0]}") if what == "sync" else str(given[0])))
            call(*given)

        return told

    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", tell("sync", fsync))
        patch.setattr(os, "rename", tell("rename", rename))
        format_it(want, tell("tool", tool), tell("own"))
    assert len(os.listdir("/proc/self/fd")) == open_before
    became = done.index(("rename", str(data)))
    assert [one for one in done[:became] if one[0] != "sync"] == [("own", str(staging)), ("tool", str(staging / "server.properties")), ("own", str(data))]
    assert {place for what, place in done[:became] if what == "sync"} == {
        str(data / name) for name in ("", "__cluster_metadata-0", "bootstrap.checkpoint", storage.META)
    }
    assert done[became + 1 :] == [("sync", str(tmp_path))]


@pytest.mark.parametrize(("writes", "why"), [
    (lambda text: "", "without its identity"), (lambda text: text.replace("node.id=1", "node.id=2"), "kafka_node_id"),
    (lambda text: text.replace("cluster.id=", "cluster.id=x"), "kafka_cluster_id"),
])
def test_what_the_tool_wrote_is_looked_at_before_it_counts(tmp_path: Path, writes: Callable[[str], str], why: str) -> None:
    want = wanted(tmp_path)
    with pytest.raises(storage.StorageError, match=why):
        format_it(want, Tool(want, writes=writes))
    with pytest.raises(storage.StorageError, match="ended well but wrote no"):
        format_it(want, lambda *_given: None)
    assert not Path(want.log_dir).exists()


def test_a_declared_directory_id_is_compared_and_no_other(tmp_path: Path) -> None:
    declared, other = ids.derive("lab", "directory", "a"), ids.derive("lab", "directory", "b")
    meta = {"cluster.id": wanted(tmp_path).cluster(), "node.id": "1", "directory.id": other}
    storage.verify(meta, wanted(tmp_path))
    storage.verify({**meta, "node.id": "4"}, wanted(tmp_path, node_id=4))
    one = dataclasses.replace(CONTROLLERS[0], directory_id=declared)
    storage.verify({**meta, "directory.id": declared}, wanted(tmp_path, controllers=(one,)))
    for spoilt, want in ((meta, wanted(tmp_path, controllers=(one,))), ({**meta, "directory.id": None}, wanted(tmp_path))):
        with pytest.raises(storage.StorageError, match=r"directory\.id is .*correct kafka_directory_id"):
            storage.verify({key: value for key, value in spoilt.items() if value}, want)


def test_killed_after_the_first_of_three_the_next_run_formats_the_others_into_the_same_quorum(tmp_path: Path) -> None:
    nodes = [wanted(tmp_path / str(number), node_id=number) for number in (1, 2, 3)]
    for want in nodes:
        Path(want.log_dir).parent.mkdir()
    tools = [Tool(want) for want in nodes]
    format_it(nodes[0], tools[0])
    with pytest.raises(KeyboardInterrupt):
        format_it(nodes[1], Tool(nodes[1], dies=True))
    before = (Path(nodes[0].log_dir) / storage.META).read_bytes()

    # The next run: who has an identity is held against the model and left alone; nobody answers yet, so nothing forbids the others.
    for want, tool in zip(nodes, tools, strict=True):
        meta = storage.identity(want.log_dir)
        if meta is None:
            assert storage.refusal(want, False, lambda: None) == ""
            format_it(want, tool)
            meta = storage.identity(want.log_dir)
        assert meta is not None
        storage.verify(meta, want)
    assert [tool.calls for tool in tools] == [1, 1, 1]
    assert (Path(nodes[0].log_dir) / storage.META).read_bytes() == before
    found = [storage.read_properties((Path(want.log_dir) / storage.META).read_text()) for want in nodes]
    assert len({one["cluster.id"] for one in found}) == 1
    assert len({one["directory.id"] for one in found}) == 3
    assert {want.initial() for want in nodes} == {nodes[0].initial()}


def test_an_empty_directory_of_the_package_is_replaced(tmp_path: Path) -> None:
    want = wanted(tmp_path)
    Path(want.log_dir).mkdir()
    format_it(want, Tool(want))
    assert storage.identity(want.log_dir) is not None


def test_a_file_system_of_its_own_belongs_on_the_parent(tmp_path: Path) -> None:
    want = wanted(tmp_path)
    (Path(want.log_dir) / "lost+found").mkdir(parents=True)
    assert storage.identity(want.log_dir) is None
    with pytest.raises(storage.StorageError, match=f"a mount point belongs on {tmp_path}"):
        format_it(want, Tool(want))
    assert storage.identity(want.log_dir) is None


def test_data_without_identity_is_not_touched(tmp_path: Path) -> None:
    want = wanted(tmp_path)
    (tmp_path / "data" / "ot.raw-0").mkdir(parents=True)
    with pytest.raises(storage.StorageError, match="without its identity"):
        storage.identity(want.log_dir)


def test_refused_after_a_loss(tmp_path: Path) -> None:
    assert "was formatted before" in storage.refusal(wanted(tmp_path), True, lambda: None)
    assert storage.refusal(wanted(tmp_path), True, lambda: None).endswith("replace=kafka1")
    assert storage.refusal(wanted(tmp_path, node_id=4), True, lambda: None).endswith("replace=HOST")
    assert storage.refusal(wanted(tmp_path, node_id=4, rejoin=True), False, lambda: False) == ""
    assert "knows broker 1" in storage.refusal(wanted(tmp_path), False, lambda: True)
    assert "kafka_bootstrap" in storage.refusal(wanted(tmp_path, bootstrap=False), False, lambda: None)
    assert "kafka_initial_controllers" in storage.refusal(wanted(tmp_path, node_id=4), False, lambda: None)


def test_allowed_at_the_first_bootstrap_and_for_a_member_that_missed_it(tmp_path: Path) -> None:
    assert storage.refusal(wanted(tmp_path), False, lambda: None) == ""
    assert storage.refusal(wanted(tmp_path), False, lambda: False) == ""


def test_peers() -> None:
    peers = ["kafka2:9091", "kafka3:9091"]

    def silent() -> tuple[int, dict[int, bool]]:
        raise ConnectionError("timeout")

    assert storage.ask_peers(peers, 1, lambda: (2, {1: True, 2: False}), lambda a: True, ConnectionError) is True
    assert storage.ask_peers(peers, 1, lambda: (2, {2: False}), lambda a: True, ConnectionError) is False
    assert storage.ask_peers(peers, 1, lambda: (-1, {1: False}), lambda a: True, ConnectionError) is None
    assert storage.ask_peers(peers, 1, silent, lambda a: False, ConnectionError) is None
    with pytest.raises(storage.StorageError, match="kafka3:9091 listens but cannot be asked"):
        storage.ask_peers(peers, 1, silent, lambda a: a.startswith("kafka3"), ConnectionError)


def test_a_new_disk_joins_a_running_quorum_and_nothing_else(tmp_path: Path) -> None:
    again = wanted(tmp_path, rejoin=True, bootstrap=False)
    assert storage.refusal(again, True, lambda: True) == ""
    assert storage.refusal(again, False, lambda: False) == ""
    assert "no quorum answers" in storage.refusal(again, True, lambda: None)
    assert again.initial() == ""
    assert wanted(tmp_path).initial().count("@") == 3
    declared = tuple(dataclasses.replace(item, directory_id="AAAAAAAAAAAAAAAAAAAJAA") for item in CONTROLLERS)
    assert "kafka_directory_id of kafka1" in storage.refusal(wanted(tmp_path, rejoin=True, controllers=declared), True, lambda: True)


@pytest.mark.parametrize(("text", "found"), [
    ("a=1\na = 2 \n", {"a": "2"}),
    ("a=1\na: 2\n", {"a": "2"}),
    ("a=1\n  a\t2", {"a": "2"}),
    ("a=1\na \\\n   2", {"a": "2"}),
    ("# said \\\na=2\n! a=3", {"a": "2"}),
    ("a=1\na\\=b=2\\\\\nc=x=y:z", {"a": "1", "a=b": "2\\", "c": "x=y:z"}),
    ("a=1\na=2\\", {"a": "2"}),
    ("a", {"a": ""}),
    ("\n \n", {}),
])
def test_a_file_of_properties_is_read_as_java_does(text: str, found: dict[str, str]) -> None:
    assert storage.read_properties(text) == found
