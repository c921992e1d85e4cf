"""What counts of a label, a truth or a dataset that is said again, goes back or is dated ahead."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from release_records import release_record
from sqlalchemy import select
from storage_events import TASK, label, request, settled, traffic

from flywheel.contracts.events import DatasetVersioned, Event, LabelSettled
from flywheel.contracts.ids import new_id
from flywheel.contracts.release import Release
from flywheel.processes import trainer
from flywheel.retraining.config import RetrainingSettings
from flywheel.retraining.ports import GateRefusal, Turn, TurnRequest
from flywheel.retraining.run_pipeline import make_turn
from flywheel.retraining.trigger import Facts, Start, decide
from storage.database import Database
from storage.tables.columns import table_of
from storage.tables.evidence import ScoreRow, TruthRow
from storage.tables.labels import TrafficRow

AHEAD = [timedelta(minutes=1), timedelta(hours=2), timedelta(days=36_500)]


def dated(event: Any, by: timedelta) -> Any:
    return msgspec.structs.replace(event, occurred_at=datetime.now(UTC) + by)


def record(database: Database, *events: Event) -> None:
    """Each in a batch of its own, as agents do."""
    for event in events:
        with database.transaction() as tx:
            if isinstance(event, LabelSettled):
                tx.label_intake.record_settlements([event])
            else:
                tx.label_intake.record_labels([event])  # type: ignore[list-item]
            tx.evidence_intake.record([event])  # type: ignore[list-item]


def settled_label(database: Database) -> tuple[str | None, str | None]:
    with database.transaction(read_only=True) as tx:
        watermark = tx.labels.watermark(TASK)
        found = tx.labels.settled(TASK, watermark) if watermark else []
        return (found[0].label if found else None), watermark


def truth(database: Database) -> str | None:
    truths = table_of(TruthRow)
    with database.work() as work:
        row = work.row(select(truths.c.value).where(truths.c.task == TASK))
        return None if row is None else row.value


by_files: Callable[[str], Event] = lambda value: label("s", value, "seed")  # noqa: E731
by_users: Callable[[str], Event] = lambda value: label("s", value, "user")  # noqa: E731
by_outcome: Callable[[str], Event] = lambda value: label("s", value, "outcome")  # noqa: E731
by_experts: Callable[[str], Event] = lambda value: settled("s", value)  # noqa: E731
ways = pytest.mark.parametrize(
    "say",
    [by_files, by_users, by_outcome, by_experts],
    ids=["files", "users", "outcome", "experts"],
)


@ways
@pytest.mark.parametrize("ahead", AHEAD, ids=str)
def test_a_label_dated_ahead_is_corrected_by_what_comes_after_it(
    database: Database, say: Callable[[str], Event], ahead: timedelta
) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s")])
    record(database, dated(say("a"), ahead))
    record(database, dated(say("b"), timedelta()))
    assert settled_label(database)[0] == truth(database) == "b"
    record(database, dated(say("a"), timedelta()))
    assert settled_label(database)[0] == truth(database) == "a"


@ways
def test_a_label_goes_back_and_what_repeats_changes_nothing(
    database: Database, say: Callable[[str], Event]
) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s")])
    for value in ("a", "b", "a"):
        record(database, dated(say(value), timedelta()))
        first = settled_label(database)
        assert first[0] == truth(database) == value
        record(database, dated(say(value), timedelta()))
        assert settled_label(database) == first
        with database.transaction(read_only=True) as tx:
            assert tx.labels.counts(TASK, first[1]).latest is None


def test_everything_that_times_put_in_order_is_no_later_than_its_arrival(
    database: Database,
) -> None:
    ahead = timedelta(hours=2)
    before = datetime.now(UTC)
    with database.transaction() as tx:
        tx.label_intake.record_samples([dated(traffic("s"), ahead)])
        tx.evidence_intake.record([dated(traffic("s"), ahead)])
        tx.intake.open([dated(request("s"), ahead)])
        tx.challengers.enqueue(TASK, "r1", before + ahead, gate_passed=True)
        tx.challengers.enqueue(TASK, "r2", datetime.now(UTC), gate_passed=True)
    after = datetime.now(UTC)
    with database.work() as work:
        for table in (table_of(TrafficRow), table_of(ScoreRow)):
            (row,) = work.rows(select(table.c.occurred_at))
            assert before <= row.occurred_at <= after
    with database.transaction(read_only=True) as tx:
        assert tx.challengers.waiting(TASK) == ["r1", "r2"]
        oldest = tx.desk.depth(TASK, after).oldest_open
        assert oldest is not None
        assert before <= oldest <= after
        latest = tx.overview.source_history(TASK)[0].latest
        assert before <= latest <= after


def version(name: str, watermark: int, parent: str | None) -> DatasetVersioned:
    return DatasetVersioned(
        event_id=new_id(),
        occurred_at=datetime.now(UTC),
        task=TASK,
        version=name,
        parent=parent,
        git_commit="abc",
        dvc_hash="def",
        watermark=f"{watermark:012d}",
        expert_labels=1,
        auto_labels=0,
        holdout_labels=1,
    )


def test_a_dataset_that_goes_back_is_the_newest_again(database: Database) -> None:
    one, two, again = version("d1", 1, None), version("d2", 2, "d1"), version("d1", 3, "d2")
    with database.transaction() as tx:
        for event in (one, two, again):
            tx.datasets.add(event)
        latest = tx.datasets.latest(TASK)
        assert latest == msgspec.structs.replace(again, parent=None)
        # A merge goes back to a dataset's own labels: none of those since has been trained on.
        tx.datasets.add(version("d2", 2, "d1"))
        assert tx.datasets.latest(TASK) == latest
        assert [event.version for event in tx.datasets.history(TASK)] == ["d2", "d1"]


class SamePipeline:
    """A pipeline whose datasets are named by the labels they hold, and whose gate says no."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watermark = ""

    def prepare(self, turn: Turn, request: TurnRequest | None, watermark: str) -> None:
        self._watermark = watermark

    def prepared(self, turn: Turn) -> bool:
        return True

    def run(self, task: str, stage: str) -> None:
        return

    def stages(self, task: str) -> tuple[str, ...]:
        return ("train",)

    def commit_dataset(self, task: str) -> DatasetVersioned:
        with self._database.transaction(read_only=True) as tx:
            (sample,) = tx.labels.settled(task, self._watermark)
        return version(f"d-{sample.label}", int(self._watermark), None)

    def assemble(self, *_: object) -> GateRefusal:
        return GateRefusal(reason="no")


def test_labels_that_go_back_make_one_turn_and_not_one_after_the_other(
    database: Database,
) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s")])
    for values in (["a"], ["b"], ["a"], ["b", "a"]):
        for value in values:
            record(database, dated(by_files(value), timedelta()))
        turn = make_turn(
            TASK,
            Start(reason="a test"),
            SamePipeline(database),
            None,  # type: ignore[arg-type]
            lambda: database.transaction("trainer"),
        )
        assert turn.dataset_version == f"d-{values[-1]}"
        facts = gather(database, TASK)
        assert decide(facts, RetrainingSettings(min_new_labels=1), datetime.now(UTC)) is None


class OldModel(SamePipeline):
    """Whose gate says yes to a model made from the label alone."""

    def commit_dataset(self, task: str) -> DatasetVersioned:
        if not self._watermark:  # resumed
            return version("d-b", 2, None)
        return super().commit_dataset(task)

    def assemble(self, turn: Turn, dataset: DatasetVersioned, _: object) -> Release:  # type: ignore[override]
        return release_record(
            f"{TASK}-{dataset.version}",
            TASK,
            dataset_version=dataset.version,
            recipe={"turn": turn.turn_id},
        )


def test_a_turn_that_makes_an_old_release_again_says_so(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s")])

    def turn(start: Start) -> Turn:
        return make_turn(
            TASK,
            start,
            OldModel(database),
            None,  # type: ignore[arg-type]
            lambda: database.transaction("trainer"),
        )

    made = []
    for value in ("a", "b", "a"):
        record(database, dated(by_files(value), timedelta()))
        made.append(turn(Start(reason="a test")))
    assert [one.release for one in made] == [f"{TASK}-d-a", f"{TASK}-d-b", None]
    assert [one.error for one in made[:2]] == [None, None]
    said = made[2].error or ""
    assert said.startswith("no release: the turn made the same as before.")
    assert f"{TASK}-d-a is registered here already, since 2026-01-02" in said
    for command in ("flywheel releases restore", "flywheel rollout start"):
        assert command in said
    assert len(database.outbox_rows("trainer").unsent(100)) == 5, "3 datasets, 2 releases"

    # A turn that had registered its release when it was killed is no such one.
    again = turn(Start(reason="a test", resume=made[1]))
    assert (again.release, again.error) == (f"{TASK}-d-b", None)


def gather(database: Database, task: str) -> Facts:
    with database.transaction() as tx:
        return trainer.gather(tx, task)


class NoModel(SamePipeline):
    """A pipeline of a kind that no model is made of."""

    def stages(self, task: str) -> tuple[str, ...]:
        return ()

    def assemble(self, *_: object) -> GateRefusal:
        raise AssertionError("there is nothing to assemble")


def test_a_turn_of_a_kind_without_models_ends_with_its_dataset(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s")])
    record(database, dated(by_files("a"), timedelta()))
    turn = make_turn(
        TASK,
        Start(reason="a test"),
        NoModel(database),
        None,  # type: ignore[arg-type]
        lambda: database.transaction("trainer"),
    )
    assert (turn.state, turn.error, turn.release) == ("succeeded", None, None)
    assert turn.dataset_version == "d-a"
    with database.transaction(read_only=True) as tx:
        latest = tx.datasets.latest(TASK)
    assert latest is not None
    assert latest.version == "d-a"
