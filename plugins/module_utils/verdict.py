# SPDX-License-Identifier: Apache-2.0
"""Verdicts: the one shape in which everything that checks something says what it found.

A verdict is ``pass | fail | inconclusive | skipped``. Could-not-check is *inconclusive*, never *pass*.
Pure standard library, Python 3.9; knows nothing of Ansible but the two helpers at the end, which take
the module object as a parameter.

Use in a check module::

    from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start

    module = AnsibleModule(argument_spec=dict(VERDICT_ARGS, address=dict(type="str", required=True)),
                           supports_check_mode=True)
    r = start(module, "kafka", "4.3.1")        # its deadlines are the module's options
    with r.check("K2", "no offline partition", expected=0, unit="partitions", controls=["SR 7.1"],
                 hint="look at the log of the broker that left the ISR",
                 explain="kafka-topics.sh --describe --unavailable-partitions") as c:
        c.observed = len(client.offline(timeout=r.timeout(10)))   # at most 10 s, less near the deadline
        c.evidence = {"topics": names}
        c.raw("k2.json", json.dumps(answer))                      # optional: the whole answer, kept as a file
        c.passed(c.observed == 0)
    r.skip("K9", "audit daemon runs", "not possible here: no audit netlink in a container")
    finish(module, r, window={"start": 1.0, "end": 2.0, "n": 120})   # extra keys go into the result

Rules that the code enforces:

* An exception in the body makes the check ``inconclusive`` and its text the reason; the others still run.
* A body that gives no verdict is ``inconclusive``.
* The deadline is of the whole report (``deadline_s``) and, where given, of one check (``deadline_s=`` of
  ``check``). In the main thread a body that hangs is interrupted (SIGALRM); a check that begins after the
  deadline is ``inconclusive (deadline)`` whatever its body says. ``run_checks`` does not even start it.
* ``(id, subject)`` is unique in a report; ``subject`` names the instance (topic, unit, peer) when one check
  is made of many.
* The status of the whole: fail > inconclusive > pass; skipped only if nothing else happened. No check at all
  is inconclusive. Inconclusive fails unless every such id is allowed by the caller.

Evidence that the HTML report draws: ``evidence["percentiles"] = {"p50": s, "p95": s, "max": s, "bound": s}``,
``evidence["series"] = [[unix_seconds, value], ...]`` and ``evidence["hops"] = [{"name": str, "seconds": s}, ...]``
(values in the check's unit).
"""
from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from . import at_once

PASS = "pass"
FAIL = "fail"
INCONCLUSIVE = "inconclusive"
SKIPPED = "skipped"
STATUSES = (PASS, FAIL, INCONCLUSIVE, SKIPPED)

RAW_LIMIT = 262144
"""Most characters of one raw evidence file that travel back inline; a longer one is cut and says so."""

VERDICT_ARGS: dict[str, dict[str, Any]] = {
    "collect": {"type": "bool", "default": False},
    "deadline": {"type": "float", "default": 60.0},
    "call_timeout": {"type": "float", "default": 10.0},
    "allow_inconclusive": {"type": "list", "elements": "str", "default": []},
}
"""Options that every check module has; documented in the doc fragment ``hnai.platform.verdict``."""


class DeadlineExceeded(Exception):
    """The time that the caller allowed is over."""


def utc_iso(moment: datetime) -> str:
    """``2026-01-31T12:00:00.123Z`` from an aware datetime."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def jsonable(value: Any) -> Any:
    """The same value, safe for strict JSON: no NaN or infinity, no bytes, no sets, text keys."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return str(value)


def aggregate(statuses: Iterable[str]) -> str:
    """Status of a whole from the statuses of its parts: fail > inconclusive > pass; skipped only alone."""
    seen = set(statuses)
    unknown = seen.difference(STATUSES)
    if unknown:
        raise ValueError("unknown status %s, known are %s" % (sorted(unknown), ", ".join(STATUSES)))
    for status in (FAIL, INCONCLUSIVE, PASS, SKIPPED):
        if status in seen:
            return status
    return INCONCLUSIVE


@dataclass
class Check:
    """One statement that was put to the test. Times in milliseconds; ``unit`` is the unit of observed and expected."""

    id: str
    title: str
    status: str = ""
    observed: Any = None
    expected: Any = None
    unit: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    duration_ms: float = 0.0
    controls: list[str] = field(default_factory=list)
    hint: str = ""
    explain: str = ""
    subject: str = ""
    reason: str = ""
    files: dict[str, str] = field(default_factory=dict, repr=False)

    def passed(self, truth: object, reason: str = "") -> None:
        """Pass if *truth* holds, else fail; *reason* is kept when it fails."""
        if truth:
            self.status, self.reason = PASS, ""
        else:
            self.fail(reason)

    def fail(self, reason: str = "") -> None:
        """Fail."""
        self.status, self.reason = FAIL, reason

    def inconclusive(self, reason: str) -> None:
        """It could not be found out, and why."""
        self.status, self.reason = INCONCLUSIVE, reason

    def skip(self, reason: str) -> None:
        """It does not apply here, and why (a capability that is missing)."""
        self.status, self.reason = SKIPPED, reason

    def raw(self, name: str, text: str) -> None:
        """Keep *text* as a raw evidence file; its sha256 stands in the evidence. Never a secret."""
        cut = len(text) > RAW_LIMIT
        kept = text[:RAW_LIMIT]
        digest = hashlib.sha256(kept.encode("utf-8")).hexdigest()
        self.files[name] = kept
        self.evidence.setdefault("raw", []).append({"file": name, "sha256": digest, "truncated": cut})

    def as_dict(self) -> dict[str, Any]:
        """The check as strict JSON, without its raw files."""
        result: dict[str, Any] = {
            "id": self.id,
            "title": self.title,
            "status": self.status,
            "observed": jsonable(self.observed),
            "expected": jsonable(self.expected),
            "unit": self.unit,
            "evidence": jsonable(self.evidence),
            "duration_ms": round(self.duration_ms, 1),
            "controls": list(self.controls),
            "hint": self.hint,
        }
        for name in ("explain", "subject", "reason"):
            if getattr(self, name):
                result[name] = getattr(self, name)
        return result


# What is raised in a finalizer or in a callback of the garbage collector is printed and lost: the alarm comes again.
_AGAIN_S = 1.0


class _Running:
    """The body of one check: a context manager that turns what happens in the body into a verdict.

    The alarm raises only while code outside this file runs, so that entering and leaving are never torn apart.
    """

    def __init__(self, report: Report, check: Check, deadline_s: float | None) -> None:
        self._report = report
        self._check = check
        self._deadline_s = deadline_s
        self._late = False
        self._begin = 0.0
        self._previous: Any = None
        self._armed = False

    def _over(self, _signum: int, frame: Any) -> None:
        if frame is not None and frame.f_code.co_filename == __file__:
            signal.setitimer(signal.ITIMER_REAL, 0.001, _AGAIN_S)
            return
        raise DeadlineExceeded("deadline")

    def __enter__(self) -> Check:
        report = self._report
        self._begin = report._clock()
        self._late = report.remaining() == 0.0
        report._call_deadline = None if self._deadline_s is None else self._begin + self._deadline_s
        left = report.remaining()
        in_main = threading.current_thread() is threading.main_thread()
        if left is not None and report._clock is time.monotonic and in_main:
            self._previous = signal.signal(signal.SIGALRM, self._over)
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), _AGAIN_S)
        return self._check

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: Any) -> bool:
        check, report = self._check, self._report
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)
        report._call_deadline = None
        check.duration_ms = (report._clock() - self._begin) * 1000.0
        if error is not None and not isinstance(error, Exception):
            return False
        if self._late or isinstance(error, DeadlineExceeded):
            check.inconclusive("deadline")
        elif error is not None:
            text = " ".join(str(error).split())
            name = type(error).__name__
            check.inconclusive("%s: %s" % (name, text) if text else name)
        elif not check.status:
            check.inconclusive("the check came to no verdict")
        return True


class Report:
    """Checks of one component, made under one deadline.

    *call_s* is the most that one call may take (``timeout``).
    *clock* gives seconds that only grow; *now* gives the aware wall-clock time. Both are parameters so that
    a test needs no waiting; the hard interrupt is armed only with the real clock.
    """

    def __init__(
        self,
        component: str,
        version: str = "",
        deadline_s: float | None = 60.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        call_s: float | None = None,
    ) -> None:
        self.component = component
        self.version = version
        self.checks: list[Check] = []
        self._clock = clock
        self._now = now
        self._begin = clock()
        self._deadline_s = deadline_s
        self._call_s = call_s
        self._deadline = None if deadline_s is None else self._begin + deadline_s
        self._call_deadline: float | None = None
        self.started_at = now()

    # -- time ---------------------------------------------------------------------------------------------
    def remaining(self) -> float | None:
        """Seconds until the nearer deadline (report or running check), None without one; never negative."""
        ends = [end for end in (self._deadline, self._call_deadline) if end is not None]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def timeout(self, limit_s: float) -> float:
        """Seconds that the next call may take: *limit_s*, no more than the caller allows a call, less near the deadline.

        Raises DeadlineExceeded when nothing is left.
        """
        if self._call_s is not None:
            limit_s = min(limit_s, self._call_s)
        left = self.remaining()
        if left is None:
            return limit_s
        if left <= 0:
            raise DeadlineExceeded("deadline")
        return min(limit_s, left)

    # -- checks -------------------------------------------------------------------------------------------
    def add(self, check: Check) -> Check:
        """Add a check made elsewhere. Raises ValueError for a repeated (id, subject) or an unknown status."""
        if check.status and check.status not in STATUSES:
            raise ValueError("check %s: unknown status %r" % (check.id, check.status))
        if any(old.id == check.id and old.subject == check.subject for old in self.checks):
            raise ValueError("check %s (%s) stands twice in one report; give each its subject" % (check.id, check.subject))
        self.checks.append(check)
        return check

    def _new(
        self, id: str, title: str, expected: Any, unit: str, controls: Sequence[str], hint: str, explain: str, subject: str
    ) -> Check:
        return self.add(
            Check(
                id=id, title=title, expected=expected, unit=unit, controls=list(controls), hint=hint,
                explain=explain, subject=subject,
            )
        )

    def check(
        self,
        id: str,
        title: str,
        expected: Any = None,
        unit: str = "",
        controls: Sequence[str] = (),
        hint: str = "",
        explain: str = "",
        subject: str = "",
        deadline_s: float | None = None,
    ) -> _Running:
        """One check, as a context manager that gives the Check; see the module's docstring.

        Exceptions of the body end here; KeyboardInterrupt and SystemExit do not.
        """
        return _Running(self, self._new(id, title, expected, unit, controls, hint, explain, subject), deadline_s)

    def run_checks(self, todo: Iterable[tuple[Mapping[str, Any], Callable[[Check], None]]]) -> None:
        """Make each check of *todo*, pairs of the keyword arguments of ``check`` and a function of the Check.

        What would begin after the deadline is not started and becomes ``inconclusive (deadline)``.
        """
        for spec, function in todo:
            if self.remaining() == 0.0:
                late = {key: value for key, value in spec.items() if key != "deadline_s"}
                self.add(Check(**late)).inconclusive("deadline")
                continue
            with self.check(**spec) as check:
                function(check)

    def run_at_once(self, todo: Sequence[tuple[Mapping[str, Any], Callable[[Check], None]]]) -> None:
        """As ``run_checks``, of checks that wait for the network and share nothing: all at the same time. No ``deadline_s`` of their own.

        Nothing interrupts them: each bounds its calls (``timeout``). What is not done at the deadline is ``inconclusive (deadline)``.
        """
        bodies = [self.check(**spec) for spec, _function in todo]

        def one(number: int) -> None:
            with bodies[number] as check:
                todo[number][1](check)

        at_once.ask(one, range(len(todo)), self.remaining())
        for check in self.checks:
            if not check.status:
                check.inconclusive("deadline")

    def skip(self, id: str, title: str, reason: str, subject: str = "", controls: Sequence[str] = ()) -> None:
        """A check that does not apply here, and why."""
        self._new(id, title, None, "", controls, "", "", subject).skip(reason)

    # -- result -------------------------------------------------------------------------------------------
    @property
    def status(self) -> str:
        """Status of the whole."""
        return aggregate(check.status or INCONCLUSIVE for check in self.checks)

    def summary(self) -> str:
        """One line: counts and the first few that are not well."""
        counts = {status: sum(1 for check in self.checks if check.status == status) for status in STATUSES}
        line = "%s: %s" % (self.component, ", ".join("%d %s" % (counts[s], s) for s in STATUSES if counts[s]) or "no check was made")
        bad = [check for check in self.checks if check.status in (FAIL, INCONCLUSIVE)]
        names = ["%s %s%s" % (c.id, c.title, " (%s)" % c.reason if c.reason else "") for c in bad[:5]]
        if len(bad) > 5:
            names.append("and %d more" % (len(bad) - 5))
        return line + ("; " + "; ".join(names) if names else "")

    def result(self, allow_inconclusive: Iterable[str] = (), collect: bool = False) -> dict[str, Any]:
        """The module result: status, checks, summary, times, ``changed: False`` and ``failed``.

        With *collect* a bad verdict does not fail the task: the caller (verify) judges all verdicts together.
        """
        allowed = set(allow_inconclusive)
        bad = [
            check for check in self.checks
            if check.status == FAIL or (check.status == INCONCLUSIVE and check.id not in allowed)
        ]
        raw: dict[str, str] = {}
        for check in self.checks:
            raw.update(check.files)
        judged = bool(bad) or not self.checks
        result: dict[str, Any] = {
            "changed": False,
            "failed": judged and not collect,
            "status": self.status,
            "component": self.component,
            "version": self.version,
            "checks": [check.as_dict() for check in self.checks],
            "summary": self.summary(),
            "started_at": utc_iso(self.started_at),
            "ended_at": utc_iso(self._now()),
            "raw": raw,
        }
        if result["failed"]:
            result["msg"] = result["summary"]
        return result


def start(module: Any, component: str, version: str = "") -> Report:
    """The report of an Ansible module, under the deadlines that its caller gave."""
    return Report(component, version, deadline_s=module.params["deadline"], call_s=module.params["call_timeout"])


def finish(module: Any, report: Report, **data: Any) -> None:
    """Leave an Ansible module with the report's verdict; *data* are further keys of the result."""
    params = module.params
    result = report.result(params.get("allow_inconclusive") or [], bool(params.get("collect")))
    result["module"] = getattr(module, "_name", "")
    result.update(jsonable(data))
    module.exit_json(**result)
