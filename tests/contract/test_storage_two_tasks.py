"""One sample id in two tasks: what becomes of it in one says nothing of the other."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from audits import audits_of
from rollout_evidence import pairs_of
from storage_events import at, label, request, shadow, traffic

from flywheel.contracts.codec import decode
from flywheel.contracts.events import Event, RolloutChanged
from flywheel.contracts.ids import new_id
from flywheel.contracts.split import TrafficSplit
from flywheel.kinds import Choice
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer, ReviewTask
from flywheel.review.submit import skip, submit_answer, undo
from storage.database import Database
from streams.agents import evidence, labels, review

TOPIC, URGENCY = "topic", "urgency"
LABELS = {TOPIC: ("billing", "login"), URGENCY: ("low", "high")}
REVIEW = ReviewSettings()


class Loop:
    """The database-writing agents, handed events as Kafka would, and an expert."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = at(0)

    def tell(self, *events: Event) -> None:
        for agent in (labels.agent, evidence.agent, review.agent):
            agent(self.database).handle(list(events))

    def relay(self) -> None:
        rows = self.database.outbox_rows("console")
        pending = rows.unsent(1000)
        self.tell(*(decode(record.value, dict(record.headers)) for _, record in pending))
        rows.mark_sent([row for row, _ in pending])

    def answer(self, task: str, value: str | None, sample: str = "shared") -> None:
        answer = Answer(sample_id=sample, annotator="ada", value=value, answered_at=self._later())
        use_case = skip if value is None else submit_answer
        with self.database.transaction("console") as tx:
            use_case(tx, task, Choice(LABELS[task]), REVIEW, answer)
        self.relay()

    def undo(self, task: str) -> None:
        with self.database.transaction("console") as tx:
            assert undo(tx, task, Choice(LABELS[task]), "ada", self._later(), REVIEW) is not None
        self.relay()

    def found(self, task: str, sample: str = "shared") -> ReviewTask:
        with self.database.transaction(read_only=True) as tx:
            found = tx.desk.find(task, sample)
        assert found is not None, f"{sample} was never queued for {task}"
        return found

    def states(self) -> tuple[str, str]:
        return self.found(TOPIC).state, self.found(URGENCY).state

    def settled(self, task: str) -> dict[str, str]:
        with self.database.transaction(read_only=True) as tx:
            found = tx.labels.settled(task, "999999999999")
        return {sample.sample_id: sample.label for sample in found}

    def audits(self, task: str) -> list[tuple[str, str, str]]:
        with self.database.transaction(read_only=True) as tx:
            found = audits_of(tx.audits, task, f"r-{task}")
        return [(audit.sample_id, audit.prediction, audit.label) for audit in found]

    def _later(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def loop(database: Database) -> Loop:
    """One ticket that was sent to both tasks and is to be reviewed in both."""
    loop = Loop(database)
    for task in LABELS:
        loop.tell(served(task), asked(task, audit=True))
    return loop


def served(task: str, sample: str = "shared", **other: object) -> Event:
    first, second = LABELS[task]
    said = {"release": f"r-{task}", "output": first, "scores": {first: 0.75, second: 0.25}}
    return traffic(sample, task=task, **(said | other))


def asked(task: str, sample: str = "shared", **other: object) -> Event:
    return request(sample, task=task, **({"release": f"r-{task}"} | other))


def test_both_are_queued_and_settle_by_themselves(loop: Loop) -> None:
    assert loop.states() == ("open", "open")
    loop.answer(TOPIC, "login")
    assert loop.states() == ("settled", "open")
    with loop.database.transaction() as tx:
        assert [s.task for s in tx.desk.claim(URGENCY, "ada", at(50), 60, 9)] == [URGENCY]
        assert tx.desk.claim(TOPIC, "bob", at(50), 60, 9) == []
    loop.answer(URGENCY, "low")
    assert loop.states() == ("settled", "settled")
    assert loop.settled(TOPIC) == {"shared": "login"}
    assert loop.settled(URGENCY) == {"shared": "low"}


def test_settling_one_leaves_the_audit_of_the_other(loop: Loop) -> None:
    loop.answer(TOPIC, "login")
    loop.answer(URGENCY, "low")
    assert loop.audits(TOPIC) == [("shared", "billing", "login")]
    assert loop.audits(URGENCY) == [("shared", "low", "low")]


def test_a_skip_and_an_undo_are_of_one_task(loop: Loop) -> None:
    loop.answer(TOPIC, "login")
    loop.answer(URGENCY, None)
    loop.undo(TOPIC)
    assert loop.states() == ("open", "open")
    with loop.database.transaction(read_only=True) as tx:
        assert tx.desk.answers(TOPIC, "shared") == []
        assert [one.value for one in tx.desk.answers(URGENCY, "shared")] == [None]
    loop.answer(TOPIC, "billing")
    assert loop.settled(TOPIC) == {"shared": "billing"}
    assert loop.audits(URGENCY) == []


def test_feedback_on_one_leaves_the_review_of_the_other(loop: Loop) -> None:
    for task in LABELS:
        loop.tell(served(task, "plain"), asked(task, "plain"))
    loop.tell(label("plain", "high", "user", task=URGENCY))
    assert loop.found(TOPIC, "plain").state == "open"
    assert loop.found(URGENCY, "plain").state == "withdrawn"
    loop.tell(label("shared", "billing", "outcome", task=TOPIC))
    assert loop.states() == ("open", "open"), "audits wait for an expert"


def test_a_rollout_of_one_neither_lifts_nor_compares_samples_of_the_other(loop: Loop) -> None:
    rollout = {"rollout_id": "rollout", "release": "same release"}
    for task in LABELS:
        loop.tell(
            served(task, "plain", arm="champion", rollout_id=f"of {task}"),
            shadow("plain", task=task, rollout_id=f"of {task}", output=LABELS[task][1]),
            asked(task, "plain", audit=True, **rollout),
        )
    loop.tell(
        RolloutChanged(
            event_id=new_id(), occurred_at=at(9), task=TOPIC, rollout_id="rollout",
            state="rolled_back", split=TrafficSplit(task=TOPIC, champion="r-topic"),
            decided_by="controller", reason="harm", challenger="same release",
        )
    )  # fmt: skip
    assert loop.found(URGENCY, "plain").priority == 50
    assert loop.found(TOPIC, "plain").priority == review.ROLLED_BACK_PRIORITY
    loop.answer(TOPIC, "login", "plain")
    loop.answer(URGENCY, "low", "plain")
    with loop.database.transaction(read_only=True) as tx:
        for task, champion_right in ((TOPIC, False), (URGENCY, True)):
            [pair] = pairs_of(tx.evidence, f"of {task}")
            assert (pair.champion_correct, pair.challenger_correct) == (
                champion_right,
                not champion_right,
            )


def test_the_balance_counts_a_sample_once_a_task(loop: Loop) -> None:
    loop.answer(TOPIC, "login")
    loop.answer(URGENCY, "low")
    with loop.database.transaction(read_only=True) as tx:
        assert tx.balance.recorded() == 2
        assert tx.balance.doubled_answers() == tx.balance.doubled_settlements() == []
        assert tx.balance.unkept_settlements() == []
        wanted = [(TOPIC, "shared"), (URGENCY, "shared"), (URGENCY, "never asked")]
        assert tx.effects.unqueued(wanted) == {(URGENCY, "never asked")}


def test_a_truth_that_is_not_there_is_missed_in_its_task(loop: Loop) -> None:
    loop.answer(TOPIC, "login")
    loop.answer(URGENCY, "low")
    with loop.database.work() as work:
        work.connection.exec_driver_sql("DELETE FROM evidence_truths WHERE task = 'topic'")
    with loop.database.transaction(read_only=True) as tx:
        words = [(task, "shared", "expert") for task in (TOPIC, URGENCY)]
        assert tx.effects.unproved(words) == {(TOPIC, "shared", "expert")}
