"""The gateway of a task of kind image-classification, which no model answers."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gateway_harness import TASK, Gateway, eventually, started_gateway
from images import data_url, picture, png_of
from named_commands import ROOT, in_document

from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.sample import ImagePart, Message, TextPart
from flywheel.errors import StorageError

PICTURE = picture()
LARGE = picture("image/png", (700, 700)) + bytes(1 << 20)  # more than any text may be


class Store(dict[str, bytes]):
    """An object store that can be away."""

    away = False

    def keep(self, data: bytes) -> str:
        if self.away:
            raise StorageError("the object store is away")
        digest = hashlib.sha256(data).hexdigest()
        self[digest] = data
        return digest


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def gate(tmp_path: Path, store: Store) -> Iterator[Gateway]:
    with started_gateway(tmp_path, [], kind="image-classification", keep_image=store.keep) as gate:
        yield gate


def asked(url: str, *texts: str) -> dict[str, object]:
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        *({"type": "text", "text": text} for text in texts),
    ]
    return {"task": TASK, "messages": [{"role": "user", "content": parts}]}


def test_the_request_that_a_document_shows_is_taken(gate: Gateway, store: Store) -> None:
    [shown] = [
        named.text
        for named in in_document(ROOT / "docs" / "dialogues-and-images.md")
        if named.text.startswith("curl ")
    ]
    words = shlex.split(shown)
    assert urlsplit(words[1]).path == "/v1/samples"
    body = json.loads(words[-1]) | {"task": TASK}
    [image, _] = body["messages"][0]["content"]
    image["image_url"]["url"] = image["image_url"]["url"].replace(
        "…", base64.b64encode(PICTURE).decode()
    )
    response = gate.http.post("/v1/samples", json=body)
    assert response.status_code == 202, response.text
    assert list(store.values()) == [PICTURE]


@pytest.mark.parametrize("data", [PICTURE, LARGE])
def test_an_image_is_in_the_store_before_it_is_answered(
    gate: Gateway, store: Store, data: bytes
) -> None:
    body = asked(data_url(data), "north") | {"user": "ada"}
    headers = {"x-flywheel-sample-id": "pic-1"}
    response = gate.http.post("/v1/samples", json=body, headers=headers)
    assert response.status_code == 202, response.text
    assert response.json() == {"sample_id": "pic-1"}
    assert list(store.values()) == [data]
    eventually(lambda: gate.events(TrafficRecorded))
    [event] = gate.events(TrafficRecorded)
    [digest] = store
    [message] = event.content
    assert isinstance(message, Message)
    image, text = message.parts
    assert isinstance(image, ImagePart)
    assert (image.sha256, image.media_type) == (digest, "image/png")
    assert text == TextPart("north")
    assert (event.release, event.output, event.status, event.unit) == (None, None, 202, "ada")


def test_what_comes_again_counts_once(gate: Gateway, store: Store) -> None:
    headers = {"x-flywheel-sample-id": "pic-1"}
    for _ in range(2):
        body = asked(data_url(PICTURE))
        assert gate.http.post("/v1/samples", json=body, headers=headers).status_code == 202
    other = asked(data_url(picture(colour="red")))
    assert gate.http.post("/v1/samples", json=other, headers=headers).status_code == 409
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    assert len({event.event_id for event in gate.events(TrafficRecorded)}) == 1
    assert list(store.values()) == [PICTURE]


def test_without_the_store_nothing_names_the_image(gate: Gateway, store: Store) -> None:
    store.away = True
    response = gate.http.post("/v1/samples", json=asked(data_url(PICTURE)))
    assert response.status_code == 503
    assert gate.events(TrafficRecorded) == []


def test_no_model_answers_and_that_is_said(gate: Gateway, store: Store) -> None:
    body = {"model": TASK, "messages": asked(data_url(PICTURE))["messages"]}
    response = gate.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 501
    assert response.json()["code"] == "no-model"
    assert "POST /v1/samples" in response.json()["detail"]
    assert (gate.classify("disc").status_code, dict(store)) == (400, {})
    [model] = gate.http.get("/v1/models").json()["data"]
    assert model["kind"] == "image-classification"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.org/cat.png", "nothing is fetched"),
        (data_url(png_of(60_000, 60_000)), "more pixels"),
        (data_url(b"<svg/>", "image/svg+xml"), "no image that can be read"),
    ],
)
def test_what_is_no_image_is_refused(gate: Gateway, store: Store, url: str, words: str) -> None:
    response = gate.http.post("/v1/samples", json=asked(url))
    assert response.status_code == 400
    assert words in response.json()["detail"]
    assert not store


def test_a_task_that_a_model_answers_is_sent_there(tmp_path: Path) -> None:
    with started_gateway(tmp_path, []) as gate:
        body = {"task": TASK, "messages": [{"role": "user", "content": "Who?"}]}
        response = gate.http.post("/v1/samples", json=body)
        assert response.status_code == 400
        assert "/v1/chat/completions" in response.json()["detail"]
