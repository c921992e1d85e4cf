"""One request that reaches the gateway several times is one sample, by whatever name it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_harness import (
    TASK,
    Gateway,
    eventually,
    held_server,
    split_event,
    started_gateway,
)

from flywheel.contracts.events import LabelRecorded, ShadowRecorded, TrafficRecorded
from flywheel.gateway.auth import Keys
from storage.database import Database
from streams.agents import labels

Gateways = Callable[..., Gateway]


def header(answer: httpx.Response) -> str:
    """The sample's id in an answer's header, read as UTF-8."""
    raw = dict(answer.headers.raw)
    return raw[b"x-flywheel-sample-id"].decode("utf-8")


FIRST, AGAIN = {"x-stainless-retry-count": "0"}, {"x-stainless-retry-count": "1"}


def ask(gate: Gateway, text: str = "Who?", *, user: str | None = None, **headers: Any) -> Any:
    """``headers`` have underscores for hyphens; a text value is sent in UTF-8."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: v.encode() if isinstance(v, str) else v for name, v in named.items()}
    body = {"task": TASK, "text": text, "user": user}
    return gate.http.post("/v1/classify", json=body, headers=sent)


def test_an_idempotency_key_is_one_sample_on_every_gateway(champion: str, tmp_path: Path) -> None:
    samples: list[str] = []
    events: list[str] = []
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        with started_gateway(
            tmp_path / host, [champion], split=split_event("r1"), keys=Keys(["s3cret"])
        ) as gate:
            for _ in range(2):
                headers = {"authorization": "Bearer s3cret", "idempotency_key": "k-1"}
                samples.append(ask(gate, user="ada", **headers).json()["sample_id"])
            eventually(lambda gate=gate: len(gate.events(TrafficRecorded)) == 2)
            events += [event.event_id for event in gate.events(TrafficRecorded)]
            conflict = ask(gate, "Where?", user="ada", **headers)
            assert conflict.status_code == 409
            assert "Idempotency-Key 'k-1'" in conflict.json()["error"]["message"]
            assert conflict.headers["x-should-retry"] == "false"
    assert len(set(samples)) == len(set(events)) == 1


def test_a_clients_own_retry_is_the_same_sample(gateway: Gateways, champion: str) -> None:
    gate = gateway([champion], split=split_event("r1"))
    answers = [ask(gate, x_stainless_retry_count=str(count)).json() for count in range(3)]
    assert len({answer["sample_id"] for answer in answers}) == 1
    new = [ask(gate, x_stainless_retry_count="0").json()["sample_id"] for _ in range(2)]
    assert len({*new, answers[0]["sample_id"]}) == 3
    eventually(lambda: len(gate.events(TrafficRecorded)) == 5)
    assert len({event.event_id for event in gate.events(TrafficRecorded)}) == 3


@pytest.fixture
def held() -> Iterator[tuple[str, threading.Event]]:
    with held_server(split_event("r1", "r2", 0.5)) as held:
        yield held


def test_an_answer_that_nobody_waited_for_is_recorded_as_such(
    gateway: Gateways, held: tuple[str, threading.Event]
) -> None:
    url, go = held
    gate = gateway([url], split=split_event("r1", "r2", 0.5, shadow=1.0))
    body = {"task": TASK, "text": "Who holds?", "user": "ada"}
    for headers in (FIRST, AGAIN):
        with pytest.raises(httpx.ReadTimeout):
            gate.http.post("/v1/classify", json=body, headers=headers, timeout=0.3)
    go.set()
    last = {"x-stainless-retry-count": "2"}
    answer = gate.http.post("/v1/classify", json=body, headers=last).json()
    eventually(lambda: len(gate.events(TrafficRecorded)) == 3)
    events = gate.events(TrafficRecorded)
    assert {(event.sample_id, event.unit) for event in events} == {(answer["sample_id"], "ada")}
    assert sorted((event.status, event.abandoned) for event in events) == [
        (200, False),
        (499, True),
        (499, True),
    ]
    assert len({event.event_id for event in events}) == 3
    eventually(lambda: gate.events(ShadowRecorded))
    assert len(gate.events(ShadowRecorded)) == 1
    counted = 'flywheel_gateway_requests_total{arm="%s",status="499",task="questions"}'
    assert counted % answer["arm"] in gate.http.get("/metrics").text


def test_who_reads_the_answer_has_it_counted(gateway: Gateways, champion: str) -> None:
    gate = gateway([champion], split=split_event("r1"))
    ask(gate)
    gate.http.post(
        "/v1/classify", json={"task": TASK, "text": "Who?"}, headers={"Connection": "close"}
    )
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    assert not any(event.abandoned for event in gate.events(TrafficRecorded))


@pytest.mark.parametrize("name", ["größe-42", "日本", "naïve/ü", "plain", "chatcmpl-x"])
def test_a_sample_has_one_name_wherever_it_stands(
    gateway: Gateways, champion: str, name: str
) -> None:
    gate = gateway([champion], split=split_event("r1"))
    asked = ask(gate, x_flywheel_sample_id=name)
    assert asked.status_code == 200
    named = asked.json()["sample_id"]
    assert header(asked) == named
    chat = {"model": TASK, "messages": [{"role": "user", "content": "Who?"}]}
    headers = {"x-flywheel-sample-id": name.encode()}
    completion = gate.http.post("/v1/chat/completions", json=chat, headers=headers).json()["id"]
    for said in (name, named, completion):
        feedback = {"task": TASK, "sample_id": said, "label": "HUM"}
        assert gate.http.post("/v1/feedback", json=feedback).json()["sample_id"] == named
    eventually(lambda: len(gate.events(LabelRecorded)) == 3)
    assert {event.sample_id for event in gate.events(TrafficRecorded)} == {named}
    assert {event.sample_id for event in gate.events(LabelRecorded)} == {named}


def test_the_id_of_an_answer_is_understood_by_feedback(gateway: Gateways, champion: str) -> None:
    gate = gateway([champion], split=split_event("r1"))
    chat = {"model": TASK, "messages": [{"role": "user", "content": "Who?"}]}
    answer = gate.http.post("/v1/chat/completions", json=chat)
    said = {"task": TASK, "sample_id": answer.json()["id"], "label": "HUM"}
    assert gate.http.post("/v1/feedback", json=said).status_code == 202
    eventually(lambda: gate.events(LabelRecorded) and gate.events(TrafficRecorded))
    [label], [event] = gate.events(LabelRecorded), gate.events(TrafficRecorded)
    assert label.sample_id == event.sample_id == answer.headers["x-flywheel-sample-id"]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("größe".encode("latin-1"), "no UTF-8"),
        ("gru\u0308n".encode(), "NFC"),
        ("a\u200bb".encode(), "printable"),
        ("a\u202eb".encode(), "printable"),
        (b"..", "no id"),
        (b"chatcmpl-", "1 to 128"),
        (b"x" * 129, "1 to 128"),
    ],
)
def test_a_name_that_would_not_come_back_is_refused(
    gateway: Gateways, champion: str, sent: bytes, why: str
) -> None:
    gate = gateway([champion], split=split_event("r1"))
    refused = ask(gate, x_flywheel_sample_id=sent)
    assert refused.status_code == 400
    assert "x-flywheel-sample-id" in refused.json()["error"]["message"]
    assert why in refused.json()["error"]["message"]


def test_source_and_key_are_read_as_utf8_too(gateway: Gateways, champion: str) -> None:
    gate = gateway([champion], split=split_event("r1"), keys=Keys(["schlüssel-größe-1234"]))
    for key in ("schlüssel-größe-1234".encode(), "schlüssel-größe-1234".encode("latin-1")):
        headers = {"authorization": b"Bearer " + key, "x_flywheel_source": "größe"}
        assert ask(gate, **headers).status_code == 200
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    assert {event.source for event in gate.events(TrafficRecorded)} == {"größe"}


def say(gate: Gateway, label: str, **more: str) -> httpx.Response:
    """Feedback on sample s-1; ``more`` are fields of the body, and headers with underscores."""
    names = ("idempotency_key", "x_stainless_retry_count", "authorization")
    headers = {name.replace("_", "-"): more.pop(name) for name in names if name in more}
    body = {"task": TASK, "sample_id": "s-1", "label": label, **more}
    return gate.http.post("/v1/feedback", json=body, headers=headers)


def test_feedback_with_a_key_is_one_word_on_every_gateway(champion: str, tmp_path: Path) -> None:
    told: list[str] = []
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        with started_gateway(
            tmp_path / host, [champion], split=split_event("r1"), keys=Keys(["s3cret"])
        ) as gate:
            headers = {"authorization": "Bearer s3cret", "idempotency_key": "k-1"}
            told += [say(gate, "HUM", **headers).json()["event_id"] for _ in range(2)]
            eventually(lambda gate=gate: len(gate.events(LabelRecorded)) == 2)
            told += [event.event_id for event in gate.events(LabelRecorded)]
            for other in ({"label": "LOC"}, {"label": "HUM", "sample_id": "s-2"}):
                conflict = say(gate, **{**other, **headers})
                assert conflict.status_code == 409
                assert "'k-1' came with other feedback" in conflict.json()["error"]["message"]
            # Another person's key is another key, and so is the same one before a question.
            assert say(gate, "LOC", annotator="bob", **headers).json()["event_id"] not in told
            asked = ask(gate, authorization="Bearer s3cret", idempotency_key="k-1")
            assert asked.status_code == 200
    assert len(set(told)) == 1


def test_feedback_that_a_client_repeats_by_itself_is_one_word(
    gateway: Gateways, champion: str
) -> None:
    gate = gateway([champion], split=split_event("r1"))
    told = [say(gate, "HUM", x_stainless_retry_count=str(n)).json()["event_id"] for n in range(3)]
    assert len(set(told)) == 1
    anew = {say(gate, "HUM").json()["event_id"] for _ in range(2)}
    assert len({*anew, *told}) == 3


@pytest.mark.parametrize("key", ["", "x" * 129, ".."])
def test_a_key_of_feedback_that_is_none_is_refused(
    gateway: Gateways, champion: str, key: str
) -> None:
    gate = gateway([champion], split=split_event("r1"))
    refused = say(gate, "HUM", idempotency_key=key)
    assert refused.status_code == 400
    assert "Idempotency-Key" in refused.json()["error"]["message"]


def test_a_late_repeat_does_not_undo_what_was_said_in_between(
    gateway: Gateways, champion: str, tmp_path: Path
) -> None:
    gate = gateway([champion], split=split_event("r1"))
    ask(gate, x_flywheel_sample_id="s-1")
    for label, key in (("HUM", "k-1"), ("LOC", "k-2"), ("HUM", "k-1")):
        assert say(gate, label, idempotency_key=key).status_code == 202
    eventually(lambda: len(gate.events(LabelRecorded)) == 3)
    database = Database(f"sqlite:///{tmp_path}/flywheel.db")
    database.migrate()
    try:
        events = gate.publisher.events()
        for event in events:  # each as it comes
            labels.agent(database).handle([event])
        with database.transaction(read_only=True) as tx:
            watermark = tx.labels.watermark(TASK)
            assert watermark is not None
            [sample] = tx.labels.settled(TASK, watermark)
        assert sample.label == "LOC"
    finally:
        database.dispose()
