# SPDX-License-Identifier: Apache-2.0
"""The record as JUnit: one suite a component, one case a check."""
from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, SKIPPED

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _text(value: Any) -> str:
    return _NOT_XML.sub("?", str(value))


def render(record: Mapping[str, Any]) -> bytes:
    """A JUnit document. Fail is a failure, inconclusive an error; a skip that was not announced is a failure too."""
    unannounced = {
        (problem["component"], problem["host"], problem["id"], problem["subject"]): problem["why"] for problem in record["problems"]
    }
    root = ET.Element("testsuites", name="hnai.platform")
    suites: dict[str, ET.Element] = {}
    for verdict in record["verdicts"]:
        component = verdict["component"]
        suite = suites.get(component)
        if suite is None:
            suite = suites[component] = ET.SubElement(
                root, "testsuite", name=_text(component), tests="0", failures="0", errors="0", skipped="0", time="0"
            )
        for check in verdict["checks"]:
            seconds = float(check.get("duration_ms") or 0.0) / 1000.0
            subject = check.get("subject", "")
            case = ET.SubElement(
                suite, "testcase", name=_text(f"{check['id']} {check['title']}" + (f" ({subject})" if subject else "")),
                classname=_text(f"{component}.{verdict['host']}"), time=f"{seconds:.3f}",
            )
            status = check.get("status") or INCONCLUSIVE
            why = unannounced.get((component, verdict["host"], check["id"], subject), "")
            kind = ""
            if status == FAIL or (status == SKIPPED and why):
                kind, counter = "failure", "failures"
            elif status == INCONCLUSIVE and why:
                kind, counter = "error", "errors"
            elif status in (SKIPPED, INCONCLUSIVE):
                kind, counter = "skipped", "skipped"
            if kind:
                detail = ET.SubElement(case, kind, message=_text(check.get("reason") or why or status))
                detail.text = _text(
                    f"observed {check.get('observed')} {check.get('unit', '')}, expected {check.get('expected')}\n{check.get('hint', '')}"
                )
                suite.set(counter, str(int(suite.get(counter, "0")) + 1))
            suite.set("tests", str(int(suite.get("tests", "0")) + 1))
            suite.set("time", f"{float(suite.get('time', '0')) + seconds:.3f}")
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)
