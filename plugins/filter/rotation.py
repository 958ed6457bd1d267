# SPDX-License-Identifier: Apache-2.0
"""The secrets of a site that can be rotated, out of the contracts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_spec
from ansible_collections.hnai.platform.plugins.plugin_utils.openbao_spec import seconds


def declared(site: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenBao must hold, out of the contracts of the placed components. *settings*: as `openbao_spec.build` takes them."""
    groups = site["groups"]
    placed = [contract for contract in site["contracts"].values() if groups.get(contract.get("placement", contract["name"]))]
    try:
        return openbao_spec.build(placed, groups, settings)
    except openbao_spec.SpecError as error:
        raise AnsibleFilterError(str(error)) from error


def rotations(site: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a secret of the placed components, by path, those with somebody outside last. `kind` is empty where nothing can rotate it (`why` says so)."""
    found = []
    groups, contracts = site["groups"], site["contracts"]
    for contract in contracts.values():
        component = contract["name"]
        if not groups.get(contract.get("placement", component)):
            continue
        for secret in contract.get("secrets", []):
            hosts = sorted(groups.get(secret.get("group", contract.get("placement", component)), []))
            if not hosts:
                continue
            found.append(_entry(site, contract, secret, hosts))
    # Whoever stands outside has to be waited for: the others are done by then.
    return sorted(found, key=lambda item: (bool(item["outside"]), str(item["path"])))


def _entry(site: Mapping[str, Any], contract: Mapping[str, Any], secret: Mapping[str, Any], hosts: list[str]) -> dict[str, Any]:
    kind = secret.get("rotate", "")
    entry: dict[str, Any] = {
        "path": secret["path"],
        "kind": kind,
        "secret_kind": secret["kind"],
        "component": contract["name"],
        "username": secret.get("username", ""),
        "readers": sorted({contract["name"], *secret.get("readers", [])}),
        "consumer": contract["name"],
        "consumers": hosts,
        "credential": secret["path"].rsplit("/", 1)[-1],
        "units": secret.get("units") or [unit["name"] for unit in contract["service"]["units"] if unit.get("group") == secret.get("group")],
        "max_age_s": seconds(secret["max_age"], f"{secret['path']}: max_age") if secret.get("max_age") else 0,
        "server": "",
        "unit": "",
        "internal_port": 0,
        "targets": [],
        "ports": [],
        "login_ports": [],
        "why": "" if kind else secret.get("unrotated", "its contract names no way to rotate it (secrets: rotate)"),
        "outside": [],
    }
    if kind == "vmauth":
        _behind_vmauth(site, contract, entry)
    elif kind == "backend":
        _backend(contract, entry)
    elif kind:
        _at_server(site, contract, secret, entry)
    _who_runs_it(site, entry)
    foreign = next((name for name in (entry["server"], contract["name"]) if name in site.get("external", {})), "")
    if foreign:
        entry.update(kind="", why=f"{site['external'][foreign].get('owner')} runs {foreign} and replaces it there; then write it into OpenBao")
    return entry


def _at_server(site: Mapping[str, Any], contract: Mapping[str, Any], secret: Mapping[str, Any], entry: dict[str, Any]) -> None:
    """A user of Kafka or Mosquitto: where it logs in stands in its own contract's connects; the broker's own are in the broker's contract."""
    kind, name = entry["kind"], contract["name"]
    server = "mosquitto" if kind == "mosquitto" else "kafka"
    connects = [one for one in contract.get("connects", []) if one.get("to") == server and one.get("principal") == secret.get("username")]
    listeners = {one["listener"] for one in connects}
    if name == server:
        # Nobody of the site's components logs in with it: the broker's host does (its checks), or somebody outside.
        listeners = {item["name"] for item in contract["listens"] if item.get("authentication") == "password"}
        entry.update(consumers=[], units=[], outside=[secret["username"]] if secret.get("outside") else [], credential=secret["username"])
    elif connects and connects[0].get("credential"):
        entry["credential"] = connects[0]["credential"]
    entry.update(
        server=server, unit=f"hnai-{server}.service", targets=sorted(site["groups"].get(server, [])),
        ports=sorted({item["port"] for item in site["contracts"][server]["listens"] if item["name"] in listeners}),
        # Whoever knows a password may have logged in elsewhere than its clients do.
        login_ports=sorted({item["port"] for item in site["contracts"][server]["listens"] if item.get("authentication") in ("scram", "password")}),
    )  # fmt: skip
    if not entry["targets"] or not entry["ports"]:
        raise AnsibleFilterError(f"{secret['path']}: rotate: {kind}, but no connects of {name} leads its user there")
    if kind == "mosquitto" and len(entry["targets"]) > 1:
        entry.update(kind="", why=f"it is shared ({', '.join(entry['targets'])}), and the rotation leads to one broker")


def _backend(contract: Mapping[str, Any], entry: dict[str, Any]) -> None:
    """The one password of a store that only vmauth beside it uses: both are restarted together, on the one host."""
    server = contract["name"]
    ports = [item["port"] for item in contract["listens"] if item["name"] == "backend"]
    if not ports:
        raise AnsibleFilterError(f"{entry['path']}: rotate: backend, but {server} has no listener called backend")
    entry.update(server=server, unit=f"hnai-{server}.service", targets=entry["consumers"], ports=ports)
    if len(entry["consumers"]) > 1:
        entry.update(kind="", why=f"it is shared ({', '.join(entry['consumers'])}), and the rotation leads to one server")


def _who_runs_it(site: Mapping[str, Any], entry: dict[str, Any]) -> None:
    """`roles`: the consumer's, then those of the other components whose units load the secret. `asks`: how often their health is asked.

    Asked longer: a collector that was restarted goes back to its sources at the plant's pace, Flink's jobs come back when its JVMs are up.
    """
    owners = [
        other["name"] for other in site["contracts"].values() for unit in (other.get("service") or {}).get("units", []) if unit["name"] in entry["units"]
    ]
    entry["roles"] = list(dict.fromkeys([entry["consumer"], *owners]))
    entry["asks"] = 20 if len(entry["roles"]) > 1 or entry["kind"] == "scram_pair" else 6
    entry["expected"] = [*entry["consumers"], *entry["outside"]]


def _behind_vmauth(site: Mapping[str, Any], contract: Mapping[str, Any], entry: dict[str, Any]) -> None:
    """The server's own contract declares the secret: who logs in with it stands in the connects of the others."""
    server, hosts = contract["name"], entry["consumers"]
    ports = {item["name"]: item["port"] for item in contract["listens"] if item.get("bind") == "any" and item.get("authentication") == "password"}
    internal = [item["port"] for item in contract["listens"] if item["name"] == "auth_internal"]
    if not ports or not internal:
        raise AnsibleFilterError(f"{entry['path']}: rotate: vmauth, but {server} has no listener with a password and none called auth_internal")
    entry.update(
        server=server, unit=f"hnai-{server}-auth.service", internal_port=internal[0], targets=hosts, ports=sorted(ports.values()), consumers=[], units=[],
        login_ports=sorted(ports.values()),
    )
    clients = [
        (other, connect)
        for other in site["contracts"].values()
        for connect in other.get("connects", [])
        if connect.get("to") == server and connect.get("principal") == entry["username"] and connect.get("listener") in ports
        and site["groups"].get(connect.get("group", other.get("placement", other["name"])))
    ]  # fmt: skip
    if len(clients) > 1 or len(hosts) > 1:
        many = ", ".join(sorted(other["name"] for other, _connect in clients)) if len(clients) > 1 else ", ".join(hosts)
        entry.update(kind="", why=f"it is shared ({many}), and the rotation leads to one server and one kind of client")
        return
    for other, connect in clients:
        group = connect.get("group")
        entry.update(
            consumer=other["name"], consumers=sorted(site["groups"][group or other.get("placement", other["name"])]),
            credential=connect.get("credential", entry["credential"]),
            units=[unit["name"] for unit in other["service"]["units"] if unit.get("group") == group],
        )


def host_addresses(variables: Mapping[str, Any]) -> list[str]:
    """Every declared address of a managed host, out of its variables: of a router one in each zone."""
    interfaces = variables.get("hnai_interfaces") or {"": variables["hnai_addresses"]}
    return sorted(str(address) for item in interfaces.values() for address in item.values())


def leaves(site: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a placed component with a server certificate, in the order of the names: its hosts, TLS listeners, and one client's host."""
    found = []
    for contract in site["contracts"].values():
        name = contract["name"]
        hosts = sorted(site["groups"].get(contract.get("placement", name), []))
        if not hosts or not (contract.get("certificate") or {}).get("server") or name in site.get("external", {}):
            continue
        # "mutual TLS": the product's own certificates among its nodes, not ours.
        tls = [item for item in contract["listens"] if item.get("tls") and item.get("authentication") != "mutual TLS" and not item.get("group")]
        # A listener that asks for a certificate is asked on its own host alone, with the one that lies there.
        asked = {item["name"]: item["port"] for item in tls if item.get("bind") == "any" and item.get("authentication") != "client certificate"}
        clients = [
            (host, other["name"], asked[connect["listener"]])
            for other in site["contracts"].values()
            for connect in other.get("connects", [])
            if connect.get("to") == name and connect.get("listener") in asked
            for host in sorted(site["groups"].get(connect.get("group", other.get("placement", other["name"])), []))
        ]
        away = sorted(client for client in clients if client[0] not in hosts) or sorted(clients)
        found.append({
            "path": f"tls/{name}", "component": name, "hosts": hosts, "ports": sorted({item["port"] for item in tls if item.get("bind") == "any"}),
            "loopback_ports": sorted({item["port"] for item in tls if item.get("bind") != "any"}),
            "client": dict(zip(("host", "component", "port"), away[0])) if away else {},
        })  # fmt: skip
    return sorted(found, key=lambda item: str(item["path"]))


def authority_hosts(site: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{host: {trusts, bundles, components}}: what each managed host trusts the site's authorities for, and serves with their certificates.

    A component trusts where it has a certificate, or connects to a listener with TLS of another one.
    """
    contracts, managed = site["contracts"], set(site["groups"].get("managed", []))
    secure = {
        (contract["name"], item["name"]) for contract in contracts.values() for item in contract["listens"]
        if item.get("tls") and contract.get("certificate")
    }  # fmt: skip
    found: dict[str, dict[str, Any]] = {}

    def of(host: str) -> dict[str, Any]:
        return found.setdefault(host, {"trusts": [], "bundles": [], "components": []})

    for contract in contracts.values():
        name = contract["name"]
        if name in site.get("external", {}):
            continue
        placed = set(site["groups"].get(contract.get("placement", name), []))
        hosts = placed if contract.get("certificate") else set()
        for connect in contract.get("connects", []):
            if (connect.get("to"), connect.get("listener")) in secure:
                hosts = hosts | set(site["groups"].get(connect["group"], [])) if connect.get("group") else placed
        for host in sorted(hosts & managed):
            of(host)["trusts"] = sorted({*of(host)["trusts"], name})
    for item in leaves(site):
        for host in item["hosts"]:
            of(host)["components"].append({
                "component": item["component"], "own": True,
                "listeners": ["%s:%d" % (host, port) for port in item["ports"]] + ["localhost:%d" % port for port in item["loopback_ports"]],
            })  # fmt: skip
    # At an address of somebody else's it is verified by its own authority.
    for host in [] if site.get("external", {}).get("openbao", {}).get("address") else site["groups"].get("openbao", []):
        of(host)["bundles"] = ["/etc/hnai/openbao/trust.pem"]
    return found


class FilterModule:
    """authority_hosts, host_addresses, leaves, openbao_spec, rotations."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"authority_hosts": authority_hosts, "host_addresses": host_addresses, "leaves": leaves, "openbao_spec": declared, "rotations": rotations}
