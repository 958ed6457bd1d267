# SPDX-License-Identifier: Apache-2.0
"""Judges the certificates between mirror and plant, both ways: OT1 to OT8. Pure: what servers present and what lies on the host comes in."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..verdict import Check, Report
from ..x509 import X509Error, read_pem
from .audit_judge import certificate_problems
from .audit_types import Certificate

CONTROLS = ["SR 1.8", "SR 1.9"]
DAY_S = 86400.0
_TABLE = (
    ("OT1", "our application certificate is sound"),
    ("OT2", "our application certificate lasts longer than its change takes"),
    ("OT3", "the server presents a pinned certificate"),
    ("OT4", "the server's certificate is sound"),
    ("OT5", "the server's certificate lasts longer than its change takes"),
    ("OT6", "no certificate is shared between servers"),
    ("OT7", "the revocation list is fresh"),
    ("OT8", "no change of our certificate is left half way"),
)
TITLES = dict(_TABLE)
_DOC = "docs/opcua-trust.md"


@dataclass(frozen=True)
class Server:
    """*presented* is what GetEndpoints said, *told_uri* the server's own word; *pins*: sha256 of the certificates that may be there, the one in use first.

    *shared*: other endpoints of the same server with another certificate count too, so *others* are the sha256 of all of them. *error*: it was not asked.
    """

    source: str
    presented: Certificate | None = None
    told_uri: str = ""
    application_uri: str = ""
    pins: Sequence[str] = ()
    others: Sequence[str] = ()
    error: str = ""


@dataclass(frozen=True)
class Own:
    """Our certificate; *key_fits* None = the key could not be looked at."""

    certificate: Certificate | None = None
    key_fits: bool | None = None
    application_uri: str = ""
    error: str = ""


@dataclass(frozen=True)
class Context:
    """*now* unix s; *horizon_days*: with less life left, a change must have begun; *lists*: PEM by name; *change*: what ``Trust.status`` says."""

    now: float
    horizon_days: float = 60.0
    lists: Mapping[str, str] = field(default_factory=dict)
    change: Mapping[str, Any] | None = None
    change_error: str = ""


def _add(report: Report, ident: str, subject: str = "", hint: str = _DOC, **more: Any) -> Check:
    return report.add(Check(id=ident, title=TITLES[ident], subject=subject, controls=CONTROLS, hint=hint, **more))


def _days(certificate: Certificate, now: float) -> float:
    return round((certificate.not_after - now) / DAY_S, 1)


def _facts(one: Certificate) -> dict[str, Any]:
    return {"sha1": one.sha1, "sha256": one.sha256, "subject": one.subject, "issuer": one.issuer, "key": "%s %d" % (one.key_type, one.key_bits),
            "signature": one.signature_hash, "uris": list(one.uris), "extended": list(one.extended)}


def _life(check: Check, certificate: Certificate, context: Context) -> None:
    check.observed = _days(certificate, context.now)
    check.passed(check.observed >= context.horizon_days, "%s days are left, its change needs %.0f" % (check.observed, context.horizon_days))


def own(report: Report, mine: Own, context: Context) -> None:
    """OT1, OT2."""
    sound, life = _add(report, "OT1", expected="sound"), _add(report, "OT2", expected=context.horizon_days, unit="days")
    if mine.certificate is None:
        sound.inconclusive(mine.error or "it could not be read")
        life.inconclusive(mine.error or "it could not be read")
        return
    problems = certificate_problems(mine.certificate, context.now, 0.0, mine.application_uri, "clientAuth")
    if mine.key_fits is False:
        problems.append("the key beside it is another one's")
    sound.evidence, sound.observed = _facts(mine.certificate), problems or "sound"
    sound.passed(not problems, "; ".join(problems))
    if not problems and mine.key_fits is None:
        sound.inconclusive(mine.error or "its key could not be read")
    _life(life, mine.certificate, context)


def servers(report: Report, found: Sequence[Server], context: Context) -> None:
    """OT3 to OT6."""
    for one in found:
        pinned, sound = _add(report, "OT3", one.source, expected=list(one.pins)), _add(report, "OT4", one.source, expected="sound")
        life = _add(report, "OT5", one.source, expected=context.horizon_days, unit="days")
        if one.presented is None:
            for check in (pinned, sound, life):
                check.inconclusive(one.error or "the server presents no certificate")
            continue
        sha = one.presented.sha256
        pinned.observed, pinned.evidence = sha, _facts(one.presented)
        if not one.pins:
            pinned.inconclusive("no certificate is pinned for it")
        elif sha in one.pins[1:]:
            pinned.passed(True)
            pinned.evidence["change"] = "the server has changed to the announced certificate: make it the pinned one"
        else:
            pinned.passed(sha == one.pins[0], "it presents %s, which nobody has pinned; it is kept for review" % one.presented.sha1)
        expected_uri = one.application_uri or one.told_uri
        problems = certificate_problems(one.presented, context.now, 0.0, expected_uri, "serverAuth")
        sound.evidence, sound.observed = _facts(one.presented), problems or "sound"
        sound.passed(not problems, "; ".join(problems))
        _life(life, one.presented, context)
    _shared(report, found)


def _shared(report: Report, found: Sequence[Server]) -> None:
    check = _add(report, "OT6", expected={})
    users: dict[str, set[str]] = {}
    for one in found:
        # Also what is pinned: a server that did not answer keeps its certificate.
        for sha in {*one.others, *one.pins, *([one.presented.sha256] if one.presented else [])}:
            users.setdefault(sha, set()).add(one.source)
    check.observed = {sha: sorted(names) for sha, names in users.items() if len(names) > 1}
    unknown = [one.source for one in found if one.presented is None]
    keys: dict[str, dict[str, str]] = {}
    for one in found:
        if one.presented is not None and one.presented.key_sha256:
            keys.setdefault(one.presented.key_sha256, {})[one.source] = one.presented.sha256
    # Who has the key of one of them speaks for all; where the certificate is the same too, that is said.
    shared = {key: sorted(names) for key, names in keys.items() if len(set(names.values())) > 1}
    problems = ["%s: the same certificate (%s)" % (" and ".join(names), sha[:16]) for sha, names in sorted(check.observed.items())]
    problems += ["%s: the same key in different certificates (%s)" % (" and ".join(names), key[:16]) for key, names in sorted(shared.items())]
    check.observed = {**check.observed, **shared}
    if problems:
        check.fail("; ".join(problems))
    elif unknown:
        check.inconclusive("%s could not be asked" % ", ".join(unknown))
    else:
        check.passed(bool(found), "no source was asked")


def lists(report: Report, context: Context) -> None:
    """OT7, one per declared list: an expired one stops OPC UA as surely as an expired certificate."""
    for name, text in sorted(context.lists.items()):
        check = _add(report, "OT7", name, expected="at least a quarter of its life left")
        try:
            (one,) = [item for item in read_pem(text) if item.kind == "crl"]
        except (X509Error, ValueError) as error:
            check.inconclusive("no single revocation list can be read: %s" % error)
            continue
        check.observed = {"age_h": round((context.now - one.begin) / 3600, 1), "left_h": None if one.end is None else round((one.end - context.now) / 3600, 1)}
        if one.end is None:
            check.inconclusive("it does not say when the next one comes")
        elif context.now < one.begin:
            check.fail("it begins in %.0f h: until then it is none" % ((one.begin - context.now) / 3600))
        elif context.now >= one.end:
            check.fail("it ended %.0f h ago: servers that obey it refuse everybody" % ((context.now - one.end) / 3600))
        else:
            check.passed(one.end - context.now >= (one.end - one.begin) / 4, "%.0f of its %.0f h are left: bring the next one" % (
                (one.end - context.now) / 3600, (one.end - one.begin) / 3600))


def change(report: Report, context: Context) -> None:
    """OT8: yellow until every server has accepted, and until a person says that the old one was taken out of each trust list."""
    check = _add(report, "OT8", expected="current")
    if context.change is None:
        check.inconclusive(context.change_error or "it is not known")
        return
    told = context.change
    check.observed = told["phase"]
    check.evidence = {"candidate": {key: told["candidate"].get(key) for key in ("sha1", "sha256")} if told["candidate"] else {}, "accepted": told["accepted"],
                      "waiting": told["waiting"], "removals": told["removals"]}
    open_ = ["%s: %s" % (one["source"], one["why"]) for one in told["waiting"]]
    open_ += ["%s: the removal of %s from its trust list is to be confirmed by its owner" % (one["source"], one["thumbprint"])
              for one in told["removals"] if not one["by"]]
    if told["restart_due"]:
        open_.append("the collector still runs with the certificate before: run the verb again")
    if told["phase"] != "current" and not open_:
        open_.append("a candidate is there and was not switched to")
    if open_:
        check.inconclusive("; ".join(open_))
    else:
        check.passed(True)


def judge(report: Report, mine: Own, found: Sequence[Server], context: Context) -> None:
    """All of it."""
    own(report, mine, context)
    if found:
        servers(report, found, context)
    lists(report, context)
    change(report, context)
