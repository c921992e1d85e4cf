"""When a turn starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.stores import LabelCounts
from flywheel.retraining.config import RetrainingSettings
from flywheel.retraining.ports import Ahead, Turn, TurnRequest
from flywheel.retraining.trigger import QUIET, RETRY_AFTER, Facts, decide, when_begun

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = RetrainingSettings(min_new_labels=100)


def facts(**changes: Any) -> Facts:
    base = Facts(
        new=LabelCounts(),
        last_dataset_at=NOW - timedelta(hours=1),
        latest=None,
        request=None,
        watermark="7",
        rollout_running=False,
    )
    return msgspec.structs.replace(base, **changes)


def turn(state: Any, ended: datetime | None = None) -> Turn:
    return Turn(
        turn_id="t",
        task="q",
        state=state,
        stage="train",
        reason="before",
        started_at=NOW,
        ended_at=ended,
    )


REQUEST = TurnRequest(request_id="r", task="q", by="ada", why="because", at=NOW)


@given(st.integers(0, 300))
def test_new_labels_start_a_turn_at_the_threshold_and_not_before(expert: int) -> None:
    start = decide(facts(new=LabelCounts(expert=expert)), SETTINGS, NOW)
    assert (start is not None) == (expert >= 100)


def test_automatic_labels_alone_never_start_a_turn() -> None:
    assert decide(facts(new=LabelCounts(auto=10_000)), SETTINGS, NOW) is None


def test_no_turn_by_count_while_a_challenger_is_compared() -> None:
    many = facts(new=LabelCounts(expert=500), rollout_running=True)
    assert decide(many, SETTINGS, NOW) is None
    asked = msgspec.structs.replace(many, request=REQUEST)
    assert decide(asked, SETTINGS, NOW) is not None


def test_the_first_turn_waits_for_labels_to_train_on_and_for_quiet() -> None:
    only_holdout = LabelCounts(holdout=100, latest=NOW - QUIET)
    assert decide(facts(last_dataset_at=None, new=only_holdout), SETTINGS, NOW) is None
    loud = LabelCounts(seed=60, holdout=100, latest=NOW - QUIET / 2)
    assert decide(facts(last_dataset_at=None, new=loud), SETTINGS, NOW) is None
    quiet = LabelCounts(seed=60, holdout=100, latest=NOW - QUIET)
    assert decide(facts(last_dataset_at=None, new=quiet), SETTINGS, NOW) is not None


def test_an_interrupted_turn_comes_before_everything_else() -> None:
    interrupted = turn("running")
    start = decide(facts(latest=interrupted, request=REQUEST), SETTINGS, NOW)
    assert start is not None
    assert start.resume == interrupted


def test_a_failed_turn_is_not_tried_again_in_a_tight_loop() -> None:
    soon = facts(latest=turn("failed", NOW - RETRY_AFTER / 2), request=REQUEST)
    assert decide(soon, SETTINGS, NOW) is None
    later = facts(latest=turn("failed", NOW - RETRY_AFTER), request=REQUEST)
    assert decide(later, SETTINGS, NOW) is not None


def test_age_starts_a_turn_only_with_new_labels() -> None:
    aged = RetrainingSettings(min_new_labels=100, max_age_hours=1)
    assert decide(facts(), aged, NOW) is None
    assert decide(facts(new=LabelCounts(expert=1)), aged, NOW) is not None


def test_switched_off_only_a_person_starts_a_turn() -> None:
    off = RetrainingSettings(min_new_labels=1, enabled=False)
    assert decide(facts(new=LabelCounts(expert=500)), off, NOW) is None
    start = decide(facts(request=REQUEST), off, NOW)
    assert start is not None
    assert start.reason == "ada: because"


def test_without_any_label_nothing_starts() -> None:
    assert decide(facts(watermark=None, request=REQUEST), SETTINGS, NOW) is None


RUNNING = msgspec.structs.replace(turn("running"), started_at=NOW - timedelta(seconds=40))


@pytest.mark.parametrize(
    ("ahead", "latest", "labelled", "said"),
    [
        (Ahead(trainer=True), None, True, "within a second"),
        (Ahead(trainer=True), turn("succeeded", NOW), True, "within a second"),
        (
            Ahead(trainer=True, running=RUNNING),
            RUNNING,
            True,
            "after the turn of q that is being made (train, 40 s so far)",
        ),
        (
            Ahead(trainer=True, running=RUNNING, asked=2),
            None,
            True,
            "after the turn of q that is being made (train, 40 s so far), and the 2 asked for "
            "before",
        ),
        (Ahead(trainer=True, asked=1), None, True, "after the 1 asked for before"),
        (Ahead(), None, True, "as soon as the trainer runs"),
        (
            Ahead(running=RUNNING),
            RUNNING,
            True,
            "as soon as the trainer runs, after the turn of q that was interrupted",
        ),
        (Ahead(trainer=True), None, False, "once there are labels to train on"),
        (
            Ahead(trainer=True),
            turn("failed", NOW - timedelta(seconds=20)),
            True,
            "in 40 s, as the last turn failed just now",
        ),
    ],
)
def test_when_a_turn_that_is_asked_for_begins(
    ahead: Ahead, latest: Turn | None, labelled: bool, said: str
) -> None:
    assert when_begun(ahead, latest, labelled, NOW) == said
