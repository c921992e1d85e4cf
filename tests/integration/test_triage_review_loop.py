"""From traffic to certified automatic labels, on the real database and without a broker.

Events are handed from agent to agent as Kafka would, and every batch twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from audits import audits_of
from new_database import new_database

from flywheel.contracts.codec import decode
from flywheel.contracts.events import Event, LabelRecorded, ReviewRequested, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.stores import AuditChanges
from flywheel.kinds import Choice
from flywheel.retention.erasure import Erasure, erase_rows
from flywheel.review.claim import claim_next
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer
from flywheel.review.submit import submit_answer, undo
from flywheel.triage.config import TriageSettings
from flywheel.triage.triager import Triager
from storage.database import Database
from streams.agents import evidence, labels, review

LABELS = ("NUM", "LOC")
TASK = "questions"
REVIEW = ReviewSettings()
TRIAGE = TriageSettings(audit_rate=0.3, auto_label_error=0.1, uncertain_share=0.5)


class Audits:
    """What bootstrap does: each read in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        with self._database.transaction(read_only=True) as tx:
            return tx.audits.changed(task, release, after)


class Loop:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.turn = 0.0
        self.triager = Triager(
            {TASK: (Choice(LABELS), TRIAGE)},
            Audits(database),
            policy_interval=0.5,
            clock=lambda: self.turn,
            salt="salt",
        )
        self.queue = review.agent(database).handle
        self.evidence = evidence.agent(database).handle
        self.keep = labels.agent(database).handle
        self.truth: dict[str, str] = {}

    def serve(self, count: int, accuracy: float, seed: int) -> list[Event]:
        """Traffic through triage and the queue's intake; returns what triage made of it."""
        self.turn += 1.0
        rng = random.Random(seed)
        traffic: list[Event] = []
        for index in range(count):
            sample_id = f"{seed}-{index}"
            confidence = rng.uniform(0.75, 0.999)
            self.truth[sample_id] = "LOC" if rng.random() < accuracy else "NUM"
            traffic.append(
                TrafficRecorded(
                    event_id=new_id(),
                    occurred_at=utc_now(),
                    task=TASK,
                    sample_id=sample_id,
                    content=f"question {sample_id}",
                    release="r1",
                    output="LOC",
                    scores={"LOC": confidence, "NUM": 1.0 - confidence},
                    confidence=confidence,
                )
            )
        made = self.triager(traffic)
        again = self.triager(list(reversed(traffic)))
        assert {event.event_id for event in again} == {event.event_id for event in made}
        for _ in range(2):
            self.evidence(traffic)
            self.queue(made)
        return list(made)

    def answer_all(self, annotator: str = "ada") -> int:
        """An expert empties the queue; what it emits goes on to the evidence."""
        answered = 0
        while True:
            with self.database.transaction("console") as tx:
                claimed = claim_next(
                    tx, task=TASK, annotator=annotator, limit=50, now=utc_now(), settings=REVIEW
                )
                for item in claimed.items:
                    answer = Answer(
                        sample_id=item.sample_id,
                        annotator=annotator,
                        value=self.truth[item.sample_id],
                        answered_at=utc_now(),
                    )
                    assert submit_answer(tx, TASK, Choice(LABELS), REVIEW, answer).settled
            if not claimed.items:
                break
            answered += len(claimed.items)
        self.relay()
        return answered

    def relay(self) -> None:
        rows = self.database.outbox_rows("console")
        pending = rows.unsent(100_000)
        events = [decode(record.value, dict(record.headers)) for _, record in pending]
        for _ in range(2):
            self.evidence(events)
        rows.mark_sent([row for row, _ in pending])


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    database = new_database(f"sqlite:///{tmp_path / 'loop.db'}")
    yield Loop(database)
    database.dispose()


def automatic(events: list[Event]) -> int:
    return sum(isinstance(event, LabelRecorded) and event.source == "auto" for event in events)


def test_audits_answered_by_experts_open_and_close_automatic_labels(loop: Loop) -> None:
    first = loop.serve(300, accuracy=0.99, seed=1)
    assert automatic(first) == 0, "nothing is certified before experts have answered"
    answered = loop.answer_all()
    assert answered == len(first)
    assert 60 <= len(audits_of(Audits(loop.database), TASK, "r1")) <= answered

    second = loop.serve(300, accuracy=0.99, seed=2)
    assert automatic(second) > 100, "certified by the audits of the first"
    loop.answer_all()

    loop.serve(300, accuracy=0.5, seed=3)
    loop.answer_all()
    assert automatic(loop.serve(100, accuracy=0.5, seed=4)) == 0, "withdrawn after the drift"


def test_an_undone_answer_is_no_evidence_until_it_is_given_again(loop: Loop) -> None:
    loop.serve(60, accuracy=1.0, seed=7)
    loop.answer_all()
    audits = Audits(loop.database)
    before = len(audits_of(audits, TASK, "r1"))
    undone = 0
    while before == len(audits_of(audits, TASK, "r1")):
        with loop.database.transaction("console") as tx:
            item = undo(tx, TASK, Choice(LABELS), "ada", datetime.now(UTC), REVIEW)
        assert item is not None
        undone += 1
        loop.relay()
    assert len(audits_of(audits, TASK, "r1")) == before - 1
    assert loop.answer_all() == undone
    assert len(audits_of(audits, TASK, "r1")) == before


def test_a_user_who_is_erased_while_triage_has_their_sample_is_shown_to_nobody(loop: Loop) -> None:
    sent = [
        TrafficRecorded(
            event_id=new_id(),
            occurred_at=utc_now(),
            task=TASK,
            sample_id=new_id(),
            content="question",
            unit=unit,
            release="r1",
            output="LOC",
            scores={"LOC": 0.9, "NUM": 0.1},
            confidence=0.9,
        )
        for unit in ("kim", "bo")
        for _ in range(40)
    ]
    made = loop.triager(sent)
    asked = {event.sample_id for event in made if isinstance(event, ReviewRequested)}
    kims = {event.sample_id for event in sent if event.unit == "kim"}
    assert asked & kims
    assert asked - kims
    loop.queue(made[: len(made) // 2])
    erasure = Erasure(
        erasure_id=new_id(), at=utc_now(), by="ada", why="asked", kind="user", subject="x"
    )
    erase_rows(
        loop.database.transaction,
        lambda: loop.database.transaction(read_only=True),
        erasure,
        "kim",
        [TASK],
    )
    # Nobody knew yet whose those were that triage had asked about: their requests come after.
    loop.queue(made)
    loop.keep(sent)
    loop.evidence(sent)
    loop.queue(made)
    with loop.database.transaction("console") as tx:
        claimed = claim_next(
            tx, task=TASK, annotator="ada", limit=100, now=utc_now(), settings=REVIEW
        )
        assert {one.sample_id for one in claimed.items} == asked - kims
        assert set(tx.overview.texts(TASK, [event.sample_id for event in sent])).isdisjoint(kims)
