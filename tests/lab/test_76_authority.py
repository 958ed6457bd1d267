# SPDX-License-Identifier: Apache-2.0
"""The intermediate authority and every certificate are replaced while clients connect anew all the time; the controller is killed in between.

Clients trust the root alone, as every client of the site does, and open a fresh TLS connection several times a second to a broker of Kafka, to
the MQTT broker and to the store: no handshake may fail but where the listener itself is restarted (Kafka, through its gate: the other brokers are
asked then). HNAI_SEED repeats the moment of the kill.
"""
from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Lab
from killing import chance, kill_a_run

pytestmark = pytest.mark.scenario("authority")
SEED = 8
RUN_S = 1800
MOMENTS = ("Take the authority", "Verify both chains and refuse a foreign one", "Put it in place", "See what is served, from here", "Retire the one that goes")
#: {host that dials: [listeners by group of alternatives]}. Every group must always have one that answers, and none may show a bad certificate.
CLIENT = """
import json, socket, ssl, sys, time
groups, end = json.loads(sys.argv[1]), time.monotonic() + float(sys.argv[2])
context = ssl.create_default_context(cafile=sys.argv[3])
out = {"handshakes": 0, "refused": [], "away": []}
stop = sys.argv[4]
import os
while time.monotonic() < end and not os.path.exists(stop):
    for group in groups:
        good = 0
        for host, port in group:
            try:
                with socket.create_connection((host, port), timeout=5) as raw, context.wrap_socket(raw, server_hostname=host):
                    good += 1
                    out["handshakes"] += 1
            except ssl.SSLCertVerificationError as error:
                out["refused"].append("%s:%d %s" % (host, port, error))
            except OSError:
                pass
        if not good:
            out["away"].append(group)
    time.sleep(0.3)
print(json.dumps(out))
"""
VANTAGES: dict[str, tuple[str, list[list[tuple[str, int]]]]] = {
    "edge1": ("/etc/hnai/telegraf/tls/ca.pem", [[("kafka1", 9094), ("kafka2", 9094), ("kafka3", 9094)], [("edge1", 8883)]]),
    "data1": ("/etc/hnai/telegraf/tls/ca.pem", [[("data1", 8428)], [("data1", 9000)]]),
}


def argv(lab: Lab) -> list[str]:
    values: dict[str, Any] = {"rotate_secret": "pki/intermediate", "rotate_reason": "request"}
    return ["-i", str(lab.inventory), str(ROOT / "playbooks/rotate.yml"), "-e", json.dumps(values)]


def signing(lab: Lab) -> str:
    """Serial of the authority that signs now."""
    host = lab.groups["openbao"][0]
    code = (
        "import json,ssl,urllib.request;c=ssl.create_default_context(cafile='/etc/hnai/openbao/trust.pem');"
        "print(json.dumps(json.load(urllib.request.urlopen('https://127.0.0.1:8200/v1/pki_int/cert/ca',context=c,timeout=20))['data']['certificate']))"
    )
    return str(lab.python(host, code))


def test_the_intermediate_is_replaced_and_no_handshake_fails(lab: Lab, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = signing(lab)
    seed, _draw = chance(SEED)
    draw = random.Random(f"{seed} pki/intermediate")
    task = draw.choice(MOMENTS)
    print(f"HNAI_SEED={seed}: killed right after {task!r} began")
    stop = "/run/hnai-test-stop"
    for host in VANTAGES:
        lab.run(host, "rm", "-f", stop)
    with ThreadPoolExecutor(len(VANTAGES)) as pool:
        clients = {
            host: pool.submit(lab.python, host, CLIENT, json.dumps(groups), str(RUN_S), bundle, stop, timeout=RUN_S + 60)
            for host, (bundle, groups) in VANTAGES.items()
        }
        try:
            kill_a_run(argv(lab), tmp_path / "killed.log", lambda said: f"TASK [{task}]" in said or f": {task}]" in said, draw.uniform(0, 2))
            run = lab.play("playbooks/rotate.yml", extra={"rotate_secret": "pki/intermediate", "rotate_reason": "request"}, timeout=RUN_S)
        finally:
            for host in VANTAGES:
                lab.run(host, "touch", stop)
        said = {host: client.result(120) for host, client in clients.items()}
    for host in VANTAGES:
        lab.run(host, "rm", "-f", stop)
    assert run.rc == 0, run.stdout[-4000:]
    assert signing(lab) != before
    for host, found in said.items():
        print(host, found["handshakes"], "handshakes", len(found["away"]), "rounds without an answer")
        assert found["handshakes"] > 100
        assert not found["refused"], found["refused"][:5]
        # A reload of Mosquitto and vmauth drops nothing; of Kafka's brokers one is away at a time.
        assert not found["away"], found["away"][:5]
    look = lab.play("playbooks/rotate.yml", "--check", extra={"rotate_secret": "pki/intermediate"}, timeout=300)
    assert look.rc == 0, look.stdout[-3000:]
    journal = next(event["event_data"]["res"]["rotation"] for event in look.events
                   if event["event"] == "runner_on_ok" and event["event_data"]["task"] == "Look at the journal of the authority")
    assert not journal["open"]
    assert journal["last"]["outcome"] == "rotated"
