"""Experts who answer at the same moment, on both databases."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from flywheel.contracts.codec import decode
from flywheel.contracts.events import LabelRecorded, LabelSettled, ReviewRequested
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import Conflict
from flywheel.kinds import Choice
from flywheel.review.claim import claim_next
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer
from flywheel.review.submit import submit_answer
from storage.database import Database

LABELS = ("NUM", "LOC")
SETTINGS = ReviewSettings(answers_needed=2, answers_at_most=3)
PEOPLE = [f"expert {index}" for index in range(6)]
SAMPLES = [f"sample {index}" for index in range(24)]


def fill(database: Database) -> None:
    requests = [
        ReviewRequested(
            event_id=new_id(),
            occurred_at=utc_now(),
            task="task",
            sample_id=sample_id,
            content="text",
            reason="unsure",
            priority=50.0,
            inclusion_probability=0.5,
            audit=False,
        )
        for sample_id in SAMPLES
    ]
    with database.transaction() as tx:
        tx.intake.open(requests)


def settlements(database: Database) -> tuple[Counter[str], int]:
    rows = database.outbox_rows("console").unsent(10_000)
    events = [decode(record.value, dict(record.headers)) for _, record in rows]
    settled = Counter(event.sample_id for event in events if isinstance(event, LabelSettled))
    return settled, sum(isinstance(event, LabelRecorded) for event in events)


def test_each_sample_settles_once_however_its_answers_meet(database: Database) -> None:
    fill(database)
    together = threading.Barrier(len(PEOPLE))

    def work(person: str) -> int:
        order = random.Random(person).sample(SAMPLES, len(SAMPLES))
        accepted = 0
        together.wait()
        for sample_id in order:
            answer = Answer(
                sample_id=sample_id, annotator=person, value="NUM", answered_at=utc_now()
            )
            try:
                with database.transaction("console") as tx:
                    submit_answer(tx, "task", Choice(LABELS), SETTINGS, answer)
            except Conflict:
                continue
            accepted += 1
        return accepted

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        accepted = sum(pool.map(work, PEOPLE))
    settled, recorded = settlements(database)
    assert settled == Counter(SAMPLES)
    assert recorded == accepted == 2 * len(SAMPLES), "two answers each, then it is closed"


def test_one_answer_sent_many_times_at_once_counts_once(database: Database) -> None:
    fill(database)
    together = threading.Barrier(6)

    def send(_: int) -> str:
        together.wait()
        answer = Answer(sample_id=SAMPLES[0], annotator="ada", value="NUM", answered_at=utc_now())
        with database.transaction("console") as tx:
            return submit_answer(tx, "task", Choice(LABELS), SETTINGS, answer).state

    with ThreadPoolExecutor(6) as pool:
        states = set(pool.map(send, range(6)))
    assert states == {"submitted"}
    assert settlements(database) == (Counter(), 1)


def test_no_two_experts_hold_a_sample_that_needs_one(database: Database) -> None:
    fill(database)
    one = ReviewSettings()
    together = threading.Barrier(len(PEOPLE))

    def claim(person: str) -> list[str]:
        together.wait()
        with database.transaction("console") as tx:
            claimed = claim_next(
                tx, task="task", annotator=person, limit=3, now=utc_now(), settings=one
            )
        return [item.sample_id for item in claimed.items]

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        held = [sample for given in pool.map(claim, PEOPLE) for sample in given]
    assert len(held) == len(set(held)) == 3 * len(PEOPLE)
