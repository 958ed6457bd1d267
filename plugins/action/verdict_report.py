# SPDX-License-Identifier: Apache-2.0
"""Controller side of verdict_report: reads what the checks registered, judges it, writes the record and its views."""
from __future__ import annotations

import getpass
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import __version__ as ansible_version
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, utc_iso
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import expiry
from ansible_collections.hnai.platform.plugins.plugin_utils import checks, contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.report import archive, record, table, zones
from ansible_collections.hnai.platform.plugins.plugin_utils.site import collect

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "site": {"type": "str", "default": ""},
    "environment": {"type": "str", "default": ""},
    "profile": {"type": "str", "choices": ["quick", "full"], "default": "quick"},
    "expected_skips": {"type": "list", "elements": "str", "default": []},
    "allow_inconclusive": {"type": "list", "elements": "str", "default": []},
    "full_max_age": {"type": "int", "default": 0},
    "explain": {"type": "str"},
    "show": {"type": "bool", "default": False},
    "closing": {"type": "bool", "default": False},
}
LATE = frozenset({"V-expiry", "V-glass"})
"""Ids that say that an end in the model has passed, and nothing about the site itself."""
display = Display()


def collection_version(root: Path) -> str:
    """``hnai.platform 0.1.0`` of a checkout or an installed collection."""
    for name, path in (("MANIFEST.json", ("collection_info", "version")), ("galaxy.yml", ("version",))):
        try:
            value = contracts.parsed(root / name)
        except OSError:
            continue
        for key in path:
            value = value[key]
        return f"hnai.platform {value}"
    return "hnai.platform"


def commit(root: Path) -> str:
    """The commit of a checkout, with ``+`` where the work tree differs; empty for an installed collection."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([git, "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False)

    head = ask("rev-parse", "--verify", "--quiet", "HEAD")
    if head.returncode:
        return ""
    return head.stdout.strip() + ("+" if ask("status", "--porcelain").stdout.strip() else "")


def inventory_digest(folder: str | None) -> str:
    """sha256 over the names and contents of the inventory's text files; empty where there is no folder."""
    if not folder:
        return ""
    base = Path(folder)
    files = {
        str(path.relative_to(base)): path.read_bytes()
        for path in sorted(base.rglob("*"))
        if path.is_file() and path.suffix in {".yml", ".yaml", ".ini", ".json", ""} and ".git" not in path.parts
    }
    return record.digest_of(files)


def registered(root: Path, component: str) -> tuple[str, ...]:
    """Verdict variables that the component's tasks/verify.yml (or verify_<scope>.yml) registers; none where there is no such file."""
    tasks = root / "roles" / component / "tasks"
    paths = [path for path in (tasks / "verify.yml", *(tasks / f"verify_{scope}.yml" for scope in record.SCOPES)) if path.is_file()]
    return record.registered(contracts.parsed(paths[0]), component) if paths else ()


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Judge, write, print."""
        super().run(tmp, task_vars)
        variables: dict[str, Any] = task_vars or {}
        _, args = self.validate_argument_spec(argument_spec=ARGUMENTS)
        folder = Path(args["path"])
        if args["explain"] or args["show"]:
            return self._newest(folder, args["explain"])
        return self._judge(folder, args, variables)

    def _newest(self, folder: Path, id: str | None) -> dict[str, Any]:
        """Print from the newest record: how the check *id* is repeated, or else the table."""
        newest: dict[str, Any] | None = None
        try:
            newest = archive.latest(folder)
        except FileNotFoundError as error:
            if not id:
                raise AnsibleActionFail(str(error.args[0])) from error
        except ValueError as error:
            raise AnsibleActionFail(str(error)) from error
        if id:
            try:
                told = table.explain(newest, id, checks.by_id(checks.load(ROOT)))
            except (KeyError, checks.RegisterError) as error:
                raise AnsibleActionFail(str(error.args[0])) from error
            display.display("\n".join(["", *told]))
        elif newest is not None:
            self._print(newest, str(folder / newest["run_id"]))
        return {"changed": False}

    def _judge(self, folder: Path, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(timezone.utc)
        known = contracts.all(ROOT)
        run_tags = list(task_vars.get("ansible_run_tags") or ["all"])
        skip_tags = list(task_vars.get("ansible_skip_tags") or [])
        chosen = record.selected(known, run_tags, skip_tags)
        groups = {name: list(hosts) for name, hosts in task_vars["groups"].items()}
        play_hosts = list(task_vars.get("ansible_play_hosts_all") or [])
        hostvars = task_vars["hostvars"]
        arrived = record.collect({host: hostvars.raw_get(host) for host in groups["all"]}, known)
        scopes = record.scoped(run_tags, skip_tags, args["profile"])
        expected = record.expectations(known, groups, play_hosts, chosen, {name: registered(ROOT, name) for name in chosen}, scopes)
        verdicts = sorted(
            arrived.verdicts + record.missing_verdicts(expected, arrived), key=lambda one: (one["component"], one["host"])
        )
        members = {host for name in groups if name not in ("all", "ungrouped") for host in groups[name]}
        whole = chosen == set(known) and set(groups.get("managed", members)) <= set(play_hosts)
        judgement = record.judge(verdicts, args["expected_skips"], args["allow_inconclusive"], complete=whole)
        full = archive.last_full(folder, now)
        limit = args["full_max_age"]
        if limit and args["profile"] != "full" and (not full or full["age_s"] > limit):
            age = f"is {full['age']} old" if full else "was never made"
            judgement.problems.append({
                "component": "site", "host": args["site"], "id": "V-full", "title": f"the verdict of the full profile {age}",
                "subject": "", "why": INCONCLUSIVE, "reason": f"its limit is {archive.age_text(limit)}",
                "hint": "ansible-playbook hnai.platform.verify -e profile=full",
            })
            if judgement.verdict == PASS:
                judgement.verdict = INCONCLUSIVE
        model = self._model(task_vars, folder, verdicts, now, judgement, args)
        register = checks.by_id(checks.load(ROOT))
        record.describe(judgement, verdicts, register)
        begins = [one["started_at"] for one in verdicts if one["started_at"]]
        ends = [one["ended_at"] for one in verdicts if one["ended_at"]]
        built = record.build(
            verdicts,
            judgement,
            run_id=archive.run_id(now),
            site=args["site"],
            environment=args["environment"],
            profile=args["profile"],
            operator=getpass.getuser(),
            started_at=min(begins, default=utc_iso(now)),
            ended_at=max(ends, default=utc_iso(now)),
            covers={"components": sorted(chosen), "hosts": sorted(play_hosts), "whole_site": whole},
            subject={
                "collection": collection_version(ROOT),
                "commit": commit(ROOT),
                "inventory_sha256": inventory_digest(task_vars.get("inventory_dir")),
                "ansible": ansible_version,
                "python": platform.python_version(),
            },
            expected_skips=sorted(args["expected_skips"]),
            allow_inconclusive=sorted(args["allow_inconclusive"]),
            last_full=full,
            zones=model,
        )
        checking = bool(self._task.check_mode)
        written, lost = "", ""
        try:
            written = "" if checking else str(archive.write(folder, built, arrived.raw))
        except OSError as error:
            # What was found is shown all the same.
            why = f"{error.filename or folder}: {error.strerror}"
            lost = f"controller: {why}: the verdict above is not kept; remedy: `df -h {folder}`, or another hnai_state_dir"
        self._print(built, written, lost)
        result: dict[str, Any] = {
            "changed": False,
            "verdict": judgement.verdict,
            "summary": judgement.summary(),
            "counts": judgement.counts,
            # Without what the register says of each: the table has told it, and a failed task prints all of this.
            "problems": [{key: value for key, value in one.items() if key not in ("meaning", "action", "hint")} for one in judgement.problems],
            "folder": written,
        }
        # An end that was written in the model stops no run of a running site: the record is red, and says so.
        late = bool(judgement.problems) and all(one["id"] in LATE for one in judgement.problems)
        if judgement.failed and not checking and not (late and args["closing"]):
            result["failed"] = True
            result["msg"] = judgement.summary()
        if lost:
            result.update(failed=True, msg=f"{lost}. {judgement.summary()}")
        return result

    @staticmethod
    def _model(
        task_vars: dict[str, Any], folder: Path, verdicts: list[dict[str, Any]], now: datetime, judgement: record.Judgement, args: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The site model as the report draws it; what has ended or was let through speaks against the verdict. None where the model is wrong."""
        try:
            site = Site.from_dict(collect(task_vars["hostvars"], task_vars["groups"]))
        except (contracts.ContractError, AnsibleError) as error:
            judgement.notices.append(f"the site model cannot be read, so the report does not draw it: {' '.join(str(error).split())[:300]}")
            return None
        if not site.zones:
            return None
        for problem in expiry(site, now):
            if problem.message.startswith("expired") or problem.invariant == "break_glass":
                judgement.problems.append({
                    "component": "site", "host": args["site"], "id": "V-glass" if problem.invariant == "break_glass" else "V-expiry",
                    "title": problem.message, "subject": problem.key.partition("[")[2].partition("]")[0], "why": FAIL, "reason": "", "hint": problem.remedy,
                })
                judgement.verdict = FAIL
        return zones.view(site, now, archive.proven(folder, zones.verdicts_of(verdicts)))

    @staticmethod
    def _print(built: dict[str, Any], written: str, lost: str = "") -> None:
        width = max(100, min(shutil.get_terminal_size((160, 50)).columns, 200))
        display.display("")
        for text, colour in table.lines(built, width):
            display.display(text, color=colour)
        display.display("")
        for notice in built["notices"]:
            display.display(f"notice: {notice}", color="yellow")
        full = built["last_full"]
        age = f"the last full verdict ({full['verdict']}) is {full['age']} old" if full else "there is no full verdict yet"
        display.display(f"VERDICT {built['summary']}", color=table.COLOURS[built["verdict"]])
        display.display(f"{built['profile']} profile; {age}")
        if written:
            display.display(f"record  {written}/record.json\nreport  {written}/report.html\njunit   {written}/junit.xml\n")
        elif not lost:
            display.display("check mode: nothing was written, and the verdict does not fail the run\n")
