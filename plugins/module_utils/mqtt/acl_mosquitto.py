# SPDX-License-Identifier: Apache-2.0
"""What Mosquitto 2.0 was told: mosquitto.conf, acl_file, dynamic-security.json. Standard library, Python 3.9.

Source: security_default.c, security.c (``acl__check_dollar``, order of callbacks) and plugins/dynamic-security/{acl,roles,rolelist,grouplist}.c of 2.0.11
to 2.1.2. Of one user the denials come first, then what is allowed, then denials and rights of `pattern` lines; a denied PUBLISH of a client of version
3.1.1 is acknowledged like an accepted one.
"""
from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .acl_model import ANONYMOUS, ANYBODY, READ, WRITE, Identity, Policy, Rule
from .topics import valid_filter

#: Levels that a client id may span: one %c is any text of the client's choice, `/` included.
SPAN = 9
ACCESS = {"read": (READ,), "write": (WRITE,), "readwrite": (READ, WRITE), "deny": (READ, WRITE)}
#: What has no say in who may publish what. Anything else that is not handled below is named as unknown.
_HARMLESS = """
autosave_interval autosave_on_changes certfile keyfile cafile capath ciphers ciphers_tls1.3 tls_version dhparamfile crlfile require_certificate
connection_messages log_dest log_facility log_timestamp log_timestamp_format log_type max_inflight_bytes max_inflight_messages max_keepalive
max_packet_size max_queued_bytes max_queued_messages max_connections max_qos max_topic_alias memory_limit message_size_limit persistence
persistence_file persistence_location persistent_client_expiration pid_file port listener bind_address bind_interface queue_qos0_messages
retain_available retain_expiry_interval set_tcp_nodelay socket_domain sys_interval upgrade_outgoing_qos user websockets_headers_size
websockets_log_level http_dir protocol allow_zero_length_clientid auto_id_prefix check_retain_source allow_duplicate_messages clientid_prefixes
psk_hint tls_engine tls_engine_kpass_sha1 tls_keyform
password_file psk_file use_username_as_clientid allow_anonymous acl_file per_listener_settings
"""
_BRIDGE = """
address addresses bridge_attempt_unsubscribe bridge_bind_address bridge_cafile bridge_capath bridge_certfile bridge_keyfile bridge_insecure
bridge_require_ocsp bridge_max_packet_size bridge_max_topic_alias bridge_outgoing_retain bridge_protocol_version bridge_psk bridge_identity
bridge_tls_version bridge_alpn cleansession clientid local_cleansession local_clientid local_password local_username keepalive_interval
idle_timeout notifications notification_topic notifications_local_only remote_clientid remote_password remote_username restart_timeout round_robin
start_type threshold topic try_private password username bridge_tcp_keepalive bridge_tcp_user_timeout
"""

HARMLESS, BRIDGE = frozenset(_HARMLESS.split()), frozenset(_BRIDGE.split())


class AclError(Exception):
    """A file that the broker itself would refuse, or that cannot be read; the text names file and line."""


def digest(text: str) -> str:
    """sha256, for the evidence."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


# -- acl_file -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Line:
    """One `topic` or `pattern` line; *user* is None before the first `user` line (anonymous clients)."""

    number: int
    text: str
    pattern: bool
    access: str
    filter: str
    user: str | None


def parse_acl(text: str, name: str) -> tuple[list[Line], list[str]]:
    """(lines, users in their order) of an acl_file, as the broker reads it. Raises AclError where it would refuse the file."""
    lines: list[Line] = []
    users: list[str] = []
    user: str | None = None
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip()
        if line.startswith("#"):
            continue
        # Only blanks separate words, a tab does not.
        words = line.lstrip(" ").split(" ", 1)
        if not words[0]:
            continue
        where = "%s:%d" % (name, number)
        rest = words[1].lstrip(" ") if len(words) > 1 else ""
        if words[0] == "user":
            if not rest.strip():
                raise AclError("%s: no name after `user`; the broker refuses the file" % where)
            user = rest.strip()
            if user not in users:
                users.append(user)
        elif words[0] in ("topic", "pattern"):
            if not rest:
                raise AclError("%s: no topic; the broker refuses the file" % where)
            access, _blank, topic = rest.partition(" ")
            if not topic.strip():
                access, topic = "readwrite", access
            topic = topic.strip()
            if access not in ACCESS:
                raise AclError("%s: %r is no access (read, write, readwrite, deny); the broker refuses the file" % (where, access))
            if not valid_filter(topic):
                raise AclError("%s: %r is no topic filter; the broker refuses the file" % (where, topic))
            lines.append(Line(number, line.strip(), words[0] == "pattern", access, topic, user))
        else:
            raise AclError("%s: %r is neither user, topic nor pattern; the broker refuses the file" % (where, words[0]))
    return lines, users


def expand(pattern: str, username: str | None, client_id: str | None) -> list[str]:
    """The filters that a `pattern` line means for a client; a client id of the client's own choice (None) may be anything, levels included.

    >>> expand("cmd/%u/#", "line1", None), expand("x/%c", "u", "c")
    (['cmd/line1/#'], ['x/c'])
    """
    if "%u" in pattern:
        if username is None:
            return []
        pattern = pattern.replace("%u", username)
    if "%c" not in pattern:
        return [pattern]
    if client_id is not None:
        return [pattern.replace("%c", client_id)]
    found = []
    for levels in range(1, SPAN + 1):
        # A client id inside of a level is judged as the whole level: too much rather than too little.
        found.append("/".join("/".join(["+"] * levels) if "%c" in level else level for level in pattern.split("/")))
    return found


def rules_of(lines: Iterable[Line], user: str | None, name: str, username_is_client_id: bool = False) -> list[Rule]:
    """The rules of one user (None: anonymous) in the order in which the broker asks them."""
    if user is not None and set(user) & {"+", "#"}:
        patterns: list[Line] = []
    else:
        patterns = [line for line in lines if line.pattern]
    own = [line for line in lines if not line.pattern and line.user == user]
    found: list[Rule] = []
    for group in (own, patterns):
        for line in sorted(group, key=lambda one: one.access != "deny"):
            allow = line.access != "deny"
            free = line.pattern and "%c" in line.filter and not username_is_client_id
            filters = expand(line.filter, user, user if username_is_client_id else None) if line.pattern else [line.filter]
            for access in ACCESS[line.access]:
                # A client chooses an id that a denial does not meet.
                found += [Rule(allow, access, one, "%s:%d" % (name, line.number), line.text, certain=allow or not free) for one in filters]
    return found


# -- mosquitto.conf ----------------------------------------------------------------------------------------
@dataclass
class Security:
    """Settings that decide together: of the whole broker, or with per_listener_settings of one listener."""

    where: str
    acl_file: str = ""
    password_file: str = ""
    allow_anonymous: bool | None = None
    plugins: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    other_users: str = ""
    username_is_client_id: bool = False


@dataclass
class Config:
    """mosquitto.conf. *bridges*: (name, place, line) of each `connection`."""

    scopes: list[Security] = field(default_factory=list)
    bridges: list[tuple[str, str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    listeners: int = 0


def truth(value: str) -> bool:
    """Whether mosquitto.conf means yes."""
    return value.strip().lower() in ("true", "1")


@dataclass(frozen=True)
class Setting:
    """One line of a mosquitto.conf."""

    file: str
    number: int
    key: str
    value: str
    line: str


def directives(text: str, name: str = "mosquitto.conf") -> list[Setting]:
    """The settings of one file as they stand."""
    entries: list[Setting] = []
    # Of all that Python takes for the end of a line the broker knows one.
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            key, _blank, value = line.partition(" ")
            entries.append(Setting(name, number, key, value.strip(), line))
    return entries


def settings(path: str, read: Callable[[str], str], names: Callable[[str], Iterable[str]]) -> list[Setting]:
    """The settings of a mosquitto.conf in the order in which the broker reads them, those of an `include_dir` in its place (conf.c and
    conf_includedir.c of 2.0: not within an included file). *read*: text of a file; *names*: of the files of a directory. Raises what they raise."""
    found: list[Setting] = []
    for one in directives(read(path), path):
        if one.key != "include_dir":
            found.append(one)
            continue
        for name in sorted((name for name in names(one.value) if name.endswith(".conf") and name != ".conf"), key=lambda name: [(c.upper(), c) for c in name]):
            file = posixpath.join(one.value, name)
            found += [more for more in directives(read(file), file) if more.key != "include_dir"]
    return found


def parse_conf(entries: Sequence[Setting]) -> Config:
    """The settings that have a say in rights."""
    config = Config()
    apart = any(one.key == "per_listener_settings" and truth(one.value) for one in entries)
    # Without a `listener` line there is one, on the loopback.
    config.scopes.append(Security("the broker"))
    # The listener of `port` or `bind_address` goes by what stands outside of all others; a listener ends with its file.
    outside = any(one.key == "bind_address" or (one.key == "port" and one.value != "0") for one in entries)
    config.listeners += outside
    scopes: dict[str, Security] = {}
    for one in entries:
        where, key, value, line = "%s:%d" % (one.file, one.number), one.key, one.value, one.line
        current = scopes.setdefault(one.file, config.scopes[0])
        if key == "listener":
            config.listeners += 1
            if apart:
                current = scopes[one.file] = Security("listener %s" % value)
                config.scopes.append(current)
        if key == "connection":
            config.bridges.append((value, where, line))
        elif key == "acl_file":
            current.acl_file = value
        elif key == "password_file":
            current.password_file = value
        elif key == "allow_anonymous":
            current.allow_anonymous = truth(value)
        elif key in ("plugin", "auth_plugin", "global_plugin"):
            current.plugins.append((value, {}))
        elif key.startswith(("plugin_opt_", "auth_opt_")) and current.plugins:
            current.plugins[-1][1][key.split("_opt_", 1)[1]] = value
        elif key in ("use_identity_as_username", "use_subject_as_username") and truth(value):
            current.other_users = "certificates name the users (%s: %s)" % (where, key)
        elif key in ("psk_file", "use_identity_as_username", "use_subject_as_username"):
            current.other_users = current.other_users or ("keys name the users (%s)" % where if key == "psk_file" else "")
        elif key == "use_username_as_clientid":
            current.username_is_client_id = truth(value)
        elif key not in HARMLESS and not (config.bridges and key in BRIDGE):
            config.unknown.append("%s: %s: its effect on rights is not modelled" % (where, line))
    if apart and config.listeners and not outside:
        config.scopes.pop(0)
    elif apart and outside and config.scopes[0].allow_anonymous is None:
        # Of this listener alone 2.0.11 takes no word for yes.
        config.scopes[0].allow_anonymous = True
    if not config.listeners:
        # Then the broker listens on the loopback only, and lets everybody in who is not refused.
        for scope in config.scopes:
            scope.allow_anonymous = scope.allow_anonymous is not False
    return config


def users_of(text: str) -> list[str]:
    """Names in a password file."""
    return [line.split(":", 1)[0] for line in text.split("\n") if ":" in line and not line.startswith("#")]


# -- dynamic security -----------------------------------------------------------------------------------
def _ranked(entries: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return sorted(entries, key=lambda one: (-int(one.get("priority", -1)), str(one.get(name, ""))))


def _role_rules(role: Mapping[str, Any], where: str, username: str, reads: bool) -> list[Rule]:
    kinds = {"publishclientsend": WRITE, "publishclientreceive": READ} if reads else {"publishclientsend": WRITE}
    found = []
    acls = list(enumerate(role.get("acls") or []))
    first: dict[tuple[str, str], int] = {}
    for number, acl in acls:
        first.setdefault((_kind(acl), str(acl.get("topic", ""))), number)
    for number, acl in sorted(acls, key=lambda one: -int(one[1].get("priority", 0))):
        access = kinds.get(_kind(acl))
        if access is None:
            continue
        topic = str(acl.get("topic", ""))
        allow = bool(acl.get("allow"))
        # 2.1 substitutes, 2.0 takes the text; of one topic that stands twice 2.1 takes the first, 2.0 both: the wider counts for what is allowed, and
        # what only one of them denies is not denied.
        for one in dict.fromkeys([topic, *expand(topic, username, None)]) if "%" in topic else [topic]:
            found.append(Rule(allow, access, one, "%s: role %s, acl %d" % (where, role.get("rolename"), number),
                              "%s %s %s priority %s" % (acl.get("acltype"), "allow" if allow else "deny", topic, acl.get("priority", 0)),
                              certain=allow or ("%" not in topic and first[_kind(acl), topic] == number)))
    return found


def _kind(acl: Mapping[str, Any]) -> str:
    """Its acltype, whose capitals do not matter."""
    return str(acl.get("acltype")).lower()


def _subscribes(roles: Sequence[Mapping[str, Any]], default: bool) -> bool:
    """May it subscribe to anything at all? Then what it may receive decides."""
    return default or any(acl.get("allow") and _kind(acl) in ("subscribeliteral", "subscribepattern")
                          for role in roles for acl in role.get("acls") or [])


def parse_dynsec(text: str, name: str) -> tuple[list[Identity], list[str]]:
    """(identities, what is not modelled) of dynamic-security.json: client roles by priority, then groups by priority. Raises AclError."""
    try:
        return _dynsec(json.loads(text, object_pairs_hook=_as_cjson), name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AclError("%s: is no configuration of the dynamic-security plugin: %s: %s" % (name, type(error).__name__, error)) from error


def _as_cjson(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as the plugin looks into it: capitals do not matter, and of two keys the first counts."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.setdefault(key.lower(), value)
    return found


def _dynsec(data: Any, name: str) -> tuple[list[Identity], list[str]]:
    roles = {str(one["rolename"]): one for one in data.get("roles") or []}
    groups = {str(one["groupname"]): one for one in data.get("groups") or []}
    clients = list(data.get("clients") or [])
    default = data.get("defaultaclaccess") or {}
    # Which of two counts is not the same in each release.
    unknown = ["%s: one of %s stands twice" % (name, kind) for kind, known in (("roles", roles), ("groups", groups)) if len(known) < len(data.get(kind) or [])]
    strangers = str(data.get("anonymousgroup") or "")

    def chain(entries: Iterable[Mapping[str, Any]], who: str) -> list[Mapping[str, Any]]:
        found = []
        for entry in _ranked(entries, "rolename"):
            if str(entry.get("rolename")) not in roles:
                unknown.append("%s: %s has the role %s, which does not exist" % (name, who, entry.get("rolename")))
                continue
            found.append(roles[str(entry["rolename"])])
        return found

    def identity(who: str, mine: Sequence[Mapping[str, Any]]) -> Identity:
        subscribes = _subscribes(mine, bool(default.get("subscribe", False)))
        # $CONTROL is never given by the default.
        rules = [rule for role in mine for rule in _role_rules(role, name, who, subscribes)]
        rules.append(Rule(False, WRITE, "$CONTROL/#", name, "$CONTROL is never given by default"))
        return Identity(who, rules, {WRITE: bool(default.get("publishclientsend", False)),
                                     READ: subscribes and bool(default.get("publishclientreceive", True))}, "%s: defaultACLAccess" % name)

    found = []
    for client in clients:
        if client.get("disabled") is True:
            continue
        who = str(client["username"])
        mine = chain(client.get("roles") or [], who)
        # Only the groups tell who is in them: what a client says of its groups is not read.
        member = [{"groupname": key, "priority": one.get("priority", -1)} for key, group in groups.items() for one in group.get("clients") or []
                  if str(one.get("username")) == who]
        for entry in _ranked(member, "groupname"):
            mine += chain(groups[str(entry["groupname"])].get("roles") or [], "group %s" % entry["groupname"])
        found.append(identity(who, mine))
    if strangers and strangers not in groups:
        unknown.append("%s: the anonymous group %s does not exist" % (name, strangers))
    # Without a group they have the default.
    mine = chain(groups[strangers].get("roles") or [], "group %s" % strangers) if strangers in groups else []
    found.append(identity(ANONYMOUS, mine))
    return found, unknown


# -- the broker --------------------------------------------------------------------------------------------
def _scope(policy: Policy, scope: Security, read: Callable[[str], str], declared: Iterable[str], name: str) -> None:
    """Adds what one scope gives. *declared*: identities that count although no file names them."""
    users = set(declared)
    if scope.password_file:
        provisioned = set(users_of(_read(policy, read, scope.password_file)))
        users |= provisioned
        policy.provisioned |= provisioned
    others = scope.other_users
    anonymous = scope.allow_anonymous if scope.allow_anonymous is not None else False
    dynsec = [(path, options) for path, options in scope.plugins if posixpath.basename(path).startswith("mosquitto_dynamic_security")]
    for path, _options in scope.plugins:
        if not any(path == one for one, _o in dynsec):
            policy.unknown.append("%s: plugin %s decides too, and nobody here knows how" % (name, path))
            others = others or "plugin %s" % path
    if anonymous:
        policy.open_doors.append("%s: anonymous clients are let in (%s)" % (name, scope.where))
    if dynsec and scope.acl_file:
        policy.unknown.append("%s: acl_file and the dynamic-security plugin decide both (%s): rights of either are taken" % (name, scope.where))
    for path, options in dynsec:
        if not options.get("config_file"):
            policy.unknown.append("%s: plugin %s has no plugin_opt_config_file" % (name, path))
            continue
        identities, unknown = parse_dynsec(_read(policy, read, options["config_file"]), options["config_file"])
        policy.unknown += unknown
        policy.rights_topics = ("$CONTROL/#",)
        for one in identities:
            policy.provisioned |= {one.name} - {ANONYMOUS}
            if one.name != ANONYMOUS or anonymous:
                _merge(policy.identity(one.name), one)
    if dynsec and not scope.acl_file:
        return
    lines, named, broken = _rules(policy, read, scope.acl_file) if scope.acl_file else ([], [], "%s: no acl_file" % name)
    if broken:
        policy.open_doors.append("%s (%s): every client may everything" % (broken, scope.where))
        for who in sorted(users) + ([ANONYMOUS] if anonymous else []) + [ANYBODY]:
            _merge(policy.identity(who), Identity(who, [], {WRITE: True, READ: True}, broken))
        return
    for who in sorted(users | set(named)):
        _merge(policy.identity(who), Identity(who, rules_of(lines, who, scope.acl_file, scope.username_is_client_id)))
    if anonymous:
        _merge(policy.identity(ANONYMOUS), Identity(ANONYMOUS, rules_of(lines, None, scope.acl_file)))
    elif any(line.user is None and not line.pattern for line in lines):
        _merge(policy.identity(ANONYMOUS), Identity(ANONYMOUS))
        first = next(line for line in lines if line.user is None and not line.pattern)
        policy.unknown.append("%s:%d: %s: stands before the first `user` line, so it is for anonymous clients, and none is let in" % (
            scope.acl_file, first.number, first.text))
    if others:
        # Names that stand in no file: a %u may be anything of one level.
        rules = rules_of([line for line in lines if line.pattern], "\0", scope.acl_file)
        _merge(policy.identity(ANYBODY), Identity(ANYBODY, [
            Rule(one.allow, one.access, one.filter.replace("\0", "+"), one.where, one.text, certain=one.allow) for one in rules]))


def _rules(policy: Policy, read: Callable[[str], str], path: str) -> tuple[list[Line], list[str], str]:
    """(lines, users, what is wrong with the file). A broker does not start with a wrong one, but told to read it again it goes on without any rule
    (seen on 2.0.11). Raises AclError where only we cannot read it."""
    try:
        return (*parse_acl(_read(policy, read, path), path), "")
    except AclError as error:
        if isinstance(error.__cause__, (OSError, UnicodeError)) and not isinstance(error.__cause__, FileNotFoundError):
            raise
        return [], [], str(error)


def _merge(into: Identity, more: Identity) -> None:
    """Rights of a second scope beside those of the first: either may be used, so what is denied in one of them is not denied."""
    if into.rules or any(into.defaults.values()):
        into.rules = [rule for rule in into.rules if rule.allow] + [rule for rule in more.rules if rule.allow]
        into.defaults = {access: bool(into.defaults.get(access) or more.defaults.get(access)) for access in (WRITE, READ)}
    else:
        into.rules, into.defaults = list(more.rules), dict(more.defaults)
    into.default_where = more.default_where if any(more.defaults.values()) else into.default_where


def _read(policy: Policy, read: Callable[[str], str], path: str) -> str:
    try:
        text = read(path)
    except (OSError, UnicodeError) as error:
        raise AclError("%s: cannot be read: %s" % (path, error)) from error
    policy.files[path] = digest(text)
    return text


def load(path: str, read: Callable[[str], str], declared: Iterable[str] = (), names: Callable[[str], Iterable[str]] = os.listdir) -> Policy:
    """Everything that a mosquitto.conf and its files give. *read*: text of a file; *names*: of the files of a directory. Raises AclError."""
    policy = Policy("mosquitto")

    def listed(folder: str) -> Iterable[str]:
        try:
            return names(folder)
        except OSError as error:
            raise AclError("%s: cannot be read: %s" % (folder, error)) from error

    config = parse_conf(settings(path, lambda file: _read(policy, read, file), listed))
    policy.unknown += config.unknown
    for scope in config.scopes:
        _scope(policy, scope, read, declared, path)
    for name, where, line in config.bridges:
        # Whatever its `topic` lines say: 2.0.11 publishes what the other broker sends over it, asked for or not.
        policy.identity("(bridge %s)" % name).rules.append(Rule(True, WRITE, "#", where, line))
        policy.open_doors.append("%s: what comes over the bridge %s is published past the ACL" % (where, name))
    return policy
