# SPDX-License-Identifier: Apache-2.0
"""What the attributes of one node say about what our session may do to it (OPC 10000-3, 5.2, 5.6, 5.7, 8.55 to 8.60).

Attributes are claims: a grant refutes, no grant proves nothing more than that nothing was claimed.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .audit_types import (
    ACCESS_LEVEL,
    ACCESS_LEVEL_EX,
    ACCESS_RESTRICTIONS,
    EXECUTABLE,
    METHOD,
    NODE_CLASS,
    OBJECT,
    ROLE_PERMISSIONS,
    USER_ACCESS_LEVEL,
    USER_EXECUTABLE,
    USER_ROLE_PERMISSIONS,
    USER_WRITE_MASK,
    VARIABLE,
    VARIABLE_TYPE,
    VIEW,
    WRITE_MASK,
)

COMMON = (NODE_CLASS, WRITE_MASK, USER_WRITE_MASK, ROLE_PERMISSIONS, USER_ROLE_PERMISSIONS, ACCESS_RESTRICTIONS)
PER_CLASS: dict[int, tuple[int, ...]] = {
    VARIABLE: (ACCESS_LEVEL, USER_ACCESS_LEVEL, ACCESS_LEVEL_EX),
    METHOD: (EXECUTABLE, USER_EXECUTABLE),
}
MANDATORY_EVERYWHERE = frozenset({NODE_CLASS})
MANDATORY: dict[int, frozenset[int]] = {
    VARIABLE: MANDATORY_EVERYWHERE | {ACCESS_LEVEL, USER_ACCESS_LEVEL},
    METHOD: MANDATORY_EVERYWHERE | {EXECUTABLE, USER_EXECUTABLE},
}
"""All others are optional: an absent one says nothing, and grants nothing."""

ACCESS_BITS = {1: "CurrentWrite", 3: "HistoryWrite", 5: "StatusWrite", 6: "TimestampWrite"}
MASK_BITS = (
    "AccessLevel", "ArrayDimensions", "BrowseName", "ContainsNoLoops", "DataType", "Description", "DisplayName", "EventNotifier",
    "Executable", "Historizing", "InverseName", "IsAbstract", "MinimumSamplingInterval", "NodeClass", "NodeId", "Symmetric",
    "UserAccessLevel", "UserExecutable", "UserWriteMask", "ValueRank", "WriteMask", "ValueForVariableType", "DataTypeDefinition",
    "RolePermissions", "AccessRestrictions", "AccessLevelEx",
)
PERMISSION_BITS = {
    2: "WriteAttribute", 3: "WriteRolePermissions", 4: "WriteHistorizing", 6: "Write", 8: "InsertHistory", 9: "ModifyHistory",
    10: "DeleteHistory", 12: "Call", 13: "AddReference", 14: "RemoveReference", 15: "DeleteNode", 16: "AddNode",
}
_ANY_CLASS = frozenset({2, 3, 13, 14, 15, 16})
_HISTORY = frozenset({8, 9, 10})
_VALUE = frozenset({4, 6}) | _HISTORY
ROLES = {
    "ns=0;i=15644": "Anonymous", "ns=0;i=15656": "AuthenticatedUser", "ns=0;i=15668": "Observer", "ns=0;i=15680": "Operator",
    "ns=0;i=15692": "Supervisor", "ns=0;i=15704": "SecurityAdmin", "ns=0;i=15716": "ConfigureAdmin", "ns=0;i=16036": "Engineer",
    "ns=0;i=18625": "TrustedApplication",
}
EVERYBODYS = frozenset({"ns=0;i=15644", "ns=0;i=15656"})
"""Anonymous is a role of every session, AuthenticatedUser of every one with a user (OPC 10000-18, 4.3)."""
HARMLESS_ROLES = frozenset({"Anonymous", "AuthenticatedUser", "Observer", "TrustedApplication"})
HARMLESS_METHODS = frozenset({"i=11489", "i=11492", "i=12871", "i=12873", "i=12746", "i=12749", "i=3875", "i=12912"})
"""GetMonitoredItems, ResendData and SetSubscriptionDurable of ServerType and of Server, ConditionRefresh and ConditionRefresh2: they change the caller's
own subscriptions, nothing else. By NodeId: a name is anybody's."""

SIGNING_REQUIRED, ENCRYPTION_REQUIRED = 1, 2
"""Bits of AccessRestrictionsType (OPC 10000-3, 8.56)."""

GRANT, LIE, INFO = "grant", "lie", "info"
INSTANCE, TYPES, UNLINKED, DECLARED = "instance", "types", "unlinked", "declared"
"""Where a node was found: below Objects and Views; only below Types; only by a reference that is not hierarchical; only in the tag map."""

_GROUPS: dict[str, tuple[str, ...]] = {
    "server configuration and certificates": (
        "UpdateCertificate", "CreateSigningRequest", "ApplyChanges", "CancelChanges", "GetRejectedList", "ResetToServerDefaults",
        "CloseAndUpdate", "OpenWithMasks", "AddCertificate", "RemoveCertificate", "CreateSelfSignedCertificate", "DeleteCertificate"),
    "roles and users": (
        "AddRole", "RemoveRole", "AddIdentity", "RemoveIdentity", "AddApplication", "RemoveApplication", "AddEndpoint", "RemoveEndpoint",
        "AddUser", "ModifyUser", "RemoveUser", "ChangePassword"),
    "files": ("Open", "Write", "CreateDirectory", "CreateFile", "Delete", "DeleteFileSystemObject", "MoveOrCopy", "GenerateFileForWrite"),
    "PubSub": (
        "AddConnection", "RemoveConnection", "AddPublishedDataItems", "AddPublishedEvents", "RemovePublishedDataSet", "AddDataSetFolder",
        "AddWriterGroup", "AddReaderGroup", "RemoveGroup", "AddDataSetReader", "AddDataSetWriter", "SetSecurityKeys", "AddSecurityGroup",
        "AddSubscribedDataSet", "CreateTargetVariables", "AddTargetVariables", "CreateDataSetMirror", "Enable", "Disable"),
    "alarms": (
        "Acknowledge", "Confirm", "AddComment", "TimedShelve", "OneShotShelve", "Unshelve", "Suppress", "Unsuppress", "Silence",
        "RemoveFromService", "PlaceInService"),
    "programs and server state": ("Start", "Suspend", "Resume", "Halt", "Reset", "RequestServerStateChange"),
}
DANGEROUS = {name: group for group, names in _GROUPS.items() for name in names}
SUBSCRIBED_DATA_SETS = frozenset({"ns=0;i=15108", "ns=0;i=15111", "ns=0;i=15127", "ns=0;i=23828"})
"""Type definitions of Part 14 objects that write variables out of received messages, without any service."""


@dataclass(frozen=True)
class Finding:
    """One statement about one node. Kind: ``grant`` (our session may change something), ``lie`` (its attributes contradict each
    other), ``info``."""

    check: str
    what: str
    kind: str


_ALL = {node_class: COMMON + own for node_class, own in PER_CLASS.items()}


def attributes(node_class: int) -> tuple[int, ...]:
    """What is read of a node of this class; NodeClass comes first."""
    return _ALL.get(node_class, COMMON)


def fits(attribute: int, value: Any) -> bool:
    """Whether a value has the type of its attribute: a number, or for roles a list of (role, permissions)."""
    if attribute in (ROLE_PERMISSIONS, USER_ROLE_PERMISSIONS):
        return isinstance(value, (list, tuple)) and all(isinstance(one, tuple) and len(one) == 2 for one in value)
    return isinstance(value, int)


def bits(value: int, names: Mapping[int, str]) -> list[str]:
    """Names of the set bits."""
    return [name for bit, name in sorted(names.items()) if value >> bit & 1]


def mask(value: int) -> list[str]:
    """Names of the set bits of a WriteMask; unknown ones by number."""
    return [MASK_BITS[bit] if bit < len(MASK_BITS) else "bit %d" % bit for bit in range(32) if value >> bit & 1]


def permissions(pairs: Sequence[tuple[str, int]]) -> int:
    """Union over all roles."""
    union = 0
    for _, granted in pairs:
        union |= granted
    return union


def granted(union: int, node_class: int, harmless: bool) -> list[str]:
    """Names of those rights in *union* that change something at a node of this class."""
    counted = set(_ANY_CLASS)
    if node_class in (VARIABLE, VARIABLE_TYPE):
        counted |= _VALUE
    if node_class in (OBJECT, VIEW):
        # Of events.
        counted |= _HISTORY
    if node_class == METHOD and not harmless:
        counted.add(12)
    return bits(union, {bit: name for bit, name in PERMISSION_BITS.items() if bit in counted})


def judge(node_class: int, values: Mapping[int, Any], harmless: bool, region: str) -> list[Finding]:
    """Findings of one node. *values*: attribute id to value, only what could be read."""
    found: list[Finding] = []

    def add(check: str, kind: str, text: str) -> None:
        found.append(Finding(check, text, kind))

    user_level, level = values.get(USER_ACCESS_LEVEL), values.get(ACCESS_LEVEL)
    if user_level is not None:
        names = bits(user_level, ACCESS_BITS)
        if names:
            add("OA8", GRANT, "UserAccessLevel grants " + ", ".join(names))
        if level is not None and int(user_level) & ~int(level) & 0xFF:
            add("OA9", LIE, "UserAccessLevel 0x%02X has bits that AccessLevel 0x%02X has not" % (user_level, level))
    extended = values.get(ACCESS_LEVEL_EX)
    if extended is not None and level is not None and extended & 0xFF != level:
        add("OA9", LIE, "AccessLevelEx 0x%X contradicts AccessLevel 0x%02X" % (extended, level))
    user_mask, write_mask = values.get(USER_WRITE_MASK), values.get(WRITE_MASK)
    if user_mask:
        add("OA10", GRANT, "UserWriteMask grants " + ", ".join(mask(user_mask)))
        if write_mask is not None and user_mask & ~write_mask:
            add("OA9", LIE, "UserWriteMask 0x%X has bits that WriteMask 0x%X has not" % (user_mask, write_mask))
    callable_here = region != TYPES
    executable = bool(values.get(USER_EXECUTABLE))
    if executable and not harmless:
        add("OA11", GRANT if callable_here else INFO, "UserExecutable" if callable_here else "UserExecutable, only in the type tree")
    if executable and values.get(EXECUTABLE) is not None and not values[EXECUTABLE]:
        add("OA9", LIE, "UserExecutable, but not Executable")
    roles = values.get(USER_ROLE_PERMISSIONS)
    if roles:
        rights = granted(permissions(roles), node_class, harmless or not callable_here)
        if rights:
            add("OA12", GRANT, "UserRolePermissions grant " + ", ".join(rights))
    if values.get(ROLE_PERMISSIONS):
        found += _roles(by_role(values[ROLE_PERMISSIONS]), None if roles is None else by_role(roles), node_class, harmless or not callable_here)
    return found


def by_role(pairs: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Permissions of each role; one that stands twice has both."""
    found: dict[str, int] = {}
    for role, permission in pairs:
        found[role] = found.get(role, 0) | permission
    return found


def _roles(everybodys: Mapping[str, int], mine: Mapping[str, int] | None, node_class: int, harmless: bool) -> list[Finding]:
    """UserRolePermissions are RolePermissions for the roles of the session, no more and no less (OPC 10000-3, 5.2.10). *mine*: None = not told."""
    found = []
    for role in sorted(EVERYBODYS if mine is None else set(mine)):
        if mine is None:
            rights = granted(everybodys.get(role, 0), node_class, harmless)
            if rights:
                found.append(Finding("OA12", "RolePermissions grant %s to %s, and no UserRolePermissions are told" % (", ".join(rights), ROLES[role]), GRANT))
            continue
        rights = granted(mine[role] ^ everybodys.get(role, 0), node_class, harmless)
        if rights:
            found.append(Finding("OA9", "UserRolePermissions and RolePermissions of %s disagree about %s" % (ROLES.get(role, role), ", ".join(rights)), LIE))
    return found


def informs(values: Mapping[int, Any]) -> dict[str, bool]:
    """What others may do here: no finding, but counted."""
    level, write_mask = values.get(ACCESS_LEVEL), values.get(WRITE_MASK)
    return {
        "writable_by_others": bool(level and bits(level, ACCESS_BITS)) and not bits(values.get(USER_ACCESS_LEVEL) or 0, ACCESS_BITS),
        "attributes_writable_by_others": bool(write_mask) and not values.get(USER_WRITE_MASK),
        **restrictions(values.get(ACCESS_RESTRICTIONS)),
    }


def restrictions(value: Any) -> dict[str, bool]:
    """Which channels AccessRestrictions keep out: those without a signature, those without encryption. SessionRequired keeps out none of them."""
    bits_set = value if isinstance(value, int) else 0
    return {"signing_required": bool(bits_set & (SIGNING_REQUIRED | ENCRYPTION_REQUIRED)), "encryption_required": bool(bits_set & ENCRYPTION_REQUIRED)}
