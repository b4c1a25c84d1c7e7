"""A report: everything that is known of one judged run, as one value that the writers beside this turn into text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.audit.evidence import Snapshot
from provision.audit.finding import Finding
from provision.audit.verdict import Verdict
from provision.load.results import Results

THRESHOLD = "threshold "
"""What the findings that stand for a threshold are called by."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """Rows by table: those that the seed wrote, and what became of each table in the last teardown (None: none yet)."""

    seeded: Mapping[str, int] = field(default_factory=dict)
    removed: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One judged run: `run` is who, where and when; `scenario` the values that were carried out, `source` the text of
    the file that they come from."""

    verdict: Verdict
    results: Results
    snapshot: Snapshot
    run: Mapping[str, Any]
    scenario: Mapping[str, Any]
    source: str = ""
    accounts: Accounts = field(default_factory=Accounts)

    @property
    def promises(self) -> list[Finding]:
        """The findings that are no thresholds, the broken ones first."""
        found = [finding for finding in self.verdict.findings if not finding.promise.startswith(THRESHOLD)]
        return sorted(found, key=lambda finding: -finding.status)

    @property
    def thresholds(self) -> list[Finding]:
        """The findings of the thresholds, in the order of `verdict.thresholds`."""
        return [finding for finding in self.verdict.findings if finding.promise.startswith(THRESHOLD)]
