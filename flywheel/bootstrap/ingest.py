"""Labelled samples from a file, as events: the same way in as production traffic."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flywheel.bootstrap.process import await_broker, open_database
from flywheel.contracts.codec import encode
from flywheel.contracts.events import Event, LabelRecorded, Split, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.datasets.labelled_file import Row, UnusableLines, read_labelled
from flywheel.errors import MalformedEvent, StorageError
from flywheel.settings import FlywheelSettings

_NAMESPACE = uuid.UUID("7d1f5bb6-3a0c-5f0e-9a3e-2f3b8a7c1d42")


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What a file brought in. ``again`` lines had the text of another and its label; ``relabelled``
    ones had it with another label, of which the last counts."""

    task: str
    split: str | None
    samples: int
    by_label: dict[str, int]
    again: int
    relabelled: int
    sample_ids: tuple[str, ...]


def ingest_file(
    settings: FlywheelSettings, task: str, path: Path, split: Split | None, annotator: str
) -> Ingested:
    """Publish a file's samples and labels, all of them or none.

    The whole file is read and encoded before anything is sent. Ids depend on the content alone, so
    a file brought in twice counts once. Raises RejectedEvent naming every bad line, BrokerError
    without Kafka.
    """
    from streams.publisher import KafkaPublisher

    of_task = settings.task(task)
    rows = read_labelled(path, of_task.labels, of_task.label_titles)
    last = {row.text: row for row in rows}
    relabelled = sum(row.label != last[row.text].label for row in rows)
    events = _all_events(task, path, list(last.values()), split, annotator)
    await_broker(settings)
    publisher = KafkaPublisher(settings.kafka, "flywheel-ingest")
    try:
        publisher.publish(events)
    finally:
        publisher.close()
    counted = Counter(row.label for row in last.values())
    return Ingested(
        task=task,
        split=split,
        samples=len(last),
        by_label={label: counted[label] for label in of_task.labels},
        again=len(rows) - len(last) - relabelled,
        relabelled=relabelled,
        sample_ids=tuple(_sample_id(task, text) for text in last),
    )


def _sample_id(task: str, text: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{task}\x1f{text}"))


def _all_events(
    task: str, path: Path, rows: Sequence[Row], split: Split | None, annotator: str
) -> list[Event]:
    events: list[Event] = []
    problems: list[tuple[int, str]] = []
    for row in rows:
        of_row = _events(task, _sample_id(task, row.text), row.text, row.label, split, annotator)
        try:
            for event in of_row:
                encode(event)
        except MalformedEvent as error:
            problems.append((row.line, str(error)))
        events += of_row
    if problems:
        raise UnusableLines(path, problems, len(rows))
    return events


def _events(
    task: str, sample_id: str, text: str, label: str, split: Split | None, annotator: str
) -> list[Event]:
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
            split=split,
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
