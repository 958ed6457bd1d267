# SPDX-License-Identifier: Apache-2.0
"""The flows that a site needs: contracts × placement, the plant's own connections, management and time.

Pure functions over `model.Site`. A flow from a host to itself needs no conduit and is not listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.hnai.platform.plugins.module_utils.zones.model import (
    JUMP_GROUP,
    NTP,
    SSH,
    Conduit,
    Flow,
    Problem,
    Site,
)


def contract_file(component: str) -> str:
    """Where a contract lies."""
    return f"roles/{component}/meta/component.yml"


def source_endpoint(site: Site, source: Mapping[str, Any]) -> tuple[str, int]:
    """(asset, port) of an OT source: from `asset` and the asset's services, or from its endpoint URL; ('', 0) if unknown."""
    protocol = str(source.get("protocol") or "")
    try:
        url = urlsplit(str(source.get("endpoint") or ""))
        name, behind = url.hostname, url.port
    except ValueError:
        name, behind = None, None
    asset = str(source.get("asset") or name or source.get("host") or "")
    service = site.assets.get(asset, {}).get("services", {}).get(protocol) or {}
    try:
        port = int(source.get("port") or behind or service.get("port") or 0)
    except (TypeError, ValueError, OverflowError):
        port = 0
    return asset, port if 1 <= port <= 65535 else 0


def source_key(source: Mapping[str, Any], index: int) -> str:
    """A source in a finding, whatever it is called: on one line, and not long."""
    name = str(source.get("id", source.get("name", index)))
    return f"hnai_ot_sources[{name if name.isprintable() and len(name) <= 80 else ascii(name)[:80]}]"


class _Needs:
    """Collects flows and what could not be resolved."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.flows: set[Flow] = set()
        self.problems: list[Problem] = []

    def add(self, source: str, target: str, service: tuple[str, int], who: tuple[str, str, str], why: str) -> None:
        """`who`: (component, listener, file)."""
        if source != target:
            self.flows.add(Flow(source, target, service[0], service[1], who[0], why, who[1], who[2]))

    def contracts(self) -> None:
        for component, contract in sorted(self.site.contracts.items()):
            for index, connect in enumerate(contract.get("connects", [])):
                sources = self.site.placed(component, connect.get("group", ""))
                if sources:
                    self._connect(sources, connect, component, contract_file(component), f"connects[{index}]")

    def assets(self) -> None:
        for name, asset in sorted(self.site.assets.items()):
            for index, connect in enumerate(asset["connects"]):
                if name in self.site.nodes:
                    file = self.site.file("hnai_assets")
                    self._connect((name,), connect, name, file, f"hnai_assets.{name}.connects[{index}]")

    def _connect(self, sources: tuple[str, ...], connect: Mapping[str, Any], who: str, file: str, key: str) -> None:
        why = str(connect.get("reason") or "")
        if "to_sources" in connect:
            self._sources(sources, str(connect["to_sources"]), who, why)
            return
        component, name = str(connect.get("to")), str(connect.get("listener"))
        listener = self.site.listener(component, name)
        if listener is None:
            known = ", ".join(item["name"] for item in self.site.contracts.get(component, {}).get("listens", [])) or "none"
            message = f"{who} connects to {component}.{name}, which no contract declares"
            self.problems.append(Problem(file, key, message, f"correct it; listeners of {component}: {known}", "flow"))
            return
        targets = self.site.placed(component, listener.get("group", ""))
        if not targets:
            where = listener.get("group") or self.site.contracts[component].get("placement", component)
            if self.site.missing("group", str(where)):
                return
            message = f"{who} needs {component}.{name}, which stands nowhere"
            self.problems.append(Problem("inventory", f"groups.{where}", message, f"place a host in group {where}", "flow"))
        for source in sources:
            if listener["bind"] == "loopback" and source not in targets:
                message = f"{who} on {source} needs {component}.{name}, which listens on loopback only"
                remedy = f"place both on one host, or change {contract_file(component)}"
                self.problems.append(Problem(file, key, message, remedy, "flow"))
            elif listener["bind"] != "loopback":
                for target in targets:
                    self.add(source, target, (listener["proto"], listener["port"]), (who, f"{component}.{name}", file), why)

    def _sources(self, collectors: tuple[str, ...], protocol: str, who: str, why: str) -> None:
        for index, source in enumerate(self.site.sources):
            if source.get("protocol") != protocol:
                continue
            asset, port = source_endpoint(self.site, source)
            key = source_key(source, index)
            node = self.site.nodes.get(asset)
            if self.site.missing("asset", asset):
                continue
            if node is None or node.kind != "asset" or not port:
                remedy = "name an asset of hnai_assets that has this service with a port"
                self.problems.append(
                    Problem(
                        self.site.file("hnai_ot_sources"),
                        key,
                        f"{protocol} endpoint {asset!r}:{port} is unknown",
                        remedy,
                        "flow",
                    )
                )
                continue
            for collector in collectors:
                self.add(collector, asset, ("tcp", port), (who, protocol, contract_file(who)), why)

    def asked(self) -> None:
        for component, (asset, port) in sorted(self.site.asked.items()):
            for host in self.site.placed(component):
                self.add(host, asset, ("tcp", port), (component, "api", contract_file(component)), "it is asked where somebody else runs it")

    def management(self) -> None:
        jumps = [host for host in self.site.groups.get(JUMP_GROUP, ()) if host in self.site.nodes]
        for node in self.site.managed():
            for jump in jumps:
                self.add(jump, node.name, SSH, ("management", "ssh", "inventory"), "Ansible and its people reach every managed host")
                if node.name not in jumps and self.site.zones[node.zone].level >= 3:
                    self.add(node.name, jump, NTP, ("time", "ntp", "inventory"), "every managed host takes the site's time")
        for name, (givers, ports) in sorted(self.site.services.items()):
            why = "every managed host uses the site's " + name if name != "ntp" else "the jump takes the time of the site there"
            for node in self.site.managed():
                if self.site.zones[node.zone].level >= 3 and node.name not in givers and (name != "ntp" or node.name in jumps):
                    for giver in givers:
                        for service in ports:
                            self.add(node.name, giver, service, (name, name, "inventory"), why)
        for name, node in sorted(self.site.nodes.items()):
            if node.kind == "asset" and node.role == "controller":
                for jump in jumps:
                    self.add(name, jump, SSH, ("management", "ssh", "inventory"), "the controller enters the site")


def needed_flows(site: Site) -> tuple[list[Flow], list[Problem]]:
    """(flows sorted, what could not be resolved)."""
    if "needs" not in site.memo:
        needs = _Needs(site)
        needs.contracts()
        needs.assets()
        needs.asked()
        needs.management()
        site.memo["needs"] = (tuple(sorted(needs.flows)), tuple(needs.problems))
    flows, problems = site.memo["needs"]
    return list(flows), list(problems)


def approvals(conduits: list[Conduit]) -> dict[tuple[str, str, str, int], list[Conduit]]:
    """Approved (initiator, target, proto, port) → the conduits that say so."""
    found: dict[tuple[str, str, str, int], list[Conduit]] = {}
    for conduit in conduits:
        for source, target in conduit.pairs():
            found.setdefault((source, target, conduit.service.proto, conduit.service.port), []).append(conduit)
    return found


def approved_book(site: Site) -> dict[tuple[str, str, str, int], list[Conduit]]:
    """`approvals` of a site's own conduits, made once."""
    if "approvals" not in site.memo:
        site.memo["approvals"] = approvals(site.conduits)
    book: dict[tuple[str, str, str, int], list[Conduit]] = site.memo["approvals"]
    return book


def clients(site: Site, component: str) -> Iterator[tuple[str, tuple[str, ...], Mapping[str, Any], str, str]]:
    """Who holds an identity at `component`: (principal, node names, connect, file, key), from contracts and assets."""
    for name, contract in sorted(site.contracts.items()):
        for index, connect in enumerate(contract.get("connects", [])):
            hosts = site.placed(name, connect.get("group", ""))
            if connect.get("to") == component and connect.get("principal") and hosts:
                yield str(connect["principal"]), hosts, connect, contract_file(name), f"connects[{index}]"
    for name, asset in sorted(site.assets.items()):
        for index, connect in enumerate(asset["connects"]):
            if connect.get("to") == component and connect.get("principal") and name in site.nodes:
                yield (
                    str(connect["principal"]),
                    (name,),
                    connect,
                    site.file("hnai_assets"),
                    f"hnai_assets.{name}.connects[{index}]",
                )
