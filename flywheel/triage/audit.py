"""Uniformly random audits: the only evidence that bounds and comparisons rest on."""

from __future__ import annotations

from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import unit_fraction
from flywheel.triage.config import TriageSettings

# One priority for all audits of a kind. Were it to depend on the answer, the experts would label
# some sort of audit first, and the labelled audits would no longer be a uniform sample.
AUDIT_PRIORITY = 75.0
ROLLOUT_AUDIT_PRIORITY = 95.0


def audit_rate(event: TrafficRecorded, settings: TriageSettings) -> float:
    """The share of samples like this one that is audited: higher while a rollout runs."""
    return settings.audit_rate if event.rollout_id is None else settings.rollout_audit_rate


def audit_priority(event: TrafficRecorded) -> float:
    """While a rollout runs its audits come first: promotion and rollback wait for them."""
    return AUDIT_PRIORITY if event.rollout_id is None else ROLLOUT_AUDIT_PRIORITY


def drawn_for_audit(event: TrafficRecorded, rate: float, salt: str) -> bool:
    """Whether the sample is audited: decided by a hash of its task, its id and a secret, whatever
    the model said. Without the secret a client could choose ids that are always audited, or never.

    A sample drawn at one rate is drawn at every higher one, so a redelivery after the rate was
    raised can only add an audit, and its inclusion probability is then the higher rate.
    """
    return unit_fraction("audit", event.task, event.sample_id, salt=salt) < rate
