"""Every process in a workspace folder of its own: a turn and a canary over Kafka, PostgreSQL and
an object store alone, all of them real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from kafka_fixture import free_port, local_kafka
from postgres_server import PostgresServer, database_of
from s3_server import S3Server
from tiny_encoder import TOPICS, labelled, make_encoder

from flywheel.contracts.artefacts import Address
from flywheel.contracts.events import TOPICS as LOGS
from flywheel.contracts.layout import Layout
from flywheel.settings import KafkaSettings, load_settings
from storage.objects import open_artefacts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASK = "topics"
PATIENCE = 300.0
CONFIG = """\
[gateway]
port = {gateway}
[console]
port = {console}
[serving]
urls = ["http://127.0.0.1:{server}"]
[monitoring]
worker_port = {worker}
trainer_port = {trainer}
controller_port = {controller}
[tasks.topics]
title = "Topics"
labels = {labels}
[tasks.topics.training]
base_model = "encoder"
learning_rate = 3e-3
head_learning_rate_factor = 3.0
epochs = 4
min_steps = 60
max_tokens = 32
threads = 1
[tasks.topics.compression]
variants = ["none"]
[tasks.topics.gate]
max_regression = 0.2
[tasks.topics.retraining]
enabled = false
[tasks.topics.rollout]
steps = [0.5]
min_requests = 1000
auto_promote = false
# A busy machine is no harm that the challenger does.
latency_margin = 1000.0
error_margin = 0.9
"""
# Each with the arguments it is started by.
PROCESSES: dict[str, tuple[str, ...]] = {
    "worker": ("worker",),
    "trainer": ("trainer",),
    "controller": ("controller",),
    "server": ("serve", "--port", "{server}"),
    "gateway": ("gateway",),
    "console": ("console",),
}


class Cluster:
    """Folders that nobody shares, and the processes in them."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self.root = root
        self.ports = {name: free_port() for name in PROCESSES}
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def make(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        config = CONFIG.format(labels=json.dumps(list(TOPICS)), **self.ports)
        (folder / "flywheel.toml").write_text(config, "utf-8")
        return folder

    def start(self, name: str) -> None:
        arguments = [part.format(**self.ports) for part in PROCESSES[name]]
        with (self.root / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "flywheel", *arguments],
                cwd=self.root / name, env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running.pop(name).wait()

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, name: str, *arguments: str) -> str:
        """What a command prints that somebody calls in one of the folders."""
        done = subprocess.run(
            [sys.executable, "-m", "flywheel", *arguments],
            cwd=self.root / name, env=self._environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def layout(self, name: str) -> Layout:
        return Layout(self.root / name)

    def eventually(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            for name, process in self._running.items():
                assert process.poll() is None, self.said(name)
            assert time.monotonic() < deadline, "\n".join(map(self.said, self._running))
            time.sleep(0.25)
        return found

    def said(self, name: str) -> str:
        return f"--- {name}\n{(self.root / f'{name}.log').read_text('utf-8')[-3000:]}"

    def releases(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(
            self.run("console", "releases", "list", TASK, "--json")
        )
        return rows

    def turn(self, *, why: str, expected: int) -> dict[str, Any]:
        """The release of a turn that somebody asks for, once it is registered."""
        self.run("console", "retrain", TASK, "--by", "ada", "--why", why)

        def registered() -> list[dict[str, Any]]:
            rows = self.releases()
            return rows if len(rows) >= expected else []

        return dict(self.eventually(registered)[expected - 1])

    def ask(self, text: str, user: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.ports['gateway']}/v1/classify"
        return httpx.post(url, json={"task": TASK, "text": text, "user": user}, timeout=30)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with PostgresServer() as server, database_of(server, "shared_nothing") as url:
        yield url


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    with local_kafka(tmp_path_factory.mktemp("broker")) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def environment(postgres: str, broker: KafkaSettings, s3: S3Server) -> dict[str, str]:
    return {
        **s3.environment,
        "FLYWHEEL_DATABASE_URL": postgres.replace("postgresql:", "postgresql+psycopg:"),
        "FLYWHEEL_KAFKA_BOOTSTRAP_SERVERS": broker.servers,
        "FLYWHEEL_ARTEFACTS_URL": s3.url("shared-nothing"),
    }


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("machines"), environment)
    for name in PROCESSES:
        made.make(name)
    # Training alone needs a base model, and the repository of datasets.
    make_encoder(made.root / "trainer" / "encoder", pooling="cls")
    made.run("trainer", "init")
    try:
        for name in PROCESSES:
            made.start(name)
        yield made
    finally:
        made.stop()


def samples(folder: Path, count: int, seed: int) -> Path:
    file = folder / f"samples-{seed}.jsonl"
    lines = [
        json.dumps({"text": one.text, "label": one.label}) for one in labelled(count, seed=seed)
    ]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


@pytest.fixture(scope="module")
def turned(cluster: Cluster) -> tuple[dict[str, Any], dict[str, Any]]:
    """The champion and the challenger, whose canary is running."""
    files = cluster.root / "console"
    cluster.run("console", "ingest", str(samples(files, 60, 1)), "--split", "holdout")
    cluster.run("console", "ingest", str(samples(files, 240, 2)), "--split", "train")
    first = cluster.turn(why="the first", expected=1)
    cluster.eventually(lambda: cluster.ask("rain and snow", "ada").status_code == 200)
    cluster.run("console", "ingest", str(samples(files, 60, 3)), "--split", "train")
    second = cluster.turn(why="more labels", expected=2)
    assert first["release"] != second["release"]

    cluster.eventually(lambda: newest_rollout(cluster)["state"] == "canary")
    return first, second


def newest_rollout(cluster: Cluster) -> dict[str, Any]:
    shown = json.loads(cluster.run("console", "rollout", "show", TASK, "--json"))
    return dict(shown["rollouts"][0])


def test_both_arms_answer_a_server_comes_back_and_the_challenger_is_promoted(
    cluster: Cluster, turned: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    champion, challenger = (row["release"] for row in turned)
    cluster.eventually(lambda: answered_by(cluster) == {champion, challenger})

    cluster.kill("server")
    shutil.rmtree(cluster.root / "server")
    cluster.make("server")
    cluster.start("server")
    cluster.eventually(lambda: answered_by(cluster) == {champion, challenger})

    cluster.run(
        "worker", "rollout", "promote", TASK, "--by", "ada", "--why", "proven elsewhere",
        "--rollout", newest_rollout(cluster)["rollout_id"],
    )  # fmt: skip
    cluster.eventually(lambda: answered_by(cluster) == {challenger})


def answered_by(cluster: Cluster) -> set[str | None]:
    """The releases that answer twenty users over the gateway; None for a failure."""
    answers = [cluster.ask("price of a loan", f"user-{n}") for n in range(20)]
    return {answer.headers.get("x-flywheel-release") for answer in answers}


def test_releases_carry_addresses_of_what_the_object_store_has(
    cluster: Cluster, environment: dict[str, str], turned: tuple[dict[str, Any], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    artefacts = open_artefacts(load_settings(cluster.root / "console"))
    for row in turned:
        assert artefacts.has(Address.parse(row["address"]))
        assert "path" not in row


def test_each_folder_has_only_what_its_process_needs(
    cluster: Cluster, turned: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    for row in turned:
        assert not (cluster.layout("trainer").releases / row["release"]).is_symlink()
        served = cluster.layout("server").releases / row["release"]
        assert served.is_symlink()
        assert served.resolve().is_relative_to(cluster.layout("server").artefact_cache)
    for name in ("gateway", "worker", "controller"):
        assert not cluster.layout(name).releases.exists()
        assert not cluster.layout(name).artefact_cache.exists()


def test_the_console_reads_and_verifies_what_it_did_not_make(
    cluster: Cluster, turned: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    one, two = (row["release"] for row in turned)
    address = f"http://127.0.0.1:{cluster.ports['console']}"
    found = httpx.get(f"{address}/api/releases/{TASK}/diff", params={"a": one, "b": two}).json()
    assert found["answers"]["compared"] == 60
    assert httpx.get(f"{address}/releases/{TASK}/{two}").status_code == 200
    assert "is exactly what was released" in cluster.run("console", "releases", "verify", two)


def test_no_event_and_no_row_names_a_local_path(
    cluster: Cluster, postgres: str, broker: KafkaSettings,
    turned: tuple[dict[str, Any], dict[str, Any]],
) -> None:  # fmt: skip
    """Whatever this machine's folders are called, others have never heard of them."""
    assert [text for text in [*rows(postgres), *records(broker)] if str(cluster.root) in text] == []


def rows(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        found = [
            f"{name}: {row}"
            for (name,) in tables
            for (row,) in connection.execute(f"SELECT t::text FROM {name} t").fetchall()  # type: ignore[arg-type]
        ]
    assert any("releases" in row for row in found)
    return found


def records(kafka: KafkaSettings) -> list[str]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=kafka.servers, enable_auto_commit=False)
    try:
        partitions = [
            TopicPartition(topic.name, number)
            for topic in LOGS
            for number in consumer.partitions_for_topic(topic.name) or ()
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: list[str] = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for batch in consumer.poll(timeout_ms=1000).values():
                found += [
                    f"{record.topic}: {(record.value or b'').decode(errors='replace')}"
                    for record in batch
                ]
    finally:
        consumer.close()
    assert any("ReleaseRegistered" in text or "gate_passed" in text for text in found)
    return found
