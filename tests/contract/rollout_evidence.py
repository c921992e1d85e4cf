"""What a reader makes of a rollout's evidence."""

from __future__ import annotations

from flywheel.rollout.judged import JudgedSamples
from flywheel.rollout.ports import ArmSummary, Evidence, Pair


def _judged(evidence: Evidence, rollout_id: str) -> JudgedSamples:
    judged = JudgedSamples(rollout_id)
    judged.read(evidence)
    return judged


def arms_of(evidence: Evidence, rollout_id: str) -> tuple[ArmSummary, ArmSummary]:
    """(champion, challenger), with what audits found."""
    champion, challenger = _judged(evidence, rollout_id).with_audits(*evidence.arms(rollout_id))
    return champion, challenger


def pairs_of(evidence: Evidence, rollout_id: str) -> list[Pair]:
    """Audited samples that both arms answered, in the order they were labelled."""
    return list(_judged(evidence, rollout_id).pairs)
