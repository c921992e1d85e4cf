"""Labelled samples from a file, as events: the same way in as production traffic."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flywheel.bootstrap.process import await_broker, open_database
from flywheel.contracts.answers import text_problem
from flywheel.contracts.bounds import sample_problem
from flywheel.contracts.events import Event, LabelRecorded, Split, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import RejectedEvent, StorageError
from flywheel.settings import FlywheelSettings

_NAMESPACE = uuid.UUID("7d1f5bb6-3a0c-5f0e-9a3e-2f3b8a7c1d42")


def rows(path: Path, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(text, label) of every line; without ``labels`` any text will do for one. Raises
    RejectedEvent naming the first line that is wrong."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row: Any = json.loads(line.decode("utf-8"))
                text, label = row["text"], row["label"]
            except UnicodeDecodeError:
                raise RejectedEvent(f"{where}: not UTF-8") from None
            except (json.JSONDecodeError, KeyError, TypeError):
                raise RejectedEvent(f'{where}: not a JSON object with "text" and "label"') from None
            odd = sample_problem(text) if isinstance(text, str) else "the text is no text"
            if odd:
                raise RejectedEvent(f"{where}: {odd}")
            if labels and label not in labels:
                raise RejectedEvent(
                    f"{where}: {label!r} is no label of the task ({', '.join(labels)})"
                )
            problem = text_problem(label) if isinstance(label, str) else "the label is no text"
            if problem:
                raise RejectedEvent(f"{where}: {problem.replace('the text', 'the label')}")
            yield text, label


def ingest_file(
    settings: FlywheelSettings, task: str, path: Path, split: str | None, annotator: str
) -> list[str]:
    """Publish a file's samples and labels; returns the sample ids.

    The whole file is read before anything is sent. Ids depend on the content alone, so a file
    brought in twice counts once. Raises RejectedEvent for a bad line, BrokerError without Kafka.
    """
    from streams.publisher import KafkaPublisher

    pairs = list(rows(path, settings.task(task).labels))
    await_broker(settings)
    events: list[Event] = []
    ids: list[str] = []
    for text, label in pairs:
        sample_id = str(uuid.uuid5(_NAMESPACE, f"{task}\x1f{text}"))
        ids.append(sample_id)
        events += _events(task, sample_id, text, label, split, annotator)
    publisher = KafkaPublisher(settings.kafka, "flywheel-ingest")
    try:
        publisher.publish(events)
    finally:
        publisher.close()
    return ids


def _events(
    task: str, sample_id: str, text: str, label: str, split: Any, annotator: str
) -> list[Event]:
    value: Split | None = split
    return [
        TrafficRecorded(
            event_id=new_id(),
            occurred_at=utc_now(),
            task=task,
            sample_id=sample_id,
            text=text,
            origin="ingest",
            source=annotator,
        ),
        LabelRecorded(
            event_id=str(uuid.uuid5(_NAMESPACE, f"{sample_id}\x1f{label}\x1f{split}")),
            occurred_at=utc_now(),
            task=task,
            sample_id=sample_id,
            value=label,
            source="seed",
            annotator=annotator,
            split=value,
        ),
    ]


def await_labels(settings: FlywheelSettings, task: str, ids: Sequence[str], timeout: float) -> None:
    """Return when the database holds a settled label for each of ``ids``.

    Raises StorageError after ``timeout`` seconds, with how many are missing.
    """
    wanted = set(ids)
    deadline = time.monotonic() + timeout
    with open_database(settings) as database:
        while True:
            with database.transaction(read_only=True) as tx:
                watermark = tx.labels.watermark(task)
                known = tx.labels.settled(task, watermark) if watermark else []
            missing = wanted - {sample.sample_id for sample in known}
            if not missing:
                return
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{len(missing)} of {len(wanted)} samples have no label in the database after "
                    f"{timeout:.0f} s: does the worker run? (`flywheel status`)"
                )
            time.sleep(0.3)
