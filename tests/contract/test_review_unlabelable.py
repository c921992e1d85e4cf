"""A sample that nobody can label: settled without a label, never trained on, counted as wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audits import audits_of
from fastapi import FastAPI
from review_databases import Client, ReviewDatabase, opened
from rollout_evidence import arms_of, pairs_of
from storage_events import TASK, at, label, request, settled, shadow, traffic

from flywheel.contracts.codec import decode, encode
from flywheel.contracts.events import Event, LabelRecorded, LabelSettled
from flywheel.kinds import Choice, FreeText
from flywheel.monitoring.problems import install_problem_details
from flywheel.review.app import router
from flywheel.review.config import ReviewSettings
from flywheel.triage.config import TriageSettings
from flywheel.triage.policy import certify, policy_of
from storage.database import Database
from streams.agents import evidence, labels, review

LABELS = ("a", "b")


@pytest.fixture(params=["memory", "sqlite"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReviewDatabase]:
    with opened(request.param, tmp_path) as database:
        yield database


@pytest.fixture
def client(queue: ReviewDatabase) -> Client:
    app = FastAPI()
    install_problem_details(app)
    clock = iter(at(second) for second in range(10_000))
    settings = ReviewSettings(lease_seconds=60, answers_needed=2)
    tasks = {TASK: (Choice(LABELS), settings), "text": (FreeText(), ReviewSettings())}
    app.include_router(router(queue.transaction, tasks, lambda: next(clock)))
    return Client(app)


def asked(queue: ReviewDatabase, sample: str, **other: Any) -> None:
    with queue.transaction() as tx:
        tx.intake.open([request(sample, **other)])


def give_up(client: Client, sample: str, annotator: str, task: str = TASK) -> Any:
    url = f"/api/review/{task}/{sample}/unlabelable"
    return client.post(url, json={"annotator": annotator, "seconds": 2.0})


def depth(client: Client, task: str = TASK) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/review/{task}/depth").json()
    return found


def offered(client: Client, annotator: str) -> list[str]:
    reply = client.get(f"/api/review/{TASK}/next", params={"annotator": annotator})
    return [item["sample_id"] for item in reply.json()["items"]]


def test_it_settles_without_a_value_after_as_many_answers_as_a_label(
    queue: ReviewDatabase, client: Client
) -> None:
    asked(queue, "s", audit=True)
    first = give_up(client, "s", "ada")
    assert (first.status_code, first.json()) == (200, {"state": "submitted", "settled": False})
    assert offered(client, "ada") == [], "it is an answer, not a skip to come back to"
    second = give_up(client, "s", "bob")
    assert second.json() == {"state": "settled", "settled": True}
    assert (depth(client)["settled"], depth(client)["unlabelable"]) == (1, 1)
    assert offered(client, "cy") == []
    [event] = queue.sent()
    assert isinstance(event, LabelSettled)
    assert (event.value, event.unlabelable, event.withdraws) == (None, True, False)
    assert (event.annotators, event.agreement, event.audit) == (("ada", "bob"), 1.0, True)


def test_again_is_no_error_and_otherwise_is(queue: ReviewDatabase, client: Client) -> None:
    asked(queue, "s")
    assert give_up(client, "s", "ada").status_code == 200
    assert give_up(client, "s", "ada").status_code == 200
    body = {"annotator": "ada", "value": "a"}
    refused = client.post(f"/api/review/{TASK}/s/answer", json=body)
    assert refused.status_code == 409
    assert "can't be labelled" in refused.json()["detail"]
    assert client.post(f"/api/review/{TASK}/s/skip", json={"annotator": "ada"}).status_code == 409
    assert give_up(client, "unknown", "ada").status_code == 404
    assert queue.sent() == [], "no label was given"


def test_undo_takes_it_back_by_a_withdrawal(queue: ReviewDatabase, client: Client) -> None:
    asked(queue, "s", task="text")
    assert give_up(client, "s", "ada", "text").json()["settled"]
    undone = client.post("/api/review/text/undo", json={"annotator": "ada"}).json()["item"]
    assert undone["sample_id"] == "s"
    assert depth(client, "text")["unlabelable"] == depth(client, "text")["settled"] == 0
    given, taken = queue.sent()
    assert isinstance(given, LabelSettled)
    assert isinstance(taken, LabelSettled)
    assert (given.withdraws, taken.withdraws) == (False, True)


def test_experts_who_disagree_settle_by_majority(queue: ReviewDatabase, client: Client) -> None:
    asked(queue, "s")
    give_up(client, "s", "ada")
    client.post(f"/api/review/{TASK}/s/answer", json={"annotator": "bob", "value": "a"})
    client.post(f"/api/review/{TASK}/s/answer", json={"annotator": "cy", "value": "a"})
    settlements = [event for event in queue.sent() if isinstance(event, LabelSettled)]
    assert [(event.value, event.unlabelable) for event in settlements] == [("a", False)]
    assert sum(isinstance(event, LabelRecorded) for event in queue.sent()) == 2


def test_settlements_of_earlier_versions_are_read_as_what_they_were() -> None:
    for value in ("a", None):
        event = settled("s", value)
        record = encode(event)
        old = msgspec.json.decode(record.value)
        assert old.pop("unlabelable") is False
        read = decode(msgspec.json.encode(old), dict(record.headers))
        assert read == event
        assert isinstance(read, LabelSettled)
        assert read.withdraws == (value is None)


def tell(database: Database, *events: Event) -> None:
    for agent in (labels.agent, evidence.agent, review.agent):
        agent(database).handle(list(events))


def nobody_can(sample: str, seconds: float = 0, **other: Any) -> LabelSettled:
    return settled(sample, None, seconds, unlabelable=True, **other)


def test_it_is_never_trained_on_whoever_else_labelled_it(database: Database) -> None:
    tell(database, traffic("s"), label("s", "a", "user", 1), label("s", "b", "auto", 2))
    with database.transaction() as tx:
        assert tx.labels.counts(TASK).other == 1
    tell(database, nobody_can("s", 3))
    with database.transaction() as tx:
        watermark = tx.labels.watermark(TASK)
        assert watermark is not None
        assert tx.labels.settled(TASK, watermark) == []
        assert tx.labels.counts(TASK).other == 0
        assert tx.overview.coverage(TASK) == {"auto": 0, "expert": 0, "other": 0, "none": 1}
        assert tx.balance.doubled_settlements() == []
    tell(database, settled("s", None, 4))
    with database.transaction() as tx:
        assert tx.labels.counts(TASK).other == 1, "undone: the user's word counts again"


def test_an_audit_that_nobody_can_label_counts_as_wrong(database: Database) -> None:
    events: list[Event] = []
    for index in range(100):
        sample = f"s{index}"
        truth = nobody_can(sample, index) if index % 5 == 0 else settled(sample, "a", index)
        events += [traffic(sample), request(sample, audit=True), truth]
    tell(database, *events)
    settings = TriageSettings(auto_label_error=0.1)
    with database.transaction() as tx:
        audits = audits_of(tx.audits, TASK, "r1")
        policy = policy_of(tx.audits, TASK, "r1", settings)
    assert len(audits) == 100
    assert sum(audit.label is None for audit in audits) == 20
    assert [a.correct for a in audits] == [a.label is not None for a in audits]
    assert policy.threshold is None
    assert "20 of all audits can't be labelled and count as wrong" in policy.reason
    kept = [audit for audit in audits if audit.label is not None]
    assert certify(kept, settings).threshold is not None, "without them it would be open"


def test_it_says_nothing_of_either_arm_of_a_rollout(database: Database) -> None:
    champion = {"arm": "champion", "rollout_id": "rollout"}
    tell(
        database,
        traffic("s", output="a", **champion),
        shadow("s", output="b"),
        label("s", "a", "user", 1),
        nobody_can("s", 2),
        traffic("t", output="a", **champion),
        shadow("t", output="b"),
        settled("t", "a", 3),
    )
    with database.transaction() as tx:
        assert [pair.sample_id for pair in pairs_of(tx.evidence, "rollout")] == ["t"]
        arm, _ = arms_of(tx.evidence, "rollout")
    assert (arm.audited, arm.correct) == (1, 1)


def test_the_queue_counts_it_and_gives_it_to_nobody(database: Database) -> None:
    now = at(100)
    tell(database, request("s"))
    with database.transaction("console") as tx:
        from flywheel.review.ports import Answer

        given = Answer(
            sample_id="s", annotator="ada", value=None, unlabelable=True, answered_at=now
        )
        tx.desk.answer(TASK, given, nobody_can("s"))
        assert tx.desk.answers(TASK, "s") == [given]
        assert tx.desk.claim(TASK, "bob", now, 60, 9) == []
        found = tx.desk.depth(TASK, now + timedelta(seconds=1))
    assert (found.settled, found.unlabelable, found.open) == (1, 1, 0)
