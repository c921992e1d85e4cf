"""An agent that pauses takes into one transaction what comes meanwhile, and loses none of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from streams_harness import WorkerProcess, eventually, traffic

from flywheel.contracts.ids import new_id
from flywheel.settings import KafkaSettings
from streams.publisher import KafkaPublisher

PAUSE = 1.0


@pytest.fixture
def worker(kafka: KafkaSettings, tmp_path: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess(kafka.local_port, f"test.{new_id()}", tmp_path)
    yield process
    process.close()


def test_what_comes_one_by_one_is_handled_together(
    worker: WorkerProcess, kafka: KafkaSettings
) -> None:
    publisher = KafkaPublisher(kafka, "test")
    worker.start(STREAMS_TEST_PAUSE=str(PAUSE))
    first = traffic(1)
    publisher.publish(first)
    eventually(lambda: {one.event_id for one in first} <= worker.effects())
    before, began = worker.batches(), time.monotonic()
    events = traffic(40)
    for event in events:
        publisher.publish([event])
        time.sleep(0.05)
    eventually(lambda: {one.event_id for one in events} <= worker.effects())
    paused = (time.monotonic() - began) / PAUSE
    assert worker.batches() - before <= paused + 1 < len(events)
    publisher.publish(late := traffic(1))
    publisher.close()
    assert worker.end(signal.SIGTERM) == 0, "it ends in the middle of a pause, too"
    worker.start(STREAMS_TEST_PAUSE=str(PAUSE))
    eventually(lambda: {one.event_id for one in late} <= worker.effects())
