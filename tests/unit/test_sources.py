# SPDX-License-Identifier: Apache-2.0
"""Mistakes in hnai_ot_sources are found before a host is touched: each by its key, and whatever the collector itself would refuse."""

from __future__ import annotations

import copy
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from hnai_ot_collector import config
from hnai_ot_collector.record import TYPES
from hnai_ot_collector.registers import _FORMATS
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.flink.job import main_class
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts, sources
from ansible_collections.hnai.platform.plugins.plugin_utils.declared import jars

ROOT = Path(__file__).resolve().parents[2]
UNITS = ("psi>kPa", "degF>degC")
GOOD: dict[str, dict[str, Any]] = {
    "opcua": {
        "id": "s", "asset": "plc1", "protocol": "opcua", "endpoint": "opc.tcp://plc1:4840/", "server_certificate_file": "/state/plc1.pem",
        "identity": {"username": "observer", "password_file": "/state/plc1.password"}, "policy": "Basic256Sha256", "mode": "SignAndEncrypt",
        "publishing_ms": 250, "keepalive_count": 20, "lifetime_count": 120, "session_timeout_s": 30, "limits": {"new_per_minute": 6, "connections": 2},
        "audit": {"per_second": 50}, "canary": "t",
        "tags": [
            {"name": "t", "node": "nsu=urn:x;s=A", "type": "double", "unit": "psi", "unit_to": "kPa", "kind": "cyclic", "sampling_ms": 500, "queue": 240},
            {"name": "u", "node": "i=2258", "type": "string", "mode": "poll", "sampling_ms": 1000, "queue": 1},
        ],
    },
    "modbus": {
        "id": "s", "asset": "plc1", "protocol": "modbus", "host": "plc1", "port": 502, "unit": 1, "table": "input", "word_order": "big", "poll_ms": 1000,
        "timeout_s": 1.0, "gap_registers": 8, "filter": {"address": "127.0.1.1", "clear_on_read": [7], "identification": True},
        "limits": {"new_per_minute": 6},
        "tags": [
            {"name": "t", "address": 0, "encoding": "float32", "type": "float", "unit": "degF", "unit_to": "degC"},
            {"name": "u", "address": 2, "encoding": "uint16", "type": "bool", "scale": 0.1, "nan_is_bad": False},
        ],
    },
    "mqtt": {"id": "s", "asset": "plc1", "protocol": "mqtt", "topic": "line/s", "tags": [{"name": "t", "type": "int", "kind": "cyclic", "sampling_ms": 500}]},
    "sparkplug": {
        "id": "s", "asset": "plc1", "protocol": "sparkplug", "group": "pad1", "node": "line1", "keepalive_s": 30,
        "tags": [{"name": "t", "metric": "Load", "device": "packer", "type": "double", "sampling_ms": 500}, {"name": "u", "metric": "Load", "type": "int"}],
    },
}


def judged(*given_: Any, conversions: tuple[str, ...] | None = UNITS) -> dict[str, str]:
    """{key: message}."""
    found = list(sources.problems(list(given_), "the file", conversions))
    assert all(one.file == "the file" and one.remedy and one.key.isprintable() and "\n" not in one.message for one in found)
    return {one.key.removeprefix("hnai_ot_sources"): one.message for one in found}


def changed(kind: str, /, **change: Any) -> dict[str, Any]:
    """A good source with some keys as given; ... takes a key away; `tags__N__key` is inside of a tag."""
    made = copy.deepcopy(GOOD[kind])
    for name, value in change.items():
        *way, last = name.split("__")
        place: Any = made
        for step in way:
            place = place[int(step)] if step.isdigit() else place.setdefault(step, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return made


@pytest.mark.parametrize("protocol", GOOD)
def test_a_source_that_works_is_accused_of_nothing(protocol: str) -> None:
    assert judged(GOOD[protocol]) == {}


def test_the_lab_is_accused_of_nothing() -> None:
    told = yaml.safe_load((ROOT / "inventories/lab/group_vars/all/ot_sources.yml").read_text(encoding="utf-8"))["hnai_ot_sources"]
    units = yaml.safe_load((ROOT / "roles/flink/vars/main.yml").read_text(encoding="utf-8"))["__flink_units"]
    assert judged(*told, conversions=tuple(units)) == {}


@pytest.mark.parametrize(("source", "key", "message"), [
    (changed("modbus", id="a b"), "[a b].id", "no plain name"),
    (changed("modbus", protocol="mqqt"), "[s].protocol", "'mqqt' is unknown"),
    (changed("modbus", host=None), "[s].host", "is missing"),
    (changed("modbus", port="502"), "[s].port", "'502' cannot be"),
    (changed("modbus", unit=300), "[s].unit", "300 cannot be"),
    (changed("modbus", poll_ms=0), "[s].poll_ms", "0 cannot be"),
    (changed("modbus", word_order=...), "[s].word_order", "is missing"),
    (changed("modbus", word_order="mixed"), "[s].word_order", "'mixed' is unknown"),
    (changed("modbus", filter=...), "[s].filter", "may dial no Modbus device"),
    (changed("modbus", filter={"address": "10.0.0.1"}), "[s].filter.address", "no loopback address"),
    (changed("modbus", filter__identification="yes"), "[s].filter.identification", "neither"),
    (changed("modbus", topic="line/s"), "[s].topic", "nothing reads"),
    (changed("modbus", limits__new_per_minute=0), "[s].limits.new_per_minute", "0 cannot be"),
    (changed("modbus", limits__newperminute=6), "[s].limits.newperminute", "nothing reads"),
    (changed("modbus", limits=6), "[s].limits", "6 is no map"),
    (changed("modbus", canary="gone"), "[s].canary", "none of its tags"),
    (changed("modbus", canary="u"), "[s].canary", "does not count: it is bool, cyclic"),
    (changed("opcua", canary="t", tags__0__kind="on_change", tags__0__type="int"), "[s].canary", "does not count: it is int, on_change"),
    (changed("modbus", tags__0__name="U"), "[s].tags[u]", "two tags would be one series"),
    (changed("modbus", tags=None), "[s].tags", "no list of tags"),
    (changed("modbus", tags={"t": {}}), "[s].tags", "no list of tags"),
    (changed("modbus", tags__0__name="a b"), "[s].tags[a b].name", "no plain name"),
    (changed("modbus", tags__0__name="u"), "[s].tags[u]", "two tags would be one series"),
    (changed("modbus", tags__0__type="real"), "[s].tags[t].type", "'real' is unknown"),
    (changed("modbus", tags__0__encoding="float31"), "[s].tags[t].encoding", "'float31' is unknown"),
    (changed("modbus", tags__0__encoding=...), "[s].tags[t].encoding", "is missing"),
    (changed("modbus", tags__0__address=-1), "[s].tags[t].address", "-1 cannot be"),
    (changed("modbus", tags__0__address=65535), "[s].tags[t].address", "beyond 65535"),
    (changed("modbus", tags__1__address=1), "[s].tags[u].address", "read as t too"),
    (changed("modbus", tags__0__address=2), "[s].tags[u].address", "read as t too"),
    (changed("modbus", tags__1__scale=0), "[s].tags[u].scale", "every value 0"),
    (changed("modbus", tags__1__scale=float("nan")), "[s].tags[u].scale", "nan cannot be"),
    (changed("modbus", tags__1__kind="cyclic"), "[s].tags[u].kind", "nothing reads"),
    (changed("modbus", tags__0__unit_to="psi"), "[s].tags[t].unit_to", "nobody can turn 'degF' into 'psi'"),
    (changed("modbus", tags__1__unit_to="kPa"), "[s].tags[u].unit_to", "bool is no number"),
    (changed("modbus", tags__0__unit=5), "[s].tags[t].unit", "5 is no unit"),
    (changed("opcua", endpoint=""), "[s].endpoint", "is missing"),
    (changed("opcua", policy="None"), "[s].policy", "'None' is unknown"),
    (changed("opcua", server_certificate_file=...), "[s].server_certificate_file", "is missing"),
    (changed("opcua", identity={"username": "u", "password": "x"}), "[s].identity.password", "nothing reads"),
    (changed("opcua", lifetime_count=59), "[s].lifetime_count", "3 times keepalive_count"),
    (changed("opcua", session_timeout_s=600), "[s].session_timeout_s", "600 cannot be"),
    (changed("opcua", on_refuted="halt"), "[s].on_refuted", "'halt' is unknown"),
    (changed("opcua", audit__per_secound=5), "[s].audit.per_secound", "nothing reads"),
    (changed("opcua", limits__reads_per_second=0.5), "[s].tags", "1.0 values are polled a second"),
    (changed("opcua", tags__0__node=...), "[s].tags[t].node", "is missing"),
    (changed("opcua", tags__0__node="Pad1.A"), "[s].tags[t].node", "no node"),
    (changed("opcua", tags__0__node="ns=2;s=A"), "[s].tags[t].node", "no node"),
    (changed("opcua", tags__0__node="s=A"), "[s].tags[t].node", "does not say whose"),
    (changed("opcua", tags__0__node="nsu=urn:x;i=4294967296"), "[s].tags[t].node", "no number below 2^32"),
    (changed("opcua", tags__0__node="nsu=urn:x;g=12"), "[s].tags[t].node", "no GUID"),
    (changed("opcua", tags__1__node="nsu=urn:x;s=A"), "[s].tags[u].node", "is the node of t too"),
    (changed("opcua", tags__0__sampling_ms=0), "[s].tags[t].sampling_ms", "0 cannot be"),
    (changed("opcua", tags__0__sampling_ms="500"), "[s].tags[t].sampling_ms", "'500' cannot be"),
    (changed("opcua", tags__0__kind="Cyclic"), "[s].tags[t].kind", "'Cyclic' is unknown"),
    (changed("opcua", tags__0__unitto="kPa"), "[s].tags[t].unitto", "nothing reads"),
    (changed("mqtt", topic="line/#"), "[s].topic", "not where the bridge hears it"),
    (changed("mqtt", topic="spBv1.0/g/NCMD/e"), "[s].topic", "not where the bridge hears it"),
    (changed("mqtt", topic=...), "[s].topic", "is missing"),
    (changed("sparkplug", group="a/b"), "[s].group", "no level of an MQTT topic"),
    (changed("sparkplug", group="STATE"), "[s].group", "no level of an MQTT topic"),
    (changed("sparkplug", node=None), "[s].node", "is missing"),
    (changed("sparkplug", keepalive_s=1), "[s].keepalive_s", "1 cannot be"),
    (changed("sparkplug", tags__0__metric="bdSeq"), "[s].tags[t].metric", "no metric"),
    (changed("sparkplug", tags__1__device="packer"), "[s].tags[u].metric", "is the metric of t too"),
])  # fmt: skip
def test_a_mistake_is_named_by_its_key(source: dict[str, Any], key: str, message: str) -> None:
    found = judged(source)
    if key.endswith(("identity.password", "limits.newperminute")):  # the misspelt key is missing, too
        found.pop("[s].identity.password_file", None)
    assert list(found) == [key], found
    assert message in found[key]


def test_what_two_sources_may_not_share() -> None:
    other = changed("modbus", id="z", unit=2)
    assert judged(GOOD["modbus"], GOOD["opcua"]) == {"[s].id": "is used 2 times"}
    assert judged(GOOD["modbus"], other) == {"[z].filter.address": "stands for s too"}
    twin = changed("modbus", id="z", filter={"address": "127.0.1.2"})
    assert judged(GOOD["modbus"], twin) == {"[z]": "reads the device of s too, which would bear both"}
    assert judged(GOOD["modbus"], {**twin, "port": 1502}) == judged(GOOD["modbus"], {**twin, "asset": "plc2"}) == {}
    assert list(judged(GOOD["opcua"], changed("opcua", id="z", endpoint="opc.tcp://PLC1.site:4840"))) == ["[z]"]
    assert judged(GOOD["opcua"], changed("opcua", id="z", endpoint="opc.tcp://plc1:4841")) == {}
    assert judged(GOOD["opcua"], changed("opcua", id="z", endpoint="opc.tcp://plc1:4840/other")) == {}


def test_without_flink_a_value_is_stored_as_it_comes() -> None:
    assert judged(changed("modbus", tags__0__unit_to="psi"), conversions=None) == {}


def test_templates_are_left_to_the_roles() -> None:
    for protocol, rules in sources.SOURCES.items():
        for name in sorted(set(rules) - {"tags"}):
            assert judged(changed(protocol, **{name: "{{ later }}"})) == {}, name
        assert judged(changed(protocol, tags="{{ later }}")) == {}
        for name in sources.TAGS[protocol]:
            assert judged(changed(protocol, canary="{{ c }}", **{f"tags__0__{name}": "{{ later }}"})) == {}, name


@pytest.mark.parametrize(("units", "wrong"), [
    ({}, []), ({"inHg>kPa": {"scale": "3.386389", "offset": "0"}}, []), ({"K>degC": {"scale": 1, "offset": -273.15}}, []), ({"a>b": "{{ c }}"}, []),
    ([], ["hnai_units"]), ({"inHg": {"scale": "1", "offset": "0"}}, ["hnai_units[inHg]"]), ({"a>b": {"scale": "1"}}, ["hnai_units[a>b]"]),
    ({"a>b": {"scale": "0", "offset": "0"}}, ["hnai_units[a>b]"]), ({"a>b": {"scale": "1) --", "offset": "0"}}, ["hnai_units[a>b]"]),
    ({"a'>b": {"scale": "1", "offset": "0"}}, ["hnai_units[a'>b]"]), ({"a>b": {"scale": "nan", "offset": "0"}}, ["hnai_units[a>b]"]),
    ({"a>b": {"scale": True, "offset": "0"}}, ["hnai_units[a>b]"]), ({"a>b": None}, ["hnai_units[a>b]"]),
])
def test_conversions_of_the_site(units: Any, wrong: list[str]) -> None:
    assert [key for key, _message, _remedy in sources.unit_problems(units)] == wrong


def test_words_are_those_of_the_collector() -> None:
    assert sorted(TYPES) == sorted(sources.TYPES)
    assert sorted(_FORMATS) == sorted(sources.TAGS["modbus"]["encoding"].allowed)
    assert [one.pattern.replace("\\Z", "$") for one in (sources.SOURCE, sources.NAME, sources.NODE, sources.SEGMENT)] == [
        one.pattern for one in (config.SOURCE, config.NAME, config.NODE, config.SEGMENT)]


@pytest.fixture(scope="module")
def rendered() -> Any:
    """The collector's own template: sources in, its configuration out."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters.update({"combine": lambda *parts: {key: value for part in parts for key, value in part.items()},
                                "to_nice_json": lambda data, **_given: json.dumps(data, default=list)})
    environment.tests["in"] = lambda value, many: value in many
    template = environment.from_string((ROOT / "roles/ot_collector/tree/etc/hnai/ot_collector/collector.json.j2").read_text(encoding="utf-8"))
    return lambda *told: json.loads(template.render(
        ot_collector_sources=told, ot_collector_queue_records=1000, ot_collector_application_uri="urn:x", ot_collector_mqtt_host="edge1",
        lookup=lambda _ports, component: contracts.ports(component)))


#: What somebody may have written by mistake.
ODD = (..., "", 0, -1, 0.5, 1, 3, 61, 70000, 1e12, True, "text", "5", [], {}, ["a"])


@pytest.mark.parametrize("protocol", ["opcua", "modbus", "sparkplug"])
def test_whatever_the_collector_refuses_was_refused_before(protocol: str, rendered: Any) -> None:
    config.parse(rendered(GOOD[protocol]), "f")
    refused = 0
    limits = [f"limits__{name}" for name in sources._LIMITS]
    names = [*(name for name in sources.SOURCES[protocol] if name not in ("tags", "id", "limits")), *limits, *(f"tags__0__{n}" for n in sources.TAGS[protocol])]
    for name, value in itertools.product(names, ODD):
        try:
            source = changed(protocol, **{name: value})
        except KeyError:
            continue
        why = ""
        try:
            config.parse(rendered(source), "f")
        except (config.ConfigError, jinja2.UndefinedError, TypeError, AttributeError, ValueError) as error:
            why = str(error) or "refused"
        refused += bool(why)
        assert not why or judged(source), f"{name} = {value!r}: {why}"
    assert refused > 100


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=4) | st.sampled_from([*sources.SOURCES["opcua"], *sources.TAGS["modbus"], "protocol"]), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({"id": ANYTHING, "protocol": st.sampled_from([*GOOD, "x"]) | ANYTHING}, optional={
    "tags": st.lists(st.dictionaries(st.sampled_from(sorted({n for one in sources.TAGS.values() for n in one})), ANYTHING, max_size=6), max_size=3) | ANYTHING,
    **dict.fromkeys(("filter", "limits", "identity", "node", "topic", "lifetime_count", "unit", "canary"), ANYTHING)}), max_size=3) | ANYTHING)
def test_nothing_ends_in_a_traceback(told: Any) -> None:
    assert all(one.message and one.key.isprintable() for one in sources.problems(told, "f", UNITS))


def test_what_the_plant_hands_over_can_be_read(tmp_path: Path) -> None:
    pem, secret = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n", "hunter2"
    for name, content in (("a.pem", pem.encode()), ("der", b"0\x82\xff"), ("key", secret.encode()), ("empty", b" \n")):
        (tmp_path / name).write_bytes(content)

    def found(certificate: Any, password: Any, **more: Any) -> dict[str, str]:
        source = {"id": "s", "server_certificate_file": certificate, "identity": {"password_file": password}, **more}
        told = list(sources.handed_over([None, {"id": "t", "identity": None}, source], lambda path: (tmp_path / path).read_text(encoding="utf-8")))
        assert all(remedy and secret not in message for _key, message, remedy in told)
        return {key.removeprefix("hnai_ot_sources[s]."): message for key, message, _remedy in told}

    assert found("a.pem", "key", server_certificate_next_file="a.pem") == {} == found(None, 7)
    assert found("gone", "empty") == {
        "server_certificate_file": "gone cannot be read on the controller: No such file or directory", "identity.password_file": "empty holds nothing",
    }
    assert found("key", ".", server_certificate_next_file="der") == {
        "server_certificate_file": "key holds no certificate (PEM)", "server_certificate_next_file": "der cannot be read on the controller: it is no text",
        "identity.password_file": ". cannot be read on the controller: Is a directory",
    }


def test_a_jar_that_no_run_could_deploy_is_named_before_one(tmp_path: Path) -> None:
    def lies(name: str, manifest: str = "") -> str:
        with zipfile.ZipFile(tmp_path / name, "w") as jar:
            jar.writestr("META-INF/MANIFEST.MF", manifest)
        return str(tmp_path / name)

    (tmp_path / "text.jar").write_text("no archive")
    good, mute = lies("good.jar", "Main-Class: a.B\n"), lies("mute.jar")
    declared = [None, {"name": "a", "jar": good}, {"name": "b", "jar": mute, "main": "a.B"}, {"name": "c", "jar": mute}, {"name": "d", "jar": "jars/x.jar"},
                {"name": "e", "jar": str(tmp_path / "none.jar")}, {"name": "f", "jar": str(tmp_path / "text.jar")}]  # fmt: skip
    told = {key: wrong for key, wrong, _remedy in jars(declared, main_class)}
    assert set(told) == {f"flink_jars[{number}].jar" for number in (3, 4, 5, 6)}
    assert "names no Main-Class" in told["flink_jars[3].jar"] and "from the root" in told["flink_jars[4].jar"]
    assert "No such file" in told["flink_jars[5].jar"] and "is no jar" in told["flink_jars[6].jar"]
    assert list(jars("{{ later }}", main_class)) == []
