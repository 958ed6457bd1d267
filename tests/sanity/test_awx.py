# SPDX-License-Identifier: Apache-2.0
"""What AWX is told (awx/) is what the verbs take: templates are made from the argument specs, and what a survey answers passes them."""
from __future__ import annotations

import functools
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROOT = Path(__file__).resolve().parents[2]


class Loader(yaml.SafeLoader):
    """YAML with Ansible's mark of what is not to be templated."""


Loader.add_constructor("!unsafe", lambda loader, node: str(node.value))


def load(path: str) -> dict[str, Any]:
    """The mapping in a YAML file."""
    return yaml.load((ROOT / path).read_text(encoding="utf-8"), Loader)


TEMPLATES = load("awx/job_templates.yml")["controller_templates"]
TYPES = load("awx/credential_types.yml")["controller_credential_types"]
RESOURCES = load("awx/resources.yml")
VERBS = sorted(path.name.removesuffix(".meta.yml") for path in ROOT.glob("playbooks/*.meta.yml"))
#: What the modules of awx.awx take, of what is used here.
MODULES = {
    "controller_templates": {
        "name", "description", "organization", "project", "inventory", "execution_environment", "playbook", "job_type", "diff_mode", "credentials",
        "allow_simultaneous", "ask_job_type_on_launch", "ask_tags_on_launch", "ask_limit_on_launch", "survey_enabled", "survey_spec",
    },
    "controller_credential_types": {"name", "description", "kind", "inputs", "injectors"},
    "controller_execution_environments": {"name", "description", "image", "pull"},
    "controller_projects": {"name", "description", "organization", "scm_type", "scm_url", "scm_branch"},
    "controller_inventories": {"name", "description", "organization"},
    "controller_inventory_sources": {
        "name", "inventory", "organization", "source", "source_project", "source_path", "overwrite", "overwrite_vars", "update_on_launch",
    },
}  # fmt: skip


def verb_of(template: dict[str, Any]) -> str:
    """The verb that a template starts."""
    return Path(template["playbook"]).stem


def options_of(verb: str) -> dict[str, Any]:
    """The argument spec of a verb."""
    return load(f"playbooks/{verb}.meta.yml")["argument_specs"][verb]["options"]


def answers(question: dict[str, Any]) -> Iterator[Any]:
    """What AWX passes for a question: each choice, or a text and, where none is required, the empty one."""
    if question["type"] == "multiplechoice":
        yield from question["choices"]
    elif question["type"] in ("integer", "float"):
        yield 7
    else:
        yield "one,two" if "commas" in question["question_description"] else "some-text"
        if not question["required"]:
            yield ""


def refused(options: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """What Ansible's own validation says of the variables, as ansible.builtin.validate_argument_spec calls it."""
    return ArgumentSpecValidator(options).validate(given, validate_role_argument_spec=True).error_messages


def test_the_templates_are_those_of_the_specs() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/docs-awx", "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_verb_has_a_template_or_a_reason() -> None:
    left_out = re.search(r"^NOT_HERE = \{\n(.*?)^\}", (ROOT / "scripts/docs-awx").read_text(encoding="utf-8"), re.M | re.S)
    assert left_out
    reasons = re.findall(r'^    "([a-z_]+)": "[^"]{20,}",$', left_out[1], re.M)
    assert sorted([*map(verb_of, TEMPLATES), *reasons]) == VERBS


@pytest.mark.parametrize("template", TEMPLATES, ids=verb_of)
def test_whatever_a_survey_answers_passes_the_verb(template: dict[str, Any]) -> None:
    # A release is the inventory's: a question that nobody answers would be an empty one, and win over it.
    options = {name: option for name, option in options_of(verb_of(template)).items() if name not in {"kafka_version", "flink_version"}}
    survey = template.get("survey_spec", {"spec": []})["spec"]
    assert [question["variable"] for question in survey] == list(options)
    assert template["survey_enabled"] == bool(options)
    for given in itertools.product(*(list(answers(question)) for question in survey)):
        assert not refused(options, dict(zip(options, given, strict=True)))
    # What AWX fills in by itself: the defaults, and nothing for what has none.
    alone = {question["variable"]: question.get("default", "some-text") for question in survey if "default" in question or question["required"]}
    assert not refused(options, alone)
    for question in survey:
        if question["type"] == "multiplechoice":
            assert refused(options, {**alone, question["variable"]: "none of them"})
        if question["required"]:
            assert refused(options, {name: value for name, value in alone.items() if name != question["variable"]})


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_checks_its_arguments_before_anything_else(verb: str) -> None:
    plays = load_plays(verb)
    if verb == "site":
        assert set(plays[0]["vars"]["validate_of"]) == {"site", "validate", "verify"}
    else:
        assert (plays[0].get("validate_argspec"), plays[0]["tags"], plays[0]["hosts"]) == (verb, ["always"], "{{ ansible_limit | default('localhost') }}")
        parts = {task.get("ansible.builtin.import_tasks"): task.get("vars", {}) for task in plays[0]["tasks"]}
        assert verb in parts["parts/arguments.yml"]["arguments_of"]
        # These say in words of their own what they do not take.
        assert verb in {"plan", "upgrade", "validate", "verify"} or {"parts/whole.yml", "parts/reached.yml"} & set(parts)
    text = (ROOT / f"playbooks/{verb}.yml").read_text(encoding="utf-8")
    told = set(re.findall(r"-e (?:'\{\")?([a-z_]+)\b(?==|\")", text.partition("- name:")[0]))
    assert told <= set(options_of(verb)), "the head of the playbook and its argument spec say the same"


def load_plays(verb: str) -> list[dict[str, Any]]:
    """The plays of a verb."""
    return yaml.load((ROOT / f"playbooks/{verb}.yml").read_text(encoding="utf-8"), Loader)


@functools.lru_cache(maxsize=1)
def words() -> set[str]:
    """Every name that stands in a task, a role's variables or a plugin."""
    files = [path for top in ("playbooks", "roles/*/tasks", "roles/*/vars", "roles/*/defaults", "plugins/action") for path in ROOT.glob(f"{top}/**/*")]
    texts = (path.read_text(encoding="utf-8") for path in files if path.suffix in (".yml", ".py") and not path.name.endswith(".meta.yml"))
    return set().union(*(re.findall(r"\w+", text) for text in texts))


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_is_read_somewhere(verb: str) -> None:
    assert not set(options_of(verb)) - words()


@pytest.mark.parametrize("component", ["flink", "kafka"])
def test_an_upgrade_refuses_a_release_that_the_role_does_not_know_and_an_empty_one(component: str) -> None:
    name = f"{component}_version"
    own = load(f"roles/{component}/meta/argument_specs.yml")["argument_specs"]["main"]["options"][name]
    option = options_of("upgrade")[name]
    assert option["choices"] == own["choices"]
    assert refused({name: option}, {name: ""}) and not refused({name: option}, {name: own["default"]})


def test_every_entry_is_an_argument_of_its_module() -> None:
    data = {**RESOURCES, "controller_templates": TEMPLATES, "controller_credential_types": TYPES}
    for kind, entries in data.items():
        assert entries
        for entry in entries:
            assert set(entry) <= MODULES[kind], kind


def test_a_secret_is_a_credential_without_a_default() -> None:
    for kind in TYPES:
        fields = {field["id"]: field for field in kind["inputs"]["fields"]}
        assert not [name for name, field in fields.items() if "default" in field]
        assert set(kind["inputs"]["required"]) == set(fields)
        assert [name for name, field in fields.items() if field.get("secret")]
        used = set(re.findall(r"\{\{ ([a-z_]+) \}\}", yaml.safe_dump(kind["injectors"], width=10_000)))
        assert used == set(fields), "what is asked for is used, and nothing else"
    questions = [question for template in TEMPLATES for question in template.get("survey_spec", {"spec": []})["spec"]]
    assert questions
    assert not [question for question in questions if re.search(r"passw|token|secret_id|private", question["variable"])]
    assert {name for template in TEMPLATES for name in template["credentials"]} == {kind["name"] for kind in TYPES}


def test_the_names_are_the_sites_own() -> None:
    for template in TEMPLATES:
        assert {template[key] for key in ("project", "inventory", "organization", "execution_environment")} == {
            "{{ hnai_awx_project }}", "{{ hnai_awx_inventory }}", "{{ hnai_awx_organization }}", "{{ hnai_awx_execution_environment }}",
        }  # fmt: skip
    plan = next(template for template in TEMPLATES if verb_of(template) == "plan")
    assert plan["job_type"] == "check"
