"""Events a second through the Faust worker: its triage agent beside other loops, and all of it.

    python tests/benchmarks/bench_worker.py [--events N] [--runs N] [--peers]

A real broker. Every loop consumes the same traffic in batches of at most 2,000, makes the same
triage decisions, produces what comes of them with acks=all, waits for every acknowledgement and
only then commits. Timed from the first record that comes out to the last, start-up excluded; each
runs in a process of its own, in turns. With ``--peers`` also FastStream, Quix and confluent-kafka,
which are installed into ``build/bench/peers``. Then the same traffic through the worker's
processes as `flywheel up` starts them, its four agents writing to SQLite and to PostgreSQL: timed
until every group has committed every record, those that triage made of the traffic too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import worker_peers
from audits import NoAudits
from kafka_fixture import free_port, local_kafka
from postgres_server import PostgresServer

from flywheel.contracts.codec import decode, encode
from flywheel.contracts.events import Event, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.kinds import Choice
from flywheel.settings import KafkaSettings
from flywheel.triage.config import TriageSettings
from flywheel.triage.triager import Triager

LABELS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
OUT = ("flywheel.review", "flywheel.labels")
BATCH = 2000
SETTINGS = TriageSettings(audit_rate=0.5, uncertain_share=0.5)


def triager() -> Triager:
    """Half of what comes in goes to review, as while experts have time."""
    return Triager({"bench": (Choice(LABELS), SETTINGS)}, NoAudits(), salt="salt")


def traffic(count: int) -> list[Event]:
    """Traffic of about 500 bytes an event."""
    chance = random.Random(0)
    events: list[Event] = []
    for number in range(count):
        weights = [chance.random() ** 4 + 1e-6 for _ in LABELS]
        scores = {n: w / sum(weights) for n, w in zip(LABELS, weights, strict=True)}
        best = max(scores, key=scores.__getitem__)
        events.append(
            TrafficRecorded(
                event_id=new_id(),
                occurred_at=utc_now(),
                task="bench",
                sample_id=new_id(),
                content=f"question number {number}: how far is it from here to there?",
                release="bench-000000000000",
                output=best,
                scores=scores,
                confidence=scores[best],
            )
        )
    return events


def expected(events: Sequence[Event]) -> int:
    """How many events come out."""
    return len(triager()(events))


def run_flywheel(port: int, run: int) -> None:
    """The worker with its triage agent alone, as a group of its own."""
    from streams.agent_loop import Agent
    from streams.agents import triage
    from streams.boundary import run_worker

    agent = triage.agent(triager())
    run_worker(
        KafkaSettings(local_port=port), [Agent(f"bench.faust.{run}", agent.topics, agent.handle)]
    )


def run_aiokafka(port: int, run: int) -> None:
    """The plain loop."""
    asyncio.run(_aiokafka(f"127.0.0.1:{port}", f"bench.plain.{run}"))


async def _aiokafka(servers: str, group: str) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    decide = triager()
    consumer = AIOKafkaConsumer(
        "flywheel.traffic",
        bootstrap_servers=servers,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    await consumer.start()
    await producer.start()
    while True:
        fetched = await consumer.getmany(timeout_ms=50, max_records=BATCH)
        records = [record for batch in fetched.values() for record in batch]
        if not records:
            continue
        events = [decode(record.value, dict(record.headers)) for record in records]
        sent = []
        for event in decide(events):
            made = encode(event)
            sent.append(
                await producer.send(
                    made.topic, made.value, key=made.key, headers=list(made.headers)
                )
            )
        await asyncio.gather(*sent)
        await consumer.commit()


Start = Callable[[int, int], Any]


def ours(side: Any) -> Start:
    """A loop in a process of this interpreter."""

    def start(port: int, run: int) -> Any:
        process = multiprocessing.get_context("spawn").Process(target=side, args=(port, run))
        process.start()
        return process

    return start


def peer(python: Path, name: str) -> Start:
    """A loop of another library, in its environment."""

    def start(port: int, run: int) -> Any:
        script = Path(__file__).with_name("worker_peers.py")
        group = f"bench.{name}.{run}".lower()
        return subprocess.Popen([python, script, name, f"127.0.0.1:{port}", group])

    return start


def measure(start: Start, port: int, run: int, count: int, out: int) -> float:
    """Events consumed per second by one loop."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=f"127.0.0.1:{port}")
    parts = [TopicPartition(t, p) for t in OUT for p in consumer.partitions_for_topic(t)]

    def ends() -> int:
        return sum(consumer.end_offsets(parts).values())

    before = ends()
    process = start(port, run)
    try:
        while (first := ends()) == before:
            time.sleep(0.005)
        began = time.perf_counter()
        while (now := ends()) < before + out:
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        done = (now - first) / out * count
        return done / seconds
    finally:
        process.terminate()
        process.wait(30) if isinstance(process, subprocess.Popen) else process.join(30)
        consumer.close()


def whole_worker(port: int, count: int, folder: Path, database_url: str) -> dict[str, Any]:
    """Traffic events a second through the worker until all four groups are done, and each agent's
    events a second until it was."""
    from kafka import KafkaConsumer, TopicPartition

    from flywheel.ops.supervisor import programs
    from flywheel.settings import load_settings
    from streams.agents import evidence, labels, review, triage
    from streams.groups import committed_offsets

    (folder / "flywheel.toml").write_text(
        f"""
database_url = "{database_url}"
[kafka]
bootstrap_servers = "127.0.0.1:{port}"
[monitoring]
worker_port = {free_port()}
[tasks.bench]
labels = {list(LABELS)}
[tasks.bench.triage]
audit_rate = {SETTINGS.audit_rate}
uncertain_share = {SETTINGS.uncertain_share}
[tasks.bench.training]
base_model = "not-used-here"
"""
    )
    kafka = KafkaSettings(local_port=port)
    agents = (triage, review, labels, evidence)
    consumer = KafkaConsumer(bootstrap_servers=kafka.servers)
    topics = {topic for agent in agents for topic in agent.TOPICS}
    parts = [TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t)]

    def standing() -> dict[str, tuple[int, int]]:
        """Group → records that it has handled, and that it has yet to."""
        ends = {
            (part.topic, part.partition): end for part, end in consumer.end_offsets(parts).items()
        }
        found = {}
        for agent in agents:
            committed = committed_offsets(kafka, agent.GROUP)
            mine = {place: end for place, end in ends.items() if place[0] in agent.TOPICS}
            behind = sum(end - committed.get(place, 0) for place, end in mine.items())
            found[agent.GROUP] = (sum(committed.values()), behind)
        return found

    worker = [one for one in programs(load_settings(folder, {})) if one.name.startswith("worker")]
    processes = []
    with (folder / "worker.log").open("wb") as log:
        for program in worker:
            command = [sys.executable, "-m", "flywheel", "-w", str(folder), *program.arguments]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        while not any(handled for handled, _ in standing().values()):
            time.sleep(0.1)
        began = time.perf_counter()
        rates: dict[str, float] = {}
        while True:
            found = standing()
            if not any(behind for _, behind in found.values()):
                break
            seconds = time.perf_counter() - began
            # An agent that waits for another's events is not slow: its rate is that of its work.
            rates |= {g: handled / seconds for g, (handled, behind) in found.items() if behind}
            time.sleep(0.3)  # asking more often took a tenth of the machine
        seconds = time.perf_counter() - began
        spent = [psutil.Process(process.pid).cpu_times() for process in processes]
        return {
            "events_per_second": count / seconds,
            "processes": len(processes),
            # Start-up included; of the agents' processes alone.
            "processor_us_per_event": [
                round((one.user + one.system) / count * 1e6) for one in spent
            ],
            "agents": {group: round(rate) for group, rate in rates.items()},
        }
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)
        consumer.close()


def run(count: int, runs: int, peers: Path | None) -> dict[str, Any]:
    """Every loop in turns on one broker, then the whole worker on each database."""
    events = traffic(count)
    out = expected(events)
    loops = {"aiokafka": ours(run_aiokafka), "boundary": ours(run_flywheel)}
    if peers is not None:
        python = worker_peers.environment(peers)
        loops |= {name: peer(python, name) for name in worker_peers.LOOPS}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    with tempfile.TemporaryDirectory() as state, traffic_broker(Path(state), events) as port:
        for number in range(runs):
            for name, start in loops.items():
                rates[name].append(measure(start, port, number, count, out))
    # The loops have filled the topics that the other agents read: a broker of its own.
    whole: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as state, traffic_broker(Path(state), events) as port:
        whole["sqlite"] = whole_worker(port, count, Path(state), "")
    with (
        PostgresServer() as server,
        tempfile.TemporaryDirectory() as state,
        traffic_broker(Path(state), events) as port,
    ):
        url = server.url.replace("postgresql://", "postgresql+psycopg://")
        whole["postgresql"] = whole_worker(port, count, Path(state), url)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "events": count,
        "event_bytes": len(encode(events[0]).value),
        "events_out": out,
        "per_second": rates,
        "median_per_second": medians,
        "of_aiokafka": {name: rate / medians["aiokafka"] for name, rate in medians.items()},
        "boundary_of_aiokafka": medians["boundary"] / medians["aiokafka"],
        "whole_worker": whole,
        "whole_worker_events_per_second": min(one["events_per_second"] for one in whole.values()),
    }


@contextlib.contextmanager
def traffic_broker(state: Path, events: Sequence[Event]) -> Iterator[int]:
    """The port of a broker that holds ``events`` and nothing else."""
    from streams.publisher import KafkaPublisher

    with local_kafka(state / "kafka") as kafka:
        publisher = KafkaPublisher(kafka, "bench")
        for start in range(0, len(events), BATCH):
            publisher.publish(events[start : start + BATCH])
        publisher.close()
        yield kafka.local_port


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="beside other libraries, by pip")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    report = run(asked.events, asked.runs, asked.out / "peers" if asked.peers else None)
    table = Table(title=f"Events routed per second ({report['event_bytes']} bytes, median)")
    for column in ("loop", "events/s", "of aiokafka"):
        table.add_column(column, justify="right")
    plain = report["median_per_second"]["aiokafka"]
    for name, rate in report["median_per_second"].items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / plain:.2f}")
    for database, whole in report["whole_worker"].items():
        rate = whole["events_per_second"]
        name = f"the whole worker, {database}, {whole['processes']} processes"
        table.add_row(name, f"{rate:,.0f}", f"{rate / plain:.2f}")
    Console().print(table)
    (asked.out / "worker.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
