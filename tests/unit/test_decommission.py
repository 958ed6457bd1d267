# SPDX-License-Identifier: Apache-2.0
"""What leaves with a component: refusals of the model, the host's own records, and what OpenBao held."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.filter.decommission import BASE, decommission
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Forbidden, NotFound
from ansible_collections.hnai.platform.plugins.module_utils.openbao.retire import RetireError, retire
from ansible_collections.hnai.platform.plugins.module_utils.removal import Removal
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

ROLES = Path(__file__).resolve().parents[2] / "roles"
#: systemd.exec(5). It removes RuntimeDirectory= itself when the unit stops.
DIRECTORIES = {"State": "/var/lib", "Cache": "/var/cache", "Logs": "/var/log", "Configuration": "/etc"}


class Machine(Host):
    """A host below a directory, with a systemd and accounts that only remember."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.commands: list[list[str]] = []
        self.users = {"hnai-questdb": 900, "somebody": 1000}
        self.groups = {"hnai-questdb": 900, "hnai-lone": 901}
        self.broken = ""

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """Remembers; `show` answers that everything runs."""
        if argv[:2] == ["systemctl", "show"]:
            return Completed(0, b"".join(b"active\n" for _name in argv[4:]) if "--value" in argv else b"", b"")
        self.commands.append(argv)
        if argv[0] == "userdel" and self.broken != "userdel":
            self.users.pop(argv[1], None)
            self.groups.pop(argv[1], None)
        if argv[0] == "groupdel":
            self.groups.pop(argv[1], None)
        return Completed(1, b"", b"refused") if argv[0] == self.broken else Completed(0, b"", b"")

    def uid(self, name: str) -> int | None:
        """Of the users."""
        return self.users.get(name)

    def gid(self, name: str) -> int | None:
        """Of the groups."""
        return self.groups.get(name)

    def write(self, path: str, text: str = "x") -> None:
        """A file of the host."""
        real = Path(self.at(path))
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(text, encoding="utf-8")

    def files(self) -> set[str]:
        """All files and links of the host."""
        return {"/" + os.path.relpath(os.path.join(folder, name), self.root) for folder, _names, files in os.walk(self.root) for name in files}


OWN = ["/etc/hnai/questdb/routes.json", "/etc/systemd/system/hnai-questdb.service", "/etc/sysusers.d/hnai-questdb.conf", "/usr/local/lib/hnai/questdb/a/schema"]
DATA = "/var/lib/hnai/questdb/db/ot"
OTHERS = {
    "/etc/hnai/questdbx/a", "/etc/credstore.encrypted/hnai-questdbx.a", "/opt/hnai/telegraf/1/telegraf", "/var/lib/hnai/trees/telegraf.json",
    "/etc/hnai/digests/hnai-telegraf.service.restart",
}  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A host with QuestDB and something of a neighbour."""
    host = Machine(tmp_path)
    for path in (*OWN, DATA, *OTHERS, "/etc/hnai/questdb/tls/key.pem", "/etc/credstore.encrypted/hnai-questdb.reader", "/opt/hnai/questdb/9.3.4/jar"):
        host.write(path)
    for top in ("/etc/hnai/digests", "/run/hnai"):
        host.write(f"{top}/hnai-questdb.service.restart")
    host.write("/var/lib/hnai/digests/hnai-questdb.service.data")
    host.write(OWN[2], "u hnai-questdb 900 - /var/lib/hnai/questdb\nm hnai-questdb somebody\nu somebody - -\n")
    host.write("/var/lib/hnai/trees/questdb.json", json.dumps({"component": "questdb", "files": OWN, "intended": {}, "directories": ["/etc/hnai/questdb"]}))
    host.write("/var/lib/hnai/trees/telegraf.json", json.dumps({"component": "telegraf", "files": [], "intended": {}, "directories": []}))
    return host


def take(host: Machine, purge: bool = False, check: bool = False) -> Any:
    """QuestDB goes."""
    return Removal(host, "questdb", ["questdb"], ["/var/lib/hnai/questdb"], purge, check).remove()


def test_nothing_is_left_but_the_data_and_their_owner(machine: Machine) -> None:
    out = take(machine)
    assert machine.files() == {DATA, *OTHERS}
    assert not [path for path in ("/etc/hnai/questdb", "/usr/local/lib/hnai/questdb", "/opt/hnai/questdb") if os.path.exists(machine.at(path))]
    assert os.path.isdir(machine.at("/usr/local/lib/hnai"))
    assert out.stopped == ["hnai-questdb.service"]
    assert out.kept == ["/var/lib/hnai/questdb"]
    assert out.changed
    assert machine.users == {"hnai-questdb": 900, "somebody": 1000}
    assert machine.commands[0] == ["systemctl", "disable", "--now", "hnai-questdb.service"], "it is stopped before anything goes"
    assert not take(machine).changed


def test_with_the_second_word_the_data_go_and_the_account(machine: Machine) -> None:
    out = take(machine, purge=True)
    assert machine.files() == OTHERS
    assert (out.kept, out.accounts) == ([], ["hnai-questdb"])
    assert machine.users == {"somebody": 1000}


def test_data_that_were_kept_go_later_with_the_account(machine: Machine) -> None:
    """The record is gone since the first run."""
    take(machine)
    said = take(machine, purge=True, check=True)
    out = take(machine, purge=True)
    assert (said.removed, said.accounts) == (out.removed, out.accounts) == (["/var/lib/hnai/questdb"], ["hnai-questdb"])
    assert machine.files() == OTHERS and machine.users == {"somebody": 1000}
    assert not take(machine, purge=True).changed


def test_what_no_record_names_goes_by_its_name(machine: Machine) -> None:
    """A rotation's notes and the key that it made, what lies in /run, the failure that systemd remembers, a folder of drop-ins, a group without a user."""
    theirs = {"/var/lib/hnai/rotation/tls+questdbx/key.pem", "/var/lib/hnai/rotation/telegraf+questdb"}
    for path in ("rotation/questdb+reader", "rotation/tls+questdb/key.pem", "rotation/tls+questdb.json"):
        machine.write("/var/lib/hnai/" + path)
    drop_in = "/etc/systemd/system/hnai-telegraf-questdb.service.d/questdb.conf"
    for path in (*theirs, "/run/hnai/questdb/status", drop_in):
        machine.write(path)
    machine.write(OWN[2], "u! hnai-questdb 900\ng hnai-lone -\n")
    machine.write("/var/lib/hnai/trees/questdb.json", json.dumps({"component": "questdb", "files": [*OWN, drop_in], "intended": {}, "directories": []}))
    out = take(machine, purge=True)
    assert machine.files() == OTHERS | theirs
    assert (out.accounts, machine.groups) == (["hnai-questdb", "hnai-lone"], {})
    assert not os.path.exists(machine.at(os.path.dirname(drop_in))) and os.path.isdir(machine.at("/etc/systemd/system"))
    assert ["systemctl", "reset-failed", "hnai-questdb.service"] in machine.commands


def test_its_own_files_in_etc_are_data_where_the_contract_says_so(machine: Machine) -> None:
    """A key that plants trust, and the mark that a disk was formatted: with it the component could not be installed again."""
    state = ["/etc/hnai/questdb/pki", "/etc/hnai/questdb.formatted.json", "/etc/hnai/questdbx/a"]
    machine.write(state[0] + "/key.pem")
    machine.write(state[1])
    assert Removal(machine, "questdb", [], state, False, False).remove().kept == state
    out = Removal(machine, "questdb", [], state, True, False).remove()
    assert (out.kept, out.removed) == ([state[2]], state[:2])


def test_without_a_record_nothing_goes_under_a_unit(machine: Machine) -> None:
    os.unlink(machine.at("/var/lib/hnai/trees/questdb.json"))
    before = machine.files()
    with pytest.raises(HostError, match=r"site\.yml --tags questdb.*Nothing was touched"):
        take(machine, purge=True)
    assert machine.files() == before
    os.unlink(machine.at(OWN[1]))
    assert "/opt/hnai/questdb" in take(machine).removed, "a component that is an artifact alone"


def test_its_passwords_go_from_the_hosts_of_others_when_it_stands_nowhere(machine: Machine) -> None:
    lies = {f"/etc/credstore.encrypted/hnai-mosquitto.{name}" for name in ("quest", "quest.b")}
    for path in lies:
        machine.write(path)
    take(machine)
    assert lies <= machine.files()
    done = Removal(machine, "questdb", [], [], False, False, ["mosquitto.quest"]).remove()
    assert set(done.removed) == lies and not lies & machine.files()
    one = decommission(site(questdb=["data1"], telegraf=[]), "", "edge1")["components"][0]
    assert (one["component"], one["credentials"]) == ("questdb", []), "it stands elsewhere"


def test_check_mode_says_the_same_and_changes_nothing(machine: Machine) -> None:
    before = machine.files()
    said = take(machine, purge=True, check=True)
    assert machine.files() == before
    assert not machine.commands
    done = take(machine, purge=True)
    assert (set(said.removed), said.accounts, said.stopped) == (set(done.removed), done.accounts, done.stopped)


def test_a_foreign_file_stays_and_is_named(machine: Machine) -> None:
    machine.write("/etc/hnai/questdb/mine.conf")
    assert take(machine).foreign == ["/etc/hnai/questdb/mine.conf"]
    assert "/etc/hnai/questdb/mine.conf" in machine.files()


def test_a_unit_that_does_not_stop_keeps_everything_in_place(machine: Machine) -> None:
    before = machine.files()
    machine.broken = "systemctl"
    with pytest.raises(HostError, match="nothing was removed"):
        take(machine)
    assert machine.files() == before


def test_a_killed_run_is_run_again(machine: Machine) -> None:
    machine.broken = "userdel"
    with pytest.raises(HostError, match="hnai-questdb could not be removed"):
        take(machine, purge=True)
    machine.broken = ""
    assert take(machine, purge=True).accounts == ["hnai-questdb"]
    assert machine.files() == OTHERS


def test_data_outside_our_own_directory_are_never_deleted(machine: Machine) -> None:
    machine.write("/srv/questdb/db")
    for path in ("/srv/questdb", "/var/lib/hnai/../../../srv/questdb"):
        out = Removal(machine, "questdb", [], [path], True, True).remove()
        assert out.kept == [path]
    with pytest.raises(HostError, match="not a name"):
        Removal(machine, "../questdb", [], [], True, False)


def site(**groups: list[str]) -> dict[str, Any]:
    """Two components on data1, of which one feeds the other."""
    contracts = {
        "questdb": {
            "name": "questdb", "artifacts": [{"name": "questdb"}, {"name": "shared"}, {"name": "jdk", "type": "deb"}], "state": [{"path": "/d"}],
            "secrets": [{"path": "questdb/mqtt", "username": "quest", "readers": ["mosquitto"]}, {"path": "questdb/x", "username": "x"}],
        },
        "telegraf": {
            "name": "telegraf", "artifacts": [{"name": "shared"}],
            "connects": [{"to": "questdb", "listener": "https", "group": "telegraf_questdb", "reason": "write"}, {"to_sources": "opcua", "reason": "read"}],
        },
        "host": {"name": "host", "placement": "managed"},
    }  # fmt: skip
    conduits = [{"id": "C-502", "from": {"group": "flink"}, "to": {"group": "questdb"}, "service": {"component": "questdb", "listener": "https"}}]
    return {"contracts": contracts, "groups": {"managed": ["data1", "edge1"], **groups}, "conduits": conduits if groups.get("questdb") else []}


def test_a_component_that_is_needed_is_refused_with_every_reason() -> None:
    found = decommission(site(questdb=["data1"], telegraf=["data1"], telegraf_questdb=["data1"]), "questdb")["refusals"]
    assert [any(part in text for text in found) for part in ("out of the group questdb", "empty the group telegraf_questdb", "conduit C-502")] == [True] * 3
    assert len(found) == 3
    only = site(telegraf=["data1"], telegraf_questdb=["data1"])
    assert decommission(only, "questdb")["refusals"] == ["telegraf on data1 still needs it (write): empty the group telegraf_questdb"]


def test_what_only_it_has_goes_from_every_managed_host() -> None:
    found = decommission(site(telegraf=["edge1"], telegraf_questdb=[]), "questdb")
    assert found == {
        "refusals": [], "notes": [], "hosts": ["data1", "edge1"], "retired": ["questdb"],
        "components": [{"component": "questdb", "artifacts": ["questdb"], "state": ["/d"], "credentials": ["mosquitto.quest"]}],
    }  # fmt: skip


def test_who_takes_flink_away_is_told_what_is_then_stored_twice() -> None:
    tags = [{"name": name, "unit": "psi", "unit_to": "kPa"} for name in "abcd"] + [{"name": "same", "unit": "kPa", "unit_to": "kPa"}, {"name": "bare"}]
    sources = [{"id": "plc1", "tags": tags}, {"id": "line1"}]
    model = site(telegraf=["data1"], telegraf_writer=["data1"])
    model["contracts"]["flink"] = {"name": "flink"}
    (note,) = decommission(model, "flink", "", sources)["notes"]
    assert note.startswith("4 tags that Flink converted (plc1:a, plc1:b, plc1:c …)") and "questdb_table" in note
    assert decommission(model, "flink", "", [{"id": "plc1", "tags": tags[4:]}])["notes"] == [], "nothing was converted"
    assert decommission(model, "questdb", "", sources)["notes"] == [] == decommission(model, "", "edge1", sources)["notes"]
    model["groups"]["telegraf_writer"] = []
    assert decommission(model, "flink", "", sources)["notes"] == [], "nobody stores it"


@pytest.mark.parametrize(
    ("component", "host", "text"),
    [("", "", "name one thing"), ("questdb", "data1", "name one thing"), ("x", "", "no component x"), ("host", "", "goes with the machine"),
     ("", "plc1", "no managed host"), ("", "edge1", "telegraf still stands on edge1")],
)  # fmt: skip
def test_refusals(component: str, host: str, text: str) -> None:
    found = decommission(site(telegraf=["edge1"]), component, host)
    assert text in found["refusals"][0]


def test_a_host_that_is_in_no_group_is_emptied_and_no_identity_retired() -> None:
    found = decommission(site(telegraf=["edge1"]), "", "data1")
    assert (found["refusals"], found["hosts"], found["retired"]) == ([], ["data1"], [])
    assert [one["component"] for one in found["components"]] == ["questdb", "telegraf"]


class Bao:
    """An OpenBao of three objects."""

    def __init__(self) -> None:
        self.objects = {"auth/hnai/role/hnai-questdb", "pki_int/roles/hnai-questdb", "sys/policies/acl/hnai-questdb", "sys/policies/acl/hnai-kafka"}
        self.calls: list[str] = []
        self.sticky = False

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None, wrap_ttl: str | None = None) -> dict[str, Any]:
        """As the server would."""
        self.calls.append(f"{method} {path}")
        if path.endswith("/login"):
            return {"auth": {"client_token": "t"}}
        if path.startswith("auth/token/"):
            return {}
        if path not in self.objects:
            raise NotFound(method, path, 404, [])
        if method == "DELETE" and not self.sticky:
            self.objects.discard(path)
        return {"data": {}}


@pytest.fixture
def bao(monkeypatch: pytest.MonkeyPatch) -> Bao:
    """With the mount where components enter."""
    monkeypatch.setattr("ansible_collections.hnai.platform.plugins.module_utils.openbao.policies.COMPONENT_AUTH", "hnai")
    return Bao()


ADMIN = {"role_id": "r", "secret_id": "s"}


def test_approle_pki_role_and_policy_go_in_this_order_and_the_token_ends(bao: Bao) -> None:
    assert retire(bao, ADMIN, ["questdb"], "pki_int", True) == ["AppRole hnai-questdb", "PKI role hnai-questdb", "policy hnai-questdb"]
    assert len(bao.objects) == 4
    assert retire(bao, ADMIN, ["questdb"], "pki_int", False) == ["AppRole hnai-questdb", "PKI role hnai-questdb", "policy hnai-questdb"]
    assert bao.objects == {"sys/policies/acl/hnai-kafka"}
    assert bao.calls[-1] == "POST auth/token/revoke-self"
    assert retire(bao, ADMIN, ["questdb"], "pki_int", False) == []


def test_what_stays_after_its_removal_is_an_error(bao: Bao) -> None:
    bao.sticky = True
    with pytest.raises(RetireError, match="still there"):
        retire(bao, ADMIN, ["questdb"], "pki_int", False)
    with pytest.raises(RetireError, match="no site-admin identity"):
        retire(bao, {}, ["questdb"], "pki_int", False)


def test_what_cannot_be_looked_at_is_no_absence(bao: Bao, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bao.call

    def refused(method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None, wrap_ttl: str | None = None) -> dict[str, Any]:
        if path.startswith("sys/policies"):
            raise Forbidden(method, path, 403, [])
        return plain(method, path, body, token, wrap_ttl)

    monkeypatch.setattr(bao, "call", refused)
    with pytest.raises(RetireError, match="cannot be looked at"):
        retire(bao, ADMIN, ["questdb"], "pki_int", False)


def plain(text: str) -> str:
    """A template's text with one word for each expression."""
    return re.sub(r"\{\{.*?\}\}", "x", text)


def leaves(value: Any) -> Iterator[str]:
    """Every text in it."""
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from leaves(one)
    if isinstance(value, str):
        yield value


def called(value: Any) -> Iterator[tuple[str, Any]]:
    """(module of ours, its arguments) of tasks, in blocks too."""
    for one in value if isinstance(value, list) else ():
        for key, given in one.items():
            yield from called(given)
            if key.startswith("hnai.platform."):
                yield key.rpartition(".")[2], given


def places(role: Path) -> set[str]:
    """Absolute paths that a role makes beside its tree, or has a module use: units' directories, tmpfiles, modules' arguments and the defaults of those."""
    found: set[str] = set()
    for file in (role / "tree").rglob("*"):
        text = plain(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else ""
        for kind, names in re.findall(r"^(State|Cache|Logs|Configuration)Directory=(.*)$", text, re.MULTILINE):
            found |= {f"{DIRECTORIES[kind]}/{name}" for name in names.split()}
        if "tmpfiles.d" in file.parts:
            found |= set(re.findall(r"^[a-zA-Z]\S*\s+(/\S+)", text, re.MULTILINE))
    for file in (role / "tasks").glob("*.yml"):
        for module, given in called(yaml.safe_load(file.read_text(encoding="utf-8"))):
            code = importlib.import_module(f"ansible_collections.hnai.platform.plugins.modules.{module}")
            options = yaml.safe_load(code.DOCUMENTATION).get("options") or {}
            found |= {str(option["default"]) for name, option in options.items() if option["type"] == "path" and option.get("default") and name not in given}
            found |= {path for text in leaves(given) for path in re.findall(r"(?<![\w}])/(?:etc|var|run|opt|srv)/[\w./+*-]+", text)}
    return found


@pytest.mark.parametrize("name", sorted(set(contracts.all()) - set(BASE)))
def test_whatever_a_role_makes_its_removal_knows(name: str, tmp_path: Path) -> None:
    contract, tree = contracts.all()[name], ROLES / name / "tree"
    removal = Removal(Machine(tmp_path), name, [], [], False, True)
    theirs = [pattern for other in contracts.all() for pattern in (f"/etc/hnai/{other}/tls/ca.pem", f"/run/hnai-{other}*", f"/opt/hnai/{other}/*")]
    known = [
        *(one for state in contract["state"] for one in (state["path"], state["path"] + "/*")),
        *(one for pattern in removal.named() for one in (pattern, pattern + "/*")),
        *(f"/opt/hnai/{item['name']}/*" for item in contract["artifacts"]),
        *("/" + str(file.relative_to(tree)).removesuffix(".j2") for file in tree.rglob("*")),
        *theirs, "/var/lib/hnai", "/run/hnai",
        # Whose files these are the configuration does not say: they are named as foreign, and stay.
        *(f"/etc/hnai/{name}/{path}" for path in ("broker-ca.pem", "faults.json", "trust/*")),
    ]  # fmt: skip
    assert not sorted(path for path in places(ROLES / name) if not any(fnmatch(path, pattern) for pattern in known))
    declared = re.findall(r"^[ug]!?\s+(\S+)", "".join(file.read_text(encoding="utf-8") for file in tree.glob("etc/sysusers.d/*")), re.MULTILINE)
    assert all(one.startswith("hnai-") for one in declared)
