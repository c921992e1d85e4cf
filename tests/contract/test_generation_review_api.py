"""The review API of a task that answers with free text, in memory and on the real database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from review_databases import Client, ReviewDatabase, opened

from flywheel.contracts.events import LabelRecorded, LabelSettled, ReviewRequested
from flywheel.contracts.ids import new_id
from flywheel.kinds import FreeText
from flywheel.monitoring.problems import install_problem_details
from flywheel.review.app import router
from flywheel.review.config import ReviewSettings

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["memory", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReviewDatabase]:
    with opened(request.param, tmp_path) as database:
        yield database


@pytest.fixture
def client(database: ReviewDatabase) -> Client:
    app = FastAPI()
    install_problem_details(app)
    tasks = {
        "one": (FreeText(), ReviewSettings()),
        "two": (FreeText(), ReviewSettings(answers_needed=2)),
    }
    app.include_router(router(database.transaction, tasks, lambda: AT))
    return Client(app)


def request_review(database: ReviewDatabase, sample: str, task: str = "one") -> None:
    request = ReviewRequested(
        event_id=new_id(),
        occurred_at=AT,
        task=task,
        sample_id=sample,
        content=f"text of {sample}",
        reason="random audit",
        priority=50.0,
        inclusion_probability=0.25,
        audit=True,
        release="one-abc",
        prediction="Said the\nmodel",
        confidence=0.6,
    )
    with database.transaction() as tx:
        tx.intake.open([request])


def answer(client: Client, sample: str, who: str, value: str, task: str = "one") -> Any:
    body = {"annotator": who, "value": value, "seconds": 2.5}
    return client.post(f"/api/review/{task}/{sample}/answer", json=body)


def test_an_expert_sees_the_models_answer_and_settles_with_words_of_their_own(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a")
    [item] = client.get("/api/review/one/next", params={"annotator": "ada"}).json()["items"]
    assert (item["prediction"], item["scores"]) == ("Said the\nmodel", {})
    assert item["confidence"] == 0.6
    words = "  Said \U0001f600\nan expert — à la carte "
    assert answer(client, "a", "ada", words).json() == {"state": "settled", "settled": True}
    assert answer(client, "a", "ada", words).json()["settled"], "sent twice, counted once"
    recorded, settled = database.sent()
    assert isinstance(recorded, LabelRecorded)
    assert isinstance(settled, LabelSettled)
    assert recorded.value == settled.value == words
    undone = client.post("/api/review/one/undo", json={"annotator": "ada"}).json()
    assert undone["item"]["sample_id"] == "a"
    assert database.sent()[-1].value is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ("", 400, "empty"),
        (" \n ", 400, "empty"),
        ("x" * 8001, 400, "at most 8000"),
        (None, 422, ""),
    ],
)
def test_what_is_no_answer_is_refused(
    client: Client, database: ReviewDatabase, value: Any, status: int, words: str
) -> None:
    request_review(database, "a")
    reply = answer(client, "a", "ada", value)
    assert reply.status_code == status
    assert words in reply.json()["detail"]
    assert database.sent() == []
    assert answer(client, "a", "ada", "x" * 8000).status_code == 200


def test_experts_agree_on_what_is_said_and_the_first_ones_words_are_kept(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a", "two")
    assert answer(client, "a", "ada", "On  its Way", "two").json()["state"] == "submitted"
    assert answer(client, "a", "bob", "Lost", "two").json()["state"] == "submitted"
    assert answer(client, "a", "cy", "on its way", "two").json()["settled"]
    settled = database.sent()[-1]
    assert isinstance(settled, LabelSettled)
    assert (settled.value, settled.annotators) == ("On  its Way", ("ada", "cy"))
    assert settled.agreement == pytest.approx(2 / 3)


def test_a_skip_may_leave_enough_that_agree(client: Client, database: ReviewDatabase) -> None:
    request_review(database, "a", "two")
    for who, value in (("ada", "Yes"), ("bob", "no"), ("cy", "YES")):
        reply = answer(client, "a", who, value, "two").json()
    assert reply["settled"]
    client.post("/api/review/two/undo", json={"annotator": "bob"})
    reply = client.post("/api/review/two/a/skip", json={"annotator": "bob"}).json()
    assert reply["settled"]
    settled = database.sent()[-1]
    assert isinstance(settled, LabelSettled)
    assert (settled.value, settled.annotators) == ("Yes", ("ada", "cy"))


def test_a_refusal_repeats_no_whole_essay(client: Client, database: ReviewDatabase) -> None:
    request_review(database, "a", "two")
    answer(client, "a", "ada", "long " * 500, "two")
    reply = answer(client, "a", "ada", "other", "two")
    assert reply.status_code == 409
    assert len(reply.json()["detail"]) < 200
