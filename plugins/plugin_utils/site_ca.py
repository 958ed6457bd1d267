# SPDX-License-Identifier: Apache-2.0
"""What a site's own CA has signed for us: our intermediate, the CAs above it, the site's root. Judged before OpenBao or a host sees it. Controller only.

RFC 5280, sections 4.2.1 and 6.1, as strictly as clients are: from Python 3.13 on (Debian 13) a default context verifies with X509_V_FLAG_X509_STRICT,
also what a root's certificate says of itself. That the first certificate is for our key is seen where the key is (``openbao/authority.py``). Left to the hosts,
which verify each certificate with openssl before they use it: name constraints, policies.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID
except ImportError as error:
    MISSING: str = str(error)
else:
    MISSING = ""

from ansible_collections.hnai.platform.plugins.module_utils.openbao.files import read_or_none, write_durably
from ansible_collections.hnai.platform.plugins.module_utils.x509 import X509Error, public_key

VARIABLE = "openbao_intermediate_chain"
#: Where it lies below hnai_state_dir unless the variable says otherwise.
CHAIN = "openbao/intermediate.pem"
DAY_S = 86400.0
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----")
_WEAK_HASHES = ("md5", "sha1")
_MIN_RSA, _MIN_EC = 2048, 256
_MANY = 10


class ChainError(Exception):
    """What is wrong with the chain, and the remedy; never a part of a private key. *ended*: it is only too late (or too early) for it."""

    def __init__(self, text: str, ended: bool = False) -> None:
        super().__init__(text)
        self.ended = ended


@dataclass(frozen=True)
class Given:
    """``openbao_intermediate_chain`` as it stands: *text* is "" where nothing is there yet; *place* names it in errors."""

    text: str
    place: str

    @classmethod
    def of(cls, value: Any) -> Given:
        """PEM text, or a path on the controller. Raises ChainError, for a private key in it too."""
        text, place = str(value or ""), VARIABLE
        if text.strip() and "-----BEGIN" not in text and "\n" not in text.strip():
            path = Path(text.strip()).expanduser()
            try:
                text, place = (read_or_none(str(path)) or b"").decode("ascii", "replace"), str(path)
            except OSError as error:
                raise ChainError(f"{path}: cannot be read ({error.strerror}); correct its owner or {VARIABLE}") from error
        if "PRIVATE KEY" in text:
            raise ChainError(
                f"{place}: holds a private key, which belongs nowhere but in the CA that it is of; nothing of it was used or shown. Take it away from there, "
                "treat it as known to whoever can read that place, and leave the certificates alone"
            )
        return cls(text, place)


def judge(given: Given, now: float, least_s: float = 0.0) -> list[str]:
    """The certificates (PEM each), ours first, root last, whatever their order in the text. *least_s*: seconds that all of them must still be valid.

    Raises ChainError with the first thing that is wrong.
    """
    place = given.place
    if MISSING:
        raise ChainError(f"{place}: cannot be judged without the library cryptography on the controller ({MISSING}); requirements.txt names it")
    found = list(dict.fromkeys("\n".join(line.strip() for line in pem.split("\n")) for pem in _PEM.findall(given.text.replace("\r\n", "\n"))))
    if not found:
        raise ChainError(f"{place}: holds no certificate in PEM; DER: `openssl x509 -inform der`, PKCS#7: `openssl pkcs7 -print_certs`")
    if len(_BEGIN.findall(given.text)) != len(_PEM.findall(given.text)):
        raise ChainError(f"{place}: a certificate in it is cut off, or in a form that only openssl reads (TRUSTED CERTIFICATE); copy it again")
    if len(found) > _MANY:
        raise ChainError(f"{place}: holds {len(found)} certificates; give our intermediate, the CAs above it and the root, nothing else")
    try:
        certificates = [x509.load_pem_x509_certificate(pem.encode("ascii", "replace")) for pem in found]
        for one in certificates:
            _strong(place, one)
        chain = _ordered(place, certificates)
        for below, one in enumerate(chain):
            _may_sign(place, one, below, root=one is chain[-1])
            _identified(place, one, root=one is chain[-1])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ChainError(f"{place}: a certificate in it cannot be read ({error}); copy it again") from error
    for one in chain:
        _alive(place, one, now, least_s, _whose(one, chain))
    return [one.public_bytes(serialization.Encoding.PEM).decode("ascii") for one in chain]


def _name(one: x509.Certificate) -> str:
    return one.subject.rfc4514_string() or f"serial {one.serial_number:x}"


def _whose(one: x509.Certificate, chain: Sequence[x509.Certificate]) -> str:
    return "our intermediate" if one is chain[0] else "the site's root" if one is chain[-1] else "a CA of the site"


def _self_issued(one: x509.Certificate) -> bool:
    return one.subject == one.issuer


def _strong(place: str, one: x509.Certificate) -> None:
    key = one.public_key()
    least = _MIN_RSA if isinstance(key, rsa.RSAPublicKey) else _MIN_EC
    if not (isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey))
            or (isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)) and key.key_size >= least)):  # fmt: skip
        raise ChainError(f"{place}: the key of {_name(one)} is weak or of a kind that TLS has no use for; RSA from {_MIN_RSA} bits on, EC from {_MIN_EC} on")
    # A root is trusted because it is named, not because of its own signature: nobody verifies that one.
    if _weakly(one) and not _self_issued(one):
        raise ChainError(f"{place}: {_name(one)} is signed with {_weakly(one)}, which clients refuse; have it signed with sha256 or better")


def _weakly(one: x509.Certificate) -> str:
    """The digest of its signature where it is worth nothing any more, else ""."""
    hashed = one.signature_hash_algorithm
    return hashed.name if hashed is not None and hashed.name in _WEAK_HASHES else ""


def _ordered(place: str, certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """From ours up to the root, every signature verified."""
    lower = [one for one in certificates if not _self_issued(one)]
    bottom = [one for one in lower if not any(other.issuer == one.subject for other in lower)]
    if len(lower) == len(certificates):
        raise ChainError(f"{place}: the site's root is missing: the self-signed certificate to which {_name(certificates[-1])} leads stands last")
    if not lower:
        raise ChainError(f"{place}: holds the root {_name(certificates[0])} alone: our intermediate, signed by it, stands before it")
    if len(bottom) != 1:
        raise ChainError(f"{place}: is not one chain: {', '.join(_name(one) for one in bottom or lower)} stand beside each other; give our intermediate "
                         "and what stands above it, nothing else")  # fmt: skip
    chain = [bottom[0]]
    while not _self_issued(chain[-1]):
        above = [one for one in certificates if one not in chain and one.subject == chain[-1].issuer]
        signed = [one for one in above if _signed_by(chain[-1], one)]
        if not signed:
            issuer = chain[-1].issuer.rfc4514_string()
            what = f"names {issuer} as its issuer, and that key has not signed it" if above else f"was issued by {issuer}, which is missing"
            raise ChainError(f"{place}: {_name(chain[-1])} {what}; give the chain that the CA handed out with it")
        chain.append(signed[0])
    if len(chain) != len(certificates):
        raise ChainError(f"{place}: {', '.join(_name(one) for one in certificates if one not in chain)} does not belong to the chain; take it out")
    if not _weakly(chain[-1]) and not _signed_by(chain[-1], chain[-1]):
        raise ChainError(f"{place}: the root {_name(chain[-1])} is not signed by its own key: it was changed, or another CA bears its name")
    return chain


def _signed_by(one: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(above)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _extension(one: x509.Certificate, kind: type[Any]) -> Any:
    try:
        return one.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _may_sign(place: str, one: x509.Certificate, below: int, root: bool) -> None:
    """*below*: how many CAs stand under it."""
    basic, usage, extended = (_extension(one, kind) for kind in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage))
    wanted = "have it signed as a subordinate CA: basicConstraints CA:TRUE, keyUsage keyCertSign and cRLSign"
    if basic is None or not basic.ca:
        raise ChainError(f"{place}: {_name(one)} is no CA (basicConstraints CA:TRUE is missing): with a host's certificate nothing can be signed; {wanted}")
    if usage is None or not usage.key_cert_sign or not (below or usage.crl_sign):
        raise ChainError(f"{place}: {_name(one)} may not sign certificates and revocation lists (keyUsage); {wanted}")
    if basic.path_length is not None and basic.path_length < below:
        raise ChainError(f"{place}: {_name(one)} allows {basic.path_length} CA(s) under it (path length), and {below} stand there; have it signed higher up, "
                         "or by a CA that may")  # fmt: skip
    needed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if extended is not None and not root and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in extended and not needed <= set(extended):
        raise ChainError(f"{place}: {_name(one)} is limited to other usages than serverAuth and clientAuth (extendedKeyUsage): clients refuse what it signs")


def _identified(place: str, one: x509.Certificate, root: bool) -> None:
    """What verification asks of a CA's certificate besides, if it is strict. Without the first, OpenBao makes no revocation list either."""
    found = {item.value.__class__: item.critical for item in one.extensions}
    missing = [
        name for name, lacks in (
            ("subjectKeyIdentifier", x509.SubjectKeyIdentifier not in found), ("authorityKeyIdentifier", not root and x509.AuthorityKeyIdentifier not in found),
            ("the mark critical at its basicConstraints", not found.get(x509.BasicConstraints)),
        ) if lacks
    ]  # fmt: skip
    if missing:
        raise ChainError(f"{place}: {_name(one)} lacks {' and '.join(missing)} (RFC 5280): strict clients refuse everything below it, those of Debian 13 are")


def _alive(place: str, one: x509.Certificate, now: float, least_s: float, whose: str) -> None:
    begins, ends = one.not_valid_before_utc, one.not_valid_after_utc
    if begins.timestamp() > now:
        raise ChainError(f"{place}: {_name(one)} ({whose}) is valid from {_utc(begins)} on only; wait, or look at the clocks (`timedatectl`)", True)
    if ends.timestamp() <= now:
        raise ChainError(f"{place}: {_name(one)} ({whose}) ended at {_utc(ends)}; whoever runs the site's CA has to renew it", True)
    if ends.timestamp() <= now + least_s:
        raise ChainError(
            f"{place}: {_name(one)} ({whose}) ends at {_utc(ends)}, and certificates of {least_s / DAY_S:.0f} d are to be signed below it; have it renewed, or "
            "shorten openbao_leaf_ttl and openbao_intermediate_ttl", True,
        )  # fmt: skip


def _utc(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def problem(given: Given, now: float, least_s: float = 0.0) -> tuple[list[str], str]:
    """(chain, "") or ([], what is wrong with it); ([], "") where nothing is there yet."""
    if not given.text.strip():
        return [], ""
    try:
        return judge(given, now, least_s), ""
    except ChainError as error:
        return [], str(error)


def publish(target: Path, csr: str) -> None:
    """The request on the controller. One that is for the same key stays as it is: each of OpenBao's answers is signed anew. Raises OSError."""
    try:
        same = public_key((read_or_none(str(target)) or b"").decode("ascii", "replace")) == public_key(csr)
    except X509Error:
        same = False
    if not same:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(str(target), csr.strip().encode() + b"\n", 0o644)


def holds(given: Given, pem: str) -> bool:
    """Whether this certificate stands in it; yes where it is empty: nothing is claimed there."""
    texts = {"".join(item.split()) for item in _PEM.findall(given.text)}
    return not texts or "".join(pem.split()) in texts


def waiting(target: Path, given: Given, wrong: str, csr: str, in_force: str, now: float, least_s: float, again: str, below: str = "") -> str:
    """The one sentence with which a run ends that the site's CA has to go before. *wrong*: what `problem` said of the chain; *again*: what is run again;
    *below*: under which root, where that matters."""
    texts = _PEM.findall(given.text)
    old = bool(in_force) and holds(given, in_force)
    if wrong and not old:
        return f"{wrong}. Nothing was taken from it. The request that is to be signed: {target}; then {again} again"
    if texts and not old:
        return (
            f"{given.place}: {_first(given)} is for another key than the request {target}: another site's chain, or that of an earlier request. Nothing was "
            f"taken from it. Put there what was signed for this request; then {again} again"
        )
    ends = _utc(datetime.datetime.fromtimestamp(now + least_s, datetime.timezone.utc))
    put = f"into {given.place} (or its text into {VARIABLE})" if given.place != VARIABLE else f"into {VARIABLE}"
    return (
        f"The site's CA has to sign our intermediate before this goes on. To be signed{below}: {target} (it is public), as a subordinate CA: basicConstraints "
        f"CA:TRUE, path length 0 or more, keyUsage keyCertSign and cRLSign, both key identifiers, valid beyond {ends} (years, better). Put the answer {put}, "
        f"PEM, ours first, then what stands above it up to the self-signed root; then {again} again\n{csr.strip()}"
    )


def _first(given: Given) -> str:
    try:
        return _name(x509.load_pem_x509_certificate(_PEM.findall(given.text)[0].encode("ascii", "replace")))
    except ValueError:
        return "the first certificate"


def of_hosts(hostvars: Mapping[str, Any], hosts: Sequence[str]) -> Given | None:
    """What the inventory gives the first OpenBao host, None where the site has no CA of its own. Raises ChainError."""
    variables = hostvars[hosts[0]] if hosts else {}
    if str(variables.get("openbao_root_ca") or "own") != "site":
        return None
    return Given.of(variables.get(VARIABLE, f"{variables.get('hnai_state_dir') or ''}/{CHAIN}"))
