"""What to do next with a task: a pure decision from how it stands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from flywheel.contracts.stores import LabelCounts
from flywheel.errors import ConfigurationError
from flywheel.retraining.config import RetrainingSettings
from flywheel.retraining.ports import Ahead, Turn, TurnRequest
from flywheel.retraining.trigger import when_begun
from flywheel.review.ports import QueueDepth
from flywheel.rollout.decide import Readiness
from flywheel.rollout.plan import percent
from flywheel.rollout.ports import Rollout


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How one task stands. ``turns`` newest first; ``new`` are labels since the last dataset;
    ``waiting`` releases that had no rollout yet, newest last. ``ahead`` is of ``request``. Where no
    model servers are expected, that none answers says nothing of the release. ``note`` is that of
    the task's kind."""

    task: str
    champion: str | None
    rollout: Rollout | None
    turns: tuple[Turn, ...]
    request: TurnRequest | None
    labels: LabelCounts
    new: LabelCounts
    queue: QueueDepth
    answers: Readiness | None = None
    waiting: tuple[str, ...] = ()
    base_problem: ConfigurationError | None = None
    ahead: Ahead = Ahead()
    servers_expected: bool = True
    note: str = ""

    @property
    def running(self) -> Turn | None:
        """The turn that is being made."""
        return next((turn for turn in self.turns if turn.state == "running"), None)

    @property
    def failure(self) -> Turn | None:
        """The newest turn that ended, if it came to no release."""
        ended = next((turn for turn in self.turns if turn.state != "running"), None)
        return ended if ended is not None and ended.error else None


def next_steps(
    facts: TaskFacts,
    retraining: RetrainingSettings,
    now: datetime,
    command: Callable[[str], str],
    review_url: str,
) -> list[str]:
    """The most pressing first. ``command`` writes a `flywheel` command as a person can type it,
    with the task where it has to be named."""
    given = facts.labels.given
    steps = []
    unanswered = facts.answers is not None and facts.answers.nowhere
    if facts.champion is not None and unanswered and facts.servers_expected:
        steps.append(
            f"requests are not answered: start the model servers if they are down; if "
            f"{facts.champion} is damaged or gone, put its folder back, or restore a former "
            f"champion: {command('releases list')}"
        )
    if facts.note:
        steps.append(facts.note)
    if (base := facts.base_problem) is not None:
        steps.append(f"no turn can be made, {base.problem}: {base.hint}")
    if not facts.labels.holdout and not facts.note:
        steps.append(f"no holdout yet: {command('ingest holdout.jsonl --split holdout')}")
    if not given:
        steps.append(f"no labelled samples to train on yet: {command('ingest seed.jsonl')}")
    steps += _turn(facts, retraining, given, now, command)
    if facts.rollout is not None:
        steps.append(f"rollout at {percent(facts.rollout.share)}: {command('rollout show')}")
        if facts.waiting:
            steps.append(f"{facts.waiting[-1]} waits: its rollout begins when none is running")
    if facts.queue.open:
        steps.append(f"{facts.queue.open} samples wait for an expert: {review_url}")
    return steps


def _turn(
    facts: TaskFacts,
    retraining: RetrainingSettings,
    given: int,
    now: datetime,
    command: Callable[[str], str],
) -> list[str]:
    again = command('retrain --by YOU --why "…"')
    if (turn := facts.running) is not None:
        return [f"a turn is being made: {turn.stage}, {seconds_in_stage(turn, now):.0f} s"]
    if facts.request is not None:
        latest = facts.turns[0] if facts.turns else None
        begun = when_begun(facts.ahead, latest, facts.labels.given > 0, now)
        return [f"{facts.request.by} asked for a turn, which begins {begun}"]
    if (failed := facts.failure) is not None and failed.state == "failed":
        return [f"the last turn failed in {failed.stage}: mend what it names, then {again}"]
    if failed is not None and facts.champion is None:
        return [f"the last turn came to no release: more labels, then {again}"]
    if not given or not retraining.enabled or facts.rollout is not None:
        return []
    steps = []
    if failed is not None:
        steps.append(
            f"the last turn came to {failed.error}; more labels may help, or more held-out "
            f"samples: {command('ingest holdout.jsonl --split holdout')}"
        )
    return [
        *steps,
        f"the next turn begins at {retraining.min_new_labels} new labels ({facts.new.given} so "
        f"far), or by {again}",
    ]


def seconds_in_stage(turn: Turn, now: datetime) -> float:
    """How long a running turn is in its stage: since its start, less the stages that are done."""
    end = turn.ended_at or now
    return max(0.0, (end - turn.started_at).total_seconds() - sum(turn.seconds.values()))
