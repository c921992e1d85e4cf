"""Whether a task has what its next turn needs: a base model, a holdout, samples of every label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flywheel.errors import ConfigurationError
from flywheel.evaluation.config import GateSettings
from flywheel.settings import FlywheelSettings, TaskSettings
from flywheel.statistics.sample_size import POWER, samples_needed
from flywheel.turn.bases import base_problem
from storage.database import Transaction

# Ten of each label are enough to begin; the how-to of a task of one's own says so as well.
FEW_TO_TRAIN_ON = 10
# What two trainings on nearly the same labels differ by; the gate's own message has the real one.
USUAL_DISCORDANCE = 0.05
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Samples:
    """How many samples settled with one label there are: given ones to train on, and held out."""

    train: int = 0
    holdout: int = 0


Coverage = Mapping[str, Samples]


def base_model_problems(settings: FlywheelSettings) -> list[ConfigurationError]:
    """Tasks whose base model no turn can start from, and why."""
    problems = (base_problem(settings, name) for name in settings.tasks)
    return [problem for problem in problems if problem is not None]


def label_coverage(tx: Transaction, task: str, labels: Sequence[str]) -> dict[str, Samples]:
    """Label → its samples, the task's labels first, then what else samples were settled with."""
    counted = tx.overview.settled_values(task)
    known = {label: Samples() for label in labels}
    return known | {value: Samples(*counts) for value, counts in sorted(counted.items())}


def advice(name: str, task: TaskSettings, coverage: Coverage, holdout: int) -> list[str]:
    """What is thin in a task's labelled samples; nothing of it stops a process."""
    if task.of_kind.note:
        return [f"{name}: {task.of_kind.note}"]
    lines = [_holdout_advice(name, task.gate, holdout)]
    train = sum(samples.train for samples in coverage.values())
    if not train:
        lines.append(f"{name}: no labelled samples to train on yet")
    else:
        few = [name for name in task.labels if coverage[name].train < FEW_TO_TRAIN_ON]
        lines.append(
            _named(f"{name}: fewer than {FEW_TO_TRAIN_ON} labelled samples to train on of", few)
        )
    if holdout:
        unseen = [name for name in task.labels if not coverage[name].holdout]
        lines.append(_named(f"{name}: the gate sees nothing, for no held-out sample, of", unseen))
    foreign = [value for value in coverage if not task.kept_answers.knows(value)]
    lines.append(_named(f"{name}: samples have labels that are not in tasks.{name}:", foreign))
    return [line for line in lines if line]


def _holdout_advice(name: str, gate: GateSettings, holdout: int) -> str:
    if not holdout:
        return f"{name}: no holdout yet, on which the gate measures every release"
    needed = samples_needed(USUAL_DISCORDANCE, gate.max_regression, 1 - gate.confidence)
    if needed is None or holdout >= needed:
        return ""
    return (
        f"{name}: the holdout has {holdout:,} samples; an equal release that is right or wrong on "
        f"other samples in {USUAL_DISCORDANCE:.0%} of cases passes the gate in {POWER:.0%} of "
        f"cases from about {needed:,} on"
    )


def _named(words: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{words} {', '.join(map(repr, names[:_NAMED]))}{more}"
