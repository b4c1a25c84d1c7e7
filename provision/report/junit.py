"""JUnit XML with a case for each promise and each threshold, in the dialect that the common readers share.

A broken promise is a `failure`; one that the run does not tell about is an `error`, so that it never counts as passed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from provision.audit.finding import Finding, Status
from provision.report import words
from provision.report.machine import details_text
from provision.report.model import THRESHOLD, Report

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {Status.FAIL: "failure", Status.INCONCLUSIVE: "error"}


def render(report: Report) -> str:
    """The file's text."""
    root = ET.Element("testsuites", name="provision", time=_seconds(report))
    thresholds = zip(report.thresholds, report.verdict.thresholds, strict=True)
    limits = [
        (f"{finding.promise.removeprefix(THRESHOLD)} {judged.threshold.expression}", finding)
        for finding, judged in thresholds
    ]
    _suite(root, report, "promises", [(finding.promise, finding) for finding in report.promises])
    _suite(root, report, "thresholds", limits)
    for counted in ("tests", "failures", "errors"):
        root.set(counted, str(sum(int(suite.get(counted, "0")) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ET.Element, report: Report, name: str, cases: Sequence[tuple[str, Finding]]) -> None:
    scenario = str(report.run["scenario"])
    suite = ET.SubElement(root, "testsuite", name=f"{scenario} {name}", tests=str(len(cases)), skipped="0")
    for status, element in _ELEMENTS.items():
        suite.set(f"{element}s", str(sum(finding.status is status for _, finding in cases)))
    suite.set("timestamp", str(report.run["started"])[:19])
    suite.set("time", _seconds(report))
    properties = ET.SubElement(suite, "properties")
    for key, value in (
        ("run", report.run["id"]),
        ("target", report.run["target"]),
        ("verdict", words.sentence(report)),
    ):
        ET.SubElement(properties, "property", name=key, value=_clean(str(value)))
    for title, finding in cases:
        case = ET.SubElement(suite, "testcase", name=_clean(title), classname=f"provision.{scenario}.{name}", time="0")
        if kind := _ELEMENTS.get(finding.status):
            what = ET.SubElement(case, kind, message=_clean(finding.statement), type=finding.status.name)
            what.text = _clean(details_text(finding)) or None
        else:
            ET.SubElement(case, "system-out").text = _clean(finding.statement)


def _seconds(report: Report) -> str:
    return f"{report.results.elapsed:.3f}"


def _clean(text: str) -> str:
    """The text without the characters that XML 1.0 cannot carry."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
