"""What triage needs of others: audits of a release, and what is known of a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from flywheel.contracts.stores import AuditChanges


class AuditReader(Protocol):
    """Reads audits in a transaction of its own (``AuditLog`` within one fits as well)."""

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        """What changed after ``after`` of the audits of a release."""
        ...


# The online feature store: of a task's sources, source → feature → value; unknown sources may be
# left out. Triage reads ``expert_labels`` and ``corrections``.
SourceFeatures = Callable[[str, Sequence[str]], Mapping[str, Mapping[str, float]]]
