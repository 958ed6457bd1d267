# SPDX-License-Identifier: Apache-2.0
"""What the audit of an OPC UA server and its transport say to each other: neutral values, no library behind them.

A *node* is whatever the channel uses as a key: hashable, made by ``Channel.node`` or found in a BrowseResult. Its text form
``ns=2;s=Pump1`` holds the server's index of today; ``Names`` turns it into the form that survives a restart, ``nsu=URI;s=Pump1``.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, Protocol

# Attribute ids (OPC 10000-6, A.1).
NODE_CLASS, WRITE_MASK, USER_WRITE_MASK, VALUE = 2, 6, 7, 13
ACCESS_LEVEL, USER_ACCESS_LEVEL, EXECUTABLE, USER_EXECUTABLE = 17, 18, 21, 22
ROLE_PERMISSIONS, USER_ROLE_PERMISSIONS, ACCESS_RESTRICTIONS, ACCESS_LEVEL_EX = 24, 25, 26, 27
ATTRIBUTES = {
    NODE_CLASS: "NodeClass", WRITE_MASK: "WriteMask", USER_WRITE_MASK: "UserWriteMask", VALUE: "Value", ACCESS_LEVEL: "AccessLevel",
    USER_ACCESS_LEVEL: "UserAccessLevel", EXECUTABLE: "Executable", USER_EXECUTABLE: "UserExecutable",
    ROLE_PERMISSIONS: "RolePermissions", USER_ROLE_PERMISSIONS: "UserRolePermissions", ACCESS_RESTRICTIONS: "AccessRestrictions",
    ACCESS_LEVEL_EX: "AccessLevelEx",
}
# Node classes (OPC 10000-3, 8.29).
OBJECT, VARIABLE, METHOD, VARIABLE_TYPE, VIEW = 1, 2, 4, 16, 128
CLASSES = {0: "Unspecified", 1: "Object", 2: "Variable", 4: "Method", 8: "ObjectType", 16: "VariableType", 32: "ReferenceType",
           64: "DataType", 128: "View"}

BAD, UNCERTAIN = 0x80000000, 0x40000000
BAD_ATTRIBUTE_ID_INVALID = 0x80350000
BAD_NODE_ID_INVALID, BAD_NODE_ID_UNKNOWN = 0x80330000, 0x80340000
NO_SUCH_NODE = frozenset({BAD_NODE_ID_INVALID, BAD_NODE_ID_UNKNOWN})
"""Servers use both for a node that they do not have."""
BAD_USER_ACCESS_DENIED = 0x801F0000
BAD_CONTINUATION_POINT_INVALID = 0x804A0000
BAD_NO_CONTINUATION_POINTS = 0x804B0000


class AuditError(Exception):
    """The audit cannot go on; the text says why. Ends in ``inconclusive``, never in a second login."""


NO_ASYNCUA = "asyncua is not there (%s): put the host into the group probe, run site.yml --tags probe"


class LinkLost(AuditError):
    """The connection cannot be made, is gone, or answers nothing in time."""


class Closed(LinkLost):
    """The server took the connection and ended it before there was a session."""


class Refused(AuditError):
    """The server says no to us: certificate, session limit. *code*: its status, 0 where there is none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class IdentityRejected(Refused):
    """The server rejects user or password; a person looks, nobody tries again."""


class PinMismatch(Refused):
    """The server's certificate is not the pinned one."""


class ClearPassword(Refused):
    """The server's token policy would carry the password in clear; it was not sent."""


class Overloaded(AuditError):
    """The server told us twice, by status or by latency, that we are too much for it."""


class BadAnswer(AuditError):
    """An answer that does not fit its question, or cannot be decoded."""


class TooMany(Exception):
    """One request asks for more than the server does in one call. Its size can be reduced."""


class Busy(Exception):
    """The server has no resources for this request now."""


class Forbidden(RuntimeError):
    """A request that is not on the list of reading services was about to be sent; a bug of ours."""


class Reading(NamedTuple):
    """One attribute: status uint32 and a plain value (int, bool, str, list, or [(role text, permissions)] for roles)."""

    status: int
    value: Any = None


class Reference(NamedTuple):
    """A forward reference; *type_definition* and *reference_type* as ``ns=0;i=61``. *remote*: on another server."""

    node: Any
    node_class: int
    name: str
    namespace: int
    type_definition: str
    reference_type: str
    remote: bool = False


class Alike(NamedTuple):
    """Forward references of one node that follow each other and differ only in their targets *nodes* and the BrowseNames *names* of those."""

    nodes: list[Any]
    names: list[str]
    node_class: int
    namespace: int
    type_definition: str = ""
    reference_type: str = ""
    remote: bool = False


def alike(references: Iterable[Reference]) -> list[Alike]:
    """The same, what is alike together. A server has many nodes of few kinds: what is done once for a kind is not done for each of its nodes."""
    found = []
    for (node_class, *rest), same in groupby(references, lambda one: (one.node_class, *one[3:])):
        run = list(same)
        found.append(Alike([one.node for one in run], [one.name for one in run], node_class, *rest))
    return found


def apart(references: Iterable[Alike]) -> Iterator[Reference]:
    """One by one."""
    for one in references:
        for node, name in zip(one.nodes, one.names):
            yield Reference(node, one.node_class, name, *one[3:])


class Browsed(NamedTuple):
    """References of one node; *point* is what BrowseNext takes, empty at the end."""

    status: int
    references: Sequence[Alike] = ()
    point: bytes = b""


#: Nodes and the ids of attributes that are read of each of them.
Group = tuple[Sequence[Any], tuple[int, ...]]


@dataclass(frozen=True)
class TokenPolicy:
    """A UserTokenPolicy: kind anonymous | username | certificate | issued; *policy* is its SecurityPolicyUri, may be empty."""

    id: str
    kind: str
    policy: str


@dataclass(frozen=True)
class Endpoint:
    """An EndpointDescription. Mode: None | Sign | SignAndEncrypt | Invalid."""

    url: str
    mode: str
    policy: str
    application_uri: str
    certificate_sha256: str
    tokens: tuple[TokenPolicy, ...]


@dataclass(frozen=True)
class Certificate:
    """What an X.509 certificate says. Times in unix seconds."""

    sha256: str
    sha1: str
    subject: str
    issuer: str
    not_before: float
    not_after: float
    key_type: str
    key_bits: int
    signature_hash: str
    uris: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    key_usage: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    chain: int = 1
    key_sha256: str = ""

    @property
    def self_signed(self) -> bool:
        return self.subject == self.issuer


@dataclass
class Opened:
    """What one connection, one channel and one session told before the first node was read."""

    endpoints: list[Endpoint] = field(default_factory=list)
    session_endpoints: list[Endpoint] = field(default_factory=list)
    server: Certificate | None = None
    client: Certificate | None = None
    session_name: str = ""
    session_timeout_s: float = 0.0

    def offered(self) -> list[Endpoint]:
        """The endpoints, and once more those of which CreateSession tells other tokens than GetEndpoints did."""
        told = {(one.mode, one.policy): set(one.tokens) for one in self.endpoints}
        return [*self.endpoints, *(one for one in self.session_endpoints if not set(one.tokens) <= told.get((one.mode, one.policy), set()))]


class Channel(Protocol):
    """One connection with one session. Every method may raise LinkLost, BadAnswer, TooMany, Busy."""

    async def open(self) -> Opened:
        """Connect, compare the pin, list the endpoints, create and activate the session; once. Raises AuditError."""

    async def close(self) -> None:
        """Close the session and the connection, or reset it; never raises."""

    async def read(self, wanted: Sequence[tuple[Any, int]]) -> list[Reading]:
        """Attributes, in their order."""

    async def read_groups(self, groups: Sequence[Group]) -> list[tuple[Reading, ...]]:
        """The same, node by node: the attributes of each node of each group."""

    async def browse(self, nodes: Sequence[Any]) -> list[Browsed]:
        """All forward references of each node."""

    async def browse_next(self, points: Sequence[bytes], release: bool) -> list[Browsed]:
        """What follows, or release the points."""

    def know(self, table: Sequence[str]) -> None:
        """The server's NamespaceArray, for nodes that it names by URI."""

    def node(self, text: str) -> Any:
        """The node ``ns=2;s=Pump1``. Raises ValueError."""

    def text(self, node: Any) -> str:
        """``ns=2;s=Pump1``."""

    def texts(self, nodes: Sequence[Any], head: Callable[[int], str]) -> Iterable[tuple[int, Sequence[Any], list[str]]]:
        """(namespace index, nodes, their texts ``s=Pump1`` behind the *head* of that index), in the order of *nodes*."""


def split(text: str) -> tuple[int, str]:
    """(2, ``s=x``) of ``ns=2;s=x``."""
    if not text.startswith("ns="):
        return 0, text
    index, _, identifier = text[3:].partition(";")
    return int(index), identifier


class Names:
    """Namespace table of the session: index form to URI form and back."""

    def __init__(self, table: Sequence[str]) -> None:
        self.table = list(table)

    def index(self, text: str) -> int:
        """Namespace index of ``ns=2;s=x`` or ``i=5``."""
        return split(text)[0]

    def uri(self, index: int) -> str:
        """Namespace URI of an index."""
        return self.table[index] if index < len(self.table) else "urn:unknown:%d" % index

    def head(self, index: int) -> str:
        """What stands before the identifier in the stable form."""
        return "nsu=%s;" % self.uri(index) if index else ""

    def stable(self, text: str) -> str:
        """``nsu=URI;s=x``; namespace 0 as ``i=5``."""
        index, identifier = split(text)
        return self.head(index) + identifier

    def today(self, stable: str) -> str | None:
        """``ns=2;s=x`` of a stable form; None when the server does not have the namespace."""
        if not stable.startswith("nsu="):
            return "ns=0;" + stable if not stable.startswith("ns=") else stable
        # URI and identifier may both hold semicolons: the longest namespace of the table that fits.
        fits = [uri for uri in self.table if stable.startswith("nsu=%s;" % uri) and stable[len(uri) + 5:len(uri) + 7] in ("s=", "i=", "g=", "b=")]
        if not fits:
            return None
        uri = max(fits, key=len)
        return "ns=%d;%s" % (self.table.index(uri), stable[len(uri) + 5:])
