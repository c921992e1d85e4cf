"""What is known of a release's audits, read on from one certification to the next."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from datetime import datetime

from flywheel.contracts.stores import AuditedPrediction
from flywheel.triage.ports import AuditReader
from flywheel.triage.rules import Rules

# The newest audits are what a policy is certified by: as many bound an error closely, and older
# ones say little of the traffic of today.
NEWEST = 2000

_Place = tuple[datetime, str]


class KnownAudits:
    """The audits of one release in one task that no rule decides.

    Those of samples that a rule decides say nothing of a release's own labels: it mostly finds
    them easy. Each ``read`` asks for what has changed alone.
    """

    def __init__(self, task: str, release: str, rules: Rules) -> None:
        self._task = task
        self._release = release
        self._rules = rules
        self._seq = 0
        self._known: dict[str, AuditedPrediction] = {}
        self._order: list[_Place] = []

    def read(self, log: AuditReader) -> bool:
        """Take in what has changed since the last time; whether anything has."""
        changes = log.changed(self._task, self._release, self._seq)
        self._seq = changes.seq
        changed = False
        for sample_id in changes.gone:
            changed |= self._forget(sample_id)
        for audit in changes.audits:
            if self._known.get(audit.sample_id) == audit:
                continue
            changed |= self._forget(audit.sample_id)
            if not self._rules.matches(audit.text):
                self._known[audit.sample_id] = audit
                insort(self._order, (audit.labelled_at, audit.sample_id))
                changed = True
        return changed

    @property
    def newest(self) -> Sequence[AuditedPrediction]:
        """The ``NEWEST`` audits, oldest label first."""
        return [self._known[sample_id] for _, sample_id in self._order[-NEWEST:]]

    def _forget(self, sample_id: str) -> bool:
        known = self._known.pop(sample_id, None)
        if known is None:
            return False
        del self._order[bisect_left(self._order, (known.labelled_at, sample_id))]
        return True
