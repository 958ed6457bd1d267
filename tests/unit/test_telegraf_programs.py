# SPDX-License-Identifier: Apache-2.0
"""What Telegraf runs: the two Starlark processors (Starlark is a dialect of Python: run here as Python over stand-ins for
Telegraf's Metric and Starlark's modules), and the program that cuts an oversized buffer.
"""

from __future__ import annotations

import copy
import importlib.machinery
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jinja2
import pytest
import yaml

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

ROLE = Path(__file__).resolve().parents[2] / "roles/telegraf"
SOURCES = [
    {"id": "plc1", "canary": "canary_sequence", "tags": [{"name": "valve", "kind": "on_change"}, {"name": "whp"}, {"name": "canary_sequence"}]},
    {"id": "sep1", "tags": [{"name": "level"}]},
]
TICKS = 17956233114681234


class Metric:
    """Telegraf's metric, as Starlark sees it. *tracked*: delivered only with its copies."""

    def __init__(self, name: str, tags: dict[str, str], fields: dict[str, Any], time: int, tracked: bool = True) -> None:
        self.name, self.tags, self.fields, self.time, self.tracked = name, tags, fields, time, tracked


def starlark(name: str) -> dict[str, Any]:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["to_json"], environment.filters["bool"] = json.dumps, bool
    source = environment.from_string((ROLE / "templates" / (name + ".star.j2")).read_text()).render(hnai_ot_sources=SOURCES, telegraf_questdb_table="ot")

    def decode(text: str, default: Any) -> Any:
        try:
            return json.loads(text, parse_constant=lambda constant: 1 / 0)
        except (ValueError, ZeroDivisionError):
            return default

    def deepcopy(metric: Metric, track: bool = False) -> Metric:
        made = copy.deepcopy(metric)
        made.tracked = track
        return made

    errors: list[str] = []
    names = {bool: "bool", int: "int", float: "float", str: "string", dict: "dict", list: "list", type(None): "NoneType"}
    modules = {
        "json": SimpleNamespace(decode=decode),
        "log": SimpleNamespace(error=errors.append),
        "time": SimpleNamespace(now=lambda: SimpleNamespace(unix_nano=TICKS * 100 + 3_000_000_000)),
    }
    scope: dict[str, Any] = {"errors": errors, "deepcopy": deepcopy, "load": lambda *_names: None, "type": lambda value: names[type(value)], **modules}
    exec(compile(source, name, "exec"), scope)  # the role's own file
    return scope


def record(**changes: Any) -> dict[str, Any]:
    return {
        "source": "plc1",
        "tag": "whp",
        "value": 123.45600000000013,
        "type": "double",
        "status": 0,
        "source_ts": TICKS,
        "server_ts": None,
        "observed_ts": TICKS + 1_000_000,
        "ts_origin": "source",
        "seq": 1,
        **changes,
    }


def written(payload: Any) -> dict[str, tuple[Any, int]]:
    scope = starlark("writer")
    text = payload if isinstance(payload, str) else json.dumps(payload)
    points = scope["apply"](Metric("record", {"host": "x"}, {"value": text}, TICKS * 100 + 1_000_000_000))
    assert all(point.tracked for point in points), "a point without tracking would be lost by a kill"
    result = {}
    for point in points:
        key = point.name + "".join("{%s}" % point.tags[tag] for tag in sorted(point.tags) if tag != "source")
        assert key not in result
        assert "host" not in point.tags
        result[key] = (point.fields["value"], point.time)
    return result


# -- the writer -----------------------------------------------------------------------------------------------
def test_a_good_sample_is_value_and_status_at_the_same_instant() -> None:
    assert written(record()) == {"whp:status": (0, TICKS * 100), "whp": (123.45600000000013, TICKS * 100)}


@pytest.mark.parametrize("status", [0x80000000, 0x808C0000, 0x80310000, 0xFFFFFFFF])
def test_a_bad_sample_is_its_status_only(status: int) -> None:
    assert written(record(status=status)) == {"whp:status": (status, TICKS * 100)}
    assert written(record(status=status, value=None)) == {"whp:status": (status, TICKS * 100)}


def test_an_uncertain_sample_keeps_its_value() -> None:
    assert set(written(record(status=0x40900000))) == {"whp:status", "whp"}


@pytest.mark.parametrize(("value", "stored"), [(True, 1.0), (False, 0.0), (3, 3.0), (-0.0, 0.0), (2**53, 9007199254740992.0)])
def test_numbers_and_truth_values_are_floats(value: Any, stored: float) -> None:
    found = written(record(value=value))["whp"][0]
    assert found == stored
    assert isinstance(found, float)


@pytest.mark.parametrize("value", ["TEST", None, [1], {"a": 1}, ""])
def test_a_text_never_reaches_the_store(value: Any) -> None:
    assert set(written(record(value=value))) == {"whp:status"}


def test_a_tag_read_on_change_carries_its_observation_at_that_time() -> None:
    found = written(record(tag="valve", value=1))
    assert found["valve:observed_ts"] == ((TICKS + 1_000_000) / 1e7, (TICKS + 1_000_000) * 100)
    assert found["valve"][1] == TICKS * 100


def test_a_repeat_is_no_second_sample() -> None:
    assert set(written(record(tag="valve", value=1, repeat=True))) == {"valve:observed_ts"}
    assert written(record(repeat=True)) == {}


def test_a_canary_carries_its_hops() -> None:
    found = written(record(tag="canary_sequence", value=17))
    assert found["canary_sequence:hop_seconds{collector}"][0] == pytest.approx(0.1)
    assert found["canary_sequence:hop_seconds{kafka}"][0] == pytest.approx(0.9)
    assert found["canary_sequence:hop_seconds{writer}"][0] == pytest.approx(2.0)
    assert not any("hop" in name for name in written(record(tag="canary_sequence", value=17, repeat=True)))


def test_without_a_source_time_the_servers_then_the_collectors_is_used() -> None:
    assert written(record(source_ts=None, server_ts=TICKS + 5))["whp"][1] == (TICKS + 5) * 100
    assert written(record(source_ts=None))["whp"][1] == (TICKS + 1_000_000) * 100


@pytest.mark.parametrize(
    "payload",
    [
        "garbage",
        "[]",
        "null",
        '{"source": "plc1", "tag": "x", "value": NaN}',
        json.dumps(record(source="")),
        json.dumps(record(tag=None)),
        json.dumps(record(status=None)),
        json.dumps(record(status=0.5)),
        json.dumps(record(source_ts=None, observed_ts=None)),
    ],
)
def test_what_is_no_record_is_counted_never_dropped(payload: str) -> None:
    assert list(written(payload)) == ["telegraf:rejected_records"]


# -- the writer of QuestDB ----------------------------------------------------------------------------------
def stored_row(payload: Any) -> Metric:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    (one,) = starlark("questdb")["apply"](Metric("record", {"host": "x"}, {"value": text}, TICKS * 100 + 1_000_000_000))
    assert one.tracked, "a row without tracking would be lost by a kill"
    return one


def test_a_record_is_one_row_at_the_sources_time_to_100_ns() -> None:
    row = stored_row(record())
    assert (row.name, row.tags, row.time) == ("ot", {"source": "plc1", "tag": "whp"}, TICKS * 100)
    assert row.fields == {"value": 123.45600000000013, "status": 0, "observed_ts": TICKS + 1_000_000, "seq": 1}


@pytest.mark.parametrize("changes", [{"value": "TEST"}, {"value": None, "text": "TEST"}])
def test_a_text_stays_a_text_raw_or_normalised(changes: dict[str, Any]) -> None:
    fields = stored_row(record(**changes)).fields
    assert fields["text"] == "TEST"
    assert "value" not in fields


@pytest.mark.parametrize("status", [0x80000000, 0xFFFFFFFF])
def test_a_bad_record_is_a_row_without_value(status: int) -> None:
    assert set(stored_row(record(status=status)).fields) == {"status", "observed_ts", "seq"}
    assert set(stored_row(record(status=status, value="x")).fields) == {"status", "observed_ts", "seq"}


def test_a_repeat_is_the_same_row_observed_later() -> None:
    first, again = stored_row(record(value=True)), stored_row(record(value=True, repeat=True, observed_ts=TICKS + 9_000_000))
    assert (first.name, first.tags, first.time) == (again.name, again.tags, again.time)
    assert again.fields["observed_ts"] - first.fields["observed_ts"] == 8_000_000
    assert again.fields["value"] == 1.0
    assert isinstance(again.fields["value"], float)


@pytest.mark.parametrize(
    "payload", ["garbage", "[]", json.dumps(record(source="")), json.dumps(record(status=None)), json.dumps(record(source_ts=None, observed_ts=None))]
)
def test_what_is_no_record_is_a_counted_row(payload: str) -> None:
    row = stored_row(payload)
    assert row.tags == {"source": "questdb", "tag": "telegraf:rejected_records"}
    assert row.fields["value"] == 1.0


# -- the bridge -----------------------------------------------------------------------------------------------
def bridged(topic: str, payload: str) -> tuple[Any, list[str]]:
    scope = starlark("bridge")
    return scope["apply"](Metric("line", {"topic": topic}, {"value": payload}, 1)), scope["errors"]


def test_a_message_of_a_line_goes_on_as_it_came() -> None:
    payload = json.dumps(record(source="line1", tag="count", value=4), indent=1)
    metric, errors = bridged("line/line1/count", payload)
    assert (metric.name, metric.fields, metric.time) == ("ot", {"record": payload}, TICKS * 100)
    assert metric.tags == {"key": "line1/count", "source": "line1", "tag": "count"}
    assert metric.tracked
    assert errors == []


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("line/line1/count", json.dumps(record())),
        ("line/line1/count/x", json.dumps(record(source="line1", tag="count"))),
        ("line/line1/count", "garbage"),
        ("line/line1/count", json.dumps(record(source="line1", tag="count", status="Good"))),
        ("line/line1/count", json.dumps(record(source="line1", tag="count", source_ts=None))),
    ],
)
def test_a_line_speaks_for_itself_only(topic: str, payload: str) -> None:
    metric, errors = bridged(topic, payload)
    assert metric == []
    assert len(errors) == 1
    assert topic in errors[0]


# -- the buffer's limit ---------------------------------------------------------------------------------------
@pytest.fixture
def limiter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("buffer_limit", str(ROLE / "tree/usr/local/lib/hnai/telegraf/buffer-limit"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def fill(directory: Path, log: str, firsts: list[int], size: int) -> None:
    (directory / "buffer" / log).mkdir(parents=True)
    for first in firsts:
        (directory / "buffer" / log / ("%020d" % first)).write_bytes(b"x" * size)


def test_the_oldest_of_the_largest_log_goes_first_and_is_counted(limiter: ModuleType, tmp_path: Path) -> None:
    mib = 1 << 20
    fill(tmp_path, "kafka", [1, 101, 251, 300], mib)
    fill(tmp_path, "mqtt", [5], mib)
    assert limiter.main([str(tmp_path), "3"]) == 0
    assert sorted(path.name.lstrip("0") for path in (tmp_path / "buffer/kafka").iterdir()) == ["251", "300"]
    assert [path.name.lstrip("0") for path in (tmp_path / "buffer/mqtt").iterdir()] == ["5"]
    assert json.loads((tmp_path / "dropped.json").read_text())["records"] == 250
    assert limiter.main([str(tmp_path), "2"]) == 0
    assert json.loads((tmp_path / "dropped.json").read_text())["records"] == 299


def test_the_newest_segment_stays_and_what_fits_is_left_alone(limiter: ModuleType, tmp_path: Path) -> None:
    fill(tmp_path, "kafka", [7], 1 << 20)
    assert limiter.main([str(tmp_path), "0"]) == 0
    assert len(list((tmp_path / "buffer/kafka").iterdir())) == 1
    assert not (tmp_path / "dropped.json").exists()
    assert limiter.main([str(tmp_path / "new"), "1"]) == 0


# -- the buffer goes with its output ----------------------------------------------------------------------------------
#: An output and the directory that Telegraf 1.39.3 itself made for it.
MEASURED = """[agent]
  buffer_strategy = "disk"
[[inputs.internal]]
[[outputs.mqtt]]
  alias = "live"
  servers = ["tcp://127.0.0.1:2"]
  # a comment
  qos = 1
  retain = true
  topic = 'ot/{{ .Tag "source" }}'
  data_format = "json"
"""
ITS_ID = "202101289c978190cf69dedc2e456bb9fc82f107710f763216e723b18ae150ed"


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("keep_buffer", str(ROLE / "tree/usr/local/lib/hnai/telegraf/keep-buffer"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_id_is_telegrafs_own(keeper: ModuleType) -> None:
    assert keeper.outputs(MEASURED) == {"live": ITS_ID}
    assert keeper.outputs(MEASURED.replace("qos = 1", "qos = 0"))["live"] != ITS_ID
    assert keeper.outputs(MEASURED + '[[outputs.file]]\n files = ["x"]\n')["file"]


def test_the_backlog_goes_with_its_output(keeper: ModuleType, tmp_path: Path) -> None:
    config = tmp_path / "shipper.conf"
    config.write_text(MEASURED, encoding="utf-8")
    fill(tmp_path, ITS_ID, [1, 90], 5)
    run = [str(config), str(tmp_path)]
    assert keeper.main(run) == 0
    changed = MEASURED.replace("qos = 1", "qos = 0")
    config.write_text(changed, encoding="utf-8")
    new = keeper.outputs(changed)["live"]
    fill(tmp_path, new, [1], 0)
    assert keeper.main(run) == 0
    assert [path.name for path in (tmp_path / "buffer").iterdir()] == [new], "an empty one of Telegraf's makes room"
    assert len(list((tmp_path / "buffer" / new).iterdir())) == 2
    config.write_text(MEASURED, encoding="utf-8")
    fill(tmp_path, ITS_ID, [7], 5)
    assert keeper.main(run) == 0
    assert len(list((tmp_path / "buffer").iterdir())) == 2, "of two that hold records none is touched"


def test_at_the_first_start_the_only_stray_directory_belongs_to_the_only_output_without_one(keeper: ModuleType, tmp_path: Path) -> None:
    config = tmp_path / "shipper.conf"
    config.write_text(MEASURED + '[[outputs.file]]\n  files = ["x"]\n', encoding="utf-8")
    other = keeper.outputs(config.read_text(encoding="utf-8"))["file"]
    fill(tmp_path, "0" * 64, [1], 5)
    assert keeper.main([str(config), str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "buffer").iterdir()] == ["0" * 64], "of two outputs nobody knows which"
    (tmp_path / "outputs.json").unlink()
    fill(tmp_path, other, [1], 0)
    assert keeper.main([str(config), str(tmp_path)]) == 0
    assert sorted(path.name for path in (tmp_path / "buffer").iterdir()) == sorted([ITS_ID, other])


def shipper() -> str:
    """The shipper's configuration out of the role's templates."""
    places = [str(ROLE / "templates"), str(ROLE / "tree/etc/hnai/telegraf")]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(places), trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["to_json"], environment.filters["bool"] = json.dumps, bool
    environment.filters["regex_replace"] = lambda text, pattern, with_: re.sub(pattern, with_, text)
    values = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    values.update(instance="shipper", groups={"kafka": ["kafka1"]}, telegraf_mqtt_host="edge1", telegraf_collector_command=["collector"], ansible_managed="x",
                  lookup=lambda _ports, component: contracts.ports(component))
    return environment.get_template("__instance__.conf.j2").render(**values)


def test_neither_user_nor_password_nor_mechanism_can_change_the_name_of_the_shippers_buffer(keeper: ModuleType) -> None:
    text = shipper()
    assert list(keeper.outputs(text)) == ["kafka", "mqtt", "counters"]
    tables = text[text.index("[[outputs.kafka]]"):text.index("[[inputs.internal]]")]
    for setting in ("sasl_username", "sasl_password", "username", "password"):
        assert re.findall(rf"^ +{setting} = (.*)$", tables, re.MULTILINE)[0].startswith('"@{credentials:'), setting
    assert "${" not in re.sub("#.*", "", tables), "what is replaced before Telegraf hashes it"
