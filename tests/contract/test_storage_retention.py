"""What retention removes, what stays, and that totals go on counting what went."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from kept_rows import (
    ALL,
    DAY,
    NOW,
    OF_LABELS,
    answered,
    begin_rollout,
    keep,
    rows,
    swept,
    totals,
)
from sqlalchemy import select
from storage_events import START, TASK, at, label, request, settled, traffic

from flywheel.contracts.events import Event, LabelSettled
from flywheel.contracts.ids import new_id, utc_now
from flywheel.retention.config import RetentionSettings, TaskRetentionSettings
from flywheel.retention.erasure import Erasure, erase_rows
from flywheel.retention.sweep import cutoffs, plan, sweep
from flywheel.retraining.ports import Turn
from flywheel.review.ports import Answer
from storage.database import Database
from storage.tables import metadata

LABELLED = RetentionSettings(traffic=30, automatic=30, labelled=30, evidence=30, review=30)


def history(database: Database) -> None:
    """Ten samples of each kind: old and young, without a label, labelled by rules, by people."""
    events: list[Event] = []
    for number in range(10):
        for age, days in (("old", number), ("young", 80 + number)):
            events += answered(f"{age} {number}", days, confidence=0.5 + number / 100)
            events += answered(f"{age} ruled {number}", days)
            events.append(label(f"{age} ruled {number}", "a", "rule", days * DAY + 2))
            events += answered(f"{age} audited {number}", days, source="app")
            events.append(request(f"{age} audited {number}", seconds=days * DAY, audit=True))
            events.append(settled(f"{age} audited {number}", "b", days * DAY + 3))
        events.append(request(f"old {number}", seconds=number * DAY))
    keep(database, events)
    with database.transaction("agents") as tx:  # what was settled waits for nobody
        settled_ones = [event.sample_id for event in events if isinstance(event, LabelSettled)]
        tx.intake.withdraw(TASK, settled_ones)


def test_what_nobody_labelled_goes_by_its_age(database: Database) -> None:
    history(database)
    begin_rollout(database, ended=True)
    swept(database)
    left = rows(database, "traffic")
    # The old ones wait for an expert.
    assert {name for name in left if name.startswith("old")} >= {f"old {n}" for n in range(10)}
    assert not {name for name in left if "old ruled" in name}
    assert {name for name in left if "old audited" in name} == {
        f"old audited {n}" for n in range(10)
    }
    assert len({name for name in left if name.startswith("young")}) == 30


def test_an_open_review_keeps_its_sample_and_a_finished_one_does_not(database: Database) -> None:
    keep(database, [*answered("waits", 1), request("waits", seconds=DAY)])
    keep(database, [*answered("done", 1), request("done", seconds=DAY)])
    with database.transaction("agents") as tx:
        tx.intake.withdraw(TASK, ["done"])
    begin_rollout(database, ended=True)
    with database.transaction(read_only=True) as tx:
        ticks = tx.overview.ticks()
    swept(database)
    with database.transaction(read_only=True) as tx:
        assert tx.overview.ticks()[TASK] > ticks[TASK]  # whoever waits for news reads anew
    assert rows(database, "traffic") == {"waits"}
    assert rows(database, "review_tasks") == {"waits"}
    assert rows(database, "evidence_scores") == {"waits"}


@pytest.mark.parametrize("source", ["rule", "user"])
def test_what_was_sent_again_since_is_kept_for_as_long_as_anything(
    database: Database, source: Any
) -> None:
    """A request that failed, and its repeat under the same id: a sample goes whole."""
    failed = traffic("s1", 0, status=503, error="away", output=None, confidence=None)
    keep(database, [failed, label("s1", "a", source, 1), traffic("s1", 80 * DAY)])
    settings = RetentionSettings(automatic=60, labelled=60)
    swept(database, settings)
    assert rows(database, "traffic") == {"s1"}
    assert rows(database, "labels") == {"s1"}
    later = cutoffs(settings, NOW + timedelta(days=60))
    reading = lambda: database.transaction(read_only=True)  # noqa: E731
    assert sweep(database.transaction, reading, TASK, later)["traffic"] == 2


def test_totals_say_the_same_before_and_after_and_when_counted_anew(database: Database) -> None:
    history(database)
    begin_rollout(database, ended=True)
    with database.transaction("agents") as tx:
        tx.intake.withdraw(TASK, [f"old {n}" for n in range(10)])
    before = totals(database)
    with database.transaction(read_only=True) as tx:
        shown = tx.overview.coverage(TASK), tx.desk.depth(TASK, NOW), tx.evidence.arms("rollout")
    assert swept(database)["traffic"] > 0
    after = totals(database, OF_LABELS)
    assert after == {name: found for name, found in before.items() if name not in OF_LABELS}
    with database.transaction(read_only=True) as tx:
        assert (
            tx.overview.coverage(TASK),
            tx.desk.depth(TASK, NOW),
            tx.evidence.arms("rollout"),
        ) == shown
    kept = totals(database)
    database.recount()
    assert totals(database) == kept


@pytest.mark.parametrize("of", ["nothing", "a rollout", "a turn", "a champion", "a restore"])
def test_labelled_samples_go_only_when_that_is_asked_and_nothing_rests_on_them(
    database: Database, of: str
) -> None:
    history(database)
    begin_rollout(database, ended=of != "a rollout")
    with database.transaction() as tx:
        champions = {"a champion": ["r0", "r1"], "a restore": ["r1", "r0"]}
        for release in champions.get(of, ["r1", "r0", "r00"]):
            tx.rollouts.set_champion(TASK, release)
    if of == "a turn":
        with database.transaction() as tx:
            tx.turns.save(
                Turn(
                    turn_id="t",
                    task=TASK,
                    state="running",
                    stage="build",
                    reason="x",
                    started_at=NOW,
                )
            )
    before = totals(database, OF_LABELS)
    with database.transaction(read_only=True) as tx:
        shown = tx.overview.coverage(TASK)
    swept(database, LABELLED)
    left = {name for name in rows(database, "traffic") if "old audited" in name}
    assert len(left) == (0 if of == "nothing" else 10)
    for table in ("labels", "settled_labels", "evidence_truths"):
        assert {n for n in rows(database, table) if "old audited" in n} == left
    with database.transaction(read_only=True) as tx:
        assert tx.overview.coverage(TASK) == shown
        counts = tx.labels.counts(TASK)
    assert counts.expert == 10 + len(left)
    assert totals(database, OF_LABELS) == before
    kept = totals(database)
    database.recount()
    assert totals(database) == kept


def test_a_running_rollout_keeps_its_answers_while_traffic_comes(database: Database) -> None:
    begin_rollout(database, ended=False)
    keep(database, [one for n in range(250) for one in answered(f"s{n}", 1)])
    with database.transaction(read_only=True) as tx:
        before = tx.evidence.arms("rollout"), tx.evidence.assignment("rollout", START)
    arriving = iter(range(10_000))

    class Arriving:
        """Requests come in between the parts that are removed."""

        def write(self, task: str, rows: Any) -> None:
            keep(database, answered(f"late {next(arriving)}", 95))

    went = swept(database, archive=Arriving())
    assert went["traffic"] == 250
    assert not went["evidence_scores"]
    late = next(arriving)
    with database.transaction(read_only=True) as tx:
        champion, challenger = tx.evidence.arms("rollout")
    assert champion.requests == before[0][0].requests + late
    assert challenger.shadow_requests == before[0][1].shadow_requests + late
    kept = totals(database)
    database.recount()
    assert totals(database) == kept


def test_what_was_removed_does_not_come_back(database: Database) -> None:
    begin_rollout(database, ended=True)
    events = [*answered("a", 1), label("b", "x", "rule", 2 * DAY), *answered("b", 1)]
    keep(database, events)
    swept(database)
    before = totals(database)
    # Redelivered under the ids that they had, replayed, or late for the first time.
    keep(database, events)
    keep(database, answered("c", 2))
    keep(database, [request("a", seconds=DAY), label("b", "x", "rule", 2 * DAY)])
    assert rows(database, "traffic") | rows(database, "evidence_scores") == set()
    assert rows(database, "labels") | rows(database, "review_tasks") == set()
    assert totals(database) == before
    keep(database, answered("a", 99))
    assert rows(database, "traffic") == {"a"}


def test_a_label_that_comes_while_its_sample_is_looked_at_keeps_it(database: Database) -> None:
    keep(database, answered("a", 1))
    begin_rollout(database, ended=True)

    class Labelling:
        def write(self, task: str, rows: Any) -> None:
            keep(database, [label("a", "x", "user", 99 * DAY)])

    swept(database, archive=Labelling())
    assert rows(database, "traffic") == {"a"}
    assert rows(database, "settled_labels") == {"a"}


def test_plan_counts_what_would_go_and_removes_nothing(database: Database) -> None:
    history(database)
    begin_rollout(database, ended=True)
    counted = plan(lambda: database.transaction(read_only=True), TASK, cutoffs(ALL, NOW))
    assert counted == {"automatic": 10, "review": 10}, "the others wait for an expert"
    with database.transaction("agents") as tx:
        tx.intake.withdraw(TASK, [f"old {n}" for n in range(10)])
    counted = plan(lambda: database.transaction(read_only=True), TASK, cutoffs(ALL, NOW))
    assert counted == {"traffic": 10, "automatic": 10, "evidence": 20, "review": 20}
    went = swept(database)
    assert went["traffic"] == 20


def test_ended_midway_it_goes_on(database: Database) -> None:
    begin_rollout(database, ended=True)
    keep(database, [one for n in range(450) for one in answered(f"s{n}", 1)])
    before = totals(database)

    class PowerCut(Exception):
        pass

    cuts = iter([True, False, True])

    class Archive:
        def write(self, task: str, rows: Any) -> None:
            if next(cuts, False):
                raise PowerCut

    for _ in range(2):
        with pytest.raises(PowerCut):
            swept(database, archive=Archive())
    swept(database, archive=Archive())
    assert rows(database, "traffic") | rows(database, "evidence_scores") == set()
    assert totals(database) == before
    database.recount()
    assert totals(database) == before


def test_names_of_users_go_with_the_answers_of_a_rollout_that_ended(database: Database) -> None:
    begin_rollout(database, ended=False)
    keep(database, answered("a", 1))
    units = metadata().tables["rollout_units"]

    def names() -> set[str]:
        with database.work(read_only=True) as work:
            return {row.unit for row in work.rows(select(units.c.unit))}

    assert names() == {"user of a"}
    with database.transaction() as tx:
        running = tx.rollouts.active(TASK)
        assert running is not None
        ended = msgspec.structs.replace(running, ended_at=at(2 * DAY), state="rolled_back")
        tx.rollouts.save(ended, None)
    swept(database)
    assert names() == set()


def test_a_task_says_for_itself_what_differs() -> None:
    workspace = RetentionSettings(traffic=30, review=10)
    task = TaskRetentionSettings(traffic=0, evidence=5)
    assert task.within(workspace) == RetentionSettings(traffic=0, review=10, evidence=5)
    assert set(cutoffs(task.within(workspace), NOW)) == {"evidence", "review"}


def test_days_are_whole_so_that_nothing_is_kept_for_less() -> None:
    before = cutoffs(RetentionSettings(traffic=1), NOW)["traffic"]
    assert (before.hour, before.minute) == (0, 0)
    assert NOW - before >= timedelta(days=1)


def test_agents_and_experts_go_on_while_rows_are_removed(database: Database) -> None:
    """No deadlock, no lost count: each writes as ever, retention and an erasure beside."""
    begin_rollout(database, ended=False)
    begin_rollout(database, ended=True, rollout_id="before")
    old = [
        msgspec.structs.replace(one, rollout_id="before")
        for n in range(300)
        for one in answered(f"old {n}", 1, content=f"text {n % 7}")
    ]
    keep(database, old)
    over = threading.Event()

    def again(work: Callable[[int], None]) -> None:
        for turn in itertools.count():
            work(turn)
            # What nobody's writer does is to write all the time: SQLite is not fair to others.
            if over.wait(0.02):
                return

    def label_agent(turn: int) -> None:
        with database.transaction() as tx:
            sent = [traffic(f"new {turn} {n}", 99 * DAY, unit="kim") for n in range(20)]
            tx.label_intake.record_samples(sent)
            tx.label_intake.record_labels([label(f"old {turn * 3 % 300}", "a", "user", 99 * DAY)])

    def evidence_agent(turn: int) -> None:
        with database.transaction() as tx:
            said: list[Event] = []
            for n in range(20):
                said += answered(f"new {turn} {n}", 99)
            said.append(label(f"old {turn * 3 % 300}", "a", "user", 99 * DAY))
            tx.evidence_intake.record(said)

    def review_agent(turn: int) -> None:
        with database.transaction() as tx:
            tx.intake.open([request(f"new {turn} {n}", seconds=99 * DAY) for n in range(3)])

    def expert(turn: int) -> None:
        with database.transaction("console") as tx:
            for given in tx.desk.claim(TASK, "ada", utc_now(), 60, 2):
                answer = Answer(
                    sample_id=given.sample_id,
                    annotator="ada",
                    value="a",
                    answered_at=utc_now(),
                    seconds=1,
                )
                tx.desk.answer(TASK, answer, None)

    writers = (label_agent, evidence_agent, review_agent, expert)
    with ThreadPoolExecutor(len(writers)) as pool:
        working = [pool.submit(again, one) for one in writers]
        try:
            for _ in range(2):
                swept(database, rest=time.sleep)
                erase_user(database, "kim")
        finally:
            over.set()
        for one in working:
            one.result()
    swept(database)
    left = rows(database, "traffic")
    # A label that came too late waits.
    assert {name for name in left if name.startswith("old")} <= rows(database, "labels")
    kept = totals(database)
    database.recount()
    assert totals(database) == kept


def erase_user(database: Database, name: str) -> None:
    erasure = Erasure(
        erasure_id=new_id(), at=at(99.5 * DAY), by="ada", why="x", kind="user", subject="s"
    )
    reading = lambda: database.transaction(read_only=True)  # noqa: E731
    erase_rows(database.transaction, reading, erasure, name, [TASK])
