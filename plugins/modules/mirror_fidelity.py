#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Is what the store holds what the server said?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_fidelity
short_description: Whether the store holds what the plant's servers said
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - With O(action) V(record), on the mirror's host. Reads some tags of each OPC UA source with a second session of the mirror's identity for
    O(window) seconds, each tag twice per sample, inside the load budget. The session is named, closed in every case, and not opened with fewer
    than two left at the server, or while the collector is not connected. It is a reading session; nothing else can be sent by it.
  - With O(action) V(watch), where the store can be asked, at the same time. Polls the store every second for which samples of these tags it shows.
  - With O(action) V(join), where the store can be asked. Joins O(recordings) with the store's samples by source time, cut to 1 ms.
  - Per source, MFD1 values in the declared unit (1e-9), MFD2 statuses, MFD3 samples that the store misses, MFD4 samples that the server never
    gave, MFD5 whether enough was recorded, and the verdict MFD0, V(faithful), V(unfaithful) or V(inconclusive). Samples that a gap's mark of the
    collector explains are listed, not held against the store.
  - MFD6 is apart from that verdict. P95 of how long a sample of a tag took, from the reads between which the server had it to the polls between
    which the store showed it, against O(freshness_p95). What was there at the first poll, and what the server dates an hour off, is not seen to arrive.
options:
  action:
    description: What to do here.
    type: str
    choices: [record, watch, join]
    required: true
  sources:
    description: Entries of C(hnai_ot_sources). Others than C(protocol) V(opcua) are left out.
    type: list
    elements: dict
    required: true
  tags:
    description: How many tags of each source, strings left out.
    type: int
    default: 20
  seed:
    description: Chooses the tags; the same number chooses the same ones.
    type: int
    default: 1
  units:
    description: Conversions, C(from>to) to C(scale) and C(offset), as the normalising job has them.
    type: dict
    default: {}
  window:
    description: Seconds to record, or to watch.
    type: float
    default: 300.0
  settle:
    description: Seconds to wait before the store is asked, so that the last samples have arrived.
    type: float
    default: 15.0
  application_uri:
    description: ApplicationUri of the collector's certificate (V(record)).
    type: str
  recordings:
    description: What V(record) returned, by source (V(join)).
    type: dict
    default: {}
  shown:
    description: What V(watch) returned, by source (V(join)). Without it MFD6 is inconclusive.
    type: dict
    default: {}
  freshness_p95:
    description: Seconds that P95 of a tag's samples may take (V(join)).
    type: float
    default: 10.0
  url:
    description: Address of the store (V(watch) and V(join)).
    type: str
  ca_file:
    description: Certificate authorities for O(url).
    type: path
  username:
    description: Name for the login.
    type: str
    default: dashboard
  credential:
    description: The login's password, a systemd credential of this host (V(watch) and V(join)).
    type: dict
    suboptions:
      component:
        description: Component of the credential.
        type: str
        required: true
      name:
        description: Name of the credential.
        type: str
        required: true
  state_dir:
    description: Where the audit keeps when this host dialled.
    type: path
    default: /var/lib/hnai/ot_audit
  probe_env:
    description: Virtual environment with asyncua.
    type: path
    default: /opt/hnai/probe/current
extends_documentation_fragment: hnai.platform.verdict
attributes:
  check_mode:
    description: Changes nothing at a server or a store anyway, and reads in check mode too.
    support: full
"""

EXAMPLES = r"""
- name: Record what the servers say
  hnai.platform.mirror_fidelity:
    action: record
    sources: "{{ hnai_ot_sources }}"
    application_uri: "urn:hnai:{{ hnai_site }}:{{ inventory_hostname }}:ot_collector"
  async: 480
  poll: 0
  register: recording

- name: See meanwhile what the store shows
  hnai.platform.mirror_fidelity:
    action: watch
    sources: "{{ hnai_ot_sources }}"
    window: 330
    url: https://data1:8428
    ca_file: /etc/hnai/canary/tls/ca.pem
    credential: {component: canary, name: dashboard}
  delegate_to: stream1
  register: seen

- name: Take what they said
  ansible.builtin.async_status:
    jid: "{{ recording.ansible_job_id }}"
  register: said
  until: said is finished
  retries: 30
  delay: 5

- name: Compare it with the store
  hnai.platform.mirror_fidelity:
    action: join
    sources: "{{ hnai_ot_sources }}"
    recordings: "{{ said.recordings }}"
    shown: "{{ seen.shown }}"
    units: "{{ {'psi>kPa': {'scale': '6.894757293168361', 'offset': '0'}} }}"
    url: https://data1:8428
    ca_file: /etc/hnai/canary/tls/ca.pem
    credential: {component: canary, name: dashboard}
  delegate_to: stream1
"""

RETURN = r"""
recordings:
  description: By source, what it said (V(record)).
  returned: when O(action=record)
  type: dict
shown:
  description: By source, what it showed when, or why it was not looked at (V(watch)).
  returned: when O(action=watch)
  type: dict
status:
  description: V(pass), V(fail), V(inconclusive) or V(skipped) (V(join)).
  returned: when O(action=join)
  type: str
checks:
  description: The checks, one by one (V(join)).
  returned: when O(action=join)
  type: list
  elements: dict
summary:
  description: One line (V(join)).
  returned: when O(action=join)
  type: str
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Options, Places, sources_of
from ansible_collections.hnai.platform.plugins.module_utils.opcua.fidelity import Recording, Shown, Tag, choose, span_ms, watch
from ansible_collections.hnai.platform.plugins.module_utils.opcua.fidelity_host import Recorder
from ansible_collections.hnai.platform.plugins.module_utils.opcua.fidelity_judge import Stored, judge, judge_lag
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing, activate
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.access import connect
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Store, StoreError
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, Report, finish, start

EVERY_S = 1.0
"""Between two looks at the store."""


def recorded(params: Mapping[str, Any], host: Host, write: bool) -> dict[str, Any]:
    """Recordings by source."""
    with contextlib.suppress(ProbeMissing):
        activate(Path(params["probe_env"]))
    options = Options(application_uri=params["application_uri"], environment="", exceptions=[], accept_drift=[], deadline_s=params["window"] + 120.0,
                      write_state=write)
    recorder = Recorder(Report("ot_collector", deadline_s=None), Places(state=Path(params["state_dir"])), options, host)
    result = {}
    for source in sources_of(params["sources"]):
        result[str(source["id"])] = dataclasses.asdict(recorder.take(source, chosen(params, source), params["window"], budget_of(source)))
    return result


def chosen(params: Mapping[str, Any], source: Mapping[str, Any]) -> list[Tag]:
    """The tags of a source, the same on both sides; only the comparison needs units."""
    units = params["units"] if params["action"] == "join" else _AnyUnit()
    return choose(source.get("tags") or [], params["tags"], params["seed"], units, budget_of(source))


def budget_of(source: Mapping[str, Any]) -> float:
    """Readings per second that the source bears."""
    return float((source.get("limits") or {}).get("reads_per_second", 50))


class _AnyUnit(dict[str, Any]):
    """A conversion for every pair: who records or watches needs none."""

    def __missing__(self, key: str) -> dict[str, Any]:
        return {"scale": 1, "offset": 0}


def watched(params: Mapping[str, Any], opened: Callable[[], Store]) -> dict[str, Any]:
    """{source: {"shown": what `watch` found, "problem": why it ended before its time, or nothing}}; the sources side by side."""
    begin = time.time()

    def one(source: Mapping[str, Any]) -> dict[str, Any]:
        shown: Shown = {}
        names = [tag.name for tag in chosen(params, source)]
        selector = '{source="%s",__name__=~"(%s):status"}' % (source["id"], "|".join(names))

        def ask() -> dict[str, list[int]]:
            answer = store.export(selector, begin - 5.0, time.time() + 5.0)
            return {str(series.labels["__name__"])[: -len(":status")]: list(series.times) for series in answer if set(series.labels) == {"__name__", "source"}}

        try:
            store = opened()
            watch(ask, shown, params["window"], EVERY_S, time.time, time.sleep)
        except (StoreError, ValueError) as error:
            return {"shown": shown, "problem": "the store could not be asked: %s" % error}
        return {"shown": shown, "problem": ""}

    sources = sources_of(params["sources"])
    with ThreadPoolExecutor(max_workers=max(1, len(sources))) as pool:
        return dict(zip((str(source["id"]) for source in sources), pool.map(one, sources)))


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            action={"type": "str", "choices": ["record", "watch", "join"], "required": True},
            sources={"type": "list", "elements": "dict", "required": True},
            tags={"type": "int", "default": 20},
            seed={"type": "int", "default": 1},
            units={"type": "dict", "default": {}},
            window={"type": "float", "default": 300.0},
            settle={"type": "float", "default": 15.0},
            application_uri={"type": "str"},
            recordings={"type": "dict", "default": {}},
            shown={"type": "dict", "default": {}},
            freshness_p95={"type": "float", "default": 10.0},
            url={"type": "str"},
            ca_file={"type": "path"},
            username={"type": "str", "default": "dashboard"},
            credential={"type": "dict", "options": {"component": {"type": "str", "required": True}, "name": {"type": "str", "required": True}}},
            state_dir={"type": "path", "default": "/var/lib/hnai/ot_audit"},
            probe_env={"type": "path", "default": "/opt/hnai/probe/current"},
        ),
        required_if=[("action", "record", ["application_uri"]), ("action", "watch", ["url", "credential"]), ("action", "join", ["url", "credential"])],
        supports_check_mode=True,
    )
    params, host = module.params, Host()
    if params["action"] == "record":
        module.exit_json(changed=False, recordings=recorded(params, host, not module.check_mode))
    if params["action"] == "watch":
        module.exit_json(changed=False, shown=watched(params, lambda: connect(params, lambda: 20.0, host)))
    report = start(module, "ot_collector", version="1")
    time.sleep(params["settle"])
    for source in sources_of(params["sources"]):
        name = str(source["id"])
        given = params["recordings"].get(name)
        recording = Recording(**given) if given else Recording(error="it was not recorded")
        try:
            tags = chosen(params, source)
        except KeyError as error:
            module.fail_json(msg="units: there is no conversion %s, which a tag of %s needs; give it as the normalising job has it" % (error, name))

        def stored(name: str = name, recording: Recording = recording) -> Stored:
            store = connect(params, lambda: report.timeout(20), host)
            first, last = span_ms(recording)
            answer = store.export('{source="%s"}' % name, first / 1000.0 - 5.0, last / 1000.0 + 5.0)
            # What the writer writes has these two labels; a namesake with one more is somebody else's.
            return {str(one.labels["__name__"]): dict(zip(one.times, one.values)) for one in answer if set(one.labels) == {"__name__", "source"}}

        judge(report, name, recording, tags, stored)
        seen = params["shown"].get(name) or {"shown": {}, "problem": "nobody watched the store meanwhile"}
        judge_lag(report, name, recording, tags, seen["shown"], seen["problem"], params["freshness_p95"])
    if not report.checks:
        report.skip("MFD0", "the store holds what the server said", "no OPC UA source is declared")
    finish(module, report)


if __name__ == "__main__":
    main()
