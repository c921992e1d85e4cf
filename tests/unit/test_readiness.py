"""What doctor says of a task's labelled samples."""

from __future__ import annotations

import pytest

from flywheel.ops.readiness import Samples, advice
from flywheel.settings import TaskSettings
from flywheel.training.config import TrainingSettings

TASK = TaskSettings(labels=("billing", "outage"), training=TrainingSettings(base_model="base"))
PLENTY = {"billing": Samples(40, 2000), "outage": Samples(10, 1000)}


def test_a_task_with_enough_of_each_needs_no_advice() -> None:
    assert advice("tickets", TASK, PLENTY, 3000) == []


def test_a_fresh_task_lacks_a_holdout_and_samples() -> None:
    none = {"billing": Samples(), "outage": Samples()}
    assert advice("tickets", TASK, none, 0) == [
        "tickets: no holdout yet, on which the gate measures every release",
        "tickets: no labelled samples to train on yet",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"outage": Samples(9, 1000)}, "fewer than 10 labelled samples to train on of 'outage'"),
        ({"outage": Samples(10, 0)}, "no held-out sample, of 'outage'"),
        ({"refund": Samples(1, 0)}, "labels that are not in tasks.tickets: 'refund'"),
    ],
)
def test_what_a_label_lacks_is_named(changed: dict[str, Samples], said: str) -> None:
    (line,) = advice("tickets", TASK, PLENTY | changed, 3000)
    assert said in line


def test_many_labels_are_counted_after_the_first() -> None:
    labels = tuple(f"l{number}" for number in range(8))
    task = TaskSettings(labels=labels, training=TrainingSettings(base_model="base"))
    coverage = {label: Samples(0, 500) for label in labels} | {"l0": Samples(99, 500)}
    (line,) = advice("t", task, coverage, 4000)
    assert line.endswith("'l1', 'l2', 'l3', 'l4', 'l5' and 2 more")


def test_a_holdout_that_is_too_small_for_the_margin_is_told_how_large_it_should_be() -> None:
    small = {"billing": Samples(40, 150), "outage": Samples(10, 150)}
    (line,) = advice("tickets", TASK, small, 300)
    assert line.startswith("tickets: the holdout has 300 samples; ")
    needed = int(line.split("about ")[1].split(" ")[0].replace(",", ""))
    assert needed > 300
    assert advice("tickets", TASK, small, needed) == []
