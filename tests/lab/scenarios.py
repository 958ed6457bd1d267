# SPDX-License-Identifier: Apache-2.0
"""The scenarios: tests that take minutes, start from the standing lab, and leave a dated result.

A test with `@pytest.mark.scenario(NAME)` runs only by `make scenario NAME=…` (and in `make test-all`, in this order); one without
the mark runs in every `make test`. The result lies in `<hnai_state_dir>/scenarios/<name>/<UTC>.json`.
"""
from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Name → what it shows.
SCENARIOS = {
    "parts": "each part of the data path stopped in turn, and servers that change or never answer",
    "outage": "a broker's host away for two minutes, then the shipper cut off from Kafka for two minutes",
    "outage-broker": "ten minutes without a broker's host, two of them without a second one, the shipper killed meanwhile: nothing acknowledged is lost",
    "outage-link": "ten minutes without the edge's way to Kafka, shipper killed, its host rebooted meanwhile: the store is the journals but for marked gaps",
    "outage-stream": "ten minutes without the stream processor's host, a broker killed and its host rebooted meanwhile: the store is the journals",
    "outage-store": "ten minutes without the stores' host, a broker killed and its host rebooted meanwhile: the store is the journals",
    "firewall-live": "rules that lock out or cut what carries come back, a removed conduit's session ends and no other, observe lists what would be cut",
    "kafka-faults": "each check of Kafka fails for its own fault on the real cluster, and is over after the repair",
    "kafka-roll": "a change rolls through the brokers under load, and a broken broker is repaired before a healthy one is touched",
    "flink": "dead letters, late records and alerts; jobs that are upgraded, go back, or meet a fault",
    "stores": "each check of both stores fails for its own fault; a kill of both loses nothing that was acknowledged",
    "checks": "faults of the MQTT broker, the bridge, OpenBao and a PLC's clock, each named by its own check",
    "host-faults": "faults of a host, a shipper, the collector, the observer and the MQTT broker's door, each named by its own check",
    "host-faults-2": "disks, queues, a password, a pipe, doors of the stores, the canary: faults that host-faults leaves, each named by its own check",
    "liveness": "checks that no other scenario breaks: gaps, an edge node, doors, a lost only copy, a conduit that does not carry, the judge's own",
    "ot-collector": "an output pointed at the plant, and a changed configuration whose endpoint would let the mirror write",
    "ot-audit": "the audit of the plant's OPC UA server, with and without a right too many",
    "ot-probes": "under tokens: the Modbus filter against its canary, and the write that the OPC UA server refuses to the mirror",
    "zones": "the network is the model, twenty times without a false result; a router and hosts opened by hand, a host away, a killed run",
    "zones-stand": "the same on a site in network namespaces with the generated rules, twenty times and under load; needs root, no lab",
    "opcua-stacks": "the audit against OPC UA servers of three makers with planted faults, on the wire and in its speed; needs no lab",
    "opcua-fuzz": "the audit's decoder against hostile bytes, guided by coverage, for HNAI_FUZZ_SECONDS; needs no lab",
    "stand-ot": "servers, Modbus filters and collectors on loopback with a fault each, which the lab's plant cannot have; needs no lab but its artifacts",
    "model-fuzz": "more than 10 000 damaged site models: none ends in a traceback, and none with a broken rule passes; needs no lab",
    "stand-store": "each way in which a mirror can be unfaithful, on a real OPC UA server and store; a store that hides, a way in too wide; needs no lab",
    "stand-mqtt": "a real Mosquitto with a live view of which one source is old or to come, and with a right to read that its file does not say; needs no lab",
    "stand-zones": "faults of a site in network namespaces that the lab cannot have: rules, routes, datagrams, sessions, pairs not tried; needs root, no lab",
    "stand-kafka": "three Kafka nodes on loopback: broken quorums, old levels, misplaced replicas, open doors, acknowledged records gone; needs no lab",
    "stand-flink": "Flink with gateway and keeper on loopback: event time that stands still or runs away, lost, doubled and hand-made jobs; needs no lab",
    "report-screens": "the report with drawing and evidence, as a browser shows it on a desktop and on a phone; screenshots are kept; needs no lab",
    "zones-mutants": "every mutant of the lab's generated rulesets is found by the static judgement, or proven to do the same to every packet; needs no lab",
    "mqtt-acl": "the audit of who could command by MQTT, with a right too many and a line too few at the broker",
    "sparkplug": "a line's Sparkplug B stream, decoded, is its own journal: line, decoder and broker killed, aliases changed, numbers left out",
    "opcua-trust": "the plant's server discovered; the collector's OPC UA certificate replaced when the plant has accepted the new one",
    "rotate": "passwords rotated under the stream, the controller killed in between; OpenBao sealed and out of reach, before and meanwhile",
    "rotate-all": "every secret and certificate rotated at once under continuous clients: no failed login but the rotation's own, no record lost",
    "access": "the run's own SSH key, its identities in OpenBao and the certificates of the hosts' SSH keys replaced, the controller killed in each step",
    "authority": "the intermediate authority and every certificate replaced under the stream, the controller killed in between; no client's handshake fails",
    "openbao-keys": "keyring, shares, PGP shares and authorities of an OpenBao on loopback, killed in between; snapshots restored, the site's own too",
    "stand-bao": "an OpenBao on loopback as its role makes it: faults of the server and of its secrets, each named by its own check; needs no lab",
    "stand-vault": "HashiCorp Vault on loopback, as stand-bao asks a store of somebody else's: every rotation to its end, killed in between; needs no lab",
    "secrets": "no secret stands in a file, journal, argument, environment or log where nobody expects it, after a rotation that says all it can",
    "upgrade": "Kafka and Flink to another release and back under load, from a site that the older releases made",
    "broker-replace": "a broker's disk is lost and replaced under load, a replacement is interrupted three times, two of three brokers are lost and come back",
    "cold-start": "all hosts killed at once come back in any order with OpenBao sealed; the plant cut off for two minutes, its server changed meanwhile",
    "errors": "full disks, a sealed OpenBao, an ended authority, a wrong clock, a taken port, an unmounted directory: one error each, with its remedy",
    "installed": "the tarball in an empty path, another directory, an empty HOME, a private data directory: the site is judged as ever",
    "plan": "a changed setting of Kafka: the plan names the file, three restarts one at a time and their gate, and no host is changed",
    "decommission": "QuestDB and its writer are taken out of the site: nothing is left, the verdict passes, and site.yml installs them again",
    "external": "a store, a cluster, a broker and an OpenBao that somebody else runs, on a host of ours or at an address: nothing is installed or restarted",
    "drift": "21 things changed by hand at once: the check names each and changes nothing, one run repairs them and nothing else",
    "bare-check": "a check on freshly made hosts predicts files, packages, users and units of the run that follows, and names what it cannot know",
    "swap": "Debian releases exchanged: allowed where the contracts allow both, refused where one says 13 only; the hosts are those of twin; needs no lab",
    "twin": "a second site of other names, addresses and Debian releases, with five brokers, out of its inventory alone; the lab stands again afterwards",
    "kill": "the controller killed ten times over the whole run, in a broker's restart, in a change of the firewall: each changed service restarts once",
    "first-kill": "the controller killed in the middle of the first deployment: the next run converges",
}
Z = "%Y%m%dT%H%M%SZ"


def result(name: str, started: datetime.datetime, ended: datetime.datetime, tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a scenario leaves: {scenario, shows, commit, started, ended, verdict, tests: [{id, outcome, seconds, output}]}."""
    outcomes = {test["outcome"] for test in tests}
    return {
        "scenario": name,
        "shows": SCENARIOS[name],
        "started": started.strftime(Z),
        "ended": ended.strftime(Z),
        "verdict": "pass" if outcomes == {"passed"} else "fail",
        "tests": list(tests),
    }


def commit(root: Path) -> str:
    """The revision that ran, with a mark where the work tree differs from it."""
    run = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=root, check=False, capture_output=True, text=True, timeout=20)
    return run.stdout.strip() or "no revision"


def leave(folder: Path, found: dict[str, Any]) -> Path:
    """Writes a result."""
    path = folder / "scenarios" / found["scenario"] / (found["started"] + ".json")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path
