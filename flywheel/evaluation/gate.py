"""Whether a challenger may enter production: no worse than the champion on the same samples."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flywheel.contracts.percentages import percentage
from flywheel.evaluation.config import GateSettings
from flywheel.kinds.predictions import Prediction, is_right
from flywheel.statistics.noninferiority import no_worse
from flywheel.statistics.proportions import wilson_interval
from flywheel.statistics.sample_size import holdout_advice


class GateDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision, in words and numbers. Differences are challenger − champion accuracy on the
    ``compared`` samples that both answered; ``difference_low`` is the one-sided bound that decided.
    """

    passed: bool
    reason: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    samples: int
    compared: int = 0
    champion_accuracy: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    fixed: int = 0
    broken: int = 0


def decide(
    champion: Sequence[Prediction] | None,
    challenger: Sequence[Prediction],
    settings: GateSettings,
) -> GateDecision:
    """Compare two releases on the held-out samples that both answered, pair by pair.

    The challenger passes when the exact paired test shows that its accuracy is less than
    ``max_regression`` below the champion's (non-inferiority; one that is so much worse is let
    through with a chance of at most 1 − ``confidence``), and when its accuracy is at least
    ``min_accuracy``. Without a champion only the floor counts.
    """
    right = sum(p.correct for p in challenger)
    accuracy = right / len(challenger) if challenger else 0.0
    low, high = wilson_interval(right, len(challenger), settings.confidence)
    base = GateDecision(
        passed=False,
        reason="there are no held-out samples: nothing was measured",
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        samples=len(challenger),
    )
    if not challenger:
        return base
    if accuracy < settings.min_accuracy:
        reason = f"accuracy {accuracy:.3f} is below the floor of {settings.min_accuracy:.3f}"
        return msgspec.structs.replace(base, reason=reason)
    if champion is None:
        reason = f"first release: accuracy {accuracy:.3f} on {len(challenger)} held-out samples"
        return msgspec.structs.replace(base, passed=True, reason=reason)
    return _compare(champion, challenger, settings, base)


def _compare(
    champion: Sequence[Prediction],
    challenger: Sequence[Prediction],
    settings: GateSettings,
    base: GateDecision,
) -> GateDecision:
    answers = {p.sample_id: p for p in champion}
    pairs = [p for p in challenger if p.sample_id in answers]
    if not pairs:
        reason = "the champion answered none of these held-out samples: nothing can be compared"
        return msgspec.structs.replace(base, reason=reason)
    # The label is the challenger's: one corrected since counts for both.
    earlier = [answers[p.sample_id] for p in pairs]
    before = [
        is_right(old.prediction, new.label, old.scores)
        for old, new in zip(earlier, pairs, strict=True)
    ]
    fixed = sum(p.correct and not was for p, was in zip(pairs, before, strict=True))
    broken = sum(was and not p.correct for p, was in zip(pairs, before, strict=True))
    difference = (fixed - broken) / len(pairs)
    alpha = 1 - settings.confidence
    shown = no_worse(fixed, broken, len(pairs), settings.max_regression, alpha)
    verdict = "no worse than" if shown.passed else "not shown to be no worse than"
    reason = (
        f"{verdict} the champion: {difference:+.3f} accuracy on {len(pairs)} held-out samples "
        f"({fixed} fixed, {broken} broken); at {percentage(settings.confidence)}% confidence at "
        f"least {shown.least:+.3f}, allowed {-settings.max_regression:+.3f}"
    )
    if not shown.passed:
        advice = holdout_advice(fixed, broken, len(pairs), settings.max_regression, alpha)
        reason += f"; {advice}"
    return msgspec.structs.replace(
        base,
        passed=shown.passed,
        reason=reason,
        compared=len(pairs),
        champion_accuracy=sum(before) / len(pairs),
        difference=difference,
        difference_low=shown.least,
        fixed=fixed,
        broken=broken,
    )
