# SPDX-License-Identifier: Apache-2.0
"""Deliver the artifacts of a component: the part that needs the controller's store."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.store import build, debs, locks
from ansible_collections.hnai.platform.plugins.plugin_utils.store.core import Store, StoreError, refused

DEFAULT_STORE = "~/.cache/hnai/store"
SIDE_BY_SIDE = 2
ARGUMENTS: dict[str, dict[str, Any]] = {
    "component": {"type": "str"},
    "name": {"type": "str"},
    "channel": {"type": "str", "default": "registry"},
    "timeout": {"type": "int", "default": 1800},
    "prefetch": {"type": "bool", "default": False},
    "components": {"type": "list", "elements": "str"},
}

#: Of packages that a check predicts.
UNPREDICTED = "not predicted: accounts, files and units that these packages bring"

display = Display()


class Need:
    """What one component needs on one release, and what of it a host lacks."""

    def __init__(self, component: str, entries: list[dict[str, Any]], release: locks.Release, channel: str) -> None:
        role = contracts.path_of(component).parents[1]
        self.archives = [locks.archive(role, component, entry, release, channel) for entry in entries if not locks.is_deb(entry)]
        self.debs = [locks.debs(component, entry, release) for entry in entries if locks.is_deb(entry)]

    def lacking(self, store: Store, seen: dict[str, Any]) -> tuple[list[locks.Archive], list[locks.Debs], list[str]]:
        """(archives, package sets, units to mask) that the observed host lacks."""
        archives = []
        for archive in self.archives:
            found = seen["archives"][archive.name]
            if (found["version"], found["recipe"], found["damaged"]) != (archive.version, archive.recipe, ""):
                archives.append(archive)
        sets = []
        for wanted in self.debs:
            recorded = debs.resolved(store, wanted)
            if not debs.satisfied(wanted, seen["packages"], recorded["chosen"] if recorded else None):
                sets.append(wanted)
        own = {unit for wanted in self.debs for unit in wanted.mask}
        return archives, sets, [unit for unit in seen["unmasked"] if unit in own]


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Observe; if something is lacking build, push and apply it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, arguments = self.validate_argument_spec(ARGUMENTS)
        template = self._templar.template
        root = Path(str(template(variables.get("hnai_store_dir") or DEFAULT_STORE))).expanduser()
        store = Store(root, display.display, deadline_s=float(arguments["timeout"]))
        try:
            if arguments["prefetch"]:
                return {**result, **self._prefetch(store, arguments, variables)}
            if not arguments["component"]:
                raise StoreError("artifact: component is missing; remedy: component: <role>")
            return {**result, **self._deliver(store, arguments, variables)}
        except (StoreError, contracts.ContractError) as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            raise AnsibleActionFail(str(refused(error, root))) from error

    def _release(self, component: str, variables: Mapping[str, Any]) -> str:
        """What <component>_version says; empty where it says nothing."""
        return str(self._templar.template(variables.get(f"{component}_version") or ""))

    # -- on a host -----------------------------------------------------------------------------------------------

    def _call(self, variables: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        value: dict[str, Any] = self._execute_module(
            module_name="hnai.platform.artifact", module_args={"timeout": self._timeout, **arguments}, task_vars=variables
        )
        if value.get("failed") or value.get("unreachable"):
            raise AnsibleActionFail(str(value.get("msg") or value.get("module_stderr") or "the module failed"), result=value)
        return value

    def _push(self, local: Path, name: str) -> str:
        """Copy a file beside the module; the connection's user owns it, the module reads it as root."""
        shell = self._connection._shell
        if not shell.tmpdir:
            self._make_tmp_path()
        remote = str(shell.join_path(shell.tmpdir, name))
        self._transfer_file(str(local), remote)
        self._fixup_perms2((shell.tmpdir, remote))
        return remote

    def _deliver(self, store: Store, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """What is lacking is brought; what lies in a release and was never released is named."""
        result = self._bring(store, arguments, variables)
        host = variables.get("inventory_hostname", "this host")
        for path in result["foreign"]:
            display.warning(f"{host}: {path} is not of the release of {arguments['component']}, which may load it; it is left alone")
        return result

    def _bring(self, store: Store, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        component, host = arguments["component"], str(variables.get("inventory_hostname", "this host"))
        self._timeout = arguments["timeout"]
        wanted = self._release(component, variables)
        entries = [
            locks.choose(component, entry, wanted) for entry in contracts.load(component)["artifacts"] if arguments["name"] in (None, entry["name"])
        ]
        if not entries:
            where = f"roles/{component}/meta/component.yml: artifacts"
            called = f" called {arguments['name']}" if arguments["name"] else ""
            raise StoreError(f"{where}: has none{called}; remedy: declare it or leave the task out")
        packages, units = _every_release(component, entries)
        names = [entry["name"] for entry in entries if not locks.is_deb(entry)]
        seen = self._call(variables, step="observe", names=names, packages=packages, mask=units)
        system = seen["os"]
        release = locks.release_of(system["version"] if system["id"] == "debian" else f"{system['id']} {system['version']}".strip(), host)
        if system["arch"] != locks.ARCH:
            raise StoreError(f"Only {locks.ARCH} is supported, {host} is {system['arch']}: refused")
        need = Need(component, entries, release, arguments["channel"])
        archives, sets, unmasked = need.lacking(store, seen)
        changed = bool(archives or sets or unmasked or seen["leftover"])
        if not changed or self._task.check_mode:
            predicted, whole = self._predict(store, variables, sets) if sets else ([], True)
            return self._report(need, seen, changed, archives, predicted, unmasked, whole=whole)
        after = self._apply(store, variables, release, archives, sets, unmasked, seen)
        done = [archive for archive in archives if after["applied"][archive.name]["changed"]]  # another run may have been faster
        return self._report(need, after, after["changed"], done, after["installed"], after["masked"], seen)

    def _predict(self, store: Store, variables: dict[str, Any], sets: list[locks.Debs]) -> tuple[list[str], bool]:
        """(packages that apt would install, whether that is all): with what they depend on, where the set was recorded."""
        known = {wanted.name: recorded for wanted in sets for recorded in [debs.resolved(store, wanted)] if recorded}
        found = {f"{name}={glob}" for wanted in sets if wanted.name not in known for name, glob in wanted.wanted}
        if known:
            names = sorted({name for recorded in known.values() for name in debs.mentioned(recorded)})
            seen = self._call(variables, step="observe", packages=names)
            for recorded in known.values():
                found.update(debs.predicted(recorded, seen["packages"], seen.get("provided", [])))
        return sorted(found), len(known) == len(sets)

    def _apply(
        self,
        store: Store,
        variables: dict[str, Any],
        release: locks.Release,
        archives: list[locks.Archive],
        sets: list[locks.Debs],
        unmasked: list[str],
        seen: dict[str, Any],
    ) -> dict[str, Any]:
        specs: list[dict[str, Any]] = []
        for archive in archives:
            built = build.ensure(store, archive)
            there = seen["archives"][archive.name]["versions"].get(archive.version) == archive.recipe
            specs.append(
                {
                    "name": archive.name,
                    "version": archive.version,
                    "target": archive.target,
                    "recipe": archive.recipe,
                    "digest": built["digest"],
                    "compile": archive.compiled,
                    "src": "" if there else self._push(store.verified(built["digest"], archive.key), f"{archive.name}.tar"),
                }
            )
        chosen: dict[str, str] = {}
        for wanted in sets:
            chosen.update(debs.ensure(store, wanted)["chosen"])
        pins = [f"{package}={version}" for package, version in sorted(chosen.items())]
        bundles: list[str] = []
        if pins:
            repository = debs.repository(store, release)
            with store.scratch() as scratch:
                debs.bundle(store, repository, [], scratch / "index.tar")
                remote = self._push(scratch / "index.tar", "index.tar")
                missing = self._call(variables, step="plan", packages=pins, bundles=[remote])["missing"]
                debs.bundle(store, repository, missing, scratch / "packages.tar")
                bundles.append(self._push(scratch / "packages.tar", "packages.tar"))
        return self._call(variables, step="apply", names=list(seen["archives"]), packages=pins, mask=unmasked, bundles=bundles, archives=specs)

    @staticmethod
    def _report(
        need: Need,
        state: dict[str, Any],
        changed: bool,
        archives: list[locks.Archive],
        packages: list[str],
        masked: list[str],
        before: dict[str, Any] | None = None,
        whole: bool = True,
    ) -> dict[str, Any]:
        """The result; with `before` the change was made, without it is predicted. `whole`: what the packages depend on is among them."""
        touched = {archive.name for archive in archives}
        old, new, found = [], [], {}
        foreign: list[str] = []
        for archive in need.archives:
            there = state["archives"][archive.name]
            foreign += there["foreign"]
            was = (before or state)["archives"][archive.name]
            hit = archive.name in touched
            found[archive.name] = {
                "version": archive.version,
                "digest": "" if hit and before is None else there["digest"],
                "path": f"/opt/hnai/{archive.name}/{archive.version}",
                "changed": hit,
            }
            if hit:
                beside = "".join(f"; not of it: {path}" for path in was["foreign"])
                flaw = f" (damaged: {was['damaged']}{beside})" if was["damaged"] else ""
                old.append(f"{archive.name} {was['version'] or 'absent'}{flaw} recipe {was['recipe'][:12] or '-'}")
                new.append(f"{archive.name} {archive.version} recipe {archive.recipe[:12]}")
        for package in packages:
            name = package.split("=", 1)[0]
            known = (before or state)["packages"].get(name)
            old += [f"{name}={known}"] if known else []
            new.append(package)
        new += [f"masked {unit}" for unit in masked]
        if packages and before is None:
            new.append(("" if whole else "not predicted: what these packages depend on, for they were never fetched; ") + UNPREDICTED)
        report: dict[str, Any] = {
            "changed": changed,
            "os": state["os"],
            "artifacts": found,
            "foreign": foreign,
            "debs": {
                "installed": packages,
                "versions": {**(before or state)["packages"], **state["packages"]},
                "masked": masked,
            },
        }
        if changed:
            report["diff"] = {"before": "".join(f"{line}\n" for line in old), "after": "".join(f"{line}\n" for line in new)}
        return report

    # -- on the controller ---------------------------------------------------------------------------------------

    def _prefetch(self, store: Store, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        groups = variables["groups"]
        every = {contract["name"]: contract for contract in contracts.placed(groups)}
        names = arguments["components"] if arguments["components"] is not None else sorted(every)
        jobs: dict[str, locks.Archive | locks.Debs] = {}
        for name in names:
            contract = every.get(name) or contracts.load(name)
            hosts = groups.get(contract.get("placement", name), [])
            numbers = {str(self._templar.template(variables["hostvars"][host].get("hnai_debian", ""))) for host in hosts}
            releases = [locks.release_of(number, name) for number in sorted(numbers - {""})] or list(locks.RELEASES.values())
            versions = {self._release(name, variables["hostvars"][host]) for host in hosts} or {self._release(name, variables)}
            for release, version in itertools.product(releases, sorted(versions)):
                need = Need(name, [locks.choose(name, entry, version) for entry in contract["artifacts"]], release, arguments["channel"])
                jobs.update({archive.key: archive for archive in need.archives})
                jobs.update({wanted.key: wanted for wanted in need.debs})
        missing = {
            key: job for key, job in jobs.items() if (build.existing(store, job) if isinstance(job, locks.Archive) else debs.resolved(store, job)) is None
        }
        if self._task.check_mode or not missing:
            return {"changed": bool(missing), "built": sorted(missing)}
        display.display(f"{len(missing)} of {len(jobs)} artifacts are not in the store {store.root}: fetching and building them")

        def one(job: locks.Archive | locks.Debs) -> None:
            if isinstance(job, locks.Archive):
                build.ensure(store, job)
            else:
                debs.ensure(store, job)

        failures: list[str] = []
        done = 0
        with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            running = {pool.submit(one, job): key for key, job in missing.items()}
            for future in concurrent.futures.as_completed(running):
                done += 1
                try:
                    future.result()
                except StoreError as error:
                    failures.append(str(error))
                except OSError as error:
                    failures.append(str(refused(error, store.root)))
                display.display(f"{done} of {len(missing)}: {running[future]} {'failed' if failures and future.exception() else 'ready'}")
        if failures:
            raise StoreError("\n".join(failures))
        return {"changed": True, "built": sorted(missing)}


def _every_release(component: str, entries: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Package names and units of all releases: the host is asked before it is known what it runs."""
    packages: set[str] = set()
    units: set[str] = set()
    for entry in entries:
        if not locks.is_deb(entry):
            continue
        for release in locks.RELEASES.values():
            value = entry.get("packages")
            if isinstance(value, dict) and release.number not in value:
                continue
            version = entry.get("version")
            if isinstance(version, dict) and release.number not in version:
                continue
            wanted = locks.debs(component, entry, release)
            packages.update(name for name, _glob in wanted.wanted)
            units.update(wanted.mask)
    return sorted(packages), sorted(units)
