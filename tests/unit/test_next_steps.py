"""What `flywheel status` says to do next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from flywheel.contracts.stores import LabelCounts
from flywheel.errors import ConfigurationError
from flywheel.ops.next_steps import TaskFacts, next_steps
from flywheel.retraining.config import RetrainingSettings
from flywheel.retraining.ports import Turn, TurnRequest
from flywheel.review.ports import QueueDepth
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import Rollout

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GIVEN = LabelCounts(seed=40, holdout=300)


def steps(retraining: RetrainingSettings | None = None, **changes: Any) -> list[str]:
    base = TaskFacts(
        task="tickets",
        champion="tickets-1",
        rollout=None,
        turns=(),
        request=None,
        labels=GIVEN,
        new=LabelCounts(expert=57),
        queue=QueueDepth(),
    )
    return next_steps(
        msgspec.structs.replace(base, **changes),
        retraining or RetrainingSettings(min_new_labels=200),
        NOW,
        lambda words: f"`flywheel {words}`",
        "http://here/review/tickets",
    )


def turn(state: Any, **changes: Any) -> Turn:
    base = Turn(
        turn_id="t",
        task="tickets",
        state=state,
        stage="train",
        reason="first labels",
        started_at=NOW - timedelta(seconds=50),
        seconds={"build": 16.0},
    )
    return msgspec.structs.replace(base, **changes)


ROLLOUT = Rollout(
    rollout_id="r",
    task="tickets",
    champion="tickets-1",
    challenger="tickets-2",
    state="canary",
    step=0,
    share=0.05,
    started_at=NOW,
    step_started_at=NOW,
)
REQUEST = TurnRequest(request_id="q", task="tickets", by="ada", why="because", at=NOW)


def test_a_fresh_task_is_told_what_to_bring_in() -> None:
    assert steps(labels=LabelCounts(), champion=None) == [
        "no holdout yet: `flywheel ingest holdout.jsonl --split holdout`",
        "no labelled samples to train on yet: `flywheel ingest seed.jsonl`",
    ]


def test_automatic_labels_are_nothing_to_begin_with() -> None:
    assert "ingest seed.jsonl" in steps(labels=LabelCounts(auto=9, holdout=3))[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"turns": (turn("running"),)}, "a turn is being made: train, 34 s"),
        ({"rollout": ROLLOUT}, "rollout at 5%: `flywheel rollout show`"),
        ({"request": REQUEST}, "ada asked for a turn, which begins as soon as the trainer runs"),
        (
            {"turns": (turn("failed", ended_at=NOW, error="no memory"),)},
            "the last turn failed in train: mend what it names, then `flywheel retrain --by YOU "
            '--why "…"`',
        ),
        (
            {"turns": (turn("succeeded", ended_at=NOW, error="no release"),), "champion": None},
            "the last turn came to no release: more labels, then `flywheel retrain --by YOU "
            '--why "…"`',
        ),
        (
            {"turns": (turn("succeeded", ended_at=NOW),)},
            "the next turn begins at 200 new labels (57 so far), or by `flywheel retrain --by YOU "
            '--why "…"`',
        ),
    ],
)
def test_the_one_thing_that_comes_next(changes: dict[str, Any], said: str) -> None:
    assert steps(**changes) == [said]


def test_what_is_missing_comes_before_what_waits() -> None:
    missing = ConfigurationError("tasks.tickets.training.base_model", "/base is gone", "name one")
    found = steps(base_problem=missing, queue=QueueDepth(open=12), rollout=ROLLOUT)
    assert found[0] == "no turn can be made, /base is gone: name one"
    assert found[-1] == "12 samples wait for an expert: http://here/review/tickets"


def test_where_turns_are_made_by_hand_alone_none_is_promised() -> None:
    assert steps(RetrainingSettings(enabled=False)) == []


def test_after_a_refusal_it_says_what_the_gate_lacked() -> None:
    refused = turn("succeeded", ended_at=NOW, error="no release: +0.000 on 6 held-out samples")
    assert steps(turns=(refused,)) == [
        "the last turn came to no release: +0.000 on 6 held-out samples; more labels may help, or "
        "more held-out samples: `flywheel ingest holdout.jsonl --split holdout`",
        "the next turn begins at 200 new labels (57 so far), or by `flywheel retrain --by YOU "
        '--why "…"`',
    ]


def test_a_release_is_suspected_only_while_model_servers_should_answer() -> None:
    nobody = Readiness(ready=0, total=2, reason="connection refused")
    assert "put its folder back" in steps(answers=nobody)[0]
    assert not any("folder" in step for step in steps(answers=nobody, servers_expected=False))
