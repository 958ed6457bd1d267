# SPDX-License-Identifier: Apache-2.0
"""Mistakes in what an inventory says that the site model does not look at."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import SITE_VARIABLES
from ansible_collections.hnai.platform.plugins.plugin_utils import declared, limits, written
from ansible_collections.hnai.platform.plugins.plugin_utils.declared import Known
from ansible_collections.hnai.platform.plugins.plugin_utils.site import broker_settings, options

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "x_number": {"type": "int"},
    "x_share": {"type": "float"},
    "x_on": {"type": "bool"},
    "x_mode": {"type": "str", "choices": ["enforce", "observe"]},
    "x_list": {"type": "list"},
    "x_map": {"type": "dict"},
    "x_secret": {"type": "int", "no_log": True},
    "x_heap": {"type": "str"},
    "x_kept": {"type": "str", "default": "31d"},
    "x_free_percent": {"type": "int"},
    "flink_window_s": {"type": "int"},
    "questdb_table": {"type": "str"},
    "kafka_retention_ms": {"type": "int"},
    "x_storage_path": {"type": "path"},
    "y_buffer_path": {"type": "path"},
}


def judged(variables: dict[str, dict[str, Any]], groups: dict[str, list[str]] | None = None) -> dict[str, tuple[str, str]]:
    """{key: (message, remedy)}."""
    found = written.problems(variables, OPTIONS, groups or {}, lambda name: f"file of {name}")
    assert all(one.severity == "error" and one.file and one.key and one.message and one.remedy for one in found)
    return {one.key: (one.message, one.remedy) for one in found}


GOOD: list[dict[str, Any]] = [
    {"x_number": 1, "x_share": 0.5, "x_on": True, "x_mode": "observe", "x_list": [1], "x_map": {"a": 1}},
    {"x_heap": "512m"},
    {"x_heap": 536870912},
    {"x_kept": "1h30m", "x_number": 0, "x_free_percent": 100, "kafka_retention_ms": -1},
    {"x_heap": "{{ a }}m"},
    {"x_number": "7", "x_share": "1", "x_on": "yes", "x_list": "a,b"},
    {"x_number": "{{ a }}", "x_on": "{% if a %}yes{% endif %}", "x_mode": "{{ mode }}", "x_map": "{{ everything }}", "x_list": "{{ all }}"},
    {"x_number": None, "x_map": None, "unknown": [1]},
    {"x_mode": object(), "x_number": object(), "x_list": object()},  # a vaulted value
    {"ansible_user": "ansible", "ansible_port": 22, "ansible_become_password": "x"},
    {"ansible_user": "{{ me }}", "ansible_port": "{{ port }}", "ansible_ssh_port": "22"},
    {"ansible_port": 2222, "ansible_host": "192.0.2.1", "hnai_addresses": {"v4": "10.0.0.1"}},  # a way that leads to the host's own port
    {"ansible_user": "root", "ansible_password": "x", "ansible_port": 2222, "ansible_connection": "containers.podman.podman"},
]


@pytest.mark.parametrize("variables", GOOD)
def test_what_a_role_would_take_is_taken(variables: dict[str, Any]) -> None:
    assert judged({"a": variables}) == {}


@pytest.mark.parametrize(
    ("name", "value", "message", "remedy"),
    [
        ("x_number", "often", "'often' is not a whole number", "a whole number"),
        ("x_number", -1, "-1 cannot be", "a number from 0"),
        ("x_share", float("nan"), "nan cannot be", "a number from 0"),
        ("x_share", "-0.5", "'-0.5' cannot be", "a number from 0"),
        ("x_free_percent", 101, "101 cannot be", "from 0 to 100"),
        ("kafka_retention_ms", -2, "-2 cannot be", "a number from 0"),
        ("flink_window_s", 100, "100 cannot be", "from 1 to 99"),
        ("questdb_table", "ot; drop", "'ot; drop' cannot be", "letters, digits"),
        ("x_kept", 31, "31 is no length of time", "such as 31d"),
        ("x_kept", "31 days", "'31 days' is no length of time", "such as 31d"),
        ("x_number", 1.5, "1.5 is not a whole number", "a whole number"),
        ("x_number", [1], "[1] is no int", "a whole number"),
        ("x_share", "much", "'much' is not a number", "a number"),
        ("x_heap", "lots", "'lots' is no size of memory", "such as 512m"),
        ("x_heap", "1.5g", "'1.5g' is no size of memory", "such as 512m"),
        ("questdb_table", False, "False is no text: YAML reads words such as no", "in quotes"),
        ("x_on", "perhaps", "'perhaps' is not true or false", "true or false"),
        ("x_mode", "enforced", "'enforced' is unknown", "one of: enforce, observe"),
        ("x_list", {"a": 1}, "{'a': 1} is no list", "a list"),
        ("x_map", "a", "'a' is no dict", "a dict"),
        ("x_map", "{'a': true}", "is no dict", "as Python writes it: {'a': True"),
        ("x_list", "[{a: 1}]", "'[{a: 1}]' is no list", "as Python writes it"),
    ],
)
def test_what_a_role_would_refuse_is_refused(name: str, value: Any, message: str, remedy: str) -> None:
    found = judged({"a": {name: value}, "b": {name: value}})
    assert len(found) == 1, "the same mistake in a group is one mistake"
    said, what = next(iter(found.values()))
    assert message in said
    assert remedy in what


def test_a_secret_is_not_repeated() -> None:
    assert "hunter2" not in str(judged({"a": {"x_secret": "hunter2"}}))
    assert judged({"a": {"x_secret": "hunter2"}})["x_secret"][0].startswith("the value is not")


def test_two_brokers_with_one_id() -> None:
    variables = {"k1": {"kafka_node_id": 1}, "k2": {"kafka_node_id": "1"}, "k3": {"kafka_node_id": 3}, "other": {"kafka_node_id": 3}}
    assert judged(variables, {"kafka": ["k1", "k2", "k3"]}) == {"k2: kafka_node_id": ("1 is the id of k1, k2", "give each host one of its own")}


@pytest.mark.parametrize(
    ("second", "message"),
    [("01", "1 is the id of k1, k2"), (True, "True is no id"), (-5, "-5 is no id"), ("-5", "'-5' is no id"), (None, "is missing"), (2, ""), ("{{ n }}", "")],
)
def test_a_broker_has_an_id_of_its_own(second: Any, message: str) -> None:
    variables = {"k1": {"kafka_node_id": 1}, "k2": {"kafka_node_id": second}}
    found = written.problems(variables, {"kafka_node_id": {"type": "int", "required": True}}, {"kafka": ["k1", "k2", "gone"]}, str)
    assert [(one.key, one.message) for one in found] == ([("k2: kafka_node_id", message)] if message else [])


def test_what_is_of_the_whole_is_said_once() -> None:
    options = {"kafka_version": {"default": "4.3.1"}, "kafka_heap": {}}
    groups = {"kafka": ["a", "b"], "managed": ["a", "b", "c"]}

    def found(**other: Any) -> list[str]:
        told = {"a": {"hnai_slo": {"x": 1}, "kafka_version": "4.3.1"}, "b": {"hnai_slo": {"x": 1}, **other}, "c": {"hnai_slo": {"x": 1}, "kafka_version": "1"}}
        return [f"{one.key} {one.message}" for one in written._alike(told, options, groups, str)]

    assert found() == found(kafka_heap="2g") == found(kafka_version="{{ }}") == []
    assert found(kafka_version="4.2.2") == ["kafka_version is another on b than on a"]
    assert found(hnai_slo={"x": 2}, kafka_topics=[]) == ["hnai_slo is another on b than on a", "kafka_topics is another on b than on a"]


def test_what_cannot_be_opened_hides_no_other_mistake() -> None:
    class Vaulted(dict[str, Any]):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AnsibleError("no vault secrets found")

    told = {"a": {"hnai_slo": Vaulted(), "hnai_site": "x"}, "b": {"hnai_slo": Vaulted(), "hnai_site": "y"}}
    assert [one.key for one in written._alike(told, {}, {}, str)] == ["hnai_site"]


def test_what_an_option_is_made_of_is_looked_at_too() -> None:
    inner = {"name": {"type": "str", "required": True, "description": "Its name."}, "size": {"type": "int"}}
    option = {"x_things": {"type": "list", "elements": "dict", "options": inner}, "x_numbers": {"type": "list", "elements": "int"}}
    things = [{"name": "a", "size": "7"}, {"size": "much"}, "text", {"name": "b", "sise": 1}, {"name": "{{ c }}"}]
    found = written.problems({"a": {"x_things": things[:4], "x_numbers": [1, "2", "many"]}}, option, {}, str)
    assert {one.key for one in found} == {"x_things[1].name", "x_things[1].size", "x_things[2]", "x_things[3].sise", "x_numbers[2]"}
    assert written.problems({"a": {"x_things": things}}, option, {}, str) == [], "a template is left to the role"


TOPIC = {"name": "ot.raw", "partitions": 3, "owner_level": 3}
KAFKA = {name: {"type": kind, "default": default} for name, kind, default in
         (("kafka_topics", "list", [TOPIC]), ("kafka_replication_factor", "int", 3), ("kafka_min_insync_replicas", "int", 2))}


@pytest.mark.parametrize(
    ("variables", "key", "message"),
    [
        ({}, "", ""),
        ({"kafka_replication_factor": "3"}, "", ""),
        ({"kafka_replication_factor": 5}, "kafka_replication_factor", "5 with 3 brokers"),
        ({"kafka_min_insync_replicas": 3}, "kafka_min_insync_replicas", "3 of 3 replicas"),
        ({"kafka_topics": [{**TOPIC, "replication_factor": 4}]}, "kafka_topics[ot.raw].replication_factor", "4 with 3 brokers"),
        ({"kafka_topics": [{**TOPIC, "config": {"min.insync.replicas": 3}}]}, "kafka_topics[ot.raw].config.min.insync.replicas", "3 of 3 replicas"),
        ({"kafka_topics": [{**TOPIC, "partitions": 0}]}, "kafka_topics[ot.raw].partitions", "0"),
        ({"kafka_topics": [TOPIC, TOPIC]}, "kafka_topics[ot.raw]", "is there twice"),
        ({"kafka_topics": [{**TOPIC, "name": "OT_RAW"}]}, "kafka_topics[OT_RAW].name", "only lower-case letters"),
        ({"kafka_topics": [{**TOPIC, "config": {"retention.ms": 1000}}]}, "kafka_topics[ot.raw].config.retention.ms", "declared outage of 600 s"),
        ({"kafka_topics": [{**TOPIC, "config": {"retention.ms": -1}}]}, "", ""),
        ({"kafka_topics": [{**TOPIC, "config": {"retention.ms": "{{ a }}"}}]}, "", ""),
        ({"kafka_topics": [{**TOPIC, "config": {"retention.ms": "1h"}}]}, "kafka_topics[ot.raw].config.retention.ms", "'1h' is no number"),
        ({"kafka_topics": [{**TOPIC, "config": {"retention.bytes": -5}}]}, "kafka_topics[ot.raw].config.retention.bytes", "'-5' is no number"),
        ({"kafka_topics": [{**TOPIC, "config": {"retention.msec": 1}}]}, "kafka_topics[ot.raw].config.retention.msec", "is no setting of a topic"),
        ({"kafka_topics": [{**TOPIC, "config": {"cleanup.policy": "compct"}}]}, "kafka_topics[ot.raw].config.cleanup.policy", "'compct' is unknown"),
        ({"kafka_topics": [{**TOPIC, "config": {"cleanup.policy": "compact, delete", "segment.jitter.ms": 5, "local.retention.ms": -2, "new.one": 1,
                                                "flush.messages": 1, "index.interval.bytes": 4096, "file.delete.delay.ms": 60000}}]}, "", ""),
    ],
)
def test_topics_that_the_brokers_would_refuse(variables: dict[str, Any], key: str, message: str) -> None:
    hosts = {host: {"hnai_slo": {"hops": {"kafka_to_store": {"outage_s": 600}}}, **variables} for host in ("k1", "k2", "k3")}
    found = written.problems(hosts, KAFKA, {"kafka": list(hosts)}, str)
    assert [one.key for one in found] == ([key] if key else [])
    assert all(message in one.message and one.file and one.remedy for one in found)


def test_a_topic_that_somebody_needs_is_declared() -> None:
    told = {"kafka_topics": [{"name": "ot.raw", "partitions": 3}]}
    known = {"kafka_topics": {"type": "list"}, "kafka_replication_factor": {"default": 1}, "kafka_min_insync_replicas": {"default": 1}}
    for missing in ("", "ot.alerts"):
        needed = {"ot.raw": "shipper", **({missing: "flink"} if missing else {})}
        found = written.problems({"k1": told}, known, {"kafka": ["k1"]}, lambda name: f"file of {name}", Known(needed=needed))
        assert [(one.key, one.message) for one in found] == ([("kafka_topics[ot.alerts]", "is missing, and flink needs it")] if missing else [])


SOURCES = [{"id": "plc1", "protocol": "opcua", "tags": [{"name": "Level"}, {"name": "flow"}]}]


@pytest.mark.parametrize(("told", "key", "message"), [
    ({"flink_jobs": ["normalise", "alerts"], "flink_alerts": [{"source": "plc1", "tag": "level", "low": 1, "high": 2, "rate": 1}]}, "", ""),
    ({"flink_jobs": ["normalise", "normalise"]}, "flink_jobs[normalise]", "2 times"),
    ({"flink_jobs": ["normalise", "alerts"]}, "flink_jobs", "nothing to watch"),
    ({"flink_jars": [{"name": "leaks", "jar": "a.jar"}, {"name": "leaks2", "jar": "a.jar"}]}, "", ""),
    ({"flink_jars": [{"name": "leaks", "jar": "a.jar"}] * 2}, "flink_jars[leaks].name", "2 times"),
    ({"flink_jars": [{"name": "alerts", "jar": "a.jar"}]}, "flink_jars[0].name", "no name for a job of your own"),
    ({"flink_jars": [{"name": "a.b", "jar": "a.jar"}]}, "flink_jars[0].name", "no name for a job of your own"),
    ({"flink_jobs": ["normalise"], "flink_alerts": [{"source": "drill", "tag": "x", "low": 1}]}, "flink_jobs", "lacks alerts"),
    ({"flink_alerts": [{"source": "plc1", "tag": "levle", "low": 1}]}, "flink_alerts[plc1/levle]", "no such tag"),
    ({"flink_alerts": [{"source": "plc1", "tag": "Level", "low": 1}]}, "flink_alerts[plc1/Level]", "no such tag"),
    ({"flink_alerts": [{"source": "elsewhere", "tag": "x", "low": 1}]}, "", ""),
    ({"flink_alerts": [{"source": "plc1", "tag": "flow"}]}, "flink_alerts[plc1/flow]", "watches nothing"),
    ({"flink_alerts": [{"source": "plc1", "tag": "flow", "low": 0}]}, "", ""),
    ({"flink_alerts": [{"source": "plc1", "tag": "flow", "low": 2, "high": 2}]}, "flink_alerts[plc1/flow]", "not below"),
    ({"flink_alerts": [{"source": "plc1", "tag": "flow", "rate": 0}]}, "flink_alerts[plc1/flow]", "rate 0 cannot be"),
    ({"flink_alerts": [{"source": "plc1", "tag": "flow", "low": 0}] * 2}, "flink_alerts[plc1/flow]", "stands there twice"),
    ({"flink_alerts": [{"source": "{{ s }}", "tag": "flow"}], "flink_jobs": "{{ jobs }}"}, "", ""),
])
def test_jobs_and_alerts(told: dict[str, Any], key: str, message: str) -> None:
    found = judged({"f": {"hnai_ot_sources": SOURCES, **told}}, {"flink": ["f"]})
    found = {name: said for name, said in found.items() if name.startswith("flink")}
    assert list(found) == ([key] if key else []) and all(message in said for said, _remedy in found.values())


MODBUS = {
    "id": "sep1", "asset": "plc1", "protocol": "modbus", "host": "plc1", "port": 502, "word_order": "big", "filter": {"address": "127.0.1.1"},
    "tags": [{"name": "t", "type": "float", "address": 0, "encoding": "float32"}],
}  # fmt: skip
CANARY = {"id": "c", "for": "sep1", "address": "127.0.2.1", "host": "plc1", "port": 1502, "record_port": 1503}


@pytest.mark.parametrize(("canary", "key", "message"), [
    (CANARY, "", ""), ({**CANARY, "for": "sep9"}, "modbus_filter_canaries[0].for", "no Modbus source"),
    ({**CANARY, "port": 502}, "modbus_filter_canaries[0]", "where the device sep1 is"),
    ({**CANARY, "address": "127.0.1.1"}, "modbus_filter_canaries", "stands twice"),
    ({**CANARY, "host": "10.0.2.1", "port": 502}, "modbus_filter_canaries[0]", "stands where the device sep1 is"),
    ({**CANARY, "host": "FD00::1", "port": "502"}, "modbus_filter_canaries[0]", "stands where the device sep1 is"),
    ({**CANARY, "host": "10.0.2.1"}, "", ""), ({**CANARY, "host": "plc7"}, "modbus_filter_canaries[0].host", "'plc7' is no asset"),
    ({**CANARY, "port": "{{ p }}"}, "", ""), ({"id": "c", "for": "sep1"}, "modbus_filter_canaries", "cannot be read"),
])
def test_a_canary_of_the_filter(canary: dict[str, Any], key: str, message: str) -> None:
    assets = {"plc1": {"addresses": {"v4": "10.0.2.1", "v6": "fd00::1"}}}
    found = judged({"e": {"hnai_ot_sources": [MODBUS], "modbus_filter_canaries": [canary], "hnai_assets": assets}}, {"modbus_filter": ["e"]})
    assert list(found) == ([key] if key else []) and all(message in said for said, _remedy in found.values())


def test_a_wrong_source_hides_no_wrong_canary() -> None:
    canaries = [{**CANARY, "for": "sep9"}, {**CANARY, "id": "d", "for": "sep8", "port": 502}]
    told = {"hnai_ot_sources": [{**MODBUS, "port": 0}], "modbus_filter_canaries": canaries, "hnai_assets": {"plc1": {}}}
    found = judged({"e": told}, {"modbus_filter": ["e"]})
    assert {"hnai_ot_sources[sep1].port", "modbus_filter_canaries[0].for", "modbus_filter_canaries[1].for"} <= set(found)


KEY = "ssh-ed25519 " + "A" * 68
TOKEN = {"site": "lab", "endpoint": "modbus://plc1:1502", "from": "2026-01-31T08:00:00Z", "to": "2026-01-31T10:00:00Z", "approver": "j.doe", "signature": "s"}


@pytest.mark.parametrize(("told", "key", "message"), [
    ({}, "", ""), ({"tokens": None, "approvers": None}, "", ""), ({"tokens": [TOKEN]}, "", ""), ({"approvers": {"j.doe": f"{KEY} j@doe"}}, "", ""),
    ({"tokens": [{**TOKEN, "endpoint": "opc.tcp://plc1:4840/"}]}, "", ""), ({"tokens": "{{ tokens }}"}, "", ""),
    ({"approvers": [KEY]}, "hnai_intrusive_approvers", "is no mapping"),
    ({"approvers": {"j.doe": f"no-pty {KEY}"}}, "hnai_intrusive_approvers[j.doe]", "no SSH"),
    ({"approvers": {"j.doe": f"{KEY}\n{KEY}"}}, "hnai_intrusive_approvers[j.doe]", "no SSH"), ({"tokens": TOKEN}, "hnai_intrusive_tokens", "is no list"),
    ({"tokens": ["t"]}, "hnai_intrusive_tokens[0]", "'t' is no token"), ({"tokens": [TOKEN, {**TOKEN, "by": "x"}]}, "hnai_intrusive_tokens[1]", "by: unknown"),
    ({"tokens": [{**TOKEN, "approver": "jdoe"}]}, "hnai_intrusive_tokens[0]", "jdoe is no approver"),
    ({"tokens": [{**TOKEN, "from": datetime(2026, 1, 31, 8, tzinfo=timezone.utc)}]}, "hnai_intrusive_tokens[0]", "in quotes"),
    ({"tokens": [{**TOKEN, "to": "2026-02-28T08:00:00Z"}]}, "hnai_intrusive_tokens[0]", "longer than 24 h"),
    ({"tokens": [{**TOKEN, "site": "pad2"}]}, "hnai_intrusive_tokens[0]", "is for the site 'pad2'"),
    ({"tokens": [{**TOKEN, "endpoint": "modbus://plc1:502"}]}, "hnai_intrusive_tokens[0]", "which nobody probes"),
])
def test_tokens_for_what_is_intrusive(told: dict[str, Any], key: str, message: str) -> None:
    site = {"hnai_site": "lab", "modbus_filter_canaries": [CANARY], "hnai_intrusive_approvers": {"j.doe": KEY},
            "hnai_ot_sources": [MODBUS, {"id": "plc1", "protocol": "opcua", "endpoint": "opc.tcp://plc1:4840/"}]}
    given = {**site, **{f"hnai_intrusive_{name}": value for name, value in told.items()}}
    found = {one.key: one.message for one in declared._tokens({"e": given}, {"ot_collector": ["e"], "modbus_filter": ["e"]}, str)}
    assert list(found) == ([key] if key else []) and all(message in said for said in found.values()), found


def test_what_tasks_read_of_a_site_is_known_to_validate() -> None:
    """Or whoever follows the documentation is told that nothing reads it."""
    texts = [path.read_text("utf-8") for place in ("roles", "playbooks") for path in (ROOT / place).rglob("*.yml") if "lab" not in path.parts]
    read = {name for text in texts for name in re.findall(r"(?<![\w/.-])hnai_[a-z_]+(?= \| d(?:efault)?\()", text)}
    said = {name for text in texts for name in re.findall(r"(?:register: |^ *|\")(hnai_[a-z_]+)(?=\"?:|$)", text, re.M)}
    assert "hnai_intrusive_tokens" in read and not read - said - SITE_VARIABLES - set(options()), read - said - SITE_VARIABLES - set(options())


@pytest.mark.parametrize(("told", "keys"), [
    ({"flink": {"consumer_byte_rate": 1e6}, "flink.b": {"request_percentage": 50}, "<default>": {"producer_byte_rate": 1}}, []), ({}, []),
    ({"flynk": {"consumer_byte_rate": 1}}, ["kafka_quotas[flynk]"]), ({"k1": {"consumer_byte_rate": 1}}, ["kafka_quotas[k1]"]),
    ({"flink": {"consumer_byte_rate": 0}}, ["kafka_quotas[flink].consumer_byte_rate"]), ({"flink": {"bytes": 1}}, ["kafka_quotas[flink].bytes"]),
    ({"flink": 5}, ["kafka_quotas[flink]"]), ({"flink": {"consumer_byte_rate": "1M"}}, ["kafka_quotas[flink]"]), ({"flink": "{{ q }}"}, []),
])
def test_quotas(told: Any, keys: list[str]) -> None:
    found = written.problems({"k1": {"kafka_quotas": told}}, {}, {"kafka": ["k1"]}, str, Known(users=["flink"]))
    assert [one.key for one in found] == keys and all(one.message and one.remedy for one in found)


def test_topics_that_somebody_may_write() -> None:
    groups = {"telegraf_writer": ["w", "v"], "telegraf_questdb": ["w", "q"], "telegraf_shipper": ["s"], "telegraf_bridge": ["s"], "flink": ["f"]}
    told = {"w": {"telegraf_writer_topic": "ot.normalised"}, "v": {"telegraf_writer_topic": "{{ topic }}"}, "q": {}, "f": {"telegraf_writer_topic": "ot.late"}}
    options = {"telegraf_writer_topic": {"default": "ot.raw"}, "telegraf_raw_topic": {"default": "ot.raw"}}

    def found(*fed: str) -> dict[str, tuple[str, str]]:
        return {one.key: (one.message, one.remedy) for one in written.problems(told, options, groups, str, Known(fed=fed))}

    assert found("ot.raw") == {"telegraf_writer_topic": ("nobody in the site may write topic 'ot.normalised'", "one of: ot.raw")}
    assert found("ot.raw", "ot.normalised") == found() == {}
    told["s"] = {"telegraf_raw_topic": "ot.mine"}
    assert list(found("ot.raw", "ot.normalised")) == ["telegraf_raw_topic"] and not found("ot.raw", "ot.normalised", "ot.mine")


@pytest.mark.parametrize(("store", "writer", "good"), [
    ({}, {}, True), ("a", "a", True), ("a", "b", False), ("a", {}, False), ({}, "b", False), ("{{ t }}", "b", True)])  # fmt: skip
def test_store_and_writer_have_one_table(store: Any, writer: Any, good: bool) -> None:
    told = {"d": {name: value for name, value in (("questdb_table", store), ("telegraf_questdb_table", writer)) if value != {}}}
    options = {"questdb_table": {"default": "ot"}, "telegraf_questdb_table": {"default": "ot"}}
    found = written.problems(told, options, {"questdb": ["d"], "telegraf_questdb": ["d"]}, str)
    assert [one.key for one in found] == ([] if good else ["telegraf_questdb_table"])
    assert written.problems(told, options, {"telegraf_questdb": ["d"]}, str) == []


def test_what_is_said_of_a_source_names_one_that_is() -> None:
    said = [{"source": "plc1", "expires": "2030-12-31", "date": "2026-01-01"}, {"source": "plc9"}, {"source": "{{ s }}", "date": "{{ d }}"}, None]
    told = {"hnai_ot_sources": SOURCES, "ot_collector_audit_exceptions": said, "ot_collector_trust_statements": said,
            "ot_collector_audit_accept_drift": ["plc1", "plc9"], "ot_collector_write_canaries": {"plc1": {}, "plc9": {}}}
    found = [key for key in judged({"e": told}, {"ot_collector": ["e"]}) if key.startswith("ot_collector")]
    assert found == ["ot_collector_audit_exceptions[1].source", "ot_collector_trust_statements[1].source", "ot_collector_audit_accept_drift[1]",
                     "ot_collector_write_canaries[plc9]"]


def test_an_exception_has_an_owner_and_a_reason() -> None:
    told = {"ot_collector_audit_exceptions": [{"owner": " ", "reason": "-"}, {"owner": "well pad", "reason": "R1"}]}
    assert list(judged({"e": told}, {"ot_collector": ["e"]})) == ["ot_collector_audit_exceptions[0].owner", "ot_collector_audit_exceptions[0].reason"]


def test_a_day_is_one() -> None:
    told = {"ot_collector_audit_exceptions": [{"expires": "soon"}], "ot_collector_trust_statements": [{"date": "31.12.2026"}]}
    assert list(judged({"e": told}, {"ot_collector": ["e"]})) == ["ot_collector_audit_exceptions[0].expires", "ot_collector_trust_statements[0].date"]


def test_a_file_of_another_collector_lies_where_one_collects() -> None:
    told = [{"host": "e", "path": "/flows.json"}, {"host": "x", "path": "flows.json"}, {"host": "{{ h }}", "path": "{{ p }}"}, None]
    assert list(judged({"e": {"ot_collector_foreign": told}}, {"ot_collector": ["e"]})) == ["ot_collector_foreign[1].host", "ot_collector_foreign[1].path"]


@pytest.mark.parametrize(("told", "keys"), [
    ({}, []), ({"openbao_key_threshold": 5}, []), ({"openbao_key_shares": 1, "openbao_key_threshold": 1}, []),
    ({"openbao_key_threshold": 6}, ["openbao_key_threshold"]),
    ({"openbao_key_threshold": 1}, ["openbao_key_threshold"]), ({"openbao_pgp_keys": ["a"] * 5}, []), ({"openbao_pgp_keys": ["a"]}, ["openbao_pgp_keys"]),
    ({"openbao_leaf_ttl": "1y"}, []), ({"openbao_leaf_ttl": "5y"}, ["openbao_leaf_ttl"]), ({"openbao_intermediate_ttl": "3660d"}, ["openbao_intermediate_ttl"]),
    ({"openbao_leaf_ttl": "{{ ttl }}"}, []), ({"openbao_audit_devices": [{"path": "/a/x"}, {"path": "/b/x"}]}, []),
    ({"openbao_audit_devices": [{"path": "/a/x"}]}, ["openbao_audit_devices"]),
    ({"openbao_audit_devices": [{"path": "/a/x"}, {"path": "/a/y"}]}, ["openbao_audit_devices"]),
    ({"openbao_intermediate_chain": "/x.pem"}, ["openbao_intermediate_chain"]), ({"openbao_intermediate_chain": "/x.pem", "openbao_root_ca": "site"}, []),
])  # fmt: skip
def test_the_ceremony_of_openbao(told: dict[str, Any], keys: list[str]) -> None:
    defaults = {name: {"default": value} for name, value in (
        ("openbao_key_shares", 5), ("openbao_key_threshold", 3), ("openbao_pgp_keys", []), ("openbao_leaf_ttl", "90d"), ("openbao_intermediate_ttl", "5y"),
        ("openbao_root_ttl", "10y"), ("openbao_audit_devices", []), ("openbao_root_ca", "own"))}
    assert [one.key for one in declared.problems({"b": told}, defaults, {"openbao": ["b"]}, str)] == keys


@pytest.mark.parametrize(("value", "good"), [
    ("lab", True), ("{{ name }}", True), ("my lab", False), ("", False), (7, False), ("a/b", False), ("x" * 64, False)])
def test_what_a_site_is_called(value: Any, good: bool) -> None:
    for name in ("hnai_site", "hnai_environment"):
        assert list(judged({"a": {name: value}})) == ([] if good else [name])
    assert (list(judged({"a": {"hnai_site": "north-1"}})), list(judged({"a": {"hnai_environment": "north-1"}}))) == ([], ["hnai_environment"])


@pytest.mark.parametrize(("name", "good", "wrong"), [
    ("hnai_state_dir", ["/srv/hnai", "~/hnai", "{{ lookup('env', 'X') }}"], ["state", "", 5]), ("hnai_full_verdict_max_age", [0, "86400"], ["30d", -1]),
    ("hnai_store_dir", ["/srv"], ["./store"]), ("hnai_expected_skips", [[], ["HO6"], "{{ skips }}"], ["HO6", {"HO6": 1}]),
])  # fmt: skip
def test_what_a_site_says_of_itself(name: str, good: list[Any], wrong: list[Any]) -> None:
    assert [list(judged({"a": {name: value}})) for value in good] == [[]] * len(good)
    assert [list(judged({"a": {name: value}})) for value in wrong] == [[name]] * len(wrong)


def test_what_no_site_can_be_without() -> None:
    found = written.problems({"a": {"hnai_site": "north", "hnai_environment": "production"}}, {}, {}, str, Known(checks=["HO6"]))
    assert [(one.key, one.message) for one in found] == [("hnai_state_dir", "is missing")]


def test_a_check_that_is_let_through_is_one() -> None:
    told = {"hnai_site": "a", "hnai_environment": "lab", "hnai_state_dir": "/s"}
    told |= {"hnai_expected_skips": ["HO6", "HO66"], "hnai_allow_inconclusive": ["V-kafka", "HO7", "{{ more }}"], "hnai_full_expected_skips": "{{ all }}"}
    found = written.problems({"a": told}, {}, {}, str, Known(checks=["HO6", "HO7"]))
    assert [(one.key, one.message) for one in found] == [("hnai_expected_skips[HO66]", "is no check")] and "HO6?" in found[0].remedy
    assert written.problems({"a": told}, {}, {}, str) == []


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGxLZ0tKc0lYc0d3b3VwZ0dKQ0t3WmpRZ3R3c0d3 me"


@pytest.mark.parametrize(("name", "good", "wrong"), [
    ("openbao_leaf_ttl", ["30d", "12h", "1w"], ["1h30m", "1.5d", "500ms", "0d"]),
    ("victoriametrics_retention", ["1d", "24h", "5y"], ["12h", "1d12h", "9000000ms", "31m"]),
    ("questdb_retention", ["1h", "31d", "4w"], ["1y", "90m", "1d12h", "0d"]),
    ("victoriametrics_latency_offset", ["0s", "500ms", "1s"], ["1.5s", "1d"]),
    ("victoriametrics_memory_flush", ["2s", "1m30s"], ["500ms", "1d"]),
    ("telegraf_flush_interval", ["250ms", "1m30s"], ["0s", "1d"]),
    ("flink_taskmanager_memory", ["1g", "1536m", "1073741824"], ["512m", "1048575k", 99]),
    ("kafka_segment_bytes", [1048576, "67108864"], [10, 2147483648]), ("kafka_scram_iterations", [8192], [4096, 20000]),
    ("kafka_reauth_ms", [10000], [0, 9999]), ("canary_completeness", [1, 0.999], [0, 1.5]), ("mosquitto_max_inflight_messages", [1], [0]),
    ("kafka_cluster_id", ["", "4L6g3nShT-eMCtK--X86sw"], ["abc", "4L6g3nShT-eMCtK--X86sw="]), ("kafka_bind_address", ["", "fd00::1"], ["300.1.1.1", "kafka1"]),
    ("host_ssh_max_startups", ["30", "30:30:120"], ["lots", "30:30"]), ("host_journal_max", ["256M", "1G", "0"], ["many", "-1", "1.5G"]),
    ("host_access_keys", [[KEY], [f'from="10.0.0.1" {KEY}']], [["nonsense"], [KEY + "\n" + KEY]]),
    ("host_operators", [[{"name": "eve", "uid": 1100, "keys": [KEY]}]], [
        [{"name": "eve", "uid": 0, "keys": [KEY]}], [{"name": "hnai-kafka", "uid": 1100, "keys": [KEY]}],
        [{"name": "root", "uid": 1100, "keys": [KEY]}], [{"name": "a/b", "uid": 1100, "keys": []}], [{"name": "eve", "uid": 1100, "keys": ["x"]}]]),
    ("firewall_foreign_tables", [["inet docker"]], [["nat"], ["inet"]]),
    ("openbao_kv_mount", ["hnai"], ["a/b", ""]), ("openbao_ssh_host_mount", ["", "a"], ["a b"]),
    ("openbao_pki_mounts", [{"root": "a", "intermediate": "b"}], [{"root": "a/", "intermediate": "b"}]),
    ("mosquitto_command_patterns", [["a/+/#"]], [["a#b"], ["#/a"], [""]]), ("ot_collector_application_uri", ["urn:a:b"], ["not a uri", "urn"]),
    ("canary_store_url", ["https://data1:8428"], ["http://data1:8428", "https://u:p@data1", "https://"]),
    ("modbus_filter_mirror_users", [["hnai-telegraf"]], [["root"]]),
    ("victoriametrics_users", [[{"username": "x", "secret": "s", "paths": ["/a"]}]], [
        [{"username": "a b", "secret": "s", "paths": ["/a"]}], [{"username": "x", "secret": "s", "paths": ["a"]}]]),
])  # fmt: skip
def test_an_option_is_what_its_reader_takes(name: str, good: list[Any], wrong: list[Any]) -> None:
    known = options(ROOT)
    for value in [*good, *wrong]:
        found = [one for one in written.problems({"a": {name: value}}, known, {}, str) if name in one.key]
        assert bool(found) == (value in wrong), (value, found)
        assert all(one.remedy and "cannot be" in one.message for one in found)


def test_each_limit_is_of_an_option_and_its_default_keeps_it() -> None:
    known = options(ROOT)
    tables = [*limits._LEAST_SIZE, *limits._TIMES, *limits._FOR_EVER, *(re.split(r"[.\[]", key)[0] for key in (*limits._NUMBERS, *limits._TEXTS))]
    assert set(tables) <= set(known)
    defaults = {name: option["default"] for name, option in known.items() if "default" in option}
    assert written.problems({"a": defaults}, known, {}, str) == []


@pytest.mark.parametrize(("told", "keys"), [
    ({}, []),
    ({"flink_slots": 1}, ["flink_slots"]), ({"flink_slots": 1, "flink_jobs": ["normalise"]}, []), ({"flink_slots": 1, "flink_jobs": "{{ jobs }}"}, []),
    ({"flink_jars": [{"name": "a", "jar": "a"}, {"name": "b", "jar": "b"}]}, []), ({"flink_jars": [{"parallelism": 3}], "flink_slots": 4}, ["flink_slots"]),
    ({"telegraf_metric_buffer_limit": 11999}, ["telegraf_metric_buffer_limit"]), ({"telegraf_metric_buffer_limit": 12000}, []),
    ({"kafka_min_insync_replicas": 4}, ["kafka_min_insync_replicas"]), ({"kafka_initial_controllers": ["h", "k9"]}, ["kafka_initial_controllers[k9]"]),
    ({"kafka_initial_controllers": "{{ groups['kafka'] }}"}, []), ({"kafka_config": {"listeners": "x", "num.io.threads": 1}}, ["kafka_config[listeners]"]),
    ({"hnai_slo": {"freshness_p95_s": 10}, "canary_period_s": 2.5}, ["canary_period_s"]), ({"hnai_slo": {"freshness_p95_s": 10}, "canary_period_s": 2}, []),
    ({"host_sysctl": {"net.ipv4.tcp_fin_timeout": "30", "vm/swappiness": 1, "no dots": 1}}, ["host_sysctl[no dots]"]),
    ({"openbao_pki_mounts": {"root": "pki", "intermediate": "pki"}}, ["openbao_pki_mounts"]),
    ({"telegraf_mqtt_host": "nobody"}, ["telegraf_mqtt_host"]), ({"ot_collector_mqtt_host": "h"}, []),
    ({"mosquitto_clients": [{"username": "line1", "secret": "mosquitto/lime1"}, {"username": "line1", "secret": "mosquitto/line1"}]},
     ["mosquitto_clients[line1].username", "mosquitto_clients[0].secret"]),
    ({"victoriametrics_users": [{"username": "a", "secret": "mosquitto/line1"}, {"username": "b", "secret": "{{ s }}"}]}, []),
    ({"host_operators": [{"name": "a", "uid": 1}, {"name": "b", "uid": 1}, {"name": "b", "uid": 2}]},
     ["host_operators[b].name", "host_operators[1].uid"]),
])  # fmt: skip
def test_what_only_makes_sense_beside_others(told: dict[str, Any], keys: list[str]) -> None:
    defaults = {name: {"default": value} for name, value in (
        ("flink_slots", 4), ("flink_jobs", ["normalise", "alerts"]), ("telegraf_metric_buffer_limit", 50000), ("telegraf_max_undelivered_messages", 2000),
        ("kafka_replication_factor", 3), ("kafka_min_insync_replicas", 2))}  # fmt: skip
    groups = {name: ["h"] for name in ("managed", "canary", "flink", "telegraf", "kafka", "openbao", "mosquitto", "ot_collector", "victoriametrics")}
    known = Known(secrets=["mosquitto/line1"], settings=broker_settings(ROOT))
    found = list(declared.problems({"h": told}, defaults, groups, str, known))
    assert [one.key for one in found if one.key.partition("[")[0] in told or one.key in told] == keys and all(one.remedy for one in found)


def test_the_roles_options_are_read() -> None:
    found = options(ROOT)
    assert found["firewall_mode"]["choices"] == ["enforce", "observe"]
    assert found["kafka_reauth_ms"]["type"] == "int"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["1d", "512m", "a/b", "{{ x }}"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.sampled_from([
        "id", "name", "tags", "protocol", "type", "canary", "config", "partitions", "username", "secret", "root"]), inner, max_size=4),
    max_leaves=12,
)


EVERY = options(ROOT)
GROUPS = {name: ["a", "b", "gone"] for name in [
    "managed", "kafka", "flink", "questdb", "victoriametrics", "mosquitto", "openbao", "canary", "ot_collector", "modbus_filter", "telegraf",
    *(f"telegraf_{one}" for one in ("shipper", "bridge", "writer", "questdb"))]}  # fmt: skip
KNOWN = Known(needed={"x": "y"}, fed=["ot.raw"], users=["u"], settings=["listeners"], checks=["HO1"], secrets=["a/b"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*EVERY, "hnai_ot_sources", "hnai_slo", "hnai_units", "hnai_site"]), ANYTHING, max_size=8))
def test_nothing_ends_in_a_traceback(variables: dict[str, Any]) -> None:
    found = written.problems({"a": variables, "b": variables}, EVERY, GROUPS, str, KNOWN)
    assert all(isinstance(one.message, str) and one.key.isprintable() for one in found)


@pytest.mark.parametrize(
    ("variables", "key", "message"),
    [
        ({"ansible_user": "root"}, "ansible_user", "root does not come in by SSH any more after the first run (on a, b)"),
        ({"ansible_ssh_user": "root", "ansible_connection": "ssh"}, "ansible_ssh_user", "root does not come in by SSH any more after the first run (on a, b)"),
        ({"ansible_password": object()}, "ansible_password", "nobody comes in by a password any more after the first run (on a, b)"),
        ({"ansible_ssh_pass": "hunter2"}, "ansible_ssh_pass", "nobody comes in by a password any more after the first run (on a, b)"),
        ({"ansible_port": 2222}, "ansible_port", "2222 is a port that no conduit opens: hosts are managed at tcp/22 (on a, b)"),
        (
            {"ansible_ssh_port": "2222", "ansible_host": "10.0.0.1", "hnai_addresses": {"v4": "10.0.0.1"}},
            "ansible_ssh_port", "2222 is a port that no conduit opens: hosts are managed at tcp/22 (on a, b)",
        ),
        (
            {"ansible_port": 2222, "ansible_host": "{{ hnai_addresses.v4 }}"},
            "ansible_port", "2222 is a port that no conduit opens: hosts are managed at tcp/22 (on a, b)",
        ),
    ],
)  # fmt: skip
def test_a_run_does_not_shut_the_door_behind_itself(variables: dict[str, Any], key: str, message: str) -> None:
    found = judged({"a": variables, "b": variables})
    if variables.get("ansible_host") == "10.0.0.1":
        assert found.pop("ansible_host")[0] == "10.0.0.1 leads to a too (on b)"
    assert {one: said for one, (said, _remedy) in found.items()} == {key: message}
    assert "hunter2" not in str(found)


def test_each_host_is_one_machine_and_none_is_the_controller() -> None:
    gate = {"ansible_host": "10.0.0.1", "ansible_port": 2201, "hnai_addresses": {"v4": "10.1.0.1"}}
    at = [{"ansible_host": "10.0.0.1"}, gate, {"ansible_host": "{{ at }}"}, {}]
    assert judged(dict(zip("abcd", at))) == {}, "a gateway with a port for each host is a way"
    assert judged({"a": at[0], "b": {}, "c": {"ansible_host": "b"}})["ansible_host"][0] == "b leads to b too (on c)"
    everywhere = {"a": at[0], "b": at[0]}
    assert "ansible_host" in judged(everywhere)
    assert written.problems(everywhere, {}, {}, str, Known(lent=True)) == [], "-e ansible_host of a run that goes to one host alone is no other's address"
    said = judged({"a": {"ansible_connection": "local"}, "b": {"ansible_become": False}, "c": {"ansible_become": True}})
    assert {key: message.rpartition(" (on ")[2] for key, (message, _remedy) in said.items()} == {"ansible_connection": "a)", "ansible_become": "b)"}


@pytest.mark.parametrize(
    ("variables", "name", "words"),
    [
        *[({"x_storage_path": one}, "x_storage_path", "is no plain absolute path") for one in ("srv/x", "/", "/srv/x/", "/srv/../x", "/my data", "/srv/$x")],
        *[({"y_buffer_path": path}, "y_buffer_path", "where the unit's sandbox sees nothing") for path in ("/home/data", "/root", "/tmp/x", "/run/x")],
        ({"x_storage_path": "/data", "y_buffer_path": "/data"}, "y_buffer_path", "/data is, holds or lies in that of x_storage_path"),
        ({"x_storage_path": "/data", "y_buffer_path": "/data/y"}, "y_buffer_path", "/data/y is, holds or lies in that of x_storage_path"),
        ({"x_storage_path": "/data/x", "y_buffer_path": "/data"}, "y_buffer_path", "/data is, holds or lies in that of x_storage_path"),
    ],
)  # fmt: skip
def test_data_have_a_place_that_their_unit_finds(variables: dict[str, Any], name: str, words: str) -> None:
    found = judged({"a": variables, "b": variables, "elsewhere": variables}, {"x": ["a", "b"], "y": ["b", "a"]})
    ((key, (message, _remedy)),) = found.items()
    assert key == name and words in message and message.endswith("(on a, b)")


@pytest.mark.parametrize("variables", [
    {"x_storage_path": "/srv/x", "y_buffer_path": "/srv/xy"},
    {"x_storage_path": "/data", "y_buffer_path": "{{ '/data' }}", "z_storage_path": "/data"},
])  # fmt: skip
def test_data_have_a_place_of_their_own(variables: dict[str, Any]) -> None:
    assert judged({"a": variables}, {"x": ["a"], "y": ["a"], "z": ["a"]}) == {}


def test_data_of_components_on_different_hosts_may_have_one_place() -> None:
    both = {"x_storage_path": "/data", "y_buffer_path": "/data"}
    assert judged({"a": both, "b": both, "c": {"x_storage_path": "nowhere"}}, {"x": ["a"], "y": ["b"]}) == {}
