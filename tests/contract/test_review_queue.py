"""The queue as a state machine: any order of claims, answers, skips, undos and lost leases."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from postgres_server import empty
from review_databases import StoredDatabase, opened

from flywheel.contracts.events import LabelRecorded, LabelSettled, ReviewRequested
from flywheel.contracts.ids import new_id
from flywheel.errors import Conflict
from flywheel.kinds import Choice
from flywheel.review.agreement import verdict
from flywheel.review.claim import claim_next
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer
from flywheel.review.submit import skip, submit_answer, undo
from storage.database import Database

LABELS = ("NUM", "LOC", "HUM")
PEOPLE = ("ada", "bob", "cy", "di")
LEASE = 60.0

people = st.sampled_from(PEOPLE)
values = st.sampled_from(LABELS)


class Queue(RuleBasedStateMachine):
    """What the test keeps of its own: who answered what, in order, and who holds what."""

    kind = "memory"
    opened = staticmethod(opened)
    samples = Bundle("samples")

    def __init__(self) -> None:
        super().__init__()
        self.open = ExitStack()
        folder = Path(self.open.enter_context(tempfile.TemporaryDirectory()))
        self.db = self.open.enter_context(self.opened(self.kind, folder))
        # Storage reads the present time for a sample's state, so the machine's clock is ahead.
        self.now = datetime(2100, 1, 1, tzinfo=UTC)
        self.answers: dict[str, list[Answer]] = {}
        self.log: list[Answer] = []
        self.held: dict[tuple[str, str], datetime] = {}
        self.settled: dict[str, str | None] = {}
        self.withdrawn: set[str] = set()
        self.accepted = self.settlements = self.withdrawals = 0

    def teardown(self) -> None:
        self.open.close()

    @initialize(needed=st.integers(1, 3), at_most=st.integers(1, 4))
    def policy(self, needed: int, at_most: int) -> None:
        self.settings = ReviewSettings(
            answers_needed=needed, answers_at_most=max(needed, at_most), lease_seconds=LEASE
        )

    def tick(self) -> None:
        self.now += timedelta(seconds=1)

    @rule(target=samples, priority=st.sampled_from([10.0, 50.0, 90.0]))
    def request(self, priority: float) -> str:
        sample_id = f"sample-{len(self.answers)}"
        event = ReviewRequested(
            event_id=new_id(),
            occurred_at=self.now,
            task="task",
            sample_id=sample_id,
            content="text",
            reason="unsure",
            priority=priority,
            inclusion_probability=0.5,
            audit=False,
        )
        with self.db.transaction() as tx:
            assert tx.intake.open([event, event]) == 1
            assert tx.intake.open([event]) == 0
        self.answers[sample_id] = []
        return sample_id

    @rule(person=people, limit=st.integers(1, 3))
    def claim(self, person: str, limit: int) -> None:
        self.tick()
        with self.db.transaction() as tx:
            claimed = claim_next(
                tx,
                task="task",
                annotator=person,
                limit=limit,
                now=self.now,
                settings=self.settings,
            )
        given = [item.sample_id for item in claimed.items]
        assert len(set(given)) == len(given) <= limit
        for sample_id in given:
            assert sample_id not in self.settled, "nobody gets a settled sample"
            assert sample_id not in self.withdrawn
            assert all(answer.annotator != person for answer in self.answers[sample_id])
            others = self.holders(sample_id) - {person}
            if person not in self.holders(sample_id):
                cast = sum(not answer.skipped for answer in self.answers[sample_id])
                assert len(others) < max(1, self.settings.answers_needed - cast)
            self.held[sample_id, person] = self.now + timedelta(seconds=LEASE)
        if len(given) < limit:
            free = [s for s in self.answers if self.available(s, person)]
            assert set(free) == set(given), "whatever is free is given"

    @rule(sample_id=samples, person=people, value=values)
    def answer(self, sample_id: str, person: str, value: str) -> None:
        self.tick()
        answer = self.given(sample_id, person, value)
        earlier = self.earlier(sample_id, person)
        try:
            with self.db.transaction() as tx:
                done = submit_answer(tx, "task", Choice(LABELS), self.settings, answer)
        except Conflict:
            closed = sample_id in self.settled or sample_id in self.withdrawn
            assert closed or (earlier is not None and earlier.value != value)
            return
        if earlier is not None:
            assert earlier.value == value
            assert done.repeated
        else:
            assert sample_id not in self.settled
            self.accepted += 1
            self.record(answer)
        assert done.settled == (sample_id in self.settled)

    @rule(sample_id=samples, person=people)
    def give_up(self, sample_id: str, person: str) -> None:
        self.tick()
        answer = msgspec.structs.replace(self.given(sample_id, person, None), unlabelable=True)
        earlier = self.earlier(sample_id, person)
        try:
            with self.db.transaction() as tx:
                done = submit_answer(tx, "task", Choice(LABELS), self.settings, answer)
        except Conflict:
            closed = sample_id in self.settled or sample_id in self.withdrawn
            assert closed or (earlier is not None and not earlier.unlabelable)
            return
        assert done.repeated == (earlier is not None)
        if not done.repeated:
            self.record(answer)
        assert done.settled == (sample_id in self.settled)

    @rule(sample_id=samples, person=people)
    def skip(self, sample_id: str, person: str) -> None:
        self.tick()
        earlier = self.earlier(sample_id, person)
        answer = self.given(sample_id, person, None)
        try:
            with self.db.transaction() as tx:
                done = skip(tx, "task", Choice(LABELS), self.settings, answer)
        except Conflict:
            assert earlier is not None
            assert not earlier.skipped
            return
        if not done.repeated:
            self.record(answer)
        assert done.settled == (sample_id in self.settled)

    @rule(person=people)
    def undo(self, person: str) -> None:
        self.tick()
        mine = [answer for answer in self.log if answer.annotator == person]
        with self.db.transaction() as tx:
            sample = undo(tx, "task", Choice(LABELS), person, self.now, self.settings)
        if not mine:
            assert sample is None
            return
        assert sample is not None
        assert sample.sample_id == mine[-1].sample_id
        taken_back, sample_id = mine[-1], sample.sample_id
        self.log.remove(taken_back)
        self.answers[sample_id].remove(taken_back)
        if not taken_back.skipped:
            self.settle_anew(sample_id)
        if sample_id in self.settled:
            assert sample.state == "settled"
        elif sample_id in self.withdrawn:
            assert sample.state == "withdrawn"
        else:
            assert sample.state == "claimed"
            self.held[sample_id, person] = self.now + timedelta(seconds=LEASE)

    @rule(sample_id=samples)
    def label_elsewhere(self, sample_id: str) -> None:
        with self.db.transaction() as tx:
            tx.intake.withdraw("task", [sample_id])
        self.withdrawn.add(sample_id)

    @rule()
    def leases_run_out(self) -> None:
        self.now += timedelta(seconds=LEASE + 1)

    @invariant()
    def no_label_is_lost_and_every_settlement_is_told_once(self) -> None:
        sent = self.db.sent()
        assert sum(isinstance(event, LabelRecorded) for event in sent) == self.accepted
        settlements = [event for event in sent if isinstance(event, LabelSettled)]
        told = [event for event in settlements if not event.withdraws]
        assert len(told) == self.settlements
        assert len(settlements) - len(told) == self.withdrawals
        assert len({event.event_id for event in sent}) == len(sent)
        latest = {event.sample_id: event for event in settlements}
        stands = {s: event.value for s, event in latest.items() if not event.withdraws}
        assert stands == self.settled

    @invariant()
    def the_settlement_is_the_verdict_of_the_answers(self) -> None:
        for sample_id in set(self.answers) - self.withdrawn:
            agreed = verdict(self.answers[sample_id], self.settings)
            assert (sample_id in self.settled) == (agreed is not None)
            assert self.settled.get(sample_id) == (agreed.value if agreed else None)

    @invariant()
    def depth_adds_up(self) -> None:
        with self.db.transaction() as tx:
            depth = tx.desk.depth("task", self.now)
        total = depth.open + depth.claimed + depth.submitted + depth.settled + depth.withdrawn
        assert total == len(self.answers)
        assert depth.settled == len(self.settled)
        assert depth.unlabelable == list(self.settled.values()).count(None)

    def given(self, sample_id: str, person: str, value: str | None) -> Answer:
        return Answer(sample_id=sample_id, annotator=person, value=value, answered_at=self.now)

    def record(self, answer: Answer) -> None:
        self.answers[answer.sample_id].append(answer)
        self.log.append(answer)
        self.held.pop((answer.sample_id, answer.annotator), None)
        self.settle_anew(answer.sample_id)

    def settle_anew(self, sample_id: str) -> None:
        """What is settled is the verdict of the answers there are."""
        agreed = verdict(self.answers[sample_id], self.settings)
        closed = sample_id in self.withdrawn and sample_id not in self.settled
        if agreed is not None and not closed:
            self.settled[sample_id] = agreed.value
            self.settlements += 1
        elif sample_id in self.settled:
            del self.settled[sample_id]
            self.withdrawals += 1

    def earlier(self, sample_id: str, person: str) -> Answer | None:
        return next((a for a in self.answers[sample_id] if a.annotator == person), None)

    def holders(self, sample_id: str) -> set[str]:
        return {who for (s, who), until in self.held.items() if s == sample_id and until > self.now}

    def available(self, sample_id: str, person: str) -> bool:
        if sample_id in self.settled or sample_id in self.withdrawn:
            return False
        if self.earlier(sample_id, person) is not None:
            return False
        holders = self.holders(sample_id)
        cast = sum(not answer.skipped for answer in self.answers[sample_id])
        missing = max(1, self.settings.answers_needed - cast)
        return person in holders or len(holders) < missing


class SqliteQueue(Queue):
    kind = "sqlite"


@pytest.mark.parametrize(
    ("machine", "examples", "steps"),
    [(Queue, 150, 50), (SqliteQueue, 25, 30)],
    ids=["memory", "sqlite"],
)
def test_the_queue(machine: type[Queue], examples: int, steps: int) -> None:
    walk(machine, examples, steps)


def test_the_queue_on_postgresql(postgresql_database: Database) -> None:
    @contextmanager
    def emptied(kind: str, folder: Path) -> Iterator[StoredDatabase]:
        empty(postgresql_database)
        yield StoredDatabase(postgresql_database)

    class PostgresqlQueue(Queue):
        opened = staticmethod(emptied)

    walk(PostgresqlQueue, 10, 30)


def walk(machine: type[Queue], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
