#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Deliver the artifacts of a component: the part that runs on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Deliver the artifacts of a component from the controller's store
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Brings every artifact that the contract of O(component) names (C(roles/<component>/meta/component.yml)) onto the host.
  - An archive becomes C(/opt/hnai/<name>/<version>) and the symlink C(/opt/hnai/<name>/current), which is flipped
    atomically. Exactly one old version is kept for rollback.
  - Owners and modes of a release that somebody changed are put back in place. One that is not as it was unpacked otherwise (size, link, a file written
    later) is replaced as a whole. What lies in it and is not of it
    is named by a warning and in RV(foreign), and left alone. What has loaded it goes on with it until its unit is restarted.
  - Debian packages are installed from a signed repository that the controller pushes to C(/var/lib/hnai/apt). Starts are
    denied while they install, and the distribution units that the contract lists under C(mask) are masked before. Where such a unit runs already, or
    apt would remove a package of the site for them (other than C(systemd-timesyncd), in whose place chrony stands), nothing is installed.
  - Hosts never reach the internet. The controller fetches and builds what is missing through the ordinary clients
    (C(mvn), C(pip), C(go), C(apt-get)) with the machine's own configuration, once, into C(hnai_store_dir)
    (default C(~/.cache/hnai/store)), and compares it with the sha256 that the lock files pin.
  - One round trip if nothing changes. A run that was killed is completed by the next one.
  - In check mode nothing is built, fetched or pushed; the change is predicted from contract, lock and, for Debian packages, the recorded set - with
    what they depend on and the host lacks. Accounts and units that packages bring are not predicted, which the difference says.
  - Targets are Debian 12 and 13 on amd64, others are refused.
options:
  component:
    description: Component whose contract names the artifacts. Required unless O(prefetch=true).
    type: str
  name:
    description: Only the artifact of this name.
    type: str
  channel:
    description:
      - Channel of the contract from which archives come.
      - A channel without a lock is declared, not tested, and refused.
    type: str
    default: registry
  timeout:
    description: Seconds that fetching, building, waiting for another run, or installing may take, each.
    type: int
    default: 1800
  prefetch:
    description:
      - Build on the controller what O(components) need and contact no host.
      - Only what is missing is fetched, two artifacts at a time.
    type: bool
    default: false
  components:
    description: With O(prefetch=true), these components; by default all that the inventory places.
    type: list
    elements: str
  step:
    description: Set by the action plugin, one call of the module for each; not for playbooks.
    type: str
    choices: [observe, plan, apply]
    default: observe
  names:
    description: Archives to observe. Set by the action plugin.
    type: list
    elements: str
    default: []
  packages:
    description: Debian packages to observe, or C(name=version) to plan and install. Set by the action plugin.
    type: list
    elements: str
    default: []
  mask:
    description: Distribution units to observe or mask. Set by the action plugin.
    type: list
    elements: str
    default: []
  bundles:
    description: Pushed files with the repository's index and packages. Set by the action plugin.
    type: list
    elements: path
    default: []
  archives:
    description: Archives to install. Set by the action plugin.
    type: list
    elements: dict
    default: []
notes:
  - Needs C(become) unless the connection's user is root.
  - The controller needs C(mvn), C(go), C(pip), C(apt-get) and C(gpg), each only for artifacts of its kind.
  - Inventory variables it reads - C(hnai_store_dir), and with O(prefetch=true) C(hnai_debian) of every host (12 or 13).
"""

EXAMPLES = r"""
- name: Install the artifacts
  hnai.platform.artifact:
    component: kafka

- name: Install only the Java runtime of the component
  hnai.platform.artifact:
    component: kafka
    name: openjdk

- name: Fetch and build everything that the site needs, on the controller
  hnai.platform.artifact:
    prefetch: true
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
artifacts:
  description: The archives by name.
  returned: always, but not with O(prefetch=true)
  type: dict
  sample:
    kafka:
      version: "4.3.1"
      digest: 05a8aea28782d151b63454af5a1daa2690a5f88866e01225b340fae4a0c3f6ff
      path: /opt/hnai/kafka/4.3.1
      changed: false
foreign:
  description: Paths of what lies in a release and is not of it. They are left alone, and go when the release is replaced.
  returned: always, but not with O(prefetch=true)
  type: list
  elements: str
debs:
  description: Debian packages.
  returned: always, but not with O(prefetch=true)
  type: dict
  contains:
    installed:
      description: >-
        What this run installed, dependencies included, as C(name=version). In check mode what it would install; where the packages were never
        fetched, the wanted ones alone, with their pins.
      type: list
      elements: str
    versions:
      description: Installed version of every package that the contract names.
      type: dict
    masked:
      description: Distribution units that this run masked.
      type: list
      elements: str
os:
  description: What the host runs.
  returned: always, but not with O(prefetch=true)
  type: dict
  sample: {id: debian, version: "13", arch: amd64}
built:
  description: Artifacts in the store, with O(prefetch=true).
  returned: with O(prefetch=true)
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import artifact


def observe(params: dict[str, Any]) -> dict[str, Any]:
    """What is there; reads only."""
    return {
        "os": artifact.os_release(),
        "archives": {name: artifact.observe_archive(name) for name in params["names"]},
        "packages": artifact.installed_packages([package.split("=", 1)[0] for package in params["packages"]]),
        "unmasked": [unit for unit in params["mask"] if not artifact.masked(unit)],
        "leftover": artifact.leftover(),
    }


def plan(params: dict[str, Any], handle: int) -> dict[str, Any]:
    """Take the index, say which packages apt wants and which of them have to be pushed."""
    debs = artifact.Debs(handle, deadline_s=float(params["timeout"]))
    for bundle in params["bundles"]:
        debs.receive(Path(bundle))
    return debs.plan(params["packages"])


def apply(params: dict[str, Any], handle: int) -> dict[str, Any]:
    """Install."""
    debs = artifact.Debs(handle, deadline_s=float(params["timeout"]))
    changed = debs.allow_starts()  # left by a killed run
    fresh = debs.mask(params["mask"])
    for bundle in params["bundles"]:
        debs.receive(Path(bundle))
    planned: list[str] = []
    if params["packages"]:
        planned = debs.plan(params["packages"])["install"]
        debs.install(params["packages"])
        debs.tidy()
    archives = {spec["name"]: artifact.install_archive(spec) for spec in params["archives"]}
    return {
        "changed": changed or bool(fresh) or bool(planned) or any(item["changed"] for item in archives.values()),
        "installed": planned,
        "masked": fresh,
        "applied": archives,
    }


def main() -> None:
    """Arguments, one call, result."""
    module = AnsibleModule(
        argument_spec={
            "component": {"type": "str"},
            "name": {"type": "str"},
            "channel": {"type": "str", "default": "registry"},
            "timeout": {"type": "int", "default": 1800},
            "prefetch": {"type": "bool", "default": False},
            "components": {"type": "list", "elements": "str"},
            "step": {"type": "str", "choices": ["observe", "plan", "apply"], "default": "observe"},
            "names": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "mask": {"type": "list", "elements": "str", "default": []},
            "bundles": {"type": "list", "elements": "path", "default": []},
            "archives": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["step"] == "observe" or module.check_mode:
            # What stands in for a package is asked for a prediction alone.
            provided = {"provided": artifact.provided_packages()} if module.check_mode and params["packages"] else {}
            module.exit_json(changed=False, **observe(params), **provided)
        with artifact.host_lock(deadline_s=float(params["timeout"])) as handle:
            result = plan(params, handle) if params["step"] == "plan" else apply(params, handle)
            result.update(observe(params))
        module.exit_json(**{"changed": False, **result})
    except artifact.ArtifactError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="%s; remedy: become root, and look at the host's file systems" % error)


if __name__ == "__main__":
    main()
