# SPDX-License-Identifier: Apache-2.0
"""What one host trusts and serves, while the site's certificate authority is rotated. Reads, dials its own listeners, changes nothing.

A bundle is judged by what openssl verifies with it, a listener by a handshake that trusts one authority and nothing else: the one that shall
stay must be enough, the one that shall go must not be. The anchor may be an intermediate (partial chain), so that two intermediates of one root
can be told apart.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from .hostfiles import Host, read_file

#: ssl.VERIFY_X509_PARTIAL_CHAIN has a name from Python 3.10 on.
PARTIAL_CHAIN = 0x80000
STAYS, GOES, NEITHER = "stays", "goes", "neither"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class TrustError(Exception):
    """It could not be told, or is not as it must be; the text says what and the remedy."""


def blocks(text: str) -> list[str]:
    """The certificates of a PEM text, comparable."""
    return ["".join(item.split()) for item in _PEM.findall(text)]


class Bundles:
    """openssl's verdicts with the bundles of this host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def verifies(self, bundle: str, certificate: str, partial: bool = False) -> bool:
        """Whether *certificate* (PEM, what stands below it included) chains to *bundle* (PEM)."""
        with tempfile.TemporaryDirectory(prefix="hnai-trust-") as directory:
            paths = []
            for name, content in (("trust.pem", bundle), ("certificate.pem", certificate)):
                paths.append(os.path.join(directory, name))
                with open(paths[-1], "w", encoding="ascii") as stream:
                    stream.write(content)
            done = self._host.run(["openssl", "verify", *(["-partial_chain"] if partial else []), "-CAfile", paths[0], "-untrusted", paths[1], paths[1]])
        # 2 is openssl's answer for a chain that does not hold; anything else than these two is no verdict.
        if done.rc not in (0, 2):
            raise TrustError("openssl verify: %s" % done.message)
        return done.rc == 0

    def foreign(self) -> str:
        """A certificate of nobody, the wrong one that every bundle must refuse."""
        made = self._host.run([
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", os.devnull, "-days", "1",
            "-subj", "/CN=hnai-foreign-%s" % os.urandom(4).hex(),
        ])  # fmt: skip
        if made.rc != 0:
            raise TrustError("openssl could not make the wrong certificate: %s" % made.message)
        return made.text


def judge_bundles(host: Host, paths: Sequence[str], chains: Sequence[str], gone: str = "") -> list[str]:
    """What is wrong with the bundles, one sentence each; empty where every one verifies each of *chains*, refuses a foreign one and holds no *gone*.

    Raises TrustError where it cannot be told.
    """
    look = Bundles(host)
    foreign = look.foreign() if paths else ""
    wrong = []
    for path in paths:
        content = read_file(host, path)
        if content is None:
            wrong.append("%s is not there" % path)
            continue
        text = content.decode("ascii", "replace")
        if not blocks(text):
            wrong.append("%s holds no certificate" % path)
            continue
        for number, chain in enumerate(chains):
            if not look.verifies(text, chain):
                wrong.append("%s does not trust authority %d of %d" % (path, number + 1, len(chains)))
        if look.verifies(text, foreign):
            wrong.append("%s trusts a certificate that was made just now" % path)
        if gone and set(blocks(gone)) & set(blocks(text)):
            wrong.append("%s still trusts the authority that goes" % path)
    return wrong


def _dial(address: tuple[str, int], anchor: str, own: tuple[str, str] | None, timeout_s: float) -> bool:
    """Whether a client that trusts *anchor* alone accepts the listener. Raises OSError for anything that is no verdict on the certificate."""
    context = ssl.create_default_context(cadata=anchor)
    context.verify_flags |= PARTIAL_CHAIN
    if own:
        context.load_cert_chain(*own)
    try:
        with socket.create_connection(address, timeout=timeout_s) as raw, context.wrap_socket(raw, server_hostname=address[0]):
            return True
    except ssl.SSLCertVerificationError:
        return False


def served(address: tuple[str, int], stays: str, goes: str, own: tuple[str, str] | None, timeout_s: float) -> str:
    """STAYS, GOES or NEITHER: the authority whose certificate a listener serves. Raises OSError."""
    for name, anchor in ((STAYS, stays), (GOES, goes)):
        if _dial(address, anchor, own, timeout_s):
            return name
    return NEITHER


def leaf(host: Host, component: str, stays: str, goes: str) -> str:
    """The same of the certificate that lies on the host."""
    content = read_file(host, "/etc/hnai/%s/tls/cert.pem" % component)
    if content is None:
        raise TrustError("/etc/hnai/%s/tls/cert.pem is not there: converge the component first" % component)
    look = Bundles(host)
    text = content.decode("ascii", "replace")
    for name, anchor in ((STAYS, stays), (GOES, goes)):
        if look.verifies(anchor, text, partial=True):
            return name
    return NEITHER


def judge(host: Host, given: Mapping[str, Any]) -> dict[str, Any]:
    """{ack, wrong, leaves, served}. *given*: see the module. Raises TrustError, HostError, OSError where it cannot be told."""
    state = given["state"]
    bundles = ["/etc/hnai/%s/tls/ca.pem" % name for name in given["trusts"]] + list(given["bundles"])
    if not bundles:
        raise TrustError("no bundle and no certificate was named for this host: nothing can be said")
    found: dict[str, Any] = {"leaves": {}, "served": {}, "wrong": []}
    # What is trusted is looked at in every state: an ordinary run of the site may have come between.
    chains = given["chains"] if state == "trusted" else [given["stays_chain"]]
    found["wrong"] += judge_bundles(host, bundles, chains, given["gone"] if state == "dropped" else "")
    if state != "trusted":
        for item in given["components"]:
            name = item["component"]
            directory = "/etc/hnai/%s/tls/" % name
            own = (directory + "cert.pem", directory + "key.pem") if item.get("own") else None
            found["leaves"][name] = leaf(host, name, given["stays"], given["goes"])
            if found["leaves"][name] != STAYS:
                found["wrong"].append("the certificate of %s is of the authority that %s" % (name, found["leaves"][name]))
            if state == "leaves":
                continue
            if not item["listeners"]:
                raise TrustError("%s: no listener was named" % name)
            for listener in item["listeners"]:
                address, _colon, port = listener.rpartition(":")
                try:
                    found["served"][listener] = served((address, int(port)), given["stays"], given["goes"], own, given["timeout"])
                except OSError as error:
                    raise TrustError("which authority %s serves cannot be told: %s" % (listener, error)) from error
                if found["served"][listener] != STAYS:
                    found["wrong"].append("%s serves the authority that %s" % (listener, found["served"][listener]))
    found["ack"] = "" if found["wrong"] else given["fingerprint"]
    return found
