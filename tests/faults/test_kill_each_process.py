"""kill -9 of every process while the wheel turns: it turns to its end, nothing is lost or doubled.

A tiny encoder; everything else is what `flywheel up` runs, asked as clients and experts ask it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka_fixture import free_port
from tiny_encoder import TOPICS, labelled, make_encoder

from flywheel.contracts.ids import new_id
from flywheel.ops.supervisor import Supervisor
from flywheel.settings import FlywheelSettings, load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASK = "topics"
# The trainer first: it is in the middle of a turn. The broker late, when all hang on it.
VICTIMS = ("trainer", "gateway", "worker", "console", "controller", "kafka", "model")
SETTINGS: Mapping[str, object] = {
    "training.learning_rate": 3e-3,
    "training.head_learning_rate_factor": 3.0,
    "training.epochs": 12,
    "training.min_steps": 150,
    "training.max_tokens": 32,
    "training.train_embeddings": True,
    "compression.measure_seconds": 0.0,
    # Every answer is asked about, and no turn begins by itself.
    "audit_rate": 1.0,
    "rollout_audit_rate": 1.0,
    "min_new_labels": 100_000,
    # An equal release proves itself with what a minute gives.
    "max_regression": 0.2,
    "accuracy_margin": 0.15,
    "latency_margin": 1000.0,
    "steps": [0.3],
    "min_requests": 8,
    "min_labels": 20,
}
LABELS_FOR_A_TURN = 30


def flywheel(folder: Path, *arguments: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "flywheel", "-w", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with labelled samples beside it."""
    names = ("kafka", "gateway", "console", "worker", "trainer", "controller")
    ports = {f"{name}_port": free_port() for name in names} | {"serving_ports": [free_port()]}
    sets = [f"{key}={json.dumps(value)}" for key, value in {**SETTINGS, **ports}.items()]
    base = make_encoder(tmp_path / "encoder")
    arguments = ["--task", TASK, "--base-model", str(base)]
    arguments += [part for topic in TOPICS for part in ("--label", topic)]
    arguments += [part for one in sets for part in ("--set", one)]
    flywheel(tmp_path / "workspace", "init", *arguments)
    for name, seed in (("holdout", 1), ("seed", 2)):
        lines = [json.dumps({"text": s.text, "label": s.label}) for s in labelled(60, seed=seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return tmp_path / "workspace"


@contextmanager
def supervised(folder: Path) -> Iterator[None]:
    """Everything runs, until the end of the block."""
    with (folder.parent / "up.log").open("w") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "flywheel", "-w", str(folder), "up"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        flywheel(folder, "status", "--wait", "180")
        yield
    finally:
        flywheel(folder, "down")
        up.wait(60)


class Work:
    """Something that is done again and again in a thread, whatever stands in its way."""

    def __init__(self, settings: FlywheelSettings) -> None:
        self.gateway = f"http://127.0.0.1:{settings.gateway.port}"
        self.console = f"http://127.0.0.1:{settings.console.port}"
        self._http = httpx.Client(timeout=20, trust_env=False)
        self._end = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "what was begun never ended"
        assert self._failure is None, repr(self._failure)
        self._http.close()

    def one(self) -> None:
        raise NotImplementedError

    def ask(self, method: str, url: str, **options: Any) -> Any:
        """The answer, asked for until it comes."""
        while True:
            with suppress(httpx.TransportError):
                answer = self._http.request(method, url, **options)
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
            time.sleep(0.2)

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                self.one()
        except Exception as error:  # noqa: BLE001 - said at the end, in the test's own thread
            self._failure = error


class Clients(Work):
    """Requests, each with an id of its own, which it keeps when it is sent again."""

    def __init__(self, settings: FlywheelSettings) -> None:
        super().__init__(settings)
        self.answered: list[str] = []
        self._texts = [sample.text for sample in labelled(3000, seed=3)]

    def one(self) -> None:
        number = len(self.answered)
        text = self._texts[number % len(self._texts)]
        sample_id = new_id()
        answer = self.ask(
            "POST",
            f"{self.gateway}/v1/classify",
            json={"task": TASK, "text": text, "user": f"user {number}"},
            headers={"x-flywheel-sample-id": sample_id},
        )
        assert answer.status_code == 200, answer.text
        self.answered.append(sample_id)
        time.sleep(0.08)


class Expert(Work):
    """Answers what waits, rightly: a text has words of one topic."""

    def one(self) -> None:
        here = f"{self.console}/api/review/{TASK}"
        waits = self.ask("GET", f"{here}/next", params={"annotator": "ada", "limit": 10}).json()
        for item in waits["items"]:
            said = set(item["text"].split())
            (topic,) = (name for name, words in TOPICS.items() if said & set(words))
            answer = {"annotator": "ada", "value": topic}
            self.ask("POST", f"{here}/{item['sample_id']}/answer", json=answer)
            time.sleep(0.05)
        if not waits["items"]:
            time.sleep(0.3)


def standing(folder: Path) -> dict[str, Any]:
    """How the task stands."""
    read: dict[str, Any] = json.loads(flywheel(folder, "status", "--json"))["tasks"][TASK]
    return read


def until(folder: Path, what: str, ready: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Waits for something of the task; a turn that failed ends it."""
    deadline = time.monotonic() + 300
    while True:
        found = standing(folder)
        turn = found["turn"] or {}
        assert turn.get("state") != "failed", turn
        if ready(found):
            return found
        assert time.monotonic() < deadline, f"{what} never came: {found}"
        time.sleep(0.3)


def pid(settings: FlywheelSettings, victim: str) -> int:
    """Waits until the supervised process of this name runs, by its beginning."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        rows = Supervisor(settings).processes()
        name = next(name for name in rows if name.startswith(victim))
        if rows[name]["statename"] == "RUNNING":
            return int(rows[name]["pid"])
        time.sleep(0.1)
    raise AssertionError(f"{victim} does not run again")


def kill(settings: FlywheelSettings, victim: str) -> None:
    """kill -9, and waits until the supervisor has it running again."""
    killed = pid(settings, victim)
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while pid(settings, victim) == killed:
        assert time.monotonic() < deadline, f"{victim} was not started again"
        time.sleep(0.1)


def test_kill_each_process_during_a_turn(folder: Path) -> None:
    settings = load_settings(folder, {})
    with supervised(folder):
        flywheel(folder, "ingest", str(folder.parent / "holdout.jsonl"), "--split", "holdout")
        flywheel(folder, "ingest", str(folder.parent / "seed.jsonl"))
        first = until(
            folder,
            "the first release",
            lambda found: found["answers"] and found["answers"]["ready"] and found["champion"],
        )["champion"]
        with Clients(settings) as clients, Expert(settings):
            until(folder, "labels", lambda found: found["labels"]["expert"] >= LABELS_FOR_A_TURN)
            flywheel(folder, "retrain", "--by", "ada", "--why", "a turn to be killed in")
            until(
                folder,
                "the turn",
                lambda found: (
                    found["turn"]["state"] == "running"
                    and found["turn"]["stage"] in ("train", "compress")
                ),
            )
            for victim in VICTIMS:
                kill(settings, victim)
            ended = until(folder, "its end", lambda found: found["turn"]["state"] == "succeeded")
            second = ended["turn"]["release"]
            assert second not in (None, first), ended["turn"]["error"]
            served = until(
                folder,
                "promotion",
                lambda found: found["champion"] == second and not found["rollout"],
            )
            assert served["turn"]["release"] == second, "there was one turn"
        expected = folder.parent / "answered.txt"
        expected.write_text("".join(f"{one}\n" for one in clients.answered), "utf-8")
        asked = ("--full", "--json", "--expect", str(expected), "--wait", "60")
        doctor = flywheel(folder, "doctor", *asked)
        found = json.loads(doctor)
        releases = json.loads(flywheel(folder, "releases", "list", "--json"))
    assert found["lost"] == found["doubled"] == 0, found
    assert found["traffic_recorded"] == len(clients.answered) > 50
    assert {row["release"] for row in releases} == {first, second}
    assert len({row["dataset_version"] for row in releases}) == 2
