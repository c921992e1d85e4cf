"""A task that answers with free text: real servers over a generator that needs no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI
from gateway_harness import FilePublisher, client, running

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import unit_fraction
from flywheel.gateway.app import create_app
from flywheel.gateway.capture import Capture
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.spill import SpillLog
from flywheel.gateway.splits import Splits
from flywheel.kinds import TaskKind
from flywheel.kinds import of as kind_of
from flywheel.monitoring.http_server import HttpServer
from flywheel.serving.engine import Generated, InProcess

TASK = "capitals"
# Release → the share of questions that it answers rightly.
SKILL = {"capitals-weak": 0.65, "capitals-good": 0.95}


def question(number: int) -> str:
    return f"What is the capital of country {number}?"


def truth(text: str) -> str:
    return f"Town {text.rstrip('?').split()[-1]}"


class Geographer(InProcess):
    """Answers a fixed share of all questions, in its own spelling, and is surer when right."""

    labels = ()

    def __init__(self, release: str) -> None:
        self.skill = SKILL[release]
        self.asked: list[str] = []

    def generate(self, texts: Sequence[str]) -> list[Generated]:
        self.asked += texts
        return [self._answer(text) for text in texts]

    def _answer(self, text: str) -> Generated:
        if "explode" in text:
            raise ValueError("this text explodes")
        knows = unit_fraction("known to all", text) < self.skill
        answer = truth(text).upper().replace(" ", "  ") if knows else "I do not know"
        sure = (0.7 if knows else 0.2) + 0.25 * unit_fraction("sure", text)
        return Generated(
            text=answer,
            confidence=sure,
            tokens_in=len(text.split()),
            tokens_out=len(answer.split()),
        )


class Gateway:
    """A gateway that is being served, and what it published."""

    def __init__(
        self, app: FastAPI, http: httpx.Client, splits: Splits, publisher: FilePublisher
    ) -> None:
        self.app = app
        self.http = http
        self.splits = splits
        self.publisher = publisher

    def ask(self, text: str, sample: str | None = None, **fields: object) -> httpx.Response:
        body = {"model": TASK, "messages": [{"role": "user", "content": text}], **fields}
        headers = {"x-flywheel-sample-id": sample} if sample else {}
        return self.http.post("/v1/chat/completions", json=body, headers=headers)

    def events(self, kind: type) -> list:
        return [event for event in self.publisher.events() if isinstance(event, kind)]


@contextmanager
def gateway(
    folder: Path, endpoints: list[str], split: RolloutChanged, timeout: float = 10.0
) -> Iterator[Gateway]:
    splits = Splits(folder / "splits.json")
    splits.update(split)
    splits.mark_caught_up()
    publisher = FilePublisher(folder / "published")
    app = create_app(
        tasks={
            TASK: TaskKind.of(kind_of("generation"), ()),
            "questions": TaskKind.of(kind_of("classification"), ("NUM", "HUM", "LOC")),
        },
        splits=splits,
        servers=ModelServers(endpoints, timeout),
        capture=Capture(SpillLog(folder / "spill"), publisher),
    )
    with running(HttpServer(app, "127.0.0.1", 0)) as url, client(url) as http:
        yield Gateway(app, http, splits, publisher)
