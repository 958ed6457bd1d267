# SPDX-License-Identifier: Apache-2.0
"""The role's configuration: what must stand in it, and that kafka_config cannot loosen it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from ansible_collections.hnai.platform.plugins.module_utils.kafka.storage import read_properties
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

ROLE = Path(__file__).resolve().parents[2] / "roles" / "kafka"
GROUP = ["kafka1", "kafka2", "kafka3"]


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROLE / name).read_text()))


def properties(**changes: Any) -> dict[str, str]:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    environment.filters["regex_replace"] = lambda text, pattern, with_: re.sub(pattern, with_, text)
    environment.filters["regex_escape"] = re.escape
    template = environment.from_string((ROLE / "tree/etc/hnai/kafka/server.properties.j2").read_text())
    values = {key: value for key, value in load("defaults/main.yml").items() if not (isinstance(value, str) and "{{" in value)}
    own = {"__kafka_ports": contracts.ports("kafka"), "__kafka_log_dir": load("vars/main.yml")["__kafka_log_dir"]}
    text = template.render(**{**values, **own, "groups": {"kafka": GROUP}, "inventory_hostname": "kafka1", "kafka_node_id": 1,
                              "kafka_advertised_l3": "kafka1", "kafka_advertised_l4": "kafka1", "ansible_managed": "x", **changes})
    return read_properties(text)


def test_listeners_are_the_contracts() -> None:
    listens = {item["name"]: item for item in load("meta/component.yml")["listens"]}
    found = load("vars/main.yml")["__kafka_listeners"]
    assert [(item["name"], item["port"]) for item in found] == [(name, f"{{{{ __kafka_ports.{name} }}}}") for name in listens]
    assert {item["name"] for item in found if item["mutual"]} == {
        name for name, item in listens.items() if item["authentication"] == "client certificate"}
    assert all(item["tls"] for item in listens.values())


def test_version_is_the_contracts() -> None:
    kafka = load("meta/component.yml")["artifacts"][0]
    option = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"]["kafka_version"]
    assert option["default"] == kafka["version"]
    assert option["choices"] == [kafka["version"], *kafka["releases"]] == list(load("vars/main.yml")["__kafka_releases"])
    assert all((ROLE / f"files/kafka-{release}.lock.json").is_file() for release in option["choices"])


def test_every_listener_has_tls_and_clients_of_two_levels_share_none() -> None:
    found = properties()
    protocols = dict(item.split(":") for item in found["listener.security.protocol.map"].split(","))
    assert protocols == {"CONTROLLER": "SSL", "INTERNAL": "SSL", "L3": "SASL_SSL", "L4": "SASL_SSL"}
    assert [item.split("://")[0] for item in found["listeners"].split(",")] == list(protocols)
    assert found["advertised.listeners"].count("kafka1:") == 4
    assert (found["listener.name.controller.ssl.client.auth"], found["listener.name.internal.ssl.client.auth"]) == ("required", "required")


def test_two_levels_two_addresses() -> None:
    found = properties(kafka_advertised_l3="ot.example", kafka_advertised_l4="it.example")["advertised.listeners"]
    assert "L3://ot.example:9094" in found and "L4://it.example:9095" in found


HARD = {
    "allow.everyone.if.no.acl.found": "false",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "auto.create.topics.enable": "false",
    "unclean.leader.election.enable": "false",
    "super.users": "User:kafka1;User:kafka2;User:kafka3",
    "min.insync.replicas": "2",
    "default.replication.factor": "3",
    "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
    "ssl.client.auth": "required",
}


def test_what_must_hold_holds_whatever_kafka_config_says() -> None:
    loose = properties(kafka_config={**dict.fromkeys(HARD, "loose"), "allow.everyone.if.no.acl.found": "true", "num.io.threads": 4})
    assert {key: loose[key] for key in HARD} == HARD
    assert loose["num.io.threads"] == "4"


def test_readers_may_be_away_for_60_days_and_sessions_end() -> None:
    found = properties()
    assert int(found["offsets.retention.minutes"]) >= 60 * 24 * 60
    assert 0 < int(found["connections.max.reauth.ms"]) <= 3_600_000
    assert "controller.quorum.voters" not in found
    assert found["controller.quorum.bootstrap.servers"] == "kafka1:9093,kafka2:9093,kafka3:9093"


@pytest.mark.parametrize(
    ("subject", "principal"),
    [
        ("CN=kafka1,OU=kafka", "kafka1"),
        ("CN=kafka1,OU=kafka,O=site", "kafka1"),
        ("CN=kafka1,OU=telegraf", "CN=kafka1,OU=telegraf"),
        ("CN=edge1,OU=kafka", "CN=edge1,OU=kafka"),
        ("CN=kafka1", "CN=kafka1"),
        ("CN=kafka11,OU=kafka", "CN=kafka11,OU=kafka"),
        ("CN=log-a.idmz.example,OU=kafka", "log-a.idmz.example"),
        ("CN=log-axidmz.example,OU=kafka", "CN=log-axidmz.example,OU=kafka"),
    ],
)
def test_only_a_brokers_own_certificate_is_a_broker(subject: str, principal: str) -> None:
    rules = properties(groups={"kafka": [*GROUP, "log-a.idmz.example"]})["ssl.principal.mapping.rules"]
    found = re.fullmatch(r"RULE:(.*)/\$1/,DEFAULT", rules)
    assert found
    match = re.match(found.group(1) + r"\Z", subject)
    assert (match.group(1) if match else subject) == principal


def test_a_client_with_a_twin_logs_in_as_its_secret_says() -> None:
    """`x` and `x.b` take turns: the other one is left alone, and has the same level; who has none keeps the name of its contract."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["regex_replace"] = lambda text, pattern, with_: re.sub(pattern, with_, text)
    environment.filters["combine"] = lambda one, *others: {key: value for part in (one, *others) for key, value in part.items()}
    own = load("vars/main.yml")
    clients = [{"name": "shipper", "path": "t/s", "level": 3, "listener": "l3", "pair": True},
               {"name": "w", "path": "t/w", "level": 4, "listener": "l4", "pair": False}]
    for user, twin in (("shipper", "shipper.b"), ("shipper.b", "shipper")):
        secrets = {"t/s": {"username": user, "password": "p"}, "t/w": {"username": "?", "password": "q", "mechanism": "SCRAM-SHA-256"}}
        given = {"__kafka_clients": clients, "__kafka_visit": {"secrets": secrets}, "kafka_scram_mechanisms": ["SCRAM-SHA-512"],
                 "kafka_scram_iterations": 8192, "__kafka_ports": contracts.ports("kafka"), "kafka_extra_acls": [], "dict": dict, "zip": zip}
        environment.filters["zip"] = zip
        read = {name: ast.literal_eval(environment.from_string(own[name]).render(**given).strip()) for name in
                ("__kafka_users", "__kafka_identities", "__kafka_levels")}
        assert [(one["name"], one["twin"], one["mechanisms"]) for one in read["__kafka_users"]] == [
            (user, twin, ["SCRAM-SHA-512"]), ("w", "", ["SCRAM-SHA-256"])]
        assert [one["name"] for one in read["__kafka_identities"]] == [user, "w"]
        assert read["__kafka_levels"] == {"shipper": 3, "shipper.b": 3, "w": 4}
