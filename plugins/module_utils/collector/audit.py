# SPDX-License-Identifier: Apache-2.0
"""The audit of the mirror's own software on its host: could anything that runs here write to the plant?

Passive: /proc, files, the kernel's ruleset. It opens no connection and starts nothing but systemctl, nft and the collector's interpreter
beside the collector, whose client is handed every request that it must refuse.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from ..hostfiles import Host
from ..mqtt.topics import matches, mqtt_overlap
from ..verdict import FAIL, INCONCLUSIVE, Check, Report
from . import egress, foreign, gobuild, programs, telegraf
from .proc import Gone, Proc, Process, changed_since, outside, resolve

CLAIMED, REFUTED = "claimed", "refuted"
_TABLE = (
    ("CA0", "the mirror's own software cannot write"),
    ("CA1", "nothing that writes is built into the running Telegraf"),
    ("CA2", "the running Telegraf loaded nothing that writes"),
    ("CA3", "it executes the declared programs and nothing else"),
    ("CA4", "the running collector is the one that was deployed"),
    ("CA5", "the collector's client refuses to write"),
    ("CA6", "its connections go where the model says"),
    ("CA7", "the kernel lets it out where the conduits say"),
    ("CA8", "the flows of Node-RED cannot write"),
    ("CA9", "the flow of NiFi cannot write"),
    ("CA10", "OPC Publisher cannot be told to write"),
    ("CA11", "Neuron cannot be told to write"),
)
TITLES = dict(_TABLE)
FOREIGN = {"node_red": "CA8", "nifi": "CA9", "opc_publisher": "CA10", "neuron": "CA11"}
CONTROLS = ["SR 2.1", "SR 5.2", "SR 7.7"]
_RESTART = "systemctl restart the unit after the change is understood; site.yml --tags ot_collector,telegraf"


@dataclass(frozen=True)
class Options:
    """What the caller declares.

    *instances*: Telegraf's, by name; *command*: the only one that may be executed; *program*, *files* {path: sha256}, *environment*: what
    stands behind it; *sources*: [{id, host, port}] that it may dial; *conduits*, *own*: as filter ``collector_egress`` gives them;
    *elsewhere*: [{kind, path, arguments}] of other collectors on this host, *unseen* those on hosts where nobody looks;
    *patterns*: MQTT topics of commands; *own_name*: this host's.
    """

    instances: Sequence[str]
    command: Sequence[str]
    program: str
    files: Mapping[str, str]
    environment: str
    sources: Sequence[Mapping[str, Any]]
    conduits: Sequence[Mapping[str, Any]]
    own: Sequence[int] = ()
    user: str = "hnai-telegraf"
    elsewhere: Sequence[Mapping[str, Any]] = ()
    unseen: Sequence[Mapping[str, Any]] = ()
    patterns: Sequence[str] = ()
    own_name: str = "localhost"
    environment_name: str = "production"
    telegraf: str = "/opt/hnai/telegraf/current/bin/telegraf"


@dataclass
class Instance:
    """A running Telegraf: its process, the processes below it, what it loaded."""

    name: str
    process: Process
    children: list[Process]
    loaded: telegraf.Loaded | None = None
    problem: str = ""


class CannotTell(Exception):
    """What a check needs is not there."""


_OPEN = (CannotTell, telegraf.CannotTell, egress.CannotTell, foreign.CannotTell, gobuild.NoBuild, Gone)


def short(texts: Sequence[str], most: int = 5) -> str:
    """The first few of a list."""
    return "; ".join(texts[:most]) + ("; and %d more" % (len(texts) - most) if len(texts) > most else "")


def judge(check: Check, bad: Sequence[str], unknown: Sequence[str], what: str = "") -> None:
    """Bad ones fail, unknown ones leave it open."""
    check.observed = len(bad)
    check.evidence.update({"found": list(bad)[:100], "unknown": list(unknown)[:100]})
    if bad:
        check.fail(short(bad))
    elif unknown:
        check.inconclusive("%s%s" % (what, short(unknown)))
    else:
        check.passed(True)


class Audit:
    """One audit into one report. *main_pid* gives a unit's process (0: it does not run); *names* resolves; *now* gives unix seconds."""

    def __init__(self, report: Report, options: Options, host: Host, proc: Proc, now: Callable[[], float],
                 main_pid: Callable[[str], int] | None = None, names: Callable[[str], list[str]] = resolve) -> None:
        self.report, self.options, self._host, self._proc, self._now, self._names = report, options, host, proc, now, names
        self._main_pid = main_pid or self._systemd
        self._instances: list[Instance] = []
        self._absent: list[str] = []
        self.record: dict[str, Any] = {}

    def _systemd(self, unit: str) -> int:
        done = self._host.run(["systemctl", "show", "--property=MainPID", "--value", unit], timeout=self.report.timeout(10))
        if done.rc:
            raise CannotTell("systemctl does not tell the process of %s: %s" % (unit, done.message))
        return int(done.text.strip() or 0)

    # -- all ----------------------------------------------------------------------------------------------
    def run(self) -> dict[str, Any]:
        """The record of CA0."""
        for name in self.options.instances:
            self._find(name)
        for one in self._instances:
            self._check("CA1", partial(self._built, one), one.name, unit="plugins", hint="site.yml --tags telegraf installs the declared program")
            self._check("CA2", partial(self._configured, one), one.name, unit="plugins", hint=_RESTART)
            self._check("CA3", partial(self._executed, one), one.name, unit="programs", hint=_RESTART)
        collectors = [(one, child) for one in self._instances for child in one.children if list(child.argv) == list(self.options.command)]
        if self.options.sources:
            self._check("CA4", partial(self._deployed, [child for _one, child in collectors]), unit="files", hint=_RESTART)
            self._check("CA5", self._closed, unit="requests that would be sent", hint="site.yml --tags ot_collector restores the program")
        for one in self._instances:
            self._check("CA6", partial(self._connected, one), one.name, unit="sockets", hint="ss -tupn shows who; the conduits say who may")
        self._check("CA7", self._let_out, unit="ways", hint="site.yml --tags firewall; nft list table inet hnai")
        for entry in self.options.elsewhere:
            self._check(FOREIGN[entry["kind"]], partial(self._foreign, entry), str(entry["path"]), unit="parts",
                        hint="take the part out of the flow, or the mirror is no mirror: docs/runbooks/ot-audit.md")
        for entry in self.options.unseen:
            self._check(FOREIGN[entry["kind"]], partial(self._unseen, entry), "%s %s" % (entry.get("host"), entry["path"]), unit="parts",
                        hint="name a host of the group ot_collector")
        self._verdict()
        return self.record

    def _check(self, ident: str, body: Callable[[Check], None], subject: str = "", unit: str = "", hint: str = "") -> None:
        with self.report.check(ident, TITLES[ident], expected=0, unit=unit, subject=subject, controls=CONTROLS, hint=hint) as check:
            try:
                body(check)
            except _OPEN as error:
                check.inconclusive(str(error))

    def _find(self, name: str) -> None:
        unit = "hnai-telegraf-%s.service" % name
        try:
            pid = self._main_pid(unit)
            if not pid:
                raise CannotTell("%s does not run" % unit)
            tree = self._proc.tree(pid)
            # A companion may stand before it (role telegraf, replay).
            at = next((number for number, one in enumerate(tree) if Path(one.exe.replace(" (deleted)", "")).name.startswith("telegraf")), None)
            if at is None:
                raise CannotTell("%s runs no telegraf but %s" % (unit, tree[0].exe))
            below = {tree[at].pid}
            children = []
            for one in tree:
                if one.parent in below:
                    below.add(one.pid)
                    children.append(one)
            instance = Instance(name, tree[at], children)
        except (CannotTell, Gone) as error:
            self._absent.append(str(error))

            def absent(check: Check, reason: str = str(error)) -> None:
                check.inconclusive(reason)

            self._check("CA1", absent, name)
            return
        try:
            variable = self._proc.variable(instance.process.pid, "TELEGRAF_CONFIG_PATH")
            instance.loaded = telegraf.load(telegraf.files(instance.process.argv, variable))
            paths = [*instance.loaded.files, *telegraf.scripts(instance.loaded.plugins)]
            changed = changed_since([*paths, *{path.parent for path in instance.loaded.files if len(instance.loaded.files) > 1}], instance.process.started)
            if changed:
                instance.problem = "changed after the process was started, which loaded what stood there before: %s" % ", ".join(changed)
        except (telegraf.CannotTell, Gone, OSError) as error:
            instance.problem = str(error)
        self._instances.append(instance)

    # -- Telegraf -----------------------------------------------------------------------------------------
    def _built(self, one: Instance, check: Check) -> None:
        build = gobuild.read(self._proc.program(one.process.pid))
        kinds = {name: telegraf.PLUGINS.get(name, telegraf.UNKNOWN) for name in build.plugins}
        check.evidence = {"program": one.process.exe, "pid": one.process.pid, "go": build.go, "tags": build.tags, "plugins": build.plugins}
        bad = ["%s is built in: it %s" % (name, "writes" if kind == telegraf.WRITES else "executes programs") for name, kind in kinds.items()
               if kind == telegraf.WRITES or (kind == telegraf.EXECUTES and not (name == "inputs.execd" and self.options.command))]
        unknown = ["%s is built in, and nobody said what it can" % name for name, kind in kinds.items() if kind == telegraf.UNKNOWN]
        if not build.path.endswith("/cmd/telegraf"):
            unknown.append("the program is %s, not Telegraf" % (build.path or "not named"))
        if not kinds:
            unknown.append("no plugin was found in the program")
        if "custom" not in build.tags:
            unknown.append("it was built without the tag custom: with everything that Telegraf has")
        if not self._proc.same_file(one.process.pid, self.options.telegraf):
            unknown.append("it runs %s, which is not what lies at %s now" % (one.process.exe, self.options.telegraf))
        judge(check, bad, unknown)

    def _configured(self, one: Instance, check: Check) -> None:
        if one.loaded is None:
            raise CannotTell(one.problem)
        plugins = one.loaded.plugins
        check.evidence = {"files": [str(path) for path in one.loaded.files], "argv": list(one.process.argv), "plugins": [plugin.text for plugin in plugins],
                          "started": datetime.fromtimestamp(one.process.started, timezone.utc).isoformat(timespec="milliseconds")}
        bad = [text for text in map(telegraf.able, plugins) if text]
        unknown = ["%s: nobody said what it can" % plugin.text for plugin in plugins if plugin.kind == telegraf.UNKNOWN]
        unknown += ["%s: which file, or device, a variable says (%s)" % (plugin.text, plugin.hidden) for plugin in plugins if plugin.hidden]
        if not plugins:
            unknown.append("it loads no plugin at all")
        if one.problem:
            unknown.append(one.problem)
        allowed = self._shipping()
        for plugin in plugins:
            if plugin.kind == telegraf.SHIPS:
                try:
                    bad += ["%s sends to %s port %d, which no conduit names" % (plugin.text, name, port) for name, port in plugin.targets()
                            if not all((address, port) in allowed for address in self._named(name))]
                except telegraf.CannotTell as error:
                    unknown.append(str(error))
                try:
                    for pattern in self.options.patterns if plugin.name == "outputs.mqtt" else ():
                        topics = plugin.topics()
                        if mqtt_overlap(pattern, topics):
                            # A template may never put in the word that makes it a command.
                            open_words = [there for word, there in zip(pattern.split("/"), topics.split("/")) if word not in ("+", "#") and there in ("+", "#")]
                            (unknown if open_words else bad).append("%s publishes to %s, where commands are (%s)" % (plugin.text, topics, pattern))
                        elif mqtt_overlap(pattern, plugin.reach()):
                            unknown.append("%s publishes to %s: what it fills in may have slashes, and make a command (%s)" % (plugin.text, topics, pattern))
                except telegraf.CannotTell as error:
                    unknown.append(str(error))
        judge(check, bad, unknown)

    def _named(self, name: str) -> list[str]:
        found = self._names(name)
        if not found:
            raise telegraf.CannotTell("the name %s is not known on this host" % name)
        return found

    def _shipping(self) -> dict[tuple[str, int], str]:
        """Where Telegraf itself may connect: conduits that do not end in the plant, and the host itself."""
        allowed = {(address, int(one["port"])): str(one["id"]) for one in self.options.conduits if not one["plant"] for address in one["addresses"]}
        for name in ("localhost", self.options.own_name):
            for address in self._names(name):
                allowed.update({(address, int(port)): "on this host" for port in self.options.own})
        return allowed

    def _executed(self, one: Instance, check: Check) -> None:
        bad, unknown = [], []
        declared = list(self.options.command)
        for plugin in one.loaded.plugins if one.loaded else ():
            bad += ["%s executes %s" % (plugin.text, program) for program in plugin.programs]
            if plugin.kind == telegraf.EXECUTES:
                try:
                    if plugin.name != "inputs.execd" or not declared or plugin.command != declared:
                        bad.append("%s executes %s" % (plugin.text, " ".join(plugin.command)))
                    elif plugin.settings.get("environment"):
                        bad.append("%s executes it with variables of its own: %s" % (plugin.text, plugin.settings["environment"]))
                except telegraf.CannotTell as error:
                    unknown.append(str(error))
        bad += ["process %d below it: %s" % (child.pid, " ".join(child.argv) or child.exe) for child in one.children if list(child.argv) != declared]
        if one.problem:
            unknown.append(one.problem)
        check.evidence = {"declared": declared, "children": [{"pid": child.pid, "argv": list(child.argv)} for child in one.children]}
        judge(check, bad, unknown)

    # -- the collector ------------------------------------------------------------------------------------
    def _deployed(self, running: Sequence[Process], check: Check) -> None:
        if not running:
            raise CannotTell("the collector does not run below any Telegraf of this host")
        program, environment = Path(self.options.program), Path(self.options.environment).resolve()
        manifest = json.loads((environment / programs.MANIFEST).read_text(encoding="utf-8"))
        bad = programs.differs(program, self.options.files) + programs.environment(environment, manifest)
        unknown = []
        for one in running:
            paths = programs.paths(program) + programs.paths(environment)
            late = changed_since(paths, one.started)
            if late:
                unknown.append("changed after process %d was started: %s" % (one.pid, short(late, 3)))
            inside = ("%s/" % environment, "/usr/lib/", "/lib/", "/usr/bin/", "/lib64/", "/usr/lib64/")
            bad += ["process %d has mapped %s" % (one.pid, path) for path in self._proc.mapped(one.pid)
                    if not path.startswith(inside)]
        check.evidence = {"pid": [one.pid for one in running], "program": dict(self.options.files), "environment": str(environment),
                          "recipe": manifest.get("recipe"), "artifact": manifest.get("digest")}
        judge(check, bad, unknown)

    def _closed(self, check: Check) -> None:
        argv = [str(Path(self.options.environment, "bin/python3")), "-I", "-B", "-c", programs.CLOSED, self.options.program]
        done = self._host.run(argv, timeout=self.report.timeout(60))
        try:
            told = json.loads(done.text)
            bad = programs.open_paths(told)
        except (ValueError, KeyError, TypeError) as error:
            raise CannotTell("the collector's client could not be tried: %s" % (done.message[-300:] or error)) from None
        check.evidence = {"refused": {"opcua": told["opcua"]["refused"], "modbus": told["modbus"]["refused"]}, "may_be_sent": told["reading"]}
        judge(check, bad, [])

    # -- ways out -----------------------------------------------------------------------------------------
    def _connected(self, one: Instance, check: Check) -> None:
        shipping, sources, unknown = self._shipping(), {}, []
        for source in self.options.sources:
            addresses = self._names(str(source["host"]))
            if not addresses:
                unknown.append("source %s: the name %s is not known on this host" % (source["id"], source["host"]))
            sources.update({(address, int(source["port"])): str(source["id"]) for address in addresses})
        bad, seen = [], {}
        for process in [one.process, *one.children]:
            collects = list(process.argv) == list(self.options.command)
            try:
                found = self._proc.sockets(process.pid)
            except Gone as error:
                unknown.append(str(error))
                continue
            seen[str(process.pid)] = sorted({item.text for item in found})
            bad += ["%s: %s" % ("the collector" if collects else "process %d" % process.pid, text)
                    for text in outside(found, sources if collects else shipping)]
        check.evidence = {"sockets": seen, "sources": ["%s: %s port %d" % (name, address, port) for (address, port), name in sorted(sources.items())]}
        judge(check, bad, unknown)

    def _let_out(self, check: Check) -> None:
        done = self._host.run(["nft", "-j", "list", "ruleset"], timeout=self.report.timeout(20))
        if done.rc:
            raise CannotTell("nft does not tell the ruleset: %s" % done.message)
        uid = self._host.uid(self.options.user)
        if uid is None:
            raise CannotTell("there is no user %s" % self.options.user)
        wanted = egress.declared(self.options.conduits)
        more, less = egress.differences(done.text, wanted, [uid], self._host.uid)
        check.evidence = {"user": self.options.user, "uid": uid, "declared": [one.text for one in sorted(wanted, key=lambda way: way.text)]}
        judge(check, ["beyond the conduits: %s" % one for one in more] + ["a conduit that is not let out: %s" % one for one in less], [])

    # -- others -------------------------------------------------------------------------------------------
    def _foreign(self, entry: Mapping[str, Any], check: Check) -> None:
        path = Path(str(entry["path"]))
        kind = entry["kind"]
        if kind in ("node_red", "nifi"):
            found = (foreign.node_red if kind == "node_red" else foreign.nifi)(path, self.options.patterns, matches)
        elif kind == "neuron":
            found = foreign.neuron(path)
        else:
            arguments = entry.get("arguments")
            found = foreign.opc_publisher(path, Path(str(arguments)).read_text(encoding="utf-8") if arguments else "")
        check.evidence = {"path": str(path), "parts": found.seen}
        judge(check, found.writes, found.unknown)

    @staticmethod
    def _unseen(entry: Mapping[str, Any], check: Check) -> None:
        check.inconclusive("%s is in no group ot_collector: nobody looks at %s" % (entry.get("host"), entry["path"]))

    # -- verdict ------------------------------------------------------------------------------------------
    def _verdict(self) -> None:
        statuses = [check.status for check in self.report.checks]
        verdict = REFUTED if FAIL in statuses else INCONCLUSIVE if INCONCLUSIVE in statuses or not self._instances else CLAIMED
        causes = [check for check in self.report.checks if check.status in (FAIL, INCONCLUSIVE)]
        reason = short(["%s%s: %s" % (one.id, " " + one.subject if one.subject else "", one.reason) for one in causes])
        untested = ["what the kernel or root on this host could do; other hosts"]
        self.record = {
            "verdict": verdict, "reason": reason or "; ".join(self._absent), "environment": self.options.environment_name, "not_tested": untested,
            "at": datetime.fromtimestamp(self._now(), timezone.utc).isoformat(timespec="seconds"),
            "instances": {one.name: {"pid": one.process.pid, "program": one.process.exe, "argv": list(one.process.argv),
                                     "plugins": sorted({plugin.name for plugin in one.loaded.plugins}) if one.loaded else []} for one in self._instances},
        }

        def body(check: Check) -> None:
            check.observed = verdict
            check.expected = CLAIMED
            check.evidence = dict(self.record)
            check.raw("collector-capability.json", json.dumps(self.record, indent=1, sort_keys=True))
            if verdict == INCONCLUSIVE:
                check.inconclusive(self.record["reason"])
            else:
                check.passed(verdict == CLAIMED, reason)

        self._check("CA0", body, hint="the other rows say what was found; docs/runbooks/ot-audit.md")
