"""Which answers of a release may become labels, with a bound on their error from audits.

The guarantee: at any one moment, with chance at least 1 − ``auto_label_risk`` over the draw of the
audits, the error among the answers that the policy accepts is at most ``auto_label_error``.

How it holds, and what it leans on:

- Only uniformly random audits count, and every audited sample that no rule decides does, whatever
  its answer.
- The threshold is on the confidence the release reports, never on the recalibrated one: the
  temperature is fitted on the same audits, and a threshold in its terms would use them twice.
- Thresholds are tried from strict to lax, each accepting the k most confident audits, until one
  fails: fixed-sequence testing, as in Learn-then-Test (Angelopoulos et al., arXiv 2110.01052).
  Given the confidence of the first audit left out, the k accepted are a fair sample of all
  answers above it, so each Clopper–Pearson test is exact; the search costs nothing as long as
  accepting less confident answers does not lower the error, which is what a confidence is.
- The first threshold accepts half of the audits (or as many as one clean test needs). Started at
  fewer, the sequence is often ended by one unlucky mistake; at more, a mediocre release gets
  nothing. Where it starts depends on how many audits there are, never on what they say.
- An audited sample that nobody can label counts as wrong: an automatic label of it would be.
- If the audit rate changed over time, audits are unequal evidence about the traffic as a whole.
  Each bound must then hold twice: counting audits, and weighting them by 1 / inclusion probability
  with Kish's effective sample size. The larger of the two counts, which can only be stricter.
- The guarantee is for a moment, and policies are certified again as audits come in. Over a
  release's life of many looks the limit is exceeded at some time about twice as often (0.18–0.23
  at a risk of 0.1, simulated over 45 to 400 audits), for a few looks (2–5 % of them): the labels
  made in all stayed within the limit.
- Free text has no scores, so nothing is recalibrated; it counts as right when it equals the
  experts' text once normalised (``contracts.answers``).
- The newest audits count, at most ``known_audits.NEWEST``: older ones say little of today's
  traffic. Which those are depends on when they were labelled, never on what they say.
- The latest of them alone may also withdraw a policy: old good ones must not hide a drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flywheel.contracts.percentages import percentage
from flywheel.contracts.stores import AuditedPrediction
from flywheel.statistics.proportions import (
    bounded,
    chance_of_as_many,
    error_bound,
    error_bounds,
    least_count,
)
from flywheel.triage.calibration import fit_temperature
from flywheel.triage.config import TriageSettings
from flywheel.triage.known_audits import KnownAudits
from flywheel.triage.ports import AuditReader
from flywheel.triage.rules import Rules

# The share of the audits that the first threshold accepts.
START = 0.5
# How many of the latest accepted audits are looked at for drift.
RECENT = 50
# How many of the latest audits the temperature is fitted on, which is one number.
FITTED = 500

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AutoLabelPolicy:
    """What may be labelled by the model itself.

    ``threshold`` None accepts nothing. ``bound`` is the upper confidence bound on the error of the
    accepted answers, ``errors`` the mistakes among the ``accepted`` of ``audited`` audits, and
    ``coverage`` the share of traffic accepted. ``reason`` is a sentence for people.
    """

    temperature: float = 1.0
    threshold: float | None = None
    bound: float = 1.0
    audited: int = 0
    accepted: int = 0
    errors: int = 0
    coverage: float = 0.0
    reason: str = "no audits yet"

    def accepts(self, confidence: float) -> bool:
        """Whether an answer with this reported confidence may become a label."""
        return self.threshold is not None and confidence > self.threshold


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Audits, most confident first; entry k−1 of each running sum is about the first k."""

    confidence: _Floats
    count: _Floats
    errors: _Floats
    weight: _Floats
    weight_squared: _Floats
    weighted_errors: _Floats

    @property
    def effective(self) -> _Floats:
        """Kish's effective number of audits among the first k."""
        return self.weight**2 / self.weight_squared


class CertifiedPolicy:
    """What one release may label by itself in a task: certified anew when its audits change."""

    def __init__(self, task: str, release: str, settings: TriageSettings) -> None:
        self._known = KnownAudits(task, release, Rules(settings.rules))
        self._settings = settings
        self._policy: AutoLabelPolicy | None = None

    def read(self, log: AuditReader) -> AutoLabelPolicy:
        """The policy by the audits so far. Raises StorageError when they cannot be read."""
        if self._known.read(log) or self._policy is None:
            self._policy = certify(self._known.newest, self._settings)
        return self._policy


def policy_of(
    log: AuditReader, task: str, release: str, settings: TriageSettings
) -> AutoLabelPolicy:
    """What a release may label by itself in a task, by its audits so far."""
    return CertifiedPolicy(task, release, settings).read(log)


def audited_error(
    log: AuditReader, task: str, releases: Sequence[str], settings: TriageSettings
) -> float | None:
    """The error that audits found among what these releases would label by themselves.

    None while none of them has a certified threshold.
    """
    policies = [policy_of(log, task, release, settings) for release in releases]
    accepted = sum(policy.accepted for policy in policies)
    return sum(policy.errors for policy in policies) / accepted if accepted else None


def certify(audits: Sequence[AuditedPrediction], settings: TriageSettings) -> AutoLabelPolicy:
    """The most accepting policy whose error is bounded, or one that accepts nothing and says why.

    ``audits`` are uniformly audited answers of one release that no rule decides
    (``KnownAudits``), oldest label first.
    """
    temperature = fit_temperature(audits[-FITTED:])
    least = least_count(settings.auto_label_error, settings.auto_label_risk)
    needed = max(settings.min_audits, least)
    if len(audits) < needed:
        reason = f"{len(audits)} audits, at least {needed} are needed before anything is accepted"
        return AutoLabelPolicy(temperature=temperature, audited=len(audits), reason=reason)
    ranked = _rank(audits)
    accepted = _loosest(ranked, _start(ranked, least), settings)
    if accepted:
        policy = _unless_drifted(_describe(ranked, accepted, settings), audits, settings)
    else:
        policy = _nothing(ranked, settings)
    unlabelable = sum(audit.label is None for audit in audits)
    if unlabelable:
        words = f"{unlabelable} of all audits can't be labelled and count as wrong"
        policy = replace(policy, reason=f"{policy.reason}; {words}")
    return replace(policy, temperature=temperature)


def _rank(audits: Sequence[AuditedPrediction]) -> _Ranked:
    ordered = sorted(audits, key=lambda audit: (-audit.confidence, audit.sample_id))
    wrong = np.array([not audit.correct for audit in ordered], float)
    weight = np.array([1.0 / audit.inclusion_probability for audit in ordered])
    return _Ranked(
        confidence=np.array([audit.confidence for audit in ordered]),
        count=np.arange(1, len(ordered) + 1, dtype=float),
        errors=wrong.cumsum(),
        weight=weight.cumsum(),
        weight_squared=(weight**2).cumsum(),
        weighted_errors=(weight * wrong).cumsum(),
    )


def _start(ranked: _Ranked, least: int) -> int:
    """How many audits the first threshold accepts; more than there are if weights waste them."""
    enough = int(np.searchsorted(np.maximum.accumulate(ranked.effective), least - 1e-9)) + 1
    return max(enough, int(np.ceil(START * len(ranked.count))))


def _loosest(ranked: _Ranked, start: int, settings: TriageSettings) -> int:
    """The largest k, from ``start`` on, up to which every bound holds; 0 if none does."""
    # Audits of equal confidence are accepted together, so only the last of them is a threshold.
    last = np.append(ranked.confidence[:-1] > ranked.confidence[1:], True)
    candidates = np.flatnonzero(last[start - 1 :]) + start - 1
    failed = np.flatnonzero(~_bounded(ranked, candidates, settings))
    passed = candidates[: int(failed[0])] if len(failed) else candidates
    return int(passed[-1]) + 1 if len(passed) else 0


def _bounded(ranked: _Ranked, at: NDArray[np.intp], settings: TriageSettings) -> NDArray[np.bool_]:
    limit, risk = settings.auto_label_error, settings.auto_label_risk
    effective = ranked.effective[at]
    rate = ranked.weighted_errors[at] / ranked.weight[at]
    return bounded(ranked.errors[at], ranked.count[at], limit, risk) & bounded(
        rate * effective, effective, limit, risk
    )


def _bounds(ranked: _Ranked, at: NDArray[np.intp], risk: float) -> _Floats:
    counted = error_bounds(ranked.errors[at], ranked.count[at], risk)
    effective = ranked.effective[at]
    rate = ranked.weighted_errors[at] / ranked.weight[at]
    return np.maximum(counted, error_bounds(rate * effective, effective, risk))


def _describe(ranked: _Ranked, k: int, settings: TriageSettings) -> AutoLabelPolicy:
    total = len(ranked.count)
    bound = float(_bounds(ranked, np.array([k - 1]), settings.auto_label_risk)[0])
    errors = int(ranked.errors[k - 1])
    coverage = float(ranked.weight[k - 1] / ranked.weight[-1])
    return AutoLabelPolicy(
        # Strictly above the first audit left out: that is the set the bound is about.
        threshold=float(ranked.confidence[k]) if k < total else 0.0,
        bound=bound,
        audited=total,
        accepted=k,
        errors=errors,
        coverage=coverage,
        reason=f"error at most {percentage(bound, 2)}%: {errors} wrong of {k} audits accepted",
    )


def _nothing(ranked: _Ranked, settings: TriageSettings) -> AutoLabelPolicy:
    total, errors = len(ranked.count), int(ranked.errors[-1])
    overall = error_bound(errors, total, settings.auto_label_risk)
    reason = (
        f"no threshold keeps the error below {percentage(settings.auto_label_error)}%: "
        f"{errors} wrong of {total} audits, even the most confident ones"
    )
    return AutoLabelPolicy(audited=total, bound=overall, reason=reason)


def _unless_drifted(
    policy: AutoLabelPolicy, audits: Sequence[AuditedPrediction], settings: TriageSettings
) -> AutoLabelPolicy:
    """Withdraw a policy that the latest accepted audits contradict by themselves."""
    recent = [audit for audit in audits if policy.accepts(audit.confidence)][-RECENT:]
    errors = sum(not audit.correct for audit in recent)
    # The chance of so many mistakes if the error were just within the limit.
    chance = chance_of_as_many(errors, len(recent), settings.auto_label_error)
    if chance > settings.auto_label_risk / 2:
        return policy
    reason = (
        f"withdrawn: {errors} wrong of the latest {len(recent)} accepted audits, "
        f"against a limit of {percentage(settings.auto_label_error)}%"
    )
    return replace(policy, threshold=None, accepted=0, errors=0, coverage=0.0, reason=reason)
