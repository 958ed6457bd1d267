# SPDX-License-Identifier: Apache-2.0
"""What EMQX 5 was told: the chain of authorization sources, of which ``acl.conf`` and exports of the built-in database can be read.

Source: emqx_authz_rule.erl, emqx_authz_rule_raw.erl, emqx_authz_mnesia.erl. The first source that matches decides, then ``no_match``; the built-in database
asks the rules of the client id, then of the user name, then those for all. A superuser, a rule of the rule engine and the REST API publish past all of it.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .acl_model import ANYBODY, READ, WRITE, Identity, Policy, Rule
from .acl_mosquitto import AclError, digest, expand
from .topics import valid_filter

_TOKEN = re.compile(r"""\s+|%[^\n]*|(?P<string>"(?:\\.|[^"\\])*")|(?P<quoted>'(?:\\.|[^'\\])*')|(?P<open><<)|(?P<close>(?:/utf8\s*)?>>)"""
                    r"""|(?P<mark>[{}\[\],.])|(?P<atom>[a-z][A-Za-z0-9_@]*)|(?P<number>-?[0-9]+)""", re.S)
_ESCAPE = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "0": "\0"}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class Atom(str):
    """An Erlang atom; strings are ``str``."""


def parse_terms(text: str, name: str) -> list[tuple[int, Any]]:
    """[(line, term)] of a file of Erlang terms, each ended by a full stop: tuples, lists, atoms, strings, binaries, integers. Raises AclError."""
    tokens: list[tuple[int, str, Any]] = []
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise AclError("%s:%d: %r is not understood" % (name, line, text[at:at + 20].split("\n")[0]))
        kind, value = found.lastgroup, found.group()
        if kind in ("string", "quoted"):
            plain = re.sub(r"\\(.)", lambda one: _ESCAPE.get(one.group(1), one.group(1)), value[1:-1], flags=re.S)
            tokens.append((line, "value", Atom(plain) if kind == "quoted" else plain))
        elif kind == "atom":
            tokens.append((line, "value", Atom(value)))
        elif kind == "number":
            tokens.append((line, "value", int(value)))
        elif kind:
            tokens.append((line, ">>" if kind == "close" else value, None))
        line += value.count("\n")
        at = found.end()
    terms: list[tuple[int, Any]] = []
    place = 0

    def error(what: str) -> AclError:
        return AclError("%s:%d: %s" % (name, tokens[min(place, len(tokens) - 1)][0] if tokens else 1, what))

    def term(depth: int) -> Any:
        nonlocal place
        if place >= len(tokens) or depth > 50:
            raise error("a term does not end")
        _line, kind, value = tokens[place]
        place += 1
        if kind == "value":
            return value
        if kind == "<<":
            inner = term(depth + 1)
            if place >= len(tokens) or tokens[place][1] != ">>" or not isinstance(inner, str):
                raise error("a binary of something else than a text")
            place += 1
            return inner
        if kind in ("{", "["):
            end = "}" if kind == "{" else "]"
            items: list[Any] = []
            while True:
                if place < len(tokens) and tokens[place][1] == end and not items:
                    place += 1
                    break
                items.append(term(depth + 1))
                if place >= len(tokens) or tokens[place][1] not in (",", end):
                    raise error("a comma or %s is missing" % end)
                place += 1
                if tokens[place - 1][1] == end:
                    break
            return tuple(items) if kind == "{" else items
        raise error("%r at a place where a term begins" % kind)

    while place < len(tokens):
        begin = tokens[place][0]
        value = term(0)
        if place >= len(tokens) or tokens[place][1] != ".":
            raise error("a full stop is missing after the term of line %d" % begin)
        place += 1
        terms.append((begin, value))
    return terms


@dataclass(frozen=True)
class Entry:
    """A rule of a source, before it is asked for one identity. *who*: an Erlang condition; *partial*: for some QoS or retain flags only."""

    allow: bool
    who: Any
    access: tuple[str, ...]
    topics: tuple[tuple[str, bool], ...]
    partial: bool
    where: str
    text: str


def show(term: Any) -> str:
    """The term as Erlang writes it."""
    if isinstance(term, tuple):
        return "{%s}" % ", ".join(show(one) for one in term)
    if isinstance(term, list):
        return "[%s]" % ", ".join(show(one) for one in term)
    return str(term) if isinstance(term, (Atom, int)) else '"%s"' % term


def _action(term: Any, where: str) -> tuple[tuple[str, ...], bool]:
    kind, limited = (term[0], bool(term[1])) if isinstance(term, tuple) and len(term) == 2 else (term, False)
    kinds = {"publish": (WRITE,), "pub": (WRITE,), "subscribe": (READ,), "sub": (READ,), "pubsub": (READ, WRITE), "all": (READ, WRITE)}
    if str(kind) not in kinds:
        raise AclError("%s: %s is no action" % (where, show(term)))
    return kinds[str(kind)], limited


def _topic(term: Any, where: str) -> tuple[str, bool]:
    if isinstance(term, tuple) and len(term) == 2 and term[0] == "eq" and isinstance(term[1], str):
        return str(term[1]), True
    if isinstance(term, str) and not isinstance(term, Atom):
        return (term[3:], True) if term.startswith("eq ") else (term, False)
    raise AclError("%s: %s is no topic" % (where, show(term)))


def parse_conf(text: str, name: str) -> list[Entry]:
    """The rules of an acl.conf. Raises AclError, where the broker would refuse the file too."""
    found = []
    for line, term in parse_terms(text, name):
        where = "%s:%d" % (name, line)
        if not isinstance(term, tuple) or len(term) not in (2, 4) or term[0] not in ("allow", "deny") or not isinstance(term[0], Atom):
            raise AclError("%s: %s is no rule ({allow | deny, Who, Action, Topics})" % (where, show(term)))
        if len(term) == 2:
            if term[1] != "all":
                raise AclError("%s: %s is no rule" % (where, show(term)))
            found.append(Entry(term[0] == "allow", Atom("all"), (READ, WRITE), (("#", False),), False, where, show(term)))
            continue
        access, limited = _action(term[2], where)
        if not isinstance(term[3], list):
            raise AclError("%s: the topics of %s are no list" % (where, show(term)))
        found.append(Entry(term[0] == "allow", term[1], access, tuple(_topic(one, where) for one in term[3]), limited, where, show(term)))
    return found


_KEYS = frozenset({"permission", "action", "topic", "topics", "qos", "retain"})


def _raw(rule: Mapping[str, Any], who: Any, where: str) -> Entry:
    try:
        permission, action = str(rule["permission"]), str(rule["action"])
        topics = [rule["topic"]] if isinstance(rule.get("topic"), str) else list(rule.get("topics") or rule["topic"])
    except (KeyError, TypeError) as error:
        raise AclError("%s: a rule has permission, action and topic" % where) from error
    if permission not in ("allow", "deny"):
        raise AclError("%s: %r is no permission" % (where, permission))
    access, _limited = _action(Atom(action), where)
    every = str(rule.get("retain", "all")) in ("all", "None")
    qos = rule.get("qos")
    levels = {str(one) for one in qos} if isinstance(qos, list) else set(str(qos).split(",")) if qos is not None else {"0", "1", "2"}
    # What later releases add are conditions (ipaddr, clientid_re, zone …).
    partial = not every or levels != {"0", "1", "2"} or not _KEYS.issuperset(rule)
    return Entry(permission == "allow", who, access, tuple(_topic(str(one), where) for one in topics), partial, where,
                 "%s %s %s" % (permission, action, ", ".join(str(one) for one in topics)))


def parse_database(documents: Mapping[str, str], name: str) -> tuple[list[Entry], list[str]]:
    """(rules, what is missing) of exports of the built-in database: bodies of ``GET /authorization/sources/built_in_database/rules/{clients,users,all}``.

    *documents*: text by ``clients``, ``users``, ``all``. Raises AclError.
    """
    found: list[Entry] = []
    unknown = ["%s: the export has no %s" % (name, kind) for kind in ("clients", "users", "all") if kind not in documents]
    for kind, key, who in (("clients", "clientid", "clientid"), ("users", "username", "username"), ("all", "", "")):
        if kind not in documents:
            continue
        where = "%s (%s)" % (name, kind)
        try:
            body = json.loads(documents[kind])
            meta = body.get("meta") or {} if isinstance(body, Mapping) else {}
            entries = body["data" if "data" in body else "rules"] if isinstance(body, Mapping) else body
            if kind == "all":
                rules = [rule for one in entries for rule in one.get("rules", [one])]
                found += [_raw(rule, Atom("all"), "%s[%d]" % (where, number)) for number, rule in enumerate(rules)]
            else:
                for one in entries:
                    found += [_raw(rule, (Atom(who), str(one[key])), "%s %s[%d]" % (where, one[key], number)) for number, rule in enumerate(one["rules"])]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AclError("%s: is no export of the built-in database: %s" % (where, error)) from error
        total = meta.get("count", meta.get("total"))
        if meta.get("hasnext") or (isinstance(total, int) and kind != "all" and total > len(entries)):
            unknown.append("%s: the export is cut: ask with a larger limit" % where)
    return found, unknown


def applies(who: Any, username: str | None) -> bool | None:
    """Does the condition hold for a user (None: for some user that no rule names)? None where only the broker can tell. Raises AclError."""
    if who == "all" and isinstance(who, Atom):
        return True
    if not isinstance(who, tuple) or len(who) < 2:
        raise AclError("%s is no condition" % show(who))
    kind, value = str(who[0]), who[1]
    if kind in ("user", "username"):
        if isinstance(value, tuple) and len(value) == 2 and value[0] == "re":
            if username is None:
                return None
            try:
                return re.search(str(value[1]), username) is not None
            except re.error:
                return None
        return username is not None and str(value) == username
    if kind in ("client", "clientid", "ipaddr", "ipaddrs", "client_attr", "zone", "listener"):
        # A client chooses its id; the rest only the broker sees.
        return None
    if kind in ("and", "or") and isinstance(value, list):
        parts = [applies(one, username) for one in value]
        if kind == "and":
            return False if False in parts else None if None in parts else True
        return True if True in parts else None if None in parts else False
    raise AclError("%s is no condition that is known here" % show(who))


def _users(who: Any) -> set[str]:
    if isinstance(who, tuple) and len(who) == 2:
        if str(who[0]) in ("user", "username") and not isinstance(who[1], tuple):
            return {str(who[1])}
        if str(who[0]) in ("and", "or") and isinstance(who[1], list):
            return {name for one in who[1] for name in _users(one)}
    return set()


def _filters(topic: str, username: str | None) -> list[str]:
    text = topic.replace("%c", "${clientid}").replace("%u", "${username}")
    text = text.replace("${username}", username if username is not None else "+")
    # Anything else that a broker fills in may be any text.
    return expand(_VARIABLE.sub("%c", text).replace("${", "%c"), None, None)


def rules_for(entries: Iterable[Entry], username: str | None) -> list[Rule]:
    """The rules in their order for one user (None: any that no rule names). Raises AclError."""
    found = []
    for entry in entries:
        holds = applies(entry.who, username)
        if holds is False:
            continue
        for topic, literal in entry.topics:
            variable = "${" in topic or "%" in topic
            for one in _filters(topic, username):
                if not literal and not valid_filter(one):
                    raise AclError("%s: %r is no topic filter" % (entry.where, topic))
                for access in entry.access:
                    # A denied subscription to a/b does not stop one to a/#.
                    firm = holds is True and not entry.partial and not variable and access == WRITE
                    found.append(Rule(entry.allow, access, one, entry.where, entry.text, certain=holds is True if entry.allow else firm, literal=literal))
    return found


def load(sources: Sequence[Mapping[str, Any]], no_match: str, read: Callable[[str], str], declared: Iterable[str] = ()) -> Policy:
    """The chain of *sources* ({type: file, path} | {type: built_in_database, clients, users, all: paths}) and what holds after it. Raises AclError."""
    policy = Policy("emqx")

    def text(path: str) -> str:
        try:
            value = read(path)
        except (OSError, UnicodeError) as error:
            raise AclError("%s: cannot be read: %s" % (path, error)) from error
        policy.files[path] = digest(value)
        return value

    entries: list[Entry] = []
    for number, source in enumerate(sources):
        kind = str(source.get("type"))
        if kind == "file":
            entries += parse_conf(text(str(source["path"])), str(source["path"]))
        elif kind == "built_in_database":
            documents = {one: text(str(source[one])) for one in ("clients", "users", "all") if source.get(one)}
            more, unknown = parse_database(documents, "built_in_database")
            entries += more
            policy.unknown += unknown
        else:
            policy.unknown.append("sources[%d]: a source of type %s decides too, and nobody here can ask it" % (number, kind))
    allowed = no_match != "deny"
    if allowed:
        policy.open_doors.append("authorization.no_match is %s: what no rule decides is allowed; set it to deny" % no_match)
    names = set(declared) | {name for entry in entries for name in _users(entry.who)}
    for name in sorted(names):
        policy.identities[name] = Identity(name, rules_for(entries, name), {WRITE: allowed, READ: allowed}, "authorization.no_match")
    policy.identities[ANYBODY] = Identity(ANYBODY, rules_for(entries, None), {WRITE: allowed, READ: allowed}, "authorization.no_match")
    return policy
