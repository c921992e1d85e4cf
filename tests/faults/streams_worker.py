"""A worker for tests: stores each event once in SQLite and forwards traffic to the review topic.

Arguments: broker port, consumer group, SQLite file. Prints "ready" when it has started.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Sequence

from prometheus_client import start_http_server

from flywheel.contracts.events import Event, ReviewRequested, TrafficRecorded
from flywheel.contracts.positions import Handled
from flywheel.errors import StorageError
from flywheel.monitoring.logs import configure_logging
from flywheel.settings import KafkaSettings
from streams.agent_loop import Agent
from streams.boundary import run_worker
from streams.pace import Pace


class Sink:
    """One transaction a batch, unique by event id, as the database-writing agents do it."""

    def __init__(self, path: str) -> None:
        self._path = path
        with sqlite3.connect(path) as db:
            db.execute("pragma journal_mode=wal")
            db.execute("create table if not exists effect (event_id text unique, text text)")
            db.execute("create table if not exists delivery (events integer)")
        db.close()

    def __call__(self, events: Sequence[Event], _: Sequence[Handled] = ()) -> Sequence[Event]:
        db = sqlite3.connect(self._path, timeout=0.2)
        try:
            with db:
                db.execute("insert into delivery values (?)", (len(events),))
                for event in events:
                    spoil(event)
                    db.execute("insert or ignore into effect values (?, '')", (event.event_id,))
        except sqlite3.OperationalError as error:
            raise StorageError(str(error)) from error
        finally:
            db.close()
        return [request_of(event) for event in events if isinstance(event, TrafficRecorded)]


def spoil(event: Event) -> None:
    """Fail as a handler may: by an odd event, by a bug, or because its database is away."""
    if "STREAMS_TEST_STUCK" in os.environ:
        raise StorageError("the database is away")
    text = event.text if isinstance(event, TrafficRecorded) else ""
    if text == "poison":
        raise ValueError("this text makes the handler fail")
    if text == "bug" and "STREAMS_TEST_BUG" in os.environ:
        raise AttributeError("this is a bug")


def request_of(event: TrafficRecorded) -> ReviewRequested:
    return ReviewRequested(
        event_id=f"review-{event.event_id}",
        occurred_at=event.occurred_at,
        task=event.task,
        sample_id=event.sample_id,
        content=event.text,
        reason="test",
        priority=1.0,
        inclusion_probability=1.0,
        audit=False,
    )


if __name__ == "__main__":
    port, group, path = sys.argv[1:4]
    configure_logging("worker", "info")
    if "STREAMS_TEST_METRICS" in os.environ:
        start_http_server(int(os.environ["STREAMS_TEST_METRICS"]), "127.0.0.1")
    pause = float(os.environ.get("STREAMS_TEST_PAUSE", "0"))
    agent = Agent(group, ("flywheel.traffic",), Sink(path), pace=Pace(pause, pause))
    kafka = KafkaSettings(local_port=int(port))
    ready = lambda: print("ready", flush=True)  # noqa: E731
    sys.exit(run_worker(kafka, [agent], on_ready=ready, session_seconds=2.0))
