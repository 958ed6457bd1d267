# SPDX-License-Identifier: Apache-2.0
"""Rights at an MQTT broker: overlap of filters against brute force; Mosquitto's and EMQX's rules; who may command, and who reads."""
from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.mqtt import acl_emqx, acl_mosquitto
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_model import (
    ANONYMOUS,
    ANYBODY,
    READ,
    WRITE,
    Identity,
    Policy,
    Rule,
    commanders,
    declared_rights,
    deviations,
    grants,
    into_lines,
    readers,
)
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_mosquitto import AclError
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.topics import example, intersect, matches, mqtt_overlap, valid_filter

NCMD, STATE = "spBv1.0/+/NCMD/#", "STATE/#"

# -- filters ------------------------------------------------------------------------------------------------
#: Every topic of at most four levels over three names, one of them with a dollar; two names are enough for what the filters say.
TOPICS = ["/".join(names) for depth in range(1, 5) for names in itertools.product(("a", "b", "$s"), repeat=depth)]
LEVEL = st.sampled_from(["a", "b", "$s", "+"])
FILTERS = st.builds(
    lambda levels, tail: "/".join(levels + tail) or "#", st.lists(LEVEL, max_size=3), st.sampled_from([[], ["#"]]))


def slow_match(pattern: str, topic: str) -> bool:
    """MQTT 4.7 by recursion, not by the code under test."""

    def walk(levels: Sequence[str], names: Sequence[str]) -> bool:
        if not levels:
            return not names
        if levels[0] == "#":
            return True
        return bool(names) and levels[0] in ("+", names[0]) and walk(levels[1:], names[1:])

    return walk(pattern.split("/"), topic.split("/")) and not (topic[0] == "$" and pattern[0] in "+#")


@given(FILTERS, st.sampled_from(TOPICS))
def test_a_filter_matches_as_the_standard_says(pattern: str, topic: str) -> None:
    assert matches(pattern, topic) == slow_match(pattern, topic)


@given(FILTERS, FILTERS)
def test_an_intersection_is_matched_by_exactly_what_matches_both(first: str, second: str) -> None:
    common = intersect(first, second)
    both = {topic for topic in TOPICS if slow_match(first, topic) and slow_match(second, topic)}
    assert {topic for topic in TOPICS if common is not None and slow_match(common, topic)} == both
    assert common is None or (valid_filter(common) and intersect(second, first) == common)
    # The coarser test of the site model never misses an overlap.
    assert mqtt_overlap(first, second) or not both


@given(st.lists(FILTERS, min_size=1, max_size=2), st.lists(FILTERS, max_size=4))
def test_an_example_is_found_exactly_when_there_is_one(filters: list[str], without: list[str]) -> None:
    topic = example(filters, without)
    if topic is None:
        left = [one for one in TOPICS if all(slow_match(f, one) for f in filters) and not any(slow_match(f, one) for f in without)]
        assert not left
    else:
        assert all(slow_match(one, topic) for one in filters) and not any(slow_match(one, topic) for one in without)


@pytest.mark.parametrize(("text", "good"), [("a/+/b", True), ("#", True), ("a/#", True), ("a#", False), ("#/a", False), ("a/b+", False), ("", False)])
def test_what_is_a_filter(text: str, good: bool) -> None:
    assert valid_filter(text) is good


# -- Mosquitto's acl_file ---------------------------------------------------------------------------------
def mosquitto(acl: str, conf: str = "", passwords: str = "u:x\nv:y\n", **more: str) -> Policy:
    """The policy of a broker with one listener, this acl_file and these files."""
    main = "listener 8883\nallow_anonymous false\npassword_file pw\nacl_file acl\n" + conf
    files = {"conf": main, "acl": acl, "pw": passwords, **more}

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    return acl_mosquitto.load("conf", read)


def who(policy: Policy, pattern: str = NCMD, access: str = WRITE) -> list[str]:
    """Identities that may."""
    return sorted(one.name for one in policy.identities.values() if grants(one, access, pattern))


@pytest.mark.parametrize(("acl", "may"), [
    ("user u\ntopic write ot/#\n", []),
    ("user u\ntopic write spBv1.0/plant/NCMD/node\n", ["u"]),
    ("user u\ntopic write spBv1.0/#\n", ["u"]),
    ("user u\ntopic write +/+/+/+\n", ["u"]),
    ("user u\ntopic write +/+\n", []),
    ("user u\ntopic read spBv1.0/#\n", []),
    ("user u\ntopic readwrite spBv1.0/#\n", ["u"]),
    ("user u\ntopic spBv1.0/a/NCMD\n", ["u"]),
    ("user u\ntopic write spBv1.0/a/NDATA/#\n", []),
    ("user u\ntopic write #\n", ["u"]),
    ("user u\ntopic write $SYS/#\n", []),
    ("pattern write spBv1.0/%u/NCMD\n", ["u", "v"]),
    ("pattern write %c/#\n", ["u", "v"]),
    # A client id may hold slashes: it reaches every depth.
    ("pattern write x/%c\n", []),
    ("pattern write spBv1.0/%c\n", ["u", "v"]),
    ("pattern write spBv1.0/g-%c/x\n", ["u", "v"]),
    # Denials come first, whatever their place; those of patterns come after what a user may.
    ("user u\ntopic write spBv1.0/#\ntopic deny spBv1.0/+/NCMD/#\n", []),
    ("user u\ntopic write spBv1.0/#\ntopic deny spBv1.0/+/NCMD/x\n", ["u"]),
    ("user u\ntopic write spBv1.0/#\npattern deny spBv1.0/#\n", ["u"]),
    ("pattern write spBv1.0/#\npattern deny spBv1.0/#\n", []),
    ("pattern write spBv1.0/#\nuser u\ntopic deny spBv1.0/#\n", ["v"]),
    ("pattern write spBv1.0/#\npattern deny spBv1.0/%u/#\n", ["u", "v"]),
    # A client chooses an id that the denial does not meet.
    ("pattern write spBv1.0/#\npattern deny spBv1.0/%c/#\n", ["u", "v"]),
    # A user that stands twice has both parts.
    ("user u\ntopic write a\nuser v\ntopic write b\nuser u\ntopic write spBv1.0/g/NCMD/n\n", ["u"]),
    ("user with a blank\ntopic write  spBv1.0/my group/NCMD/n \n", ["with a blank"]),
    ("# topic write #\n\n   \nuser u\r\ntopic write ot/a\r\n", []),
])
def test_who_may_publish_a_command(acl: str, may: list[str]) -> None:
    policy = mosquitto(acl)
    assert who(policy) == may
    assert not policy.unknown and not policy.open_doors


@pytest.mark.parametrize(("acl", "place"), [
    ("user u\ntopic wirte a\ttopic\n", "acl:2"), ("user u\ntopic write\n", ""), ("user \n", "acl:1"), ("topics a\n", "acl:1"), ("topic\n", "acl:1"),
    ("  # no comment\n", "acl:1"), ("user u\ntopic write a/#/b\n", "acl:2"), ("\ttopic write a\n", "acl:1"), ("pattern may a b\n", "acl:1"),
])
def test_a_line_that_the_broker_refuses_is_named(acl: str, place: str) -> None:
    if not place:
        # `topic write` is the topic "write", to read and to write.
        assert who(mosquitto(acl), "write") == ["u"]
        return
    with pytest.raises(AclError, match=place):
        acl_mosquitto.parse_acl(acl, "acl")
    # One that reads it again goes on without any rule.
    assert who(mosquitto(acl)) == [ANYBODY, "u", "v"] and place in mosquitto(acl).open_doors[0]


def test_lines_before_the_first_user_are_for_strangers_only() -> None:
    acl = "topic write spBv1.0/#\nuser u\ntopic read a\n"
    assert who(mosquitto(acl)) == [] and "acl:1" in mosquitto(acl).unknown[0]
    policy = mosquitto(acl, conf="allow_anonymous true\n")
    assert who(policy) == [ANONYMOUS] and policy.open_doors


def test_without_acl_file_everybody_may_everything() -> None:
    policy = acl_mosquitto.load("conf", {"conf": "listener 1\npassword_file pw\n", "pw": "u:x\n"}.__getitem__)
    assert who(policy) == [ANYBODY, "u"] and "no acl_file" in policy.open_doors[0]
    # Without a listener the broker serves the loopback and lets strangers in.
    assert ANONYMOUS in who(acl_mosquitto.load("conf", {"conf": "persistence true\n"}.__getitem__))


@pytest.mark.parametrize("conf", ["mount_point a/\n", "plugin /usr/lib/x.so\n", "auth_plugin /x.so\n", "some_future_setting 1\n"])
def test_a_setting_that_is_not_modelled_is_named(conf: str) -> None:
    policy = mosquitto("user u\ntopic write a\n", conf=conf)
    assert conf.split()[0] in policy.unknown[0] or conf.split()[-1] in policy.unknown[0]


def test_certificates_that_name_users_count_as_anybody() -> None:
    policy = mosquitto("pattern write spBv1.0/%u/NCMD\nuser u\ntopic write a\n", conf="use_identity_as_username true\n")
    assert who(policy) == [ANYBODY, "u", "v"]
    assert who(mosquitto("user u\ntopic write spBv1.0/#\n", conf="use_identity_as_username true\n")) == ["u"]


def test_a_user_name_as_client_id_is_no_free_choice() -> None:
    acl = "pattern write %c/NCMD\n"
    assert who(mosquitto(acl), "spBv1.0/NCMD") == ["u", "v"]
    assert who(mosquitto(acl, conf="use_username_as_clientid true\n"), "spBv1.0/NCMD") == []


def test_a_bridge_publishes_past_the_acl() -> None:
    """Also one that only sends: over the same connection the other broker may publish what was never asked for (seen on 2.0.11)."""
    for topic in ("topic ot/# out 1", "topic cmd/# in 1 line/ remote/", "topic NCMD/# both 1 spBv1.0/g/ \"\""):
        policy = mosquitto("user u\ntopic write a\n", conf="connection it\naddress 10.0.0.1\n%s\n" % topic)
        assert who(policy) == who(policy, "line/cmd/#") == ["(bridge it)"]
        assert not policy.unknown and "bridge it" in policy.open_doors[0]


def test_each_listener_may_have_rights_of_its_own() -> None:
    conf = "per_listener_settings true\nlistener 1\nacl_file a\npassword_file pw\nlistener 2\nacl_file b\npassword_file pw\n"
    files = {"conf": conf, "a": "user u\ntopic deny spBv1.0/#\n", "b": "user u\ntopic write spBv1.0/#\n", "pw": "u:x\n"}
    # What one listener denies, the other gives.
    assert who(acl_mosquitto.load("conf", files.__getitem__)) == ["u"]
    assert not acl_mosquitto.load("conf", files.__getitem__).open_doors


def test_what_a_broker_includes_is_read_where_it_stands() -> None:
    main = "per_listener_settings true\nlistener 1\nacl_file a\npassword_file pw\ninclude_dir d\nallow_anonymous true\n"
    files = {"conf": main, "d/x.conf": "listener 2\nacl_file b\npassword_file pw\n", "a": "", "b": "user u\ntopic write spBv1.0/#\n", "pw": "u:x\n"}
    policy = acl_mosquitto.load("conf", files.__getitem__, names={"d": ["x.conf"]}.__getitem__)
    assert who(policy) == ["u"] and set(policy.files) == set(files)
    assert policy.open_doors == ["conf: anonymous clients are let in (listener 1)"], "the listener of the main file goes on behind the directory"
    with pytest.raises(AclError, match="/no/such: cannot be read"):
        acl_mosquitto.load("conf", {"conf": "include_dir /no/such\n"}.__getitem__)


@pytest.mark.parametrize(("conf", "anonymous"), [
    ("bind_address 10.0.0.1\n", False), ("port 1883\n", False), ("port 0\n", True),
    ("per_listener_settings true\nport 1883\n", True), ("per_listener_settings true\nport 1883\nallow_anonymous false\n", False),
    ("per_listener_settings true\nlistener 1883\n", False), ("per_listener_settings true\nlistener 1\nallow_anonymous false\nlistener 2\n", False),
    ("listener 1\nallow_anonymous true\n# one line\x0ballow_anonymous false\n# and\u2028allow_anonymous false\n", True),
])
def test_who_is_let_in_without_a_name(conf: str, anonymous: bool) -> None:
    """As 2.0.11 does."""
    policy = acl_mosquitto.load("conf", {"conf": conf}.__getitem__)
    assert (ANONYMOUS in policy.identities) == anonymous and not policy.unknown


def test_the_listener_of_port_is_judged_beside_the_others() -> None:
    conf = "per_listener_settings true\nallow_anonymous true\nport 1883\nlistener 8883\nacl_file a\npassword_file pw\n"
    policy = acl_mosquitto.load("conf", {"conf": conf, "a": "", "pw": "u:x\n"}.__getitem__)
    assert "conf: anonymous clients are let in (the broker)" in policy.open_doors


def test_a_file_that_cannot_be_read_is_no_empty_file() -> None:
    def read(error: Exception, path: str) -> str:
        if path == "acl":
            raise error
        return {"conf": "listener 1\nacl_file acl\npassword_file pw\n", "pw": "u:x\n"}[path]

    gone = acl_mosquitto.load("conf", partial(read, FileNotFoundError("gone")))
    assert who(gone) == [ANYBODY, "u"] and "acl: cannot be read" in gone.open_doors[0]
    for error in (PermissionError("no"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")):
        with pytest.raises(AclError, match="acl: cannot be read"):
            acl_mosquitto.load("conf", partial(read, error))


# -- dynamic security ----------------------------------------------------------------------------------------
def dynsec(anonymous: str = "false", **change: Any) -> Policy:
    """A broker whose rights the plugin keeps."""
    data: dict[str, Any] = {
        "defaultACLAccess": {"publishClientSend": False, "publishClientReceive": True, "subscribe": False},
        "clients": [{"username": "u", "roles": [{"rolename": "r"}]}, {"username": "gone", "disabled": True, "roles": [{"rolename": "open"}]}],
        "groups": [{"groupname": "g", "roles": [{"rolename": "open"}], "clients": []}],
        "roles": [{"rolename": "r", "acls": []}, {"rolename": "open", "acls": [acl("publishClientSend", "#", True)]}],
    }
    data.update(change)
    conf = "listener 1\nallow_anonymous %s\n" % anonymous + "plugin /usr/lib/mosquitto_dynamic_security.so\nplugin_opt_config_file d.json\n"
    return acl_mosquitto.load("conf", {"conf": conf, "d.json": json.dumps(data)}.__getitem__)


def acl(kind: str, topic: str, allow: bool, priority: int = -1) -> dict[str, Any]:
    return {"acltype": kind, "topic": topic, "allow": allow, "priority": priority}


def role(*acls: dict[str, Any], name: str = "r") -> dict[str, Any]:
    return {"rolename": name, "acls": list(acls)}


@pytest.mark.parametrize(("change", "may"), [
    ({}, []),
    ({"roles": [role(acl("publishClientSend", "spBv1.0/#", True)), role(name="open")]}, ["u"]),
    ({"roles": [role(acl("publishClientReceive", "spBv1.0/#", True), acl("subscribePattern", "#", True)), role(name="open")]}, []),
    # By priority, not by place.
    ({"roles": [role(acl("publishClientSend", "spBv1.0/#", True), acl("publishClientSend", NCMD, False, 5)), role(name="open")]}, []),
    ({"roles": [role(acl("publishClientSend", NCMD, False), acl("publishClientSend", "spBv1.0/#", True, 5)), role(name="open")]}, ["u"]),
    # Roles by priority, then by name; a client's before those of its groups.
    ({"clients": [{"username": "u", "roles": [{"rolename": "r", "priority": 1}, {"rolename": "open", "priority": 2}]}],
      "roles": [role(acl("publishClientSend", NCMD, False)), role(acl("publishClientSend", "#", True), name="open")]}, ["u"]),
    ({"groups": [{"groupname": "g", "roles": [{"rolename": "open"}], "clients": [{"username": "u", "priority": 9}]}],
      "roles": [role(acl("publishClientSend", NCMD, False)), role(acl("publishClientSend", "#", True), name="open")]}, []),
    # A group says who is in it; what a client says of its groups is not read.
    ({"clients": [{"username": "u", "roles": [], "groups": [{"groupname": "g"}]}]}, []),
    ({"clients": [{"username": "u", "groups": [{"groupname": "g", "priority": 9}]}], "groups": [{"groupname": "g", "roles": [{"rolename": "r"}]}],
      "roles": [role(acl("publishClientSend", NCMD, False)), role(name="open")], "defaultACLAccess": {"publishClientSend": True}}, ["u"]),
    # A right without a priority has 0, a role -1; capitals do not matter; only true disables.
    ({"roles": [role({"acltype": "publishClientSend", "topic": "spBv1.0/#", "allow": True}, acl("publishClientSend", NCMD, False)), role(name="open")]}, ["u"]),
    ({"roles": [role(acl("publishClientSend", "spBv1.0/#", True), {"acltype": "publishClientSend", "topic": NCMD, "allow": False}), role(name="open")]}, []),
    ({"roles": [role(acl("PUBLISHclientsend", "spBv1.0/#", True)), role(name="open")]}, ["u"]),
    ({"clients": [{"username": "u", "disabled": "true", "roles": [{"rolename": "open"}]}]}, ["u"]),
    # What only one release denies is not denied: a text with %u, the second of a topic.
    ({"roles": [role(acl("publishClientSend", "spBv1.0/u/NCMD", True), acl("publishClientSend", "spBv1.0/%u/NCMD", False, 5)), role(name="open")]}, ["u"]),
    ({"roles": [role(acl("publishClientSend", NCMD, True), acl("publishClientSend", NCMD, False, 5)), role(name="open")]}, ["u"]),
    ({"roles": [role(acl("publishClientSend", NCMD, False, 5), acl("publishClientSend", NCMD, True)), role(name="open")]}, []),
    ({"groups": [{"groupname": "g", "roles": [{"rolename": "open"}], "clients": [{"username": "u"}]}]}, ["u"]),
    ({"defaultACLAccess": {"publishClientSend": True}}, ["u"]),
    ({"defaultACLAccess": {"publishClientSend": True}, "roles": [role(acl("publishClientSend", NCMD, False)), role(name="open")]}, []),
    ({"roles": [role(acl("publishClientSend", "spBv1.0/%u/NCMD", True)), role(name="open")]}, ["u"]),
    # Nobody is let in without a name, so the anonymous group has no client.
    ({"anonymousGroup": "g"}, []),
])
def test_dynamic_security_asks_in_the_order_of_priorities(change: dict[str, Any], may: list[str]) -> None:
    policy = dynsec(**change)
    assert who(policy) == may and not policy.unknown


def test_who_may_change_rights_is_asked_too() -> None:
    mine = role(acl("publishClientSend", "$CONTROL/dynamic-security/#", True))
    policy = dynsec(roles=[mine, role(name="open")], defaultACLAccess={"publishClientSend": True})
    assert policy.rights_topics == ("$CONTROL/#",) and who(policy, "$CONTROL/#") == ["u"]
    # The default gives everything but that.
    assert who(dynsec(defaultACLAccess={"publishClientSend": True}), "$CONTROL/#") == []


def test_strangers_without_a_group_have_the_default() -> None:
    everything = {"publishClientSend": True}
    mine = [role(acl("publishClientSend", "#", False)), role(name="open")]
    assert who(dynsec(defaultACLAccess=everything, roles=mine)) == []
    assert who(dynsec("true", defaultACLAccess=everything, roles=mine)) == [ANONYMOUS]
    assert who(dynsec("true", roles=mine)) == []


@pytest.mark.parametrize("change", [
    {"clients": [{"roles": []}]}, {"clients": ["u"]}, {"groups": [{"groupname": "g", "clients": ["u"]}]},
    {"clients": [{"username": "u", "roles": [{"rolename": "r", "priority": "high"}]}]}, {"roles": [{"rolename": "r", "acls": [5]}]},
    {"roles": [{"rolename": "r", "acls": [{"acltype": "publishClientSend", "priority": None}]}]}, {"defaultACLAccess": ["publishClientSend"]},
])
def test_what_is_no_configuration_of_dynamic_security_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(AclError, match=r"d\.json: is no configuration"):
        dynsec(**change)


def test_what_is_missing_in_dynamic_security_is_named() -> None:
    assert "does not exist" in dynsec(clients=[{"username": "u", "roles": [{"rolename": "none"}]}]).unknown[0]
    assert "roles stands twice" in dynsec(roles=[role(), role(acl("publishClientSend", "#", True)), role(name="open")]).unknown[0]
    with pytest.raises(AclError):
        acl_mosquitto.parse_dynsec("[1]", "d.json")


def test_keys_of_dynamic_security_are_found_as_the_plugin_finds_them() -> None:
    text = json.dumps({"CLIENTS": [{"UserName": "u", "roles": [{"ROLENAME": "r"}]}], "Roles": [role(acl("publishClientSend", "#", True))], "roles": []})
    (mine, _), unknown = acl_mosquitto.parse_dynsec(text, "d.json")
    assert grants(mine, WRITE, NCMD) and not unknown


def test_who_may_read_by_dynamic_security() -> None:
    reads = role(acl("subscribePattern", "spBv1.0/#", True), acl("publishClientReceive", "spBv1.0/#", True))
    assert who(dynsec(roles=[reads, role(name="open")]), NCMD, READ) == ["u"]
    # Who may subscribe to nothing gets nothing.
    assert who(dynsec(), NCMD, READ) == []


# -- EMQX ---------------------------------------------------------------------------------------------------
SHIPPED = """%% -*- mode: erlang -*-
{allow, {username, {re, "^dashboard$"}}, subscribe, ["$SYS/#"]}.
{allow, {ipaddr, "127.0.0.1"}, all, ["$SYS/#", "#"]}.
{deny, all, subscribe, ["$SYS/#", {eq, "#"}, {eq, "+/#"}]}.
{allow, all}.
"""


def emqx(text: str, no_match: str = "deny", declared: Sequence[str] = ("u",)) -> Policy:
    return acl_emqx.load([{"type": "file", "path": "acl.conf"}], no_match, {"acl.conf": text}.__getitem__, declared)


@pytest.mark.parametrize(("text", "may"), [
    ("", []),
    (SHIPPED, [ANYBODY, "u"]),
    (SHIPPED.replace("{allow, all}", "{deny, all}"), [ANYBODY, "u"]),  # from 127.0.0.1, which only the broker sees
    ('{allow, {user, "u"}, publish, ["spBv1.0/g/NCMD/n"]}.', ["u"]),
    ('{allow, {username, "v"}, publish, ["spBv1.0/#"]}.', ["v"]),
    ('{allow, {username, <<"v">>}, pubsub, [<<"spBv1.0/#">>]}.', ["v"]),
    ('{allow, {user, "u"}, subscribe, ["#"]}.', []),
    ('{allow, {user, {re, "^u"}}, publish, ["#"]}.', [ANYBODY, "u"]),
    ('{allow, {user, {re, "^w"}}, publish, ["#"]}.', [ANYBODY]),
    ('{deny, all, publish, ["spBv1.0/+/NCMD/#"]}. {allow, all}.', []),
    ('{allow, {user, "u"}, publish, ["spBv1.0/g/NCMD/n"]}. {deny, all, publish, ["spBv1.0/+/NCMD/#"]}. {allow, all}.', ["u"]),
    # A denial for some clients or some messages only is none.
    ('{deny, {clientid, "c"}, publish, ["#"]}. {allow, all}.', [ANYBODY, "u"]),
    ('{deny, all, {publish, [{retain, true}]}, ["#"]}. {allow, all}.', [ANYBODY, "u"]),
    ('{allow, all, {publish, [{qos, 1}]}, ["spBv1.0/#"]}.', [ANYBODY, "u"]),
    ("{allow, {'and', [{user, \"u\"}, {ipaddr, \"10.0.0.0/8\"}]}, all, [\"#\"]}.", ["u"]),
    ("{allow, {'and', [{user, \"u\"}, {user, \"v\"}]}, all, [\"#\"]}.", []),
    ("{allow, {'or', [{user, \"u\"}, {user, \"v\"}]}, all, [\"#\"]}.", ["u", "v"]),
    ('{allow, all, publish, ["spBv1.0/${username}/NCMD"]}.', [ANYBODY, "u"]),
    ('{allow, all, publish, ["spBv1.0/${clientid}"]}.', [ANYBODY, "u"]),
    ('{allow, all, publish, ["x/${client_attrs.tns}"]}.', []),
    # eq means the text: nobody publishes to a filter.
    ('{allow, all, publish, [{eq, "spBv1.0/+/NCMD/#"}, "eq spBv1.0/#"]}.', []),
    ('{allow, all, publish, [{eq, "spBv1.0/g/NCMD/n"}]}.', [ANYBODY, "u"]),
])
def test_who_may_publish_a_command_at_emqx(text: str, may: list[str]) -> None:
    policy = emqx(text)
    assert who(policy) == may
    assert not policy.unknown and not policy.open_doors


@pytest.mark.parametrize(("text", "may"), [
    # A shared subscription is none to publish to.
    ('{allow, {user, "u"}, publish, ["$share/g/spBv1.0/#"]}.', []),
    ('{allow, {user, "u"}, all, ["$share/g/#"]}.', []),
    # Who is denied, and of what.
    ('{deny, {user, "u"}, publish, ["spBv1.0/#"]}. {allow, all, publish, ["spBv1.0/+/NCMD/+"]}.', [ANYBODY]),
    ('{deny, {user, "u"}, subscribe, ["#"]}. {allow, {user, "u"}, publish, ["+/+/NCMD/#"]}.', ["u"]),
    ('{deny, all, publish, ["spBv1.0/g/NCMD/#"]}. {allow, {user, "u"}, publish, ["spBv1.0/g/#"]}.', []),
    ('{deny, all, publish, ["spBv1.0/g/NCMD/+"]}. {allow, {user, "u"}, publish, ["spBv1.0/g/#"]}.', ["u"]),
    ('{deny, all, publish, [{eq, "spBv1.0/g/NCMD/#"}]}. {allow, {user, "u"}, publish, ["spBv1.0/g/NCMD/n"]}.', ["u"]),
    ('{deny, {ipaddr, "10.0.0.0/8"}, publish, ["spBv1.0/#"]}. {allow, {user, "u"}, publish, ["spBv1.0/#"]}.', ["u"]),
    ('{deny, {user, {re, ".*"}}, publish, ["#"]}. {allow, all}.', [ANYBODY]),
    ("{deny, {'and', [{user, \"u\"}, {clientid, \"u\"}]}, publish, [\"#\"]}. {allow, {user, \"u\"}, publish, [\"spBv1.0/#\"]}.", ["u"]),
    ("{deny, {'or', [{user, \"u\"}, {clientid, \"x\"}]}, publish, [\"#\"]}. {allow, {user, \"u\"}, publish, [\"spBv1.0/#\"]}.", []),
    # Placeholders in every place of a topic; a client's id may hold slashes.
    ('{allow, all, publish, ["spBv1.0/g/${username}/n"]}.', [ANYBODY]),
    ('{allow, all, publish, ["${username}/g/NCMD/n"]}.', [ANYBODY]),
    ('{allow, all, publish, ["spBv1.0/${clientid}/NDATA/n"]}.', [ANYBODY, "u"]),
    ('{allow, all, publish, ["tele/${clientid}/x"]}.', []),
    # Retained ones, and some levels of QoS, are commands too.
    ('{allow, {user, "u"}, {publish, [{qos, [0, 1]}, {retain, true}]}, ["spBv1.0/g/NCMD/#"]}.', ["u"]),
    ('{deny, all, {publish, [{qos, [0, 1, 2]}]}, ["#"]}. {allow, all}.', [ANYBODY, "u"]),
    # What overlaps: a group may be called STATE; data and births are no commands.
    ('{allow, {user, "u"}, publish, ["spBv1.0/STATE/#"]}.', ["u"]),
    ('{allow, {user, "u"}, publish, ["spBv1.0/+/NDATA/+", "spBv1.0/+/DDATA/+/+", "spBv1.0/+/NBIRTH/+"]}.', []),
    ('{allow, {ipaddrs, ["10.0.0.0/8"]}, publish, ["spBv1.0/#"]}.', [ANYBODY, "u"]),
    ('{allow, all, pub, [<<"spBv1.0/g/NCMD/#"/utf8>>]}.', [ANYBODY, "u"]),
    ('{allow, {user, {re, "^(u|v)$"}}, publish, ["spBv1.0/#"]}.', [ANYBODY, "u"]),
])
def test_the_order_of_emqx_rules_and_what_they_leave_open(text: str, may: list[str]) -> None:
    assert who(emqx(text)) == may


@pytest.mark.parametrize(("text", "may"), [
    ("", [ANYBODY, "u"]), ('{deny, all, publish, ["#"]}.', []), ("{deny, all}.", []), ('{deny, all, publish, ["spBv1.0/#"]}.', []),
    ('{deny, {user, "u"}, publish, ["#"]}.', [ANYBODY]), ('{deny, all, publish, ["spBv1.0/+/NCMD/x"]}.', [ANYBODY, "u"]),
])
def test_what_no_emqx_rule_decides_is_allowed_where_no_match_says_so(text: str, may: list[str]) -> None:
    policy = emqx(text, no_match="allow")
    assert who(policy) == may and policy.open_doors


def test_the_first_source_that_matches_decides() -> None:
    files = {"deny": '{deny, all, publish, ["#"]}.', "allow": '{allow, {user, "u"}, publish, ["spBv1.0/#"]}.'}

    def chain(*names: str) -> list[str]:
        return who(acl_emqx.load([{"type": "file", "path": name} for name in names], "deny", files.__getitem__, ["u"]))

    assert (chain("allow", "deny"), chain("deny", "allow"), chain()) == (["u"], [], [])


@pytest.mark.parametrize(("acl", "may"), [
    ("user u\ntopic write $share/x/spBv1.0/#\n", []), ("user u\ntopic write spBv1.0/+/+/x\n", ["u"]), ("user u\ntopic write +/g/NCMD\n", ["u"]),
    ("user u\ntopic write spBv1.0/g/ncmd/n\n", []), ("user u\ntopic write /spBv1.0/g/NCMD/n\n", []), ("user u\ntopic write spBv1.0//NCMD/n\n", ["u"]),
    ("user u\ntopic write spBv1.0/g/NCMD/\n", ["u"]), ("user u\ntopic deny spBv1.0/g/NCMD/#\ntopic write spBv1.0/g/#\n", []),
    ("user u\ntopic read #\ntopic write tele/#\n", []), ("topic write spBv1.0/#\n", []),
])
def test_odd_topics_of_mosquitto_are_read_by_the_letter(acl: str, may: list[str]) -> None:
    assert who(mosquitto(acl)) == may


def test_the_condition_that_only_the_broker_sees_is_said() -> None:
    grant = commanders(emqx('{allow, {ipaddr, "127.0.0.1"}, publish, ["#"]}.'), [NCMD])[0][0]
    assert not grant.certain and "acl.conf:1" in grant.say() and "condition" in grant.say()


def test_no_match_must_be_deny() -> None:
    policy = emqx('{deny, all, publish, ["a"]}.', no_match="allow")
    assert who(policy) == [ANYBODY, "u"] and "no_match" in policy.open_doors[0]


def test_an_external_source_is_not_passed_over() -> None:
    policy = acl_emqx.load([{"type": "http"}, {"type": "file", "path": "a"}], "deny", {"a": ""}.__getitem__)
    assert "sources[0]" in policy.unknown[0] and "http" in policy.unknown[0]


@pytest.mark.parametrize("text", ["{allow, all}", "{allow, all.", "{permit, all}.", "{allow, all, publish}.", '{allow, all, write, ["#"]}.', "{allow, [all}.",
                                  '{allow, all, publish, "#"}.', "{allow, All}.", '{allow, {planet, "mars"}, publish, ["#"]}.', "<<1>>.", "{" * 200,
                                  '{allow, all, publish, ["a/#/b"]}.', '{allow, all, publish, [a]}.'])
def test_terms_that_emqx_refuses_are_named(text: str) -> None:
    with pytest.raises(AclError):
        emqx(text)


@given(st.text(alphabet="{}[],.<>\"'%ab1 \n", max_size=40))
def test_any_text_is_rules_or_named(text: str) -> None:
    with suppress(AclError):
        assert isinstance(acl_emqx.parse_terms(text, "f"), list)


def database(**documents: Any) -> Policy:
    files = {kind: json.dumps(value) for kind, value in documents.items()}
    return acl_emqx.load([{"type": "built_in_database", **{kind: kind for kind in files}}], "deny", files.__getitem__, ["u"])


def rules(*entries: tuple[str, str, str], **more: Any) -> list[dict[str, Any]]:
    return [{"permission": permission, "action": action, "topic": topic, **more} for permission, action, topic in entries]


def test_the_built_in_database_asks_client_id_then_user_then_all() -> None:
    none: dict[str, Any] = {"data": [], "meta": {"count": 0, "hasnext": False}}
    full = {"clients": none, "users": {"data": [{"username": "u", "rules": rules(("allow", "publish", "spBv1.0/#"))}], "meta": {"count": 1}},
            "all": {"rules": rules(("deny", "all", "#"))}}
    assert who(database(**full)) == ["u"] and not database(**full).unknown
    turned = {**full, "users": {"data": [{"username": "u", "rules": rules(("deny", "publish", NCMD))}]}, "all": {"rules": rules(("allow", "all", "#"))}}
    assert who(database(**turned)) == [ANYBODY]
    chosen = {**full, "clients": {"data": [{"clientid": "c", "rules": rules(("allow", "publish", "spBv1.0/#"))}]}}
    assert who(database(**chosen)) == [ANYBODY, "u"]
    partly = {**turned, "users": {"data": [{"username": "u", "rules": rules(("deny", "publish", NCMD), retain=True)}]}}
    assert who(database(**partly)) == [ANYBODY, "u"]
    # A condition that only the broker sees: the denial need not hold, the right may.
    for condition in ({"ipaddr": "10.0.0.0/8"}, {"clientid_re": "^x"}):
        here = {**turned, "users": {"data": [{"username": "u", "rules": rules(("deny", "publish", NCMD), **condition)}]}}
        assert who(database(**here)) == [ANYBODY, "u"]


def test_an_export_that_is_cut_or_missing_is_named() -> None:
    cut = database(users={"data": [], "meta": {"count": 200, "hasnext": True}}, all={"rules": []})
    assert any("cut" in one for one in cut.unknown) and any("no clients" in one for one in cut.unknown)
    with pytest.raises(AclError, match="no export"):
        database(users={"code": "INTERNAL_ERROR", "message": "timeout"}, clients=[], all=[])
    with pytest.raises(AclError):
        database(users={"data": [{"username": "u", "rules": [{"permission": "maybe", "action": "publish", "topic": "a"}]}]}, clients=[], all=[])


# -- the questions ---------------------------------------------------------------------------------------------
def test_a_grant_says_who_where_and_an_example() -> None:
    (grant,) = grants(mosquitto("user u\ntopic write spBv1.0/p1/#\n").identities["u"], WRITE, NCMD)
    assert (grant.topic, grant.where, grant.rule) == ("spBv1.0/p1/NCMD/x", "acl:2", "topic write spBv1.0/p1/#")
    assert grant.say() == "u may publish spBv1.0/p1/NCMD/x (acl:2: topic write spBv1.0/p1/#)"


def test_a_declared_control_identity_and_its_twin_are_listed_not_accused() -> None:
    policy = mosquitto("user u\ntopic write spBv1.0/#\nuser u.b\ntopic write spBv1.0/#\nuser v\ntopic write STATE/x\n")
    accused, accepted = commanders(policy, [NCMD, STATE], ["u"])
    assert {one.identity for one in accused} == {"v"} and {one.identity for one in accepted} == {"u", "u.b"}
    assert readers(policy, [NCMD]) == {NCMD: []}


def test_nobody_but_the_line_itself_publishes_to_what_it_reads() -> None:
    corner = "pattern readwrite hnai-audit/%u/#\n"
    policy = mosquitto(corner + "user u\ntopic write ot/#\nuser v\ntopic write line/#\n")
    assert not into_lines(policy, ["u"])
    found = into_lines(mosquitto(corner + "user u\ntopic read line/u/cmd\nuser v\ntopic write line/#\n"), ["u"])
    assert [(one.identity, one.topic, one.where) for one in found] == [("v", "line/u/cmd", "acl:5")]
    assert not into_lines(mosquitto("user u\ntopic read line/u/cmd\nuser v\ntopic write line/#\n"), ["u"], ["v"])
    # What the line is denied reaches nobody.
    assert not into_lines(mosquitto("user u\ntopic read line/#\ntopic deny line/#\nuser v\ntopic write line/#\n"), ["u"])


def test_one_line_less_and_one_more_are_named() -> None:
    declared = [{"principal": "u", "read": ["line/#"]}, {"principal": "v", "write": ["ot/#"]}]
    corners = [{"access": "readwrite", "filter": "hnai-audit/%u/#"}]
    whole = "pattern readwrite hnai-audit/%u/#\nuser u\ntopic read line/#\nuser u.b\ntopic read line/#\nuser v\ntopic write ot/#\nuser v.b\ntopic write ot/#\n"

    def compare(text: str) -> tuple[list[str], list[str]]:
        policy = mosquitto(text)
        missing, extra = deviations(policy, declared_rights(declared, corners, policy.identities))
        return [text for _name, text in missing], [text for _name, text in extra]

    assert compare(whole) == ([], [])
    assert compare(whole.replace("user u\ntopic read line/#\n", "user u\n")) == (["u: read line/#"], [])
    assert compare(whole.replace("user v.b\ntopic write ot/#\n", "")) == (["v.b: write ot/#"], [])
    assert len(compare(whole.replace("pattern readwrite hnai-audit/%u/#\n", ""))[0]) == 8
    assert compare(whole + "topic write x\n") == ([], ["acl:10: topic write x"])
    assert compare(whole + "topic deny x\n") == ([], ["acl:10: topic deny x"])
    assert compare(whole + "topic write ot/#\n") == ([], [])


def test_a_rule_of_an_unknown_order_is_no_right_too_few() -> None:
    """A denial under a condition takes nothing away."""
    identity = Identity("u", [Rule(False, WRITE, "#", "x", "deny", certain=False), Rule(True, WRITE, "a/#", "y", "allow")])
    assert [one.where for one in grants(identity, WRITE, "a/b")] == ["y"]
