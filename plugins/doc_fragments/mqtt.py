# SPDX-License-Identifier: Apache-2.0
"""Options of the modules that ask the site's MQTT broker."""

from __future__ import annotations


class ModuleDocFragment:
    """Use as C(extends_documentation_fragment: hnai.platform.mqtt)."""

    DOCUMENTATION = r"""
options:
  host:
    description: Name of the broker, as its certificate has it.
    type: str
    default: localhost
  port:
    description: Port of the TLS listener.
    type: int
    default: 8883
  ca_file:
    description: Root certificates.
    type: path
    default: /etc/hnai/mosquitto/tls/ca.pem
  username:
    description: Identity of the check; it may only read.
    type: str
    default: hnai-health
  credential:
    description: Where the password of O(username) lies on this host.
    type: dict
    default: {component: mosquitto, name: hnai-health}
    suboptions:
      component:
        description: Component that owns the credential.
        type: str
        required: true
      name:
        description: Name of the credential.
        type: str
        required: true
"""
