"""The review API over HTTP, on the in-memory desk and on the real database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from review_databases import Client, ReviewDatabase, opened

from flywheel.contracts.events import LabelRecorded, LabelSettled, ReviewRequested
from flywheel.contracts.ids import new_id
from flywheel.kinds import Choice
from flywheel.monitoring.problems import install_problem_details
from flywheel.review.app import router
from flywheel.review.config import ReviewSettings

START = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = ("NUM", "LOC", "HUM")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReviewDatabase]:
    with opened(request.param, tmp_path) as database:
        yield database


@pytest.fixture
def client(database: ReviewDatabase, clock: Clock) -> Client:
    app = FastAPI()
    install_problem_details(app)
    tasks = {
        "one": (Choice(LABELS), ReviewSettings(lease_seconds=60)),
        "two": (Choice(LABELS), ReviewSettings(lease_seconds=60, answers_needed=2)),
    }
    app.include_router(router(database.transaction, tasks, clock))
    return Client(app)


def request_review(
    database: ReviewDatabase, sample_id: str, task: str = "one", priority: float = 50.0, **more: Any
) -> None:
    fields: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": START,
        "task": task,
        "sample_id": sample_id,
        "content": f"text of {sample_id}",
        "reason": "random audit",
        "priority": priority,
        "inclusion_probability": 0.25,
        "audit": True,
        "release": "one-abc",
        "prediction": "LOC",
        "scores": {"NUM": 0.3, "LOC": 0.6, "HUM": 0.1},
        "confidence": 0.6,
    }
    with database.transaction() as tx:
        tx.intake.open([ReviewRequested(**(fields | more))])


def ids(client: Client, annotator: str, task: str = "one", limit: int = 2) -> list[str]:
    reply = client.get(f"/api/review/{task}/next", params={"annotator": annotator, "limit": limit})
    assert reply.status_code == 200, reply.text
    return [item["sample_id"] for item in reply.json()["items"]]


def answer(client: Client, sample: str, annotator: str, value: str, task: str = "one") -> Any:
    body = {"annotator": annotator, "value": value, "seconds": 2.5}
    return client.post(f"/api/review/{task}/{sample}/answer", json=body)


def test_an_expert_gets_the_most_urgent_samples_with_what_they_need_to_know(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "low", priority=10)
    request_review(database, "high", priority=90, tokens_cut=17)
    reply = client.get("/api/review/one/next", params={"annotator": "ada"}).json()
    assert [item["sample_id"] for item in reply["items"]] == ["high", "low"]
    first = reply["items"][0]
    assert first["text"] == "text of high"
    assert first["reason"] == "random audit"
    assert first["scores"]["LOC"] == 0.6
    assert [item["tokens_cut"] for item in reply["items"]] == [17, 0]
    assert reply["depth"]["claimed"] == 2


@pytest.mark.parametrize("reason", ["unsure: LOC 0.60 or NUM 0.30", "LOC, said one-abc"])
def test_before_the_answer_no_reason_names_what_the_model_said(
    client: Client, database: ReviewDatabase, reason: str
) -> None:
    request_review(database, "a", reason=reason, audit=False)
    query = {"annotator": "ada"}
    (item,) = client.get("/api/review/one/next", params=query).json()["items"]
    assert item["reason"] == "the model was unsure"
    answer(client, "a", "ada", "NUM")
    assert [event.reason for event in database.sent()] == [reason, reason], "operators see it all"
    undone = client.post("/api/review/one/undo", json=query).json()["item"]
    assert undone["reason"] == "the model was unsure"


def test_two_experts_never_hold_the_same_sample_until_a_lease_runs_out(
    client: Client, database: ReviewDatabase, clock: Clock
) -> None:
    for name in ("a", "b", "c"):
        request_review(database, name)
    ada = ids(client, "ada")
    assert not set(ada) & set(ids(client, "bob"))
    assert set(ids(client, "ada")) == set(ada), "asking again gives the same ones"
    clock.now += timedelta(seconds=61)
    assert sorted(ids(client, "bob", limit=3)) == ["a", "b", "c"]


def test_an_answer_settles_and_both_events_carry_how_the_sample_was_chosen(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a")
    ids(client, "ada")
    reply = answer(client, "a", "ada", "NUM")
    assert (reply.status_code, reply.json()) == (200, {"state": "settled", "settled": True})
    recorded, settled = database.sent()
    assert isinstance(recorded, LabelRecorded)
    assert isinstance(settled, LabelSettled)
    assert (recorded.value, recorded.source, recorded.annotator) == ("NUM", "expert", "ada")
    assert (settled.value, settled.annotators, settled.agreement) == ("NUM", ("ada",), 1.0)
    assert recorded.audit
    assert settled.audit
    assert recorded.inclusion_probability == settled.inclusion_probability == 0.25
    assert ids(client, "bob") == []


def test_a_repeated_answer_is_answered_alike_and_labels_once(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a")
    replies = [answer(client, "a", "ada", "NUM") for _ in range(3)]
    assert {reply.status_code for reply in replies} == {200}
    assert all(reply.json() == {"state": "settled", "settled": True} for reply in replies)
    assert len(database.sent()) == 2


def test_another_value_after_settling_is_a_conflict(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a")
    answer(client, "a", "ada", "NUM")
    for annotator in ("ada", "bob"):
        reply = answer(client, "a", annotator, "LOC")
        assert reply.status_code == 409
        assert reply.headers["content-type"] == "application/problem+json"
        assert "settled already" in reply.json()["detail"]
    assert len(database.sent()) == 2


def test_changing_an_open_answer_needs_an_undo(client: Client, database: ReviewDatabase) -> None:
    request_review(database, "a", task="two")
    assert answer(client, "a", "ada", "NUM", "two").json()["state"] == "submitted"
    reply = answer(client, "a", "ada", "LOC", "two")
    assert reply.status_code == 409
    assert "undo" in reply.json()["detail"]
    client.post("/api/review/two/undo", json={"annotator": "ada"})
    assert answer(client, "a", "ada", "LOC", "two").json()["state"] == "submitted"


def test_two_must_agree_where_two_are_needed(client: Client, database: ReviewDatabase) -> None:
    request_review(database, "a", task="two")
    assert answer(client, "a", "ada", "NUM", "two").json() == {
        "state": "submitted",
        "settled": False,
    }
    assert ids(client, "ada", "two") == []
    assert ids(client, "bob", "two") == ["a"]
    assert ids(client, "cy", "two") == [], "one answer is missing and bob is at it"
    assert not answer(client, "a", "bob", "LOC", "two").json()["settled"]
    assert answer(client, "a", "cy", "NUM", "two").json()["settled"]
    settled = database.sent()[-1]
    assert isinstance(settled, LabelSettled)
    assert settled.annotators == ("ada", "cy")
    assert settled.agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize("again", ["kim", "KIM", " Kim", "\uff2b\uff49\uff4d"])
def test_a_name_that_looks_alike_is_the_same_expert(
    client: Client, database: ReviewDatabase, again: str
) -> None:
    request_review(database, "a", task="two")
    request_review(database, "b", task="two")
    assert not answer(client, "a", "Kim", "NUM", "two").json()["settled"]
    assert ids(client, again, "two") == ["b"], "the other one is answered"
    assert not answer(client, "a", again, "NUM", "two").json()["settled"], "one person, one vote"
    assert answer(client, "a", again, "LOC", "two").status_code == 409
    item = client.post("/api/review/two/undo", json={"annotator": again}).json()["item"]
    assert item["sample_id"] == "a"
    answer(client, "a", again, "LOC", "two")
    assert [event.annotator for event in database.sent()] == ["Kim", "Kim"]


def test_a_tie_after_the_last_planned_answer_asks_one_more(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a", task="two")
    for annotator, value in (("ada", "NUM"), ("bob", "LOC"), ("cy", "HUM")):
        assert not answer(client, "a", annotator, value, "two").json()["settled"]
    assert ids(client, "di", "two") == ["a"]
    assert answer(client, "a", "di", "HUM", "two").json()["settled"]


def test_a_skipped_sample_goes_to_others_only(client: Client, database: ReviewDatabase) -> None:
    request_review(database, "a")
    ids(client, "ada")
    for _ in range(2):
        reply = client.post("/api/review/one/a/skip", json={"annotator": "ada"})
        assert reply.status_code == 200
        assert not reply.json()["settled"]
    assert ids(client, "ada") == []
    assert ids(client, "bob") == ["a"]
    assert database.sent() == []
    assert answer(client, "a", "ada", "NUM").status_code == 409


def test_undo_withdraws_the_settled_label_and_gives_the_sample_back(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a")
    answer(client, "a", "ada", "NUM")
    item = client.post("/api/review/one/undo", json={"annotator": "ada"}).json()["item"]
    assert (item["sample_id"], item["state"]) == ("a", "claimed")
    withdrawn = database.sent()[-1]
    assert isinstance(withdrawn, LabelSettled)
    assert withdrawn.value is None
    assert ids(client, "bob") == []
    assert ids(client, "ada") == ["a"]
    assert answer(client, "a", "ada", "LOC").json()["settled"]
    final = database.sent()[-1]
    assert isinstance(final, LabelSettled)
    assert final.value == "LOC"


def test_undo_with_nothing_to_undo_and_undo_of_a_skip(
    client: Client, database: ReviewDatabase
) -> None:
    nothing = client.post("/api/review/one/undo", json={"annotator": "ada"})
    assert nothing.json() == {"item": None}
    request_review(database, "a")
    client.post("/api/review/one/a/skip", json={"annotator": "ada"})
    item = client.post("/api/review/one/undo", json={"annotator": "ada"}).json()["item"]
    assert item["sample_id"] == "a"
    assert database.sent() == []
    assert answer(client, "a", "ada", "NUM").json()["settled"]


def test_a_skip_taken_back_leaves_the_label_that_a_colleague_settled(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a")
    client.post("/api/review/one/a/skip", json={"annotator": "ada"})
    assert answer(client, "a", "bob", "NUM").json()["settled"]
    before = database.sent()
    item = client.post("/api/review/one/undo", json={"annotator": "ada"}).json()["item"]
    assert (item["sample_id"], item["state"]) == ("a", "settled")
    assert database.sent() == before
    assert client.get("/api/review/one/depth").json()["settled"] == 1
    assert ids(client, "ada") == []


def test_an_answer_taken_back_leaves_what_the_others_agree_on(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a", task="two")
    for annotator, value in (("ada", "NUM"), ("bob", "LOC"), ("cy", "NUM")):
        answer(client, "a", annotator, value, "two")
    item = client.post("/api/review/two/undo", json={"annotator": "bob"}).json()["item"]
    assert item["state"] == "settled"
    stands = database.sent()[-1]
    assert isinstance(stands, LabelSettled)
    assert (stands.value, stands.annotators, stands.agreement) == ("NUM", ("ada", "cy"), 1.0)
    item = client.post("/api/review/two/undo", json={"annotator": "ada"}).json()["item"]
    assert item["state"] == "claimed"
    assert database.sent()[-1].withdraws


def test_undo_takes_back_the_latest_answer_of_the_task_asked_for(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "a")
    request_review(database, "b", task="two")
    answer(client, "a", "ada", "NUM")
    answer(client, "b", "ada", "NUM", "two")
    item = client.post("/api/review/one/undo", json={"annotator": "ada"}).json()["item"]
    assert item["sample_id"] == "a"
    assert answer(client, "b", "bob", "NUM", "two").json()["settled"]


def test_a_withdrawn_sample_takes_no_answer(client: Client, database: ReviewDatabase) -> None:
    request_review(database, "a")
    with database.transaction() as tx:
        tx.intake.withdraw("one", ["a"])
    assert ids(client, "ada") == []
    assert answer(client, "a", "ada", "NUM").status_code == 409


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("one/a/answer", {"annotator": "ada", "value": "XXX"}, 422, "NUM, LOC, HUM"),
        ("one/no-such/answer", {"annotator": "ada", "value": "NUM"}, 404, "no-such"),
        ("two/a/answer", {"annotator": "ada", "value": "NUM"}, 404, "'two'"),
        ("none/a/answer", {"annotator": "ada", "value": "NUM"}, 404, "one, two"),
        ("one/no-such/skip", {"annotator": "ada"}, 404, "no-such"),
        ("one/a/answer", {"annotator": "  ", "value": "NUM"}, 422, "1 to 64"),
        ("one/a/answer", {"annotator": "a" * 65, "value": "NUM"}, 422, "1 to 64"),
        ("one/a/answer", {"annotator": "a\nb", "value": "NUM"}, 422, "control"),
        ("one/a/answer", {"annotator": "ada"}, 422, "value"),
        ("none/undo", {"annotator": "ada"}, 404, "one, two"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    client: Client, database: ReviewDatabase, path: str, body: Any, status: int, says: str
) -> None:
    request_review(database, "a")
    reply = client.post(f"/api/review/{path}", json=body)
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert says in reply.json()["detail"]
    assert database.sent() == []


@pytest.mark.parametrize("seconds", ["-0.01", "1e9", "NaN", "-Infinity", '"long"', "null", "true"])
@pytest.mark.parametrize("kind", ["answer", "unlabelable"])
def test_no_measure_of_time_refuses_an_answer(
    client: Client, database: ReviewDatabase, kind: str, seconds: str
) -> None:
    request_review(database, "a")
    body = f'{{"annotator": "ada", "value": "NUM", "seconds": {seconds}}}'
    reply = client.post(f"/api/review/one/a/{kind}", content=body)
    assert reply.status_code == 200, reply.text
    with database.transaction() as tx:
        (given,) = tx.desk.answers("one", "a")
    assert given.seconds == 0.0


def test_what_became_of_the_sample_on_screen_is_told(
    client: Client, database: ReviewDatabase
) -> None:
    def shown(sample: str) -> str | None:
        query = {"annotator": "ada", "limit": 1, "shown": sample}
        state: str | None = client.get("/api/review/one/next", params=query).json()["shown"]
        return state

    for name in ("a", "b"):
        request_review(database, name)
    ids(client, "ada", limit=2)
    assert shown("a") in ("open", "claimed")
    answer(client, "a", "bob", "NUM")
    assert shown("a") == "settled"
    with database.transaction() as tx:
        tx.intake.withdraw("one", ["b"])
    assert shown("b") == "withdrawn"
    request_review(database, "c")
    client.post("/api/review/one/c/skip", json={"annotator": "ada"})
    assert shown("c") == "answered"
    assert shown("none of ours") is None
    assert shown("") is None


def test_sample_ids_with_slashes_and_names_with_blanks(
    client: Client, database: ReviewDatabase
) -> None:
    request_review(database, "mail/7/body")
    assert ids(client, " Ada Lovelace ") == ["mail/7/body"]
    assert answer(client, "mail/7/body", "Ada Lovelace", "NUM").json()["settled"]


def test_depth_counts_by_state(client: Client, database: ReviewDatabase) -> None:
    for name in ("a", "b", "c", "d"):
        request_review(database, name, task="two", priority=ord(name))
    ids(client, "ada", "two", limit=1)
    answer(client, "c", "ada", "NUM", "two")
    for annotator in ("ada", "bob"):
        answer(client, "b", annotator, "NUM", "two")
    depth = client.get("/api/review/two/depth").json()
    assert (depth["open"], depth["claimed"], depth["submitted"]) == (1, 1, 1)
    assert (depth["settled"], depth["withdrawn"]) == (1, 0)
