"""What becomes of one answered request: an audit, a review, a label, or nothing.

Decisions are made from the event, the task's settings and the policy of the release alone; every
draw is a hash of task, sample id and a secret of the workspace, and the ids of the events made are
derived from the source's. So a redelivered event makes the same events again, and consumers drop
them by id.

The policy, a source's history and the settings may have changed between two deliveries, and then
the second decision may differ from the first. That is harmless:

- Label first, review later (or the reverse): both stand. The queue keeps one task a sample, and an
  expert's label outranks an automatic one.
- Two reviews, or two labels, with different reasons or probabilities: they have the same id, so
  only the first counts, with the probability that was true when it was drawn.
- Audited first, not audited later (the rate was lowered): the audit stands, as drawn. Not audited
  first, audited later (the rate was raised): the sample would have been drawn at the higher rate
  in any case, and that rate is what is recorded. Whether a rollout ran is part of the event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flywheel.contracts.events import LabelRecorded, ReviewRequested, TrafficRecorded
from flywheel.contracts.ids import derived_id, unit_fraction
from flywheel.contracts.reasons import NO_MODEL, RANDOM_AUDIT, by_rule, unsure_between
from flywheel.errors import RejectedEvent
from flywheel.kinds import Answers, Choice
from flywheel.kinds.signals import Signals
from flywheel.triage.audit import audit_priority, audit_rate, drawn_for_audit
from flywheel.triage.config import TriageSettings
from flywheel.triage.history import with_history
from flywheel.triage.policy import AutoLabelPolicy
from flywheel.triage.rules import Rules

Kind = Literal[
    "audit", "review_rule", "label_rule", "unsure", "auto", "no_model", "none", "not_triaged"
]
History = Mapping[str, float]

# Unsure samples are queued between these, below audits: those are what every bound rests on.
_UNSURE_LOWEST, _UNSURE_HIGHEST = 20.0, 70.0
# Where there is no model, every sample is queued, all alike.
_WITHOUT_MODEL = 50.0
# The budget is spread over unsure samples by how unsure they are, this much of the way from all
# alike (0) to as unequal as it can be (1). Below 1, so that none has no chance at all.
_CONTRAST = 0.8
# Of a task that is in flywheel.toml no longer nobody knows how it answers.
_UNKNOWN: Answers = Choice(())


@dataclass(frozen=True, slots=True)
class TaskTriage:
    """One task as triage sees it; ``labels`` are those of its ``answers``."""

    answers: Answers
    labels: frozenset[str]
    settings: TriageSettings
    rules: Rules
    least_unsure: float
    salt: str = field(repr=False)
    retired: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        answers: Answers,
        settings: TriageSettings,
        salt: str,
        retired: Sequence[str] = (),
    ) -> TaskTriage:
        """Compile a task's settings. ``salt`` is the workspace's secret: who knows it can tell
        what will be audited. Releases may still answer with ``retired`` labels."""
        least = answers.least_unsure(settings.uncertain_below)
        return cls(
            answers,
            frozenset(answers.labels),
            settings,
            Rules(settings.rules),
            least,
            salt,
            frozenset(retired),
        )

    def unsureness(self, score: float) -> float:
        """A score among those of unsure samples: 0 just below the confidence that is sure enough,
        1 at a coin toss."""
        span = 1.0 - self.least_unsure
        return min(1.0, max(0.0, (score - self.least_unsure) / span)) if span > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one event, and the event that says so (None: nothing to say)."""

    kind: Kind
    event: ReviewRequested | LabelRecorded | None = None


def triaged(event: TrafficRecorded, task: TaskTriage | None = None) -> bool:
    """Whether triage has a say: an answer that a caller got, with what the model thought of it, or
    an input that no model was asked about. Of a task that is not known here, an answer with scores
    is one that it should have a say in."""
    answers = _UNKNOWN if task is None else task.answers
    got = event.origin == "gateway" and event.status < 400 and not event.abandoned
    judged = answers.judged(event.output, event.scores, event.confidence)
    return got and (judged or not was_asked(event))


def was_asked(event: TrafficRecorded) -> bool:
    """Whether a model was asked: there may be none of the task's kind."""
    return event.release is not None or event.output is not None


def reject_unusable(event: TrafficRecorded, tasks: Mapping[str, TaskTriage]) -> None:
    """Raise RejectedEvent for an event that the configured tasks cannot account for."""
    task = tasks.get(event.task)
    if task is None:
        known = ", ".join(sorted(tasks)) or "none"
        raise RejectedEvent(f"no task {event.task!r} in flywheel.toml (tasks: {known})")
    strange = sorted(set(event.scores) - task.labels - task.retired)
    if strange:
        raise RejectedEvent(
            f"release {event.release!r} answered with {strange}, which are no labels of task "
            f"{event.task!r}: was it trained for another label set?"
        )


def decide(
    event: TrafficRecorded, task: TaskTriage, policy: AutoLabelPolicy, history: History
) -> Decision:
    """Decide about one event that is ``triaged`` and usable."""
    rate = audit_rate(event, task.settings)
    if drawn_for_audit(event, rate, task.salt):
        request = _review(event, task, RANDOM_AUDIT, audit_priority(event), rate, audit=True)
        return Decision("audit", request)
    rule = task.rules.reviewing(event.text)
    if rule is not None:
        return Decision("review_rule", _review(event, task, by_rule(rule.name), rule.priority, 1.0))
    rule = task.rules.labelling(event.text)
    if rule is not None and rule.label is not None:
        label = _label(event, rule.label, by_rule(rule.name), 1.0 - rate, rule=rule.name)
        return Decision("label_rule", label)
    if not was_asked(event):
        return Decision("no_model", _review(event, task, NO_MODEL, _WITHOUT_MODEL, 1.0))
    said = task.answers.signals(event.scores, reported_confidence(event), policy.temperature)
    if said.confidence < task.settings.uncertain_below:
        score = with_history(task.unsureness(said.score), history)
        chance = review_chance(score, task.settings.uncertain_share)
        if unit_fraction("unsure", event.task, event.sample_id, salt=task.salt) < chance:
            request = _review_unsure(event, task, said, score, rate + (1.0 - rate) * chance)
            return Decision("unsure", request)
    if policy.accepts(reported_confidence(event)) and _can_be_label(event, task):
        given = task.answers.given(event.output, event.scores)
        label = _label(event, given, policy.reason, 1.0 - rate)
        return Decision("auto", label)
    return Decision("none")


def review_chance(score: float, share: float) -> float:
    """The chance with which an unsure sample is sent to review.

    Grows with the score and is ``share`` at a score of ½, so that the budget is met on average
    where scores lie evenly. Stochastic score sampling (arXiv 2106.12059): drawing by score, rather
    than taking the highest, keeps the batch diverse and every sample's chance known.
    """
    return share + (2.0 * score - 1.0) * _CONTRAST * min(share, 1.0 - share)


def _can_be_label(event: TrafficRecorded, task: TaskTriage) -> bool:
    given = task.answers.given(event.output, event.scores)
    return given not in task.retired and task.answers.problem(given) is None


def reported_confidence(event: TrafficRecorded) -> float:
    """The confidence as the release reported it, before any recalibration."""
    return event.confidence if event.confidence is not None else max(event.scores.values())


def _review_unsure(
    event: TrafficRecorded, task: TaskTriage, said: Signals, score: float, chance: float
) -> ReviewRequested:
    reason = unsure_between(dict(said.ranked[:2]), said.confidence)
    priority = _UNSURE_LOWEST + (_UNSURE_HIGHEST - _UNSURE_LOWEST) * score
    return _review(event, task, reason, round(priority, 1), chance)


def _review(
    event: TrafficRecorded,
    task: TaskTriage,
    reason: str,
    priority: float,
    chance: float,
    *,
    audit: bool = False,
) -> ReviewRequested:
    asked = was_asked(event)
    return ReviewRequested(
        event_id=derived_id(event.event_id, "review", event.occurred_at),
        occurred_at=event.occurred_at,
        task=event.task,
        sample_id=event.sample_id,
        content=event.content,
        reason=reason,
        priority=priority,
        inclusion_probability=chance,
        audit=audit,
        release=event.release,
        prediction=task.answers.given(event.output, event.scores) if asked else None,
        scores=event.scores,
        confidence=reported_confidence(event) if asked else None,
        rollout_id=event.rollout_id,
        source=event.source,
        tokens_cut=event.tokens_cut,
    )


def _label(
    event: TrafficRecorded, value: str, reason: str, chance: float, *, rule: str | None = None
) -> LabelRecorded:
    return LabelRecorded(
        event_id=derived_id(event.event_id, "label", event.occurred_at),
        occurred_at=event.occurred_at,
        task=event.task,
        sample_id=event.sample_id,
        value=value,
        source="auto" if rule is None else "rule",
        annotator=rule or event.release or "unknown",
        inclusion_probability=chance,
        confidence=reported_confidence(event) if rule is None else None,
        release=event.release,
        reason=reason,
    )
