"""What a reader makes of a release's audits."""

from __future__ import annotations

from flywheel.contracts.stores import AuditChanges, AuditedPrediction
from flywheel.triage.ports import AuditReader


def audits_of(log: AuditReader, task: str, release: str) -> list[AuditedPrediction]:
    """Every audit, oldest label first."""
    found = log.changed(task, release).audits
    return sorted(found, key=lambda audit: (audit.labelled_at, audit.sample_id))


class NoAudits:
    """Nothing is known of any release, so nothing is labelled automatically."""

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        return AuditChanges(seq=after, audits=[], gone=[])
