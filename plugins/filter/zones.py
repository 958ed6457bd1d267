# SPDX-License-Identifier: Apache-2.0
"""Filters over the site model. Each is documented in a file of its own name beside this one."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.hnai.platform.plugins.module_utils.zones import acls, flows, nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.expectation import expectation
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site, SiteError
from ansible_collections.hnai.platform.plugins.plugin_utils import observed
from ansible_collections.hnai.platform.plugins.plugin_utils.site import plain


@functools.lru_cache(maxsize=1)
def _of_text(text: str) -> Site:
    return Site.from_dict(json.loads(text))


def _site(model: Mapping[str, Any] | str) -> Site:
    if isinstance(model, str) and model.startswith("{"):
        return _of_text(str(model))
    if not isinstance(model, Mapping) or "zones" not in model:
        raise AnsibleFilterError("needs the site model: lookup('hnai.platform.site')")
    return Site.from_dict(plain(model))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(model: Mapping[str, Any] | str, *args: Any, **kwargs: Any) -> Any:
        try:
            return function(_site(model), *args, **kwargs)
        except SiteError as error:
            raise AnsibleFilterError(f"no result comes from a site model with problems:\n{error}") from error

    return run


def needed_flows(site: Site) -> list[dict[str, Any]]:
    """Needed flows as dicts."""
    return [
        {
            "source": flow.source,
            "target": flow.target,
            "proto": flow.proto,
            "port": flow.port,
            "component": flow.component,
            "why": flow.why,
        }
        for flow in flows.needed_flows(site)[0]
    ]


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name → callable."""
        return {
            "conduit_expectation": _guarded(expectation),
            "collector_egress": _guarded(nft.collector_egress),
            "kafka_acls": _guarded(acls.kafka_acls),
            "mosquitto_acl": _guarded(acls.mosquitto_acl),
            "needed_flows": _guarded(needed_flows),
            "nft_approved": _guarded(nft.approved),
            "nft_boundaries": _guarded(nft.boundaries),
            "nft_bootstrap": _guarded(nft.bootstrap),
            "nft_proof_hosts": _guarded(nft.proof_hosts),
            "nft_ruleset": _guarded(nft.ruleset),
            "observed_report": _guarded(lambda site, results, at, kept="": observed.report(site, plain(results), str(at), str(kept))),
        }
