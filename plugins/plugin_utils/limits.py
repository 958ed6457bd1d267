# SPDX-License-Identifier: Apache-2.0
"""What an option of a role may be beside its type: numbers, sizes, lengths of time and texts, as whoever reads them takes them.

Its role, its unit or its server would refuse the rest: one after the other, on a host, in the middle of a run. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.host.keys import parse
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.topics import valid_filter
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import duration_s

#: A length of time, as a text; an option whose default is one is one.
LASTS = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w|y))+")
_MOST = 1e15
#: (least, most), as descriptions and products have them; any other number is one from 0, a percentage one to 100.
_NUMBERS: dict[str, tuple[float, float]] = {
    "canary_completeness": (0.000001, 1), "canary_period_s": (0.05, 60), "canary_window_s": (1, 86400),
    "firewall_revert_after_s": (5, 3600), "flink_window_s": (1, 99), "flink_out_of_order_s": (0, 99), "flink_slots": (1, 1024),
    "flink_checkpoint_interval_ms": (100, 3600000), "flink_checkpoints_retained": (1, 100), "flink_state_ttl_ms": (1000, _MOST),
    # Below stand Debian's own accounts, 0 is root.
    "host_operators[].uid": (1000, 4294967293),
    "host_max_time_error_s": (0.000001, _MOST), "kafka_default_partitions": (1, 10000), "kafka_leader_rebalance_s": (1, _MOST),
    # KIP-1030: 1 MiB at least. A session that never has to log in again outlives its password.
    "kafka_segment_bytes": (1048576, 2147483647), "kafka_scram_iterations": (8192, 16384), "kafka_reauth_ms": (10000, 86400000),
    "kafka_limit_nofile": (1024, 1048576), "kafka_offsets_retention_minutes": (1, 2147483647), "kafka_stop_timeout_s": (5, 3600),
    # 0 would be without a limit (mosquitto.conf(5)).
    "mosquitto_max_inflight_messages": (1, 65535), "mosquitto_max_packet_bytes": (1024, 268435455), "mosquitto_autosave_s": (1, 3600),
    "mosquitto_session_expiry_days": (1, 36500), "modbus_filter_clients": (1, 64), "openbao_key_shares": (1, 255), "questdb_workers": (1, 256),
    "questdb_native_mib": (256, _MOST), "victoriametrics_memory_percent": (1, 90), "victoriametrics_min_free_mib": (1, _MOST),
}  # fmt: skip
#: Options that say with -1: for ever.
_FOR_EVER = ("kafka_retention_ms", "kafka_retention_bytes")
#: Sizes of memory as a JVM takes them, what they look like, and below which the program does not start (Flink: FLIP-49, FLIP-116).
_SIZED, _SIZE = re.compile(r"_(heap|memory)$"), re.compile(r"([1-9][0-9]{0,15})([kKmMgG]?)")
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_LEAST_SIZE = {"flink_jobmanager_memory": "768m", "flink_taskmanager_memory": "1024m", "flink_gateway_heap": "64m", "kafka_heap": "128m", "questdb_heap": "64m"}
#: (shape, least and most seconds). OpenBao's are reckoned by us, Telegraf and the store read Go's.
_GO = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+")
_TIMES = {
    **{f"openbao_{life}_ttl": (re.compile(r"[0-9]+[smhdwy]"), 1, _MOST) for life in ("root", "intermediate", "leaf", "identity")},
    **{f"telegraf_{name}": (_GO, 0.001, _MOST) for name in ("interval", "flush_interval")},
    "questdb_retention": (re.compile(r"[0-9]+[hdw]"), 3600, _MOST), "victoriametrics_retention": (re.compile(r"[0-9]+[hdwy]"), 86400, _MOST),
    "victoriametrics_latency_offset": (_GO, 0, 1), "victoriametrics_memory_flush": (_GO, 2, _MOST),
}  # fmt: skip


def _address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return not text
    return True


def _shaped(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


_ACCOUNT = (_shaped(r"(?!root$)[a-z_][a-z0-9_-]{0,31}"), "write the name of an account: small letters, digits, _ and -, not root")
_PERSON = (_shaped(r"(?!root$|hnai-)[a-z_][a-z0-9_-]{0,31}"), f"{_ACCOUNT[1]}, and none of ours (hnai-…)")
_ID = (_shaped(r"([A-Za-z0-9_-]{22})?"), "write 22 characters of base64 as kafka-storage random-uuid gives them, or leave it empty")
_DISK = (_shaped(r"[0-9]+[KMGT]?"), "write a size as journald.conf(5) has it, such as 256M")
_HTTPS = (_shaped(r"https://[^/\s@]+(/\S*)?"), "write https://HOST:PORT")
_KEY = (lambda text: len(parse(text)) == 1, "write one public key, as a line of authorized_keys has it")
_MOUNT = (_shaped(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"), "write letters, digits, - and _")
_ROUTE = (_shaped(r"/\S*"), "write a regular expression over the whole path, from / on")
_TABLE = (_shaped(r"[A-Za-z_][A-Za-z0-9_]{0,62}"), "write letters, digits and _")
_USER = (_shaped(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"), "write letters, digits, . _ -")
#: (whether a text is one, remedy), by key; [] stands for each entry of a list.
_TEXTS: dict[str, tuple[Callable[[str], bool], str]] = {
    "canary_store_url": _HTTPS, "telegraf_store_url": _HTTPS, "telegraf_questdb_url": _HTTPS,
    "firewall_foreign_tables[]": (_shaped(r"(inet|ip|ip6|arp|bridge|netdev) \S+"), "write family and name, such as inet docker"),
    "host_access_keys[]": _KEY, "host_operators[].keys[]": _KEY, "host_operators[].name": _PERSON, "modbus_filter_mirror_users[]": _ACCOUNT,
    "host_journal_max": _DISK, "host_journal_keep_free": _DISK,
    "host_ssh_max_startups": (_shaped(r"[0-9]+(:[0-9]+:[0-9]+)?"), "write it as sshd_config(5) has it, such as 30:30:120"),
    "kafka_bind_address": (_address, "write an address of the host, or leave it empty"), "kafka_cluster_id": _ID, "kafka_directory_id": _ID,
    "kafka_rack": (_shaped(r"\S*"), "write a name without spaces"),
    "mosquitto_clients[].username": _USER, "questdb_users[].username": _USER, "victoriametrics_users[].username": _USER,
    "mosquitto_command_patterns[]": (valid_filter, "write a topic filter of MQTT: + and # stand for whole levels, # last"),
    "openbao_kv_mount": _MOUNT, "openbao_pki_mounts.root": _MOUNT, "openbao_pki_mounts.intermediate": _MOUNT,
    "openbao_ssh_host_mount": (_shaped(r"([A-Za-z0-9][A-Za-z0-9_-]{0,62})?"), "write letters, digits, - and _, or leave it empty"),
    "ot_collector_application_uri": (_shaped(r"[A-Za-z][A-Za-z0-9+.-]*:\S+"), "write a URI, such as urn:site:host:ot_collector"),
    "questdb_table": _TABLE, "telegraf_questdb_table": _TABLE, "questdb_users[].paths[]": _ROUTE, "victoriametrics_users[].paths[]": _ROUTE,
}  # fmt: skip


def described(option: Mapping[str, Any]) -> str:
    """A description is a text, or a list of them."""
    said = option.get("description") or ""
    return " ".join(" ".join([said] if isinstance(said, str) else map(str, said)).split())


def beyond(key: str, option: Mapping[str, Any], value: Any) -> tuple[str, str]:
    """What is wrong with a scalar that is of its option's type, and the remedy; "" and "": nothing. *key*: ``name``, ``name[0].part``."""
    place, text, default = re.sub(r"\[[0-9]+\]", "[]", key), str(value), str(option.get("default"))
    said, remedy = f"{repr(value)[:60]} cannot be", ""
    if _SIZED.search(key):
        least = _LEAST_SIZE.get(key, "1")
        if not _SIZE.fullmatch(text):
            said, remedy = f"{repr(value)[:60]} is no size of memory", "write a number with k, m or g behind it, such as 512m"
        elif _bytes(text) < _bytes(least):
            remedy = f"write {least} or more"
    elif LASTS.fullmatch(default):
        shape, least_s, most_s = _TIMES.get(key, (LASTS, 0, _MOST))
        if not LASTS.fullmatch(text):
            said, remedy = f"{repr(value)[:60]} is no length of time", f"write a number and its unit, such as {default}"
        elif not (shape.fullmatch(text) and least_s <= duration_s(text) <= most_s):
            remedy = f"write it as {default}: {described(option)[:160]}"
    elif option.get("type") in ("int", "float") and isinstance(value, (int, float, str)):
        low, high = _NUMBERS.get(place, (0, 100 if place.endswith("_percent") else _MOST))
        if not low <= float(value) <= high and not (place in _FOR_EVER and float(value) == -1):
            remedy = f"write a number from {low:g}" + (f" to {high:g}" if high < _MOST else "")
    elif place in _TEXTS and isinstance(value, str) and not _TEXTS[place][0](value):
        remedy = _TEXTS[place][1]
    return (said, remedy) if remedy else ("", "")


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text)
    return int(found.group(1)) * _UNITS[found.group(2).lower()] if found else 0
