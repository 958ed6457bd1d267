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
    type: str
    required: true
    choices: [provisioned, probed, revoked, withdrawn, acknowledged]
  kind:
    description: Kind of credential.
    type: str
    choices: [scram, scram_pair, mosquitto, vmauth]
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
  unit:
    description: Unit to reload, for O(kind=mosquitto) and O(kind=vmauth).
    type: str
    default: hnai-mosquitto.service
  internal_port:
    description: Port on loopback at which vmauth shows its metrics, for O(kind=vmauth).
    type: int
  component:
    description: Component of the consumer, for O(state=acknowledged); of the server, for O(kind=vmauth).
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
    C(no_old_session). No value.
  returned: not with O(state=acknowledged)
  type: dict
fingerprint:
  description: Of the value that lies on this host; empty where a unit still runs with another one.
  returned: O(state=acknowledged)
  type: str
stale_units:
  description: Units that were not started since the value lies here, or do not run.
  returned: O(state=acknowledged)
  type: list
  elements: str
"""

import contextlib
import functools
import os
import socket
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import credentials
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.kafka import rotate as kafka_rotate
from ansible_collections.hnai.platform.plugins.module_utils.kafka import scram
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError
from ansible_collections.hnai.platform.plugins.module_utils.mqtt import rotate as mqtt_rotate
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Client, MqttError, tls_dialler
from ansible_collections.hnai.platform.plugins.module_utils.openbao import fence, rotation
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation_target import Adapter, CannotTell, Target
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing
from ansible_collections.hnai.platform.plugins.module_utils.tsdb import rotate as tsdb_rotate
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Http, Kept, Store, StoreError, parse_metrics

LOGIN_TIMEOUT_S = 5.0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


class Session:
    """An MQTT session that is held open."""

    def __init__(self, server: str, ca_file: str, username: str, password: str) -> None:
        host, port = _address(server)
        limit = functools.partial(float, LOGIN_TIMEOUT_S)
        self._client = Client(tls_dialler(host, port, ca_file, limit), "hnai-rotation-%d-%d" % (os.getpid(), time.monotonic_ns()), username, password, limit)

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


def adapter_for(module: AnsibleModule, host: Host, stack: contextlib.ExitStack) -> Adapter:
    """The adapter of `kind`."""
    given = module.params
    if given["kind"] in ("scram", "scram_pair"):
        tls = "/etc/hnai/kafka/tls/"
        connection = Connection(tuple(given["bootstrap"]), given["ca_file"] or tls + "ca.pem", tls + "cert.pem", tls + "key.pem")
        admin = stack.enter_context(Admin(connection, 20.0))
        context = scram.tls_context(connection.ca_file)

        def login(broker: str, mechanism: str, username: str, password: str) -> bool:
            return scram.login(_address(broker), context, mechanism, username, password, LOGIN_TIMEOUT_S)

        return kafka_rotate.ScramAdapter(admin, given["servers"], login)
    component = given["component"] if given["kind"] == "vmauth" else "mosquitto"
    ca_file = given["ca_file"] or "/etc/hnai/%s/tls/ca.pem" % component

    def store(name: str, password: str) -> None:
        credentials.converge(host, component, {name: password})

    def remove(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(host.at(credentials.path_of(component, name)))

    def reload() -> None:
        done = host.run(["systemctl", "reload", given["unit"]])
        if done.rc:
            raise HostError("systemctl reload %s: %s" % (given["unit"], done.message))

    if given["kind"] == "vmauth":
        (server,) = given["servers"]
        inner = Store(Http("https://localhost:%d" % given["internal_port"], ca_file), timeout=lambda: LOGIN_TIMEOUT_S)

        def connect(username: str, password: str) -> Kept:
            return stack.enter_context(contextlib.closing(Kept("https://" + server, ca_file, username, password, tsdb_rotate.PROBE, LOGIN_TIMEOUT_S)))

        def in_flight() -> int:
            page = inner.text("/metrics")
            if tsdb_rotate.IN_FLIGHT + " " not in page:
                raise CannotTell("vmauth shows no %s" % tsdb_rotate.IN_FLIGHT)
            return int(parse_metrics(page, tsdb_rotate.IN_FLIGHT))

        return tsdb_rotate.VmauthAdapter(connect, store, remove, reload, in_flight)
    return mqtt_rotate.MosquittoAdapter(lambda user, word: Session(given["servers"][0], ca_file, user, word), store, remove, reload)


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


def act(module: AnsibleModule, host: Host) -> dict[str, Any]:
    """The step at the target."""
    given = module.params
    state, old, new = given["state"], given["old"], given["new"]
    with contextlib.ExitStack() as stack:
        adapter = adapter_for(module, host, stack)
        if state == "probed" or module.check_mode:
            yes = {name: adapter.works(secret) for name, secret in (("old", old), ("new", new))}
            return {f"{name}_{word}": yes[name] is truth for name in yes for word, truth in (("works", True), ("refused", False))}
        stack.enter_context(host.lock("rotation-" + given["path"].replace("/", "+")))
        target = Target(adapter, fence.FileFence(host, given["path"]), given["timeout"])
        step = {"provisioned": target.provision, "revoked": target.revoke, "withdrawn": target.withdraw}[state]
        return step(old, new, given["fence"])


def main() -> None:
    """Reads the arguments, acts, reports."""
    text = {"type": "str", "default": ""}
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["provisioned", "probed", "revoked", "withdrawn", "acknowledged"]},
            "kind": {"type": "str", "choices": ["scram", "scram_pair", "mosquitto", "vmauth"]},
            "path": {"type": "str", "required": True},
            "fence": {"type": "int", "default": 0},
            "old": {"type": "dict", "default": {}, "no_log": True},
            "new": {"type": "dict", "default": {}, "no_log": True},
            "servers": names,
            "bootstrap": names,
            "ca_file": {"type": "path"},
            "unit": {"type": "str", "default": "hnai-mosquitto.service"},
            "internal_port": {"type": "int"},
            "component": text,
            "credential": dict(text, no_log=False),
            "units": names,
            "timeout": {"type": "float", "default": 20},
        },
        required_if=[("kind", "vmauth", ("internal_port", "component"))],
        supports_check_mode=True,
    )
    host = Host()
    try:
        if module.params["state"] == "acknowledged":
            module.exit_json(changed=False, **acknowledged(host, module.params))
        proof = act(module, host)
    except (rotation.RotationError, CannotTell, HostError, KafkaError, StoreError, ProbeMissing, OSError, ValueError) as error:
        module.fail_json(msg="%s at %s: %s" % (module.params["path"], module.params["state"], error))
    module.exit_json(changed=bool(proof.pop("changed", False)), proof=proof)


if __name__ == "__main__":
    main()
