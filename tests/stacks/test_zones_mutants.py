# SPDX-License-Identifier: Apache-2.0
"""The mutation score of the static judgement: every operator on the rulesets of the lab's inventory, in network namespaces of this machine."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "unit")]
import mutants
from namespaces import lacks

from ansible_collections.hnai.platform.plugins.module_utils.firewall import digest, normalise
from ansible_collections.hnai.platform.plugins.module_utils.zones import expectation, nft, rules, ruleset
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.plugin_utils.site import collect

#: At most so many of every operator on every host; what is drawn changes with the seed, so several seeds see several draws.
EACH = 2
HOSTS = ("router", "edge1", "kafka1", "data1", "jump1")
#: Kernel modules that not every machine has: an operator may be left without a mutant for them alone.
MODULES = {"flowtable"}
#: Operators that a host without antispoofing has no place for.
ROUTERS = {"late antispoof", "antispoof left early"}
#: After so many a word is said.
SAY = 100


@pytest.fixture(scope="module")
def site() -> Site:
    """The model of the lab's inventory; the lab itself is not needed."""
    lab = sys.modules["lab_conftest"].Lab()
    model = Site.from_dict(collect(lab.data["_meta"]["hostvars"], {**lab.groups, "managed": lab.groups["managed"]}))
    assert not model.problems
    return model


def registry(site: Site) -> list[tuple[str, int]]:
    """Every port that a conduit or a contract knows, and one that nobody does."""
    found = {(conduit.service.proto, conduit.service.port) for conduit in site.conduits} | {("tcp", 4444)}
    found |= {(listener["proto"], listener["port"]) for contract in site.contracts.values() for listener in contract["listens"]}
    return sorted((proto, port) for proto, port in found if proto in ("tcp", "udp"))


def places(site: Site) -> dict[int, list[str]]:
    """Every address of the model, and a stranger."""
    found: dict[int, list[str]] = {4: ["198.51.100.7"], 6: ["2001:db8::7"]}
    for node in site.nodes.values():
        for v4, v6 in [(node.v4, node.v6), *((leg.v4, leg.v6) for leg in node.interfaces), *node.seconds.values()]:
            found[4] += [v4] if v4 else []
            found[6] += [v6] if v6 else []
    return {version: sorted(set(texts)) for version, texts in found.items()}


@pytest.mark.scenario("zones-mutants")
def test_every_mutant_is_found_or_proven_to_be_none(site: Site, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert not lacks(), f"this machine lacks {lacks()}"
    originals = {host: nft.ruleset(site, host) for host in HOSTS}
    expected = {host: expectation.expectation(site, host) for host in HOSTS}
    everything = [mutant for host in HOSTS for mutant in mutants.mutants(host, originals[host])]
    chosen = mutants.drawn(everything, seed, EACH)
    read = mutants.Nft.read([*originals.values(), *(one.text for one in chosen)])
    plain = dict(zip(originals, read[: len(originals)]))
    for host, listing in plain.items():
        assert not isinstance(listing, str), listing
        judgement = rules.judge(listing[0], expected[host], "enforce", (), lambda _name: None)
        assert not judgement.all and not judgement.unknown, (host, [one.line for one in judgement.all])

    refused: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    by: Counter[str] = Counter()
    open_ones: list[str] = []
    equivalents: list[str] = []
    missed: list[str] = []
    seen = {digest(normalise(listing[0])) for listing in plain.values()}
    for number, (mutant, listing) in enumerate(zip(chosen, read[len(originals) :])):
        if number % SAY == 0:
            with capsys.disabled():
                print("%d of %d mutants" % (number, len(chosen)), flush=True)
        if isinstance(listing, str):
            refused[mutant.operator] += 1
            continue
        fingerprint = digest(normalise(listing[0]) + mutant.host + str(sorted(ruleset.dormant(listing[1]))))
        if fingerprint in seen:
            continue
        seen.add(fingerprint)
        taken[mutant.operator] += 1
        judgement = rules.judge(listing[0], expected[mutant.host], "enforce", (), lambda _name: None, None, ruleset.dormant(listing[1]))
        sure = [one for one in judgement.all if one.sure]
        if sure:
            by[sure[0].kind] += 1
        elif judgement.all or judgement.unknown:
            open_ones.append(mutant.name)
        else:
            try:
                proof = prove(plain[mutant.host], listing, site, expected[mutant.host])
            except ValueError as error:
                proof = mutants.Proof(0, "it cannot be proven: %s" % error)
            (missed if proof.differs else equivalents).append("%s: %d packets%s" % (mutant.name, proof.compared, "; " + proof.differs if proof.differs else ""))
    total = sum(taken.values())
    found = total - len(missed) - len(equivalents)
    with capsys.disabled():
        print(
            "\nHNAI_SEED=%d: %d operators, %d distinct mutants that the kernel takes (of %d), %d not taken: %s"
            % (seed, len(taken), total, len(everything), sum(refused.values()), dict(refused))
        )
        print("found: %d, of these named as open because a construct is not decided by the packet: %d; by kind: %s" % (found, len(open_ones), dict(by)))
        for one in equivalents:
            print("equivalent, over the packet space of the port registry: %s" % one)
        for one in missed:
            print("MISSED: %s" % one)
        print("mutation score: %.1f %% (%d of %d)" % (100.0 * found / (total - len(equivalents)), found, total - len(equivalents)))
    assert not missed
    assert total >= 200 and len(taken) >= 12
    assert set(mutants.OPERATORS) - set(taken) <= MODULES | ROUTERS, sorted(set(mutants.OPERATORS) - set(taken))


def prove(first: Any, second: Any, site: Site, expected: dict[str, Any]) -> mutants.Proof:
    """Are two listings the same to every packet of the registry?"""
    return mutants.equivalent(first[0], second[0], places(site), registry(site), expected)
