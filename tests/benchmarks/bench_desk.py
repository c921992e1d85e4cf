"""Experts, pages, a rollout and traffic at once, over a long history: does anyone wait?

    python tests/benchmarks/bench_desk.py [--requests N] [--seconds S] [--database …]

A history of a million requests (``scale_seed``) with its rollout running; a broker, and console,
controller and worker as `flywheel up` starts them. Twenty experts claim and answer through the
console with a second's thought between, three pages are read each second, traffic comes at 50
requests a second. Beside them, once in 5 ms, somebody asks whether SQLite's write lock is free.
Then a person rolls the challenger back: timed until the split is in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_scale import traffic
from kafka_fixture import free_port, local_kafka
from postgres_server import PostgresServer
from scale_seed import LABELS, ROLLOUT, TASK, beginning, seed

from flywheel.contracts.codec import decode
from flywheel.contracts.events import RolloutChanged
from flywheel.settings import KafkaSettings, load_settings
from storage.database import Database
from streams.publisher import KafkaPublisher

EXPERTS, THOUGHT, PER_SECOND = 20, 1.0, 50
CONFIG = """
database_url = {url}
[kafka]
bootstrap_servers = "127.0.0.1:{broker}"
[console]
port = {console}
[monitoring]
worker_port = {worker}
controller_port = {controller}
[serving]
urls = ["http://127.0.0.1:{server}"]
[tasks.bench]
labels = {labels}
[tasks.bench.rollout]
steps = [0.5, 0.9]
min_requests = 1000000000
max_minutes = 1000000
[tasks.bench.training]
base_model = "not-used-here"
"""


class Crowd:
    """Everyone who asks the console at once; ``seconds`` are those of each claim and answer."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self.seconds: list[float] = []
        self.pages: list[float] = []
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._expert, args=(f"expert {number}",))
            for number in range(EXPERTS)
        ]
        pages = ("/api/overview/bench", "/api/rollouts/bench", "/api/review/bench/depth")
        self._threads += [threading.Thread(target=self._page, args=(page,)) for page in pages]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _expert(self, name: str) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stopping.wait(THOUGHT):
                began = time.perf_counter()
                hand = client.get(
                    f"/api/review/{TASK}/next", params={"annotator": name, "limit": 1}
                )
                for item in hand.json()["items"] if self._fine(hand) else []:
                    answer = {"annotator": name, "value": LABELS[0], "seconds": THOUGHT}
                    sample = item["sample_id"]
                    self._fine(client.post(f"/api/review/{TASK}/{sample}/answer", json=answer))
                    self.seconds.append(time.perf_counter() - began)

    def _page(self, path: str) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stopping.wait(1.0):
                began = time.perf_counter()
                self._fine(client.get(path))
                self.pages.append(time.perf_counter() - began)

    def _fine(self, response: httpx.Response) -> bool:
        if response.status_code != 200:
            self.errors.append(f"{response.status_code} {response.text[:200]}")
        return response.status_code == 200


class LockWatch:
    """How often SQLite's write lock was held when somebody looked."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.looks = self.busy = 0

    def __enter__(self) -> LockWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        connection = sqlite3.connect(self._file, timeout=0, isolation_level=None)
        while not self._stopping.wait(0.005):
            self.looks += 1
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                self.busy += 1
        connection.close()


class Traffic:
    """Requests at a steady rate, as the gateway would record them."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._publisher = KafkaPublisher(kafka, "bench")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._publisher.close()

    def _send(self) -> None:
        while not self._stopping.wait(0.2):
            self._publisher.publish(traffic(PER_SECOND // 5))


@contextlib.contextmanager
def running(workspace: Path, names: tuple[str, ...], console: str) -> Iterator[None]:
    """These processes of a workspace."""
    started = []
    for name in names:
        log = (workspace / f"{name}.log").open("wb")
        command = [sys.executable, "-m", "flywheel", "-w", str(workspace), name]
        started.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        _await(console)
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


def _await(console: str) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{console}/api/overview/{TASK}", timeout=60).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError("the console does not answer")


def rollback(console: str, kafka: KafkaSettings) -> float:
    """Seconds from a person's word to the split in the log."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=kafka.servers)
    topic = "flywheel.rollouts"
    parts = [TopicPartition(topic, one) for one in consumer.partitions_for_topic(topic)]
    consumer.assign(parts)
    consumer.seek_to_end(*parts)
    for part in parts:
        consumer.position(part)
    began = time.perf_counter()
    asked = {"kind": "rollback", "by": "ada", "why": "the bench", "rollout": ROLLOUT}
    httpx.post(f"{console}/api/rollouts/{TASK}/commands", json=asked).raise_for_status()
    while time.perf_counter() - began < 60:
        for records in consumer.poll(50).values():
            for record in records:
                event = decode(record.value, dict(record.headers))
                if isinstance(event, RolloutChanged) and event.state == "rolled_back":
                    consumer.close()
                    return time.perf_counter() - began
    raise RuntimeError("the challenger was not rolled back")


def measure(name: str, requests: int, seconds: float, folder: Path) -> dict[str, Any]:
    """One database under load."""
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{folder / 'flywheel.db'}"
        if name == "postgresql":
            url = stack.enter_context(PostgresServer(("shared_buffers=256MB",))).url
        kafka = stack.enter_context(local_kafka(folder / "kafka"))
        ports = {one: free_port() for one in ("console", "worker", "controller", "server")}
        (folder / "flywheel.toml").write_text(
            CONFIG.format(
                url=json.dumps(url), broker=kafka.local_port, labels=list(LABELS), **ports
            )
        )
        database = Database(url)
        database.migrate()
        load_settings(folder, {}).state.mkdir(exist_ok=True)
        seed(database, 0, requests, beginning(requests))
        database.dispose()
        console = f"http://127.0.0.1:{ports['console']}"
        stack.enter_context(running(folder, ("console", "controller", "worker"), console))
        stack.enter_context(Traffic(kafka))
        watch = LockWatch(folder / "flywheel.db")
        if name == "sqlite":
            stack.enter_context(watch)
        crowd = stack.enter_context(Crowd(console))
        time.sleep(seconds)
        rolled_back = rollback(console, kafka)
    p50, p95 = np.quantile(crowd.seconds, [0.5, 0.95]) * 1000
    return {
        "database": name,
        "requests": requests,
        "answers": len(crowd.seconds),
        "claim_and_answer_p50_ms": float(p50),
        "claim_and_answer_p95_ms": float(p95),
        "page_p95_ms": float(np.quantile(crowd.pages, 0.95) * 1000),
        "errors": crowd.errors[:20],
        "write_lock_busy": watch.busy / watch.looks if watch.looks else None,
        "rollback_seconds": rolled_back,
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--database", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in asked.database:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, asked.requests, asked.seconds, Path(folder)))
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "desk.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    shown = Table(title=f"{EXPERTS} experts, three pages, {PER_SECOND} requests a second")
    for column in rows[0]:
        shown.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        shown.add_row(
            *(f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values())
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
