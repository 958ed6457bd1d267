# SPDX-License-Identifier: Apache-2.0
"""Documentation of the options by which a module on a broker reaches its cluster."""

from __future__ import annotations


class ModuleDocFragment:
    """Connection over the mutual-TLS listener (extends_documentation_fragment: hnai.platform.kafka)."""

    DOCUMENTATION = r"""
options:
  bootstrap:
    description: Brokers to ask, C(host:port) of the mutual-TLS listener, nearest first.
    type: list
    elements: str
    required: true
  ca_file:
    description: Root certificates (PEM) that the brokers must chain to.
    type: path
    default: /etc/hnai/kafka/tls/ca.pem
  cert_file:
    description: Certificate (PEM, with intermediates) of this host. Its principal must be a super user.
    type: path
    default: /etc/hnai/kafka/tls/cert.pem
  key_file:
    description: Key of O(cert_file).
    type: path
    default: /etc/hnai/kafka/tls/key.pem
notes:
  - Runs on a broker. Needs the environment that role C(probe) installs there (kafka-python).
"""
