# SPDX-License-Identifier: Apache-2.0
"""An OpenBao in the security zone that nobody of the site manages: a host at level 4 asks it over the network, by an approved conduit and not before."""
from __future__ import annotations

import ipaddress
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loopback_bao
import pytest
import yaml
from conftest import Lab

pytestmark = pytest.mark.scenario("external")
PORT = 8200
SECRET = "questdb/backend"
OURS = ("systemctl", "show", "--property=InvocationID", "--value", "hnai-openbao.service")
PLAY = "playbooks/components/openbao.yml"


@dataclass
class Store:
    """The server, the site's inventory in which it is declared, and a state directory: that site's, which is not the lab's."""

    token: str
    external: dict[str, str]
    inventory: Path
    state: Path


def asking(lab: Lab) -> str:
    """The host that asks: security itself initiates to nobody."""
    return lab.groups["victoriametrics"][0]


def declared(lab: Lab, folder: Path, addresses: dict[str, str], external: dict[str, str]) -> Path:
    """The lab's inventory with that store, and the conduit to it."""
    site = Path(shutil.copytree(lab.inventory.parent, folder / "site"))
    everywhere = site / "group_vars/all"
    hosts = yaml.safe_load((site / lab.inventory.name).read_text(encoding="utf-8"))
    groups = hosts["all"]["children"]["managed"]["children"]
    # The lab's own store stays where it is, a host that carries nothing here; level 4 asks the other one.
    groups["idle"] = groups.pop("openbao")
    groups["openbao"] = {"hosts": {asking(lab): None}}
    (site / lab.inventory.name).write_text(yaml.safe_dump(hosts), encoding="utf-8")
    assets = yaml.safe_load((everywhere / "assets.yml").read_text(encoding="utf-8"))
    assets["hnai_assets"]["vault"] = {
        "zone": lab.var(lab.groups["openbao"][0], "hnai_zone"), "addresses": addresses, "services": {"api": {"proto": "tcp", "port": PORT}}}
    (everywhere / "assets.yml").write_text(yaml.safe_dump(assets), encoding="utf-8")
    conduits = yaml.safe_load((everywhere / "conduits.yml").read_text(encoding="utf-8"))
    conduits["hnai_conduits"].append({
        "id": "C-987", "from": {"group": "openbao"}, "to": {"asset": "vault"}, "service": {"proto": "tcp", "port": PORT}, "kind": "direct",
        "data_direction": "both", "owner": external["owner"], "reason": "The site's secrets lie there", "expires": "2030-12-31",
    })  # fmt: skip
    (everywhere / "conduits.yml").write_text(yaml.safe_dump(conduits), encoding="utf-8")
    (site / "group_vars/openbao.yml").write_text(yaml.safe_dump({"openbao_external": external}), encoding="utf-8")
    return site / lab.inventory.name


@pytest.fixture
def store(lab: Lab, tmp_path: Path) -> Iterator[Store]:
    host = lab.groups["openbao"][0]
    prefix = str(lab.var(host, "lab_prefix"))
    name = prefix + "elsewhere-bao"
    addresses = {key: str(ipaddress.ip_address(one) + 29) for key, one in lab.var(host, "hnai_addresses").items()}
    bao = loopback_bao.binary(tmp_path)
    data = tmp_path / "data"
    (data / "raft").mkdir(parents=True)
    there = addresses["v4"]
    ca = loopback_bao.authority(data, "127.0.0.1", there)[2]
    (data / "loop.hcl").write_text(loopback_bao.one_device(Path("/data"), PORT) + (
        f'listener "tcp" {{\n  address = "{there}:{PORT}"\n  cluster_address = "{there}:{PORT + 1}"\n'
        '  tls_cert_file = "/data/cert.pem"\n  tls_key_file = "/data/key.pem"\n}\n'
    ), encoding="utf-8")
    image = lab.podman("inspect", "--format", "{{.ImageName}}", lab.container(host)).stdout.strip()
    network = f"{prefix}{lab.var(host, 'hnai_zone')}:ip={there},ip={addresses['v6']}"

    def command(*argv: str) -> dict[str, Any]:
        tool = ["-e", f"BAO_ADDR=https://127.0.0.1:{PORT}", "-e", "BAO_CACERT=/data/ca.pem", name, "/bao/bao", "operator", argv[0], "-format=json"]
        return dict(json.loads(lab.podman("exec", *tool, *argv[1:]).stdout))

    def opened() -> str:
        made = command("init", "-key-shares=1", "-key-threshold=1")
        command("unseal", made["unseal_keys_b64"][0])
        return str(made["root_token"])

    try:
        # As the lab's hosts: not every machine gives a container more.
        limits = ["--runtime", "runc", "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=8192:8192"]
        lab.podman("run", "--detach", "--rm", "--cap-add", "NET_ADMIN", *limits, "--name", name, "--network", network, "--volume", f"{bao.parent}:/bao:ro",
                   "--volume", f"{data}:/data", "--entrypoint", "/bao/bao", image, "server", "-config", "/data/loop.hcl")  # fmt: skip
        # Level 4 is behind the site's router.
        router = lab.var(lab.groups["routers"][0], "hnai_interfaces")[lab.var(host, "hnai_zone")]
        lab.podman("exec", name, "ip", "route", "replace", "default", "via", router["v4"])
        # It may have known another machine by this address: who asks it hears of the change.
        lab.podman("exec", name, "timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{router['v4']}/22", check=False)
        lab.podman("exec", name, "bash", "-c", f"for i in $(seq 60); do (exec 3<>/dev/tcp/127.0.0.1/{PORT}) && exit 0; sleep 1; done; exit 1", check=False)
        external = {"owner": "the security office", "address": f"https://{there}:{PORT}", "ca": ca.read_text(encoding="ascii")}
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        (state / "ssh").symlink_to(lab.state / "ssh")
        yield Store(opened(), external, declared(lab, tmp_path, addresses, external), state)
    finally:
        lab.podman("rm", "--force", name, check=False)
        assert lab.play("site.yml", "--tags", "firewall", "--skip-tags", "verify").rc == 0


def test_it_is_asked_where_it_is_by_the_conduit_alone(lab: Lab, store: Store) -> None:
    own, host = lab.groups["openbao"][0], asking(lab)
    before = lab.run(own, *OURS).stdout
    given = {"hnai_state_dir": str(store.state), "openbao_root_token": store.token}
    run = lab.play(PLAY, inventory=store.inventory, extra=given)
    assert run.rc != 0 and store.external["address"] in run.stdout and store.token not in run.stdout, "nothing is approved in the running firewall yet"
    run = lab.play("site.yml", "--tags", "firewall", "--skip-tags", "verify", inventory=store.inventory)
    assert run.rc == 0, run.stdout[-4000:]
    run = lab.play(PLAY, inventory=store.inventory, extra=given)
    assert run.rc == 0 and run.changed(), run.stdout[-4000:]
    run = lab.play(PLAY, inventory=store.inventory, extra={"hnai_state_dir": str(store.state)})
    assert run.rc == 0 and not run.changed(), run.stdout[-4000:]
    deploy = json.loads((store.state / "openbao/deploy.json").read_text(encoding="utf-8"))["deploy"]
    asked = {"component": "questdb", "read": [SECRET], "deploy": deploy, "external": store.external}
    assert lab.adhoc(host, "hnai.platform.openbao_component", asked)["secrets"][SECRET]["password"]
    # Taken away, the word of an identity that is good opens nothing from another host.
    other = lab.groups["kafka"][0]
    assert lab.adhoc(other, "hnai.platform.openbao_component", asked).get("failed")
    assert lab.run(own, *OURS).stdout == before, "the lab's own was left alone"
