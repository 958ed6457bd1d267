# SPDX-License-Identifier: Apache-2.0
"""What the controller collects for the site model: names, files, rates, and only what it needs."""

from __future__ import annotations

import copy
import datetime
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError, AnsibleFilterError, AnsibleUndefinedVariable

from ansible_collections.hnai.platform.plugins.filter import zones
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import validate
from ansible_collections.hnai.platform.plugins.plugin_utils import site
from ansible_collections.hnai.platform.plugins.plugin_utils.sources import is_template

CONTRACT = """\
name: kafka
purpose: x
levels: [l35]
listens: []
connects: []
artifacts: []
service: {units: []}
secrets: []
health: none
state: []
ui: none
requirements: []
buffers: [{hop: h, variable: kafka_topic_defaults.retention_ms, unit: milliseconds}]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A collection with one role."""
    role = tmp_path / "collection/roles/kafka"
    for name, text in {
        "meta/component.yml": CONTRACT,
        "meta/argument_specs.yml": "argument_specs: {main: {options: {kafka_heap: {type: str}, kafka_topic_defaults: {type: dict}}}}",
        "defaults/main.yml": "kafka_heap: 1g\nkafka_topic_defaults: {retention_ms: 5}\n",
    }.items():
        path = role / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "collection"


HOSTVARS: dict[str, Any] = {
    "kafka1": {
        "hnai_zone": "l35",
        "hnai_addresses": {"v4": "10.0.35.11"},
        "hnai_zones": {"l35": {"level": 3.5}},
        "hnai_conduits": [{"id": "C-1", "expires": datetime.date(2030, 1, 2)}],
        "hnai_ot_sources": [
            {
                "id": "plc1",
                "asset": "plc1",
                "protocol": "opcua",
                "identity": {"username": "observer"},
                "tags": [
                    {"name": "a", "kind": "cyclic", "sampling_ms": 500},
                    {"name": "b", "kind": "cyclic", "sampling_ms": 250},
                    {"name": "c", "kind": "on_change", "sampling_ms": 100},
                ],
            },
            {"id": "m", "protocol": "modbus", "poll_ms": 1000, "tags": [{"name": "x"}, {"name": "y"}]},
        ],
        "kafka_heap": "2g",
        "kafka_heep": "3g",
        "ansible_user": "x",
        "ansible_facts": {"never": "read"},
    },
    "plc1": {"hnai_zone": "l2"},
}
GROUPS = {"all": ["kafka1", "plc1"], "ungrouped": [], "managed": ["kafka1"], "kafka": ["kafka1"], "ot_devices": ["plc1"]}


def test_collects_inventory_variables_of_managed_hosts(root: Path) -> None:
    data = site.collect(HOSTVARS, GROUPS, root)
    assert list(data["hosts"]) == ["kafka1"]
    assert data["hosts"]["kafka1"]["zone"] == "l35"
    assert set(data["groups"]) == {"managed", "kafka", "ot_devices"}
    assert data["conduits"] == [{"id": "C-1", "expires": "2030-01-02"}]
    assert data["defaults"] == {"kafka_topic_defaults": {"retention_ms": 5}}
    assert "never" not in str(data)
    assert "observer" not in str(data)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "hosts.yml": "all: {hosts: {a: null}}\n",
        "group_vars/all/good.yml": "a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: !vault |\n  $ANSIBLE_VAULT\n",
        "group_vars/all/empty.yml": "",
        "group_vars/all/vaulted.yml": "$ANSIBLE_VAULT;1.1;AES256\n3132\n",
        "group_vars/all/tabs.yml": "a: 1\nb:\n\tc: 2\n",
        "group_vars/kafka.yml": "a: [1\n",
        "host_vars/a.yml": "- 1\n",
        "host_vars/b.yml/inner.yml": "a:\n  - b: 1\n    b: 2\n  - b: 1\na: 3\n",
        "group_vars/all/other.yml": "z: 1\nd: 2\n",
        "host_vars/d": "a: 1\nb: 2030-02-30\n",
        "host_vars/e.json": '{\n\t"a": {},\n\t"a": 1\n}',
        "host_vars/f.yaml": "a: 0o8\nb: 012\nd: 2030-01-31\ne: =\nc: {{ a }}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "host_vars/c.yml").write_bytes(b"a: \xff\n")
    (tmp_path / "more.yml").write_text("all: {}\n", encoding="utf-8")
    sources = [str(tmp_path / "hosts.yml"), str(tmp_path / "more.yml"), "somewhere,", str(tmp_path / "gone.yml")]
    found = {Path(one.file).name: (one.key, one.message, one.remedy) for one in site.unreadable(sources)}
    assert set(found) == {"tabs.yml", "kafka.yml", "a.yml", "c.yml", "d", "f.yaml"}
    assert found["d"][:2] == ("line 2", "'2030-02-30': day is out of range for month")
    assert found["f.yaml"][0] == "line 5" and "in quotes" in found["f.yaml"][2]
    assert found["tabs.yml"][0] == "line 3" and "spaces" in found["tabs.yml"][2]
    assert found["a.yml"][1] == "is no map of variables"
    assert all(all(one) for one in found.values())
    monkeypatch.setattr(site, "_composed", lambda _sources: pytest.fail("each file is read once in a run"))
    sources[0] = "hosts.yml"
    double = {(Path(one.file).name, one.key): one.message for one in site.twice(sources)}
    assert {key: text.partition(":")[0] for key, text in double.items()} == {
        ("inner.yml", "a[0].b"): "stands in line 2 and in line 3",
        ("inner.yml", "a"): "stands in line 1 and in line 5",
        ("e.json", "a"): "stands in line 2 and in line 3",
        ("other.yml", "d"): "stands in good.yml too, and only what stands here counts",
    }
    assert {(one.key, one.severity) for one in site.twice(sources) if one.severity != "error"} == {("d", "warning")}


@pytest.mark.parametrize("source", ["hosts.yml", "."])
def test_what_ansible_passes_over_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """As DataLoader.find_vars_files reads: by the name alone first, and nothing else then."""
    monkeypatch.chdir(tmp_path)
    for name in ("hosts.yml", "group_vars/all.yml", "group_vars/kafka/a.yml", "group_vars/kafka/.b.yml", "group_vars/kafka/c.yml~",
                 "group_vars/kafka.yml", "group_vars/mosquito.yml", "group_vars/pad1",
                 "group_vars/README.md", "host_vars/edge1.site.yml", "host_vars/edge2.site", "host_vars/edge2.yml",
                 "host_vars/kafka1.yaml", "host_vars/kafka1.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a: 1\n", encoding="utf-8")
    groups = {"kafka": ["kafka1"], "mosquitto": ["edge1.site"], "telegraf": ["edge1.site"]}
    found = {one.file: (one.severity, one.message, one.remedy) for one in site.unheard([source], groups)}
    assert found == {
        "group_vars/kafka.yml": ("error", "is not read: kafka stands beside it", "put both into one"),
        "group_vars/mosquito.yml": ("error", "no group is called mosquito: nothing reads it", "did you mean mosquitto? rename it, or remove it"),
        "group_vars/pad1": ("warning", "no group is called pad1: nothing reads it", "rename it, or remove it"),
        "host_vars/edge2.yml": ("warning", "no host is called edge2: nothing reads it", "rename it, or remove it"),
        "host_vars/kafka1.json": ("error", "is not read: kafka1.yaml stands beside it", "put both into one"),
    }
    read = [path.as_posix() for path, whose in site._files_of([source]) if whose]
    assert read == ["group_vars/all.yml", "group_vars/README.md", "group_vars/kafka/a.yml", "group_vars/mosquito.yml", "group_vars/pad1",
                    "host_vars/edge1.site.yml", "host_vars/edge2.yml", "host_vars/edge2.site", "host_vars/kafka1.yaml"]  # fmt: skip
    assert site.variable_files([source])["a"] == "host_vars/kafka1.yaml"


class Vaulted:
    """A value whose key nobody gave."""

    def __str__(self) -> str:
        raise AnsibleError("no vault secrets found")


def test_what_a_template_comes_out_as_is_judged(tmp_path: Path) -> None:
    told = {
        "k1": {"x_id": "{{ 1 }}", "x_key": Vaulted(), "x_gone": "{{ nowhere }}", "x_fact": "{{ ansible_facts.x }}", "x_asks": "{{ lookup('file', 'x') }}"},
        "k2": {"x_id": 1, "x_key": [{"a": Vaulted()}], "other": "{{ gone }}", "x_bad": "{{ bad"},
    }

    class Hostvars(dict[str, Any]):
        def __getitem__(self, host: str) -> Any:
            return Answers(told[host])

    class Answers(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            said = {"x_id": 1, "x_gone": AnsibleUndefinedVariable("'nowhere' is undefined"), "x_bad": AnsibleError("Syntax\nerror"),
                    "x_fact": AnsibleUndefinedVariable("'ansible_facts' is undefined")}[name]  # fmt: skip
            if isinstance(said, Exception):
                raise said
            return said

    found = site.evaluated(told, Hostvars(told), {"x_id", "x_key", "x_gone", "x_fact", "x_asks", "x_bad"}, lambda name: f"file of {name}")
    assert {(one.key, one.severity, one.message, one.file) for one in found} == {
        ("x_key", "error", "cannot be evaluated: no vault secrets found (on k1, k2)", "file of x_key"),
        ("x_gone", "warning", "cannot be evaluated: 'nowhere' is undefined (on k1)", "file of x_gone"),
        ("x_bad", "error", "cannot be evaluated: Syntax error (on k2)", "file of x_bad"),
    }
    assert told["k1"]["x_id"] == 1 and is_template([told["k1"]["x_key"]]) and told["k1"]["x_asks"].startswith("{{ lookup")


class Unspeakable(dict[str, Any]):
    """Variables of a host, some of which are templates that nobody can evaluate."""

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) == "{{ gone }}":
            raise AnsibleFilterError("'gone'\nis undefined")
        return super().__getitem__(name)


def test_what_cannot_be_evaluated_is_one_problem_among_others(root: Path) -> None:
    hostvars = {"kafka1": Unspeakable(HOSTVARS["kafka1"], hnai_zones="{{ gone }}", hnai_debian="{{ gone }}", hnai_slo=[])}
    data = site.collect(hostvars, GROUPS, root)
    assert data["broken"] == dict.fromkeys(("hnai_zones", "kafka1: hnai_debian"), "'gone' is undefined")
    site.add_names(data, hostvars, [], root)
    data["files"] = {"hnai_zones": "zones.yml", "hnai_debian": "hosts.yml"}
    found = {(one["file"], one["key"], one["message"]) for one in validate(data, datetime.date(2030, 1, 1))}
    assert {(file, key, "cannot be evaluated: 'gone' is undefined") for file, key in
            (("zones.yml", "hnai_zones"), ("hosts.yml", "kafka1: hnai_debian"))} <= found
    assert "hnai_slo" in {key for _file, key, _message in found}


def test_a_level_in_quotes_is_a_number_for_who_reads_the_model(root: Path) -> None:
    zones = {"a": {"level": "3"}, "b": {"level": "3.5"}, "c": {"level": "three"}, "d": None}
    hostvars = {name: {**variables, "hnai_zones": zones} for name, variables in HOSTVARS.items()}
    found = site.collect(hostvars, GROUPS, root)["zones"]
    assert [found[name]["level"] for name in "abc"] == [3, 3.5, "three"]


def test_rates_follow_from_the_tags(root: Path) -> None:
    rates = {source["id"]: source["records_per_s"] for source in site.collect(HOSTVARS, GROUPS, root)["ot_sources"]}
    assert rates == {"plc1": 6.0, "m": 2.0}


def test_names_with_our_prefix_only(root: Path) -> None:
    data = site.collect(HOSTVARS, GROUPS, root)
    site.add_names(data, HOSTVARS, [], root)
    assert {"kafka_heap", "kafka_heep", "hnai_zone"} <= set(data["hosts"]["kafka1"]["vars"])
    assert "ansible_user" not in data["hosts"]["kafka1"]["vars"]
    assert set(data["known_variables"]) == {"kafka_heap", "kafka_topic_defaults"}


def test_where_a_variable_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "hosts.yml": "all: {children: {kafka: {vars: {in_group: 1}, hosts: {kafka1: {in_host: 1}, kafka2: null}}}}",
        "group_vars/all/zones.yml": "hnai_zones: {}\nsecret: !vault |\n  $ANSIBLE_VAULT\n",
        "group_vars/kafka.yml": "kafka_heap: 1g\n",
        "host_vars/kafka1/main.yml": "kafka_heap: 2g\n",
        "group_vars/all/broken.yml": "a: [",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert site.variable_files([str(tmp_path / "hosts.yml")]) == {
        "in_group": "hosts.yml",
        "in_host": "hosts.yml",
        "hnai_zones": "group_vars/all/zones.yml",
        "secret": "group_vars/all/zones.yml",
        "kafka_heap": "host_vars/kafka1/main.yml",
    }


class Inventory(dict[str, Any]):
    """As Ansible's hostvars: what is written, and what comes out of it."""

    def __init__(self, out: dict[str, Any] | None = None) -> None:
        super().__init__(copy.deepcopy(HOSTVARS))
        self.out = out or {}

    def raw_get(self, host: str) -> dict[str, Any]:
        return dict(super().__getitem__(host))

    def __getitem__(self, host: str) -> dict[str, Any]:
        return {**super().__getitem__(host), **(self.out if host == "kafka1" else {})}


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the model is really collected."""
    calls: list[int] = []
    plain_collect = site._collect

    def counted(*args: Any) -> dict[str, Any]:
        calls.append(1)
        return plain_collect(*args)

    monkeypatch.setattr(site, "_collect", counted)
    return calls


def test_a_run_collects_once(root: Path, tmp_path: Path, collected: list[int]) -> None:
    texts = {site.text(Inventory(), GROUPS, tmp_path, root) for _task in range(5)}
    assert len(collected) == 1 and len(texts) == 1
    assert json.loads(texts.pop()) == site.collect(HOSTVARS, GROUPS, root)
    (tmp_path / "other").mkdir()
    site.text(Inventory(), GROUPS, tmp_path / "other", root)
    assert len(collected) == 3, "another run, another folder"


def test_within_a_task_it_is_looked_at_once_and_between_tasks_anew(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a large site looking costs more than all the rest of a task. The controller's own process outlives tasks: it always looks."""
    looks: list[int] = []
    plain_written = site._written
    monkeypatch.setattr(site, "_written", lambda *args: looks.append(1) or plain_written(*args))
    changed = Inventory()
    changed["kafka1"] = {**HOSTVARS["kafka1"], "hnai_zone": "l4"}
    before, after = (site.text(one, GROUPS, tmp_path, root) for one in (Inventory(), changed))
    assert before != after and len(looks) == 2
    workers = multiprocessing.get_context("fork")
    for one, want in ((Inventory(), before), (changed, after)):
        answers = workers.SimpleQueue()

        def task(one: Inventory = one, answers: Any = answers) -> None:
            texts = [site.text(one, GROUPS, tmp_path, root) for _ in range(3)]
            answers.put((texts, len(looks)))

        worker = workers.Process(target=task)
        worker.start()
        assert answers.get() == ([want] * 3, 3)
        worker.join()


def test_a_killed_process_leaves_nothing_half(root: Path, tmp_path: Path, collected: list[int]) -> None:
    want = site.text(Inventory(), GROUPS, tmp_path, root)
    for file in tmp_path.glob("hnai-*.json"):
        file.write_text("")
    assert site.text(Inventory(), GROUPS, tmp_path, root) == want and len(collected) == 2


@pytest.mark.parametrize(("name", "value"), [
    ("hnai_zone", "l4"), ("hnai_zones", {"l35": {"level": 4}}), ("hnai_addresses", {"v4": "10.0.35.12"}), ("kafka_topic_defaults", {"retention_ms": 6}),
    ("hnai_conduits", [{"id": "C-1", "expires": datetime.date(2030, 1, 3)}]),
])
def test_a_variable_that_changes_between_plays_is_read_anew(root: Path, tmp_path: Path, collected: list[int], name: str, value: Any) -> None:
    before = site.text(Inventory(), GROUPS, tmp_path, root)
    changed = Inventory()
    changed["kafka1"] = {**HOSTVARS["kafka1"], name: value}
    after = site.text(changed, GROUPS, tmp_path, root)
    assert len(collected) == 2 and after != before
    assert json.loads(after) == site.collect(changed, GROUPS, root)
    assert site.text(Inventory(), GROUPS, tmp_path, root) == before and len(collected) == 3


def test_what_a_template_comes_out_as_counts(root: Path, tmp_path: Path, collected: list[int]) -> None:
    found = []
    for zone in ("l35", "l4", "l35"):
        one = Inventory({"hnai_zone": zone})
        one["kafka1"] = {**HOSTVARS["kafka1"], "hnai_zone": "{{ somewhere_else }}"}
        found.append(json.loads(site.text(one, GROUPS, tmp_path, root))["hosts"]["kafka1"]["zone"])
    assert found == ["l35", "l4", "l35"] and len(collected) == 2


def test_groups_and_the_roles_files_count(root: Path, tmp_path: Path, collected: list[int]) -> None:
    site.text(Inventory(), GROUPS, tmp_path, root)
    more = json.loads(site.text(Inventory(), {**GROUPS, "kafka_turn_0": ["kafka1"]}, tmp_path, root))
    assert more["groups"]["kafka_turn_0"] == ["kafka1"] and len(collected) == 2
    (root / "roles/kafka/defaults/main.yml").write_text("kafka_topic_defaults: {retention_ms: 7000}\n", encoding="utf-8")
    assert json.loads(site.text(Inventory(), GROUPS, tmp_path, root))["defaults"] == {"kafka_topic_defaults": {"retention_ms": 7000}}
    contract = root / "roles/kafka/meta/component.yml"
    contract.write_text(CONTRACT.replace("kafka_topic_defaults.retention_ms", "kafka_heap"), encoding="utf-8")
    assert json.loads(site.text(Inventory(), GROUPS, tmp_path, root))["hosts"]["kafka1"]["vars"] == {"kafka_heap": "2g"}


def test_a_filter_takes_the_text_and_reads_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = site.plain(yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8")))
    reads: list[int] = []
    from_dict = zones.Site.from_dict

    def counted(data: Any) -> Any:
        reads.append(1)
        return from_dict(data)

    monkeypatch.setattr(zones.Site, "from_dict", counted)
    zones._of_text.cache_clear()
    filters = zones.FilterModule().filters()
    host = next(iter(model["hosts"]))
    texts = [filters[name](json.dumps(model), *more) for name, more in (("nft_ruleset", [host]), ("nft_approved", [host]), ("kafka_acls", []))]
    assert len(reads) == 1
    assert texts == [filters[name](model, *more) for name, more in (("nft_ruleset", [host]), ("nft_approved", [host]), ("kafka_acls", []))]
    with pytest.raises(AnsibleFilterError, match="needs the site model"):
        filters["kafka_acls"]("no model")


INI = """# a comment
[all:vars]
hnai_site=here

[kafka:vars]
kafka_heap = 1g
kafka_heap = 2g
kafka_reauth_ms=1

[kafka]  # three
kafka[1:3] hnai_zone=l35 kafka_rack='a # b'  # kafka_node_id=1

[edge]
edge1 hnai_zone=l3 hnai_debian=12 hnai_debian=13
[site:children]
kafka
"""


def test_of_an_inventory_in_ini_the_section_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"hosts": INI, "group_vars/all.yml": "hnai_site: there\nhnai_slo: {}\n", "group_vars/kafka.yml": "kafka_reauth_ms: 2\n",
                       "host_vars/kafka1.yml": "kafka_node_id: 1\n", "run.sh": "#!/bin/sh\n[x]\n"}.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "run.sh").chmod(0o755)
    for source in ("hosts", "."):
        assert site.variable_files([source]) == {
            "hnai_site": "group_vars/all.yml", "hnai_slo": "group_vars/all.yml", "kafka_reauth_ms": "group_vars/kafka.yml",
            "kafka_node_id": "host_vars/kafka1.yml", "kafka_heap": "hosts [kafka:vars]", "kafka_rack": "hosts [kafka]", "hnai_debian": "hosts [edge]",
            "hnai_zone": "hosts",
        }  # fmt: skip
        assert [(one.file, one.key, one.message.partition(":")[0]) for one in site.twice([source])] == [
            ("hosts [kafka:vars]", "kafka_heap", "stands in line 6 and in line 7"), ("hosts [edge]", "edge1: hnai_debian", "stands in line 14 and in line 14")
        ]  # fmt: skip
        assert not site.unreadable([source])
