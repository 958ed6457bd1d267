#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of rotation_target."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rotation_target
short_description: What a rotation does where the secret is checked, and where it is used
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Every state looks first and does what is missing, under a lock and a fence of the host. A fence older than one that the host has seen is
    refused, so a controller that was thought dead does nothing here.
  - Could-not-tell (not reachable, brokers that disagree) fails the task; it never counts as refused.
options:
  state:
    description:
      - V(provisioned) makes the new credential valid beside the old one and proves it by a login; a wrong password must be refused, once.
      - V(probed) only logs in, with both. V(revoked) ends the old one and proves that it is refused. V(withdrawn) ends the new one.
      - V(acknowledged) runs on a consumer's host. It says which value the credential there has, as a fingerprint, and whether every unit
        that uses it has been started since.
      - V(outside) runs on the broker's host, for who is no host of the site. It says which of the pair all of its sessions were opened with.
      - V(cut) runs on a broker's host. It ends every connection to the ports of O(servers) there, whoever opened it; its clients come again.
    type: str
    required: true
    choices: [provisioned, probed, revoked, withdrawn, acknowledged, outside, cut]
  kind:
    description: Kind of credential.
    type: str
    choices: [scram, scram_pair, mosquitto, vmauth, backend]
  path:
    description: Path of the secret in OpenBao, which salts the fingerprint and names the fence.
    type: str
    required: true
  fence:
    description: Version of the journal under which this step is taken.
    type: int
    default: 0
  old:
    description: The old secret.
    type: dict
    default: {}
  new:
    description: The new secret.
    type: dict
    default: {}
  servers:
    description: Addresses C(host:port) at which this host logs in. All must agree.
    type: list
    elements: str
    default: []
  bootstrap:
    description: Brokers to administer, for O(kind=scram) and O(kind=scram_pair).
    type: list
    elements: str
    default: []
  ca_file:
    description: Trusted roots. By default those of the component on this host.
    type: path
  inside:
    description: Addresses of the site's own hosts, for O(state=outside). Who comes from there is not the one outside.
    type: list
    elements: str
    default: []
  unit:
    description: Unit to reload, for O(kind=mosquitto) and O(kind=vmauth); of the store, to restart, for O(kind=backend).
    type: str
    default: hnai-mosquitto.service
  internal_port:
    description: Port on loopback at which vmauth shows its metrics, for O(kind=vmauth).
    type: int
  component:
    description: Component of the consumer, for O(state=acknowledged); of the server, for O(kind=vmauth) and O(kind=backend).
    type: str
    default: ""
  credential:
    description: Name of its credential.
    type: str
    default: ""
  units:
    description: Its units that load the credential.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds until what was written must be in force everywhere.
    type: float
    default: 20
attributes:
  check_mode:
    description: Only looks.
    support: full
  diff_mode:
    description: There is nothing to show that is no secret.
    support: none
"""

EXAMPLES = r"""
- name: Make the new password valid beside the old one
  hnai.platform.rotation_target:
    state: provisioned
    kind: scram
    path: telegraf/kafka_writer
    fence: "{{ __rotate_step.rotation.fence }}"
    old: "{{ __rotate_step.secrets.old }}"
    new: "{{ __rotate_step.secrets.new }}"
    servers: ["kafka1:9094", "kafka1:9095"]
    bootstrap: ["kafka1:9091"]
  no_log: true
"""

RETURN = r"""
proof:
  description: >-
    What was seen, as V(true) or V(false). By state C(new_works), C(wrong_refused), C(old_works), C(old_refused), C(new_refused),
    C(no_old_session). No value. C(pause_s): how long a store was away. C(others_end_s): seconds until a session ends at the latest that was opened
    with the old credential by somebody who is no consumer.
  returned: not with O(state=acknowledged), O(state=outside) and O(state=cut)
  type: dict
refusals:
  description: >-
    Logins of this step that a server refused, each with C(at), C(server), C(client) (an MQTT client id) and C(end), the address and port that the
    connection came from. They stand in its log.
  returned: with proof
  type: list
  elements: dict
fingerprint:
  description: Of the value that lies on this host; empty where a unit still runs with another one, or sessions were opened with both.
  returned: O(state=acknowledged), O(state=outside)
  type: str
stale_units:
  description: Units that were not started since the value lies here, or do not run.
  returned: O(state=acknowledged)
  type: list
  elements: str
sessions:
  description: How many sessions were opened with the C(old) and with the C(new) identity.
  returned: O(state=outside)
  type: dict
ended:
  description: How many connections were ended.
  returned: O(state=cut)
  type: int
left:
  description: Peers of those that the kernel did not end.
  returned: O(state=cut)
  type: list
  elements: str
"""

import contextlib
import functools
import http.client
import os
import socket
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import credentials
from ansible_collections.hnai.platform.plugins.module_utils.connections import established, plain
from ansible_collections.hnai.platform.plugins.module_utils.credentials import base
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError, sync_directory
from ansible_collections.hnai.platform.plugins.module_utils.kafka import rotate as kafka_rotate
from ansible_collections.hnai.platform.plugins.module_utils.kafka import scram
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError
from ansible_collections.hnai.platform.plugins.module_utils.mqtt import rotate as mqtt_rotate
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Client, MqttError, MqttRefused, tls_dialler
from ansible_collections.hnai.platform.plugins.module_utils.openbao import fence, rotation
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation_target import Adapter, CannotTell, Refusals, Target
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing
from ansible_collections.hnai.platform.plugins.module_utils.tsdb import rotate as tsdb_rotate
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Http, Kept, Store, StoreError, basic, parse_metrics
from ansible_collections.hnai.platform.plugins.module_utils.unit import renew

LOGIN_TIMEOUT_S = 5.0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _end(connection: socket.socket | None) -> str:
    """Our end of a connection, as servers print it."""
    return "%s:%d" % connection.getsockname()[:2] if connection else ""


class Asking(Kept):
    """A connection to vmauth that notes what was refused on it."""

    def __init__(self, server: str, refusals: Refusals, ca_file: str, username: str, password: str) -> None:
        super().__init__("https://" + server, ca_file, username, password, tsdb_rotate.PROBE, LOGIN_TIMEOUT_S)
        self._said = functools.partial(refusals.note, server)

    def ask(self) -> int:
        """Status of a GET on this connection."""
        status = super().ask()
        if status == 401:
            self._said(end=_end(self._connection.sock))
        return status


class Session:
    """An MQTT session that is held open."""

    def __init__(self, server: str, refusals: Refusals, ca_file: str, username: str, password: str) -> None:
        host, port = _address(server)
        limit = functools.partial(float, LOGIN_TIMEOUT_S)
        client = "hnai-rotation-%d-%d" % (os.getpid(), time.monotonic_ns())
        dial, ends = tls_dialler(host, port, ca_file, limit), [""]

        def dialled() -> socket.socket:
            connection = dial()
            ends.append(_end(connection))
            return connection

        try:
            self._client = Client(dialled, client, username, password, limit)
        except MqttRefused:
            refusals.note(server, client, ends[-1])
            raise

    def alive(self) -> bool:
        """A subscription is answered as long as the broker lets the session live, whatever the answer."""
        try:
            self._client.subscribe(["$SYS/broker/uptime"])
        except MqttError as error:
            return "refused" in str(error)
        except socket.timeout as error:
            raise CannotTell("the broker neither answers nor ends an open session") from error
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Leave."""
        self._client.__exit__()


def adapter_for(module: AnsibleModule, host: Host, stack: contextlib.ExitStack, refusals: Refusals) -> Adapter:
    """The adapter of `kind`."""
    given = module.params
    if given["kind"] in ("scram", "scram_pair"):
        tls = "/etc/hnai/kafka/tls/"
        connection = Connection(tuple(given["bootstrap"]), given["ca_file"] or tls + "ca.pem", tls + "cert.pem", tls + "key.pem")
        admin = stack.enter_context(Admin(connection, 20.0))
        context = scram.tls_context(connection.ca_file)

        def login(broker: str, mechanism: str, username: str, password: str) -> bool:
            ends = [""]
            accepted = scram.login(_address(broker), context, mechanism, username, password, LOGIN_TIMEOUT_S, lambda stream: ends.append(_end(stream)))
            if not accepted:
                refusals.note(broker, end=ends[-1])
            return accepted

        return kafka_rotate.ScramAdapter(admin, given["servers"], login)
    if given["kind"] == "backend":
        return backend(given, host, refusals)
    component = given["component"] if given["kind"] == "vmauth" else "mosquitto"
    ca_file = given["ca_file"] or "/etc/hnai/%s/tls/ca.pem" % component

    def store(name: str, password: str) -> None:
        credentials.converge(host, component, {name: password})

    def remove(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(host.at(credentials.path_of(component, name)))
            sync_directory(host.at(credentials.STORE))  # a power cut must not bring back what was ended

    def reload() -> None:
        done = host.run(["systemctl", "reload", given["unit"]])
        if done.rc:
            raise HostError("systemctl reload %s: %s" % (given["unit"], done.message))

    if given["kind"] == "vmauth":
        (server,) = given["servers"]
        inner = Store(Http("https://localhost:%d" % given["internal_port"], ca_file), timeout=lambda: LOGIN_TIMEOUT_S)

        def connect(username: str, password: str) -> Kept:
            return stack.enter_context(contextlib.closing(Asking(server, refusals, ca_file, username, password)))

        def in_flight() -> int:
            try:
                return int(parse_metrics(inner.text("/metrics"), tsdb_rotate.IN_FLIGHT))
            except StoreError as error:
                raise CannotTell("vmauth does not say what is in flight: %s" % error) from error

        return tsdb_rotate.VmauthAdapter(connect, store, remove, reload, in_flight)
    return mqtt_rotate.MosquittoAdapter(lambda user, word: Session(given["servers"][0], refusals, ca_file, user, word), store, remove, reload)


def backend(given: dict[str, Any], host: Host, refusals: Refusals) -> tsdb_rotate.BackendAdapter:
    """Store and vmauth on this host. The credential counts as taken up by both: their role finds nothing to restart."""
    component, port = given["component"], _address(given["servers"][0])[1]
    units = [given["unit"], "hnai-%s-auth.service" % component]
    store = Http("http://127.0.0.1:%d" % port)
    path = tsdb_rotate.BACKEND_PROBE.get(component, tsdb_rotate.PROBE)

    def ask(username: str, password: str) -> int:
        try:
            status = store("GET", path, b"", basic(username, password), LOGIN_TIMEOUT_S)[0]
        except http.client.HTTPException as error:
            raise ConnectionError("%s: %s" % (type(error).__name__, error)) from error
        if status == 401:
            refusals.note(given["servers"][0])
        return status

    def put(password: str) -> None:
        credentials.converge(host, component, {given["credential"]: password})
        for name in units:
            renew(host, name)

    def restart() -> None:
        # One transaction: by their order vmauth goes first and comes last, also when this process is killed.
        done = host.run(["systemctl", "restart", *units], timeout=300)
        if done.rc:
            raise HostError("systemctl restart %s: %s" % (" ".join(units), done.message))

    return tsdb_rotate.BackendAdapter(ask, put, restart)


def outside(host: Host, given: dict[str, Any]) -> dict[str, Any]:
    """What somebody lives on who is no host of the site, by the sessions that the broker has."""
    old, new = given["old"], given["new"]
    invocation = host.run(["systemctl", "show", "--property=InvocationID", "--value", given["unit"]]).text.strip()
    if not invocation:
        raise CannotTell("%s does not run" % given["unit"])
    peers = {plain(peer) for peer in established(host.run, [_address(one)[1] for one in given["servers"]]).values()}
    host.run(["journalctl", "--sync"])
    done = host.run(["journalctl", "-q", "-o", "cat", "_SYSTEMD_INVOCATION_ID=" + invocation])
    if done.rc:
        raise CannotTell("journalctl: %s" % done.message)
    lines = done.text.splitlines()
    unheard = [peer for peer in mqtt_rotate.unheard(lines, peers) if peer.rpartition(":")[0] not in given["inside"]]
    if unheard:
        raise CannotTell("%s: here since before the journal of %s begins, nobody knows as whom; let it connect anew" % (", ".join(unheard), given["unit"]))
    sessions = {client: found for client, found in mqtt_rotate.standing(lines, base(new["username"])).items() if found[1] in peers}
    users = {user for user, _address in sessions.values()}
    lives = next((secret for secret in (old, new) if users == {secret["username"]}), None)
    return {
        "fingerprint": rotation.fingerprint(given["path"], rotation.material(lives)) if lives else "",
        "sessions": {
            name: sum(user == secret["username"] for user, _address in sessions.values()) for name, secret in (("old", old), ("new", new))
        },
    }


def acknowledged(host: Host, given: dict[str, Any]) -> dict[str, Any]:
    """What this host lives on."""
    value = credentials.decrypt(host, given["component"], given["credential"])
    if value is None:
        return {"fingerprint": "", "stale_units": given["units"]}
    stored_at = int(os.stat(host.at(credentials.path_of(given["component"], given["credential"]))).st_mtime)
    stale = []
    for unit in given["units"]:
        shown = host.run(["systemctl", "show", "--timestamp=unix", "--property=ActiveState,ActiveEnterTimestamp", unit]).text
        found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        began = found.get("ActiveEnterTimestamp", "").lstrip("@")
        if found.get("ActiveState") != "active" or not began.isdigit() or int(began) < stored_at:
            stale.append(unit)
    return {"fingerprint": "" if stale else rotation.fingerprint(given["path"], kafka_rotate.password_of(value.decode())), "stale_units": stale}


def act(module: AnsibleModule, host: Host, refusals: Refusals) -> dict[str, Any]:
    """The step at the target."""
    given = module.params
    state, old, new = given["state"], given["old"], given["new"]
    with contextlib.ExitStack() as stack:
        adapter = adapter_for(module, host, stack, refusals)
        if state == "probed" or module.check_mode:
            yes = {name: adapter.works(secret) for name, secret in (("old", old), ("new", new))}
            return {f"{name}_{word}": yes[name] is truth for name in yes for word, truth in (("works", True), ("refused", False))}
        stack.enter_context(host.lock("rotation-" + given["path"].replace("/", "+")))
        if given["kind"] == "scram_pair" and state == "provisioned" and not adapter.same_rights(old, new):  # type: ignore[attr-defined]
            raise rotation.RotationError("%s has not the ACLs of %s: converge the component kafka first, which gives a pair the same ones" % (
                new["username"], old["username"]))
        target = Target(adapter, fence.FileFence(host, given["path"]), given["timeout"])
        step = {"provisioned": target.provision, "revoked": target.revoke, "withdrawn": target.withdraw}[state]
        proof = step(old, new, given["fence"])
        seconds = {name: getattr(adapter, name, None) for name in ("pause_s", "others_end_s")}
        return dict(proof, **{name: round(value, 1) for name, value in seconds.items() if value is not None})


def main() -> None:
    """Reads the arguments, acts, reports."""
    text = {"type": "str", "default": ""}
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": [
                "provisioned", "probed", "revoked", "withdrawn", "acknowledged", "outside", "cut"]},
            "kind": {"type": "str", "choices": ["scram", "scram_pair", "mosquitto", "vmauth", "backend"]},
            "path": {"type": "str", "required": True},
            "fence": {"type": "int", "default": 0},
            "old": {"type": "dict", "default": {}, "no_log": True},
            "new": {"type": "dict", "default": {}, "no_log": True},
            "servers": names,
            "inside": names,
            "bootstrap": names,
            "ca_file": {"type": "path"},
            "unit": {"type": "str", "default": "hnai-mosquitto.service"},
            "internal_port": {"type": "int"},
            "component": text,
            "credential": dict(text, no_log=False),
            "units": names,
            "timeout": {"type": "float", "default": 20},
        },
        required_if=[("kind", "vmauth", ("internal_port", "component")), ("kind", "backend", ("component", "credential"))],
        supports_check_mode=True,
    )
    host = Host()
    try:
        if module.params["state"] == "acknowledged":
            module.exit_json(changed=False, **acknowledged(host, module.params))
        if module.params["state"] == "outside":
            module.exit_json(changed=False, **outside(host, module.params))
        if module.params["state"] == "cut":
            ports = sorted({_address(one)[1] for one in module.params["servers"]})
            ended, left = (0, []) if module.check_mode else kafka_rotate.cut(host.run, ports)
            module.exit_json(changed=bool(ended), ended=ended, left=left)
        refusals = Refusals()
        proof = act(module, host, refusals)
    except (rotation.RotationError, CannotTell, HostError, KafkaError, StoreError, ProbeMissing, OSError, ValueError) as error:
        module.fail_json(msg="%s at %s: %s" % (module.params["path"], module.params["state"], error))
    module.exit_json(changed=bool(proof.pop("changed", False)), proof=proof, refusals=refusals.found)


if __name__ == "__main__":
    main()
