# SPDX-License-Identifier: Apache-2.0
"""What of the site's own an OpenBao holds otherwise than declared. It is compared with what the convergence would write; of each difference the object,
the setting, what it is and what it is to be are told. None of it is a secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import policies, site
from .strangers import Listing

#: Of a mount that says nothing itself: the server's longest lease.
SERVER_LEASE_S = 768 * 3600
#: Options of an audit device as the role writes them. That it records in the clear is BAO05's.
DEVICE = {"mode": "0600"}
ELSEWHERE = ("file_path", "log_raw")
HEADERS = "sys/config/auditing/request-headers"


@dataclass
class Loosened:
    """*found*: differences. *waiting*: what is less than declared and only root changes: the next ceremony brings it. *unseen*: as of `Listing`."""

    found: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def look(listing: Listing, spec: Mapping[str, Any], devices: Mapping[str, Any], files: Sequence[str], shared: bool = False) -> Loosened:
    """*devices*: as the server lists them, of which those that write to *files* are ours. *shared*: what belongs to the whole server is not the site's."""
    out = Loosened(unseen=listing.unseen)
    mounts, auths = listing.read("sys/mounts"), listing.read("sys/auth")
    for tuning in site.tunings(spec, mounts, auths):
        if not {"sys/mounts", "sys/auth"} & {*listing.unseen}:
            _tuned(out, tuning, tuning.what == "mount %s" % spec.get("ssh_host"))
    roots = site.identities(spec)
    objects = [*roots, *site.acme(spec), *(one for name in sorted(spec["components"]) for one in site.of_component(spec, name))]
    if spec.get("ssh_host", "") + "/" in mounts:
        objects.append(site.of_ssh(spec))
    for one in objects:
        what, path, wanted = one
        there = listing.read(path)
        if path in listing.unseen:
            continue
        if not there:
            out.found.append("%s is not there" % what)
        elif "policy" in wanted:
            _policy(out, what, str(there.get("policy")), wanted["policy"], one in roots)
        else:
            out.found += site.said(what, site.off(spec, there, wanted))
    if not shared:
        _servers(out, listing, devices, files)
    return out


def _tuned(out: Loosened, tuning: site.Tuning, later: bool) -> None:
    """*later*: a site may declare it, and have the ceremony that makes it another day."""
    if tuning.config is None:
        (out.waiting if later else out.found).append("%s is not there" % tuning.what)
        return
    for key, (there, wanted) in tuning.off.items():
        more = (there or SERVER_LEASE_S) > (wanted or SERVER_LEASE_S)
        (out.found if more else out.waiting).extend(site.said(tuning.what, {key: (there, wanted)}))
    out.found += site.said(tuning.what, {key: (value, "declared") for key, value in tuning.other.items()})


def _policy(out: Loosened, what: str, text: str, wanted: str, roots: bool) -> None:
    """*roots*: only root changes it, so that of an older release, which says less, waits for a ceremony."""
    there, ours = policies.granted(text), policies.granted(wanted)
    off = [path for path in sorted({*there, *ours}) if there.get(path) != ours.get(path)]
    for path in off:
        (out.waiting if roots and path not in there else out.found).append(_rule(what, path, there.get(path), ours.get(path)))
    if text != wanted and not off:
        out.found.append("%s: written otherwise" % what)


def _rule(what: str, path: str, there: str | None, ours: str | None) -> str:
    return '%s: path "%s" %s (not %s)' % (what, path, there or "nothing", ours or "declared")


def _servers(out: Loosened, listing: Listing, devices: Mapping[str, Any], files: Sequence[str]) -> None:
    """What the server has by itself, or from its configuration file."""
    for path, right in policies.granted(str(listing.read("sys/policies/acl/default").get("policy", ""))).items():
        if policies.DEFAULT.get(path) != right:
            out.found.append(_rule("policy default", path, right, policies.DEFAULT.get(path)))
    for name, one in (listing.read(HEADERS).get("headers") or {}).items():
        if not one.get("hmac"):
            out.found.append("audit: header %s=in the clear (not declared)" % name)
    for name, device in sorted(devices.items()):
        options = device.get("options") or {}
        if options.get("file_path") in files:
            other = {key: (value, DEVICE.get(key, "declared")) for key, value in options.items() if key not in ELSEWHERE and value != DEVICE.get(key)}
            out.found += site.said("audit device %s" % name.rstrip("/"), other)
