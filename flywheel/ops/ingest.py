"""Labelled samples from a file, as events: the same way in as production traffic."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from flywheel.contracts.codec import encode
from flywheel.contracts.events import Event, LabelRecorded, Split, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.sample import Content, fingerprint
from flywheel.contracts.stores import SeedLabel
from flywheel.datasets.file_formats import Format
from flywheel.datasets.input_lines import KeepImage, read_inputs
from flywheel.datasets.labelled_file import LabelledFile, Row, UnusableLines, read_labelled
from flywheel.errors import MalformedEvent, StorageError
from flywheel.kinds import FileReader, TaskKind
from flywheel.settings import FlywheelSettings
from storage.objects import open_artefacts
from storage.workspace import open_database
from streams.topics import await_broker

_NAMESPACE = uuid.UUID("7d1f5bb6-3a0c-5f0e-9a3e-2f3b8a7c1d42")
Reader = Callable[[Path, TaskKind, Mapping[str, str], Format | None, KeepImage], LabelledFile]
_READ: Mapping[FileReader, Reader] = {
    "texts": lambda path, task, titles, format, _keep: read_labelled(
        path, task.answers, titles, format
    ),
    "lines": read_inputs,
}
# How long a file waits for the worker, so as to know what stands already.
CATCH_UP_SECONDS = 5.0


class Conflict(msgspec.Struct, frozen=True):
    """Two labels that a file gives one text; the one further down counts."""

    line: int
    label: str
    counts_line: int
    counts_label: str


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What a file brought in. ``again`` lines had the text of another and its label;
    ``relabelled`` ones had it with another label, each named in ``conflicts``. ``unchanged``
    samples had this label already; ``held_out`` ones are in the holdout and stay there, whatever
    the file is for. ``left_out`` is why → the lines whose label does not hold; ``unit`` is
    what a line is called in this format."""

    task: str
    split: str | None
    format: str
    unit: str
    samples: int
    by_label: dict[str, int]
    unchanged: int
    held_out: int
    again: int
    relabelled: int
    conflicts: tuple[Conflict, ...]
    left_out: dict[str, tuple[int, ...]]
    sample_ids: tuple[str, ...]


def ingest_file(
    settings: FlywheelSettings,
    task: str,
    path: Path,
    split: Split | None,
    annotator: str,
    format: Format | None = None,
) -> Ingested:
    """Publish a file's samples and labels, all of them or none.

    The whole file is read and encoded, and its images kept, before anything is sent. What stands
    already is not said again, so a file brought in twice counts once; a label that goes back to an
    earlier one is said. Raises RejectedEvent naming every bad line, BrokerError without Kafka.
    """
    from streams.publisher import KafkaPublisher

    of_task = settings.task(task)
    read = _READ[of_task.of_kind.reader](
        path,
        of_task.task_kind,
        of_task.label_titles,
        format,
        # Nothing may name an image that is not there.
        open_artefacts(settings).put_bytes,
    )
    last = {fingerprint(row.content): row for row in read}
    await_broker(settings.kafka)
    rows, standing = _known(settings, task, last)
    events, unchanged = _all_events(task, path, rows, standing, split, annotator, read.unit)
    if events:
        publisher = KafkaPublisher(settings.kafka, "flywheel-ingest")
        try:
            publisher.publish(events)
        finally:
            publisher.close()
    counted = Counter(row.label for row in last.values())
    conflicts = _conflicts(read, last)
    return Ingested(
        task=task,
        split=split,
        format=read.format,
        unit=read.unit,
        samples=len(last),
        by_label={label: counted[label] for label in of_task.labels},
        unchanged=unchanged,
        held_out=sum(one.split == "holdout" for one in standing.values() if split != "holdout"),
        again=len(read.rows) - len(last) - len(conflicts),
        relabelled=len(conflicts),
        conflicts=conflicts,
        left_out=dict(read.left_out),
        sample_ids=tuple(sample_id for sample_id, _ in rows),
    )


def _conflicts(read: LabelledFile, last: Mapping[str, Row]) -> tuple[Conflict, ...]:
    pairs = [(row, last[fingerprint(row.content)]) for row in read]
    return tuple(
        Conflict(row.line, row.label, counts.line, counts.label)
        for row, counts in pairs
        if row.label != counts.label
    )


def _sample_id(task: str, text: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{task}\x1f{text}"))


def _known(
    settings: FlywheelSettings, task: str, last: Mapping[str, Row]
) -> tuple[list[tuple[str, Row]], Mapping[str, SeedLabel]]:
    """The rows with the ids of their samples, and what stands of these. ``last`` has the row that
    counts by its normalised text, which the id is made of.

    Earlier versions made it of the text as it was written: a sample that has such a one keeps it.
    """
    ids = [(_sample_id(task, row.text), _sample_id(task, text)) for text, row in last.items()]
    labels = _standing(settings, task, [one for both in ids for one in both])
    rows = [
        (written if written in labels else same, row)
        for (written, same), row in zip(ids, last.values(), strict=True)
    ]
    return rows, {name: labels[name] for name, _ in rows if name in labels}


def _standing(
    settings: FlywheelSettings, task: str, sample_ids: Sequence[str]
) -> Mapping[str, SeedLabel]:
    """What the database says of these samples, or nothing while it may be behind the log: then
    all is said again, and what repeats changes nothing."""
    from streams.agents import labels
    from streams.lag import handled_all

    if not handled_all(settings.kafka, labels.GROUP, ("flywheel.labels",), CATCH_UP_SECONDS):
        return {}
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        return tx.labels.seed_labels(task, sample_ids)


def _all_events(
    task: str,
    path: Path,
    rows: Sequence[tuple[str, Row]],
    standing: Mapping[str, SeedLabel],
    split: Split | None,
    annotator: str,
    unit: str,
) -> tuple[list[Event], int]:
    """What is to be said of these rows, and how many of them stand already as they are."""
    events: list[Event] = []
    unchanged = 0
    problems: list[tuple[int, str]] = []
    for sample_id, row in rows:
        stands = standing.get(sample_id)
        # What is held out stays so, whatever a later file says of it.
        placed = stands is not None and (split in (None, stands.split) or stands.split == "holdout")
        if stands is not None and stands.label == row.label and placed:
            unchanged += 1
            continue
        of_row = _events(task, sample_id, row.content, row.label, split, annotator)
        try:
            for event in of_row:
                encode(event)
        except MalformedEvent as error:
            problems.append((row.line, str(error)))
        # Its text is known, and is the same: an id is made of it.
        events += of_row[1:] if stands is not None else of_row
    if problems:
        raise UnusableLines(path, problems, len(rows), unit)
    return events, unchanged


def _events(
    task: str, sample_id: str, content: Content, label: str, split: Split | None, annotator: str
) -> list[Event]:
    return [
        TrafficRecorded(
            event_id=new_id(),
            occurred_at=utc_now(),
            task=task,
            sample_id=sample_id,
            content=content,
            origin="ingest",
            source=annotator,
        ),
        LabelRecorded(
            # Not made of what it says: a label may go back to what it was.
            event_id=new_id(),
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
    """Return when the worker has handled every label sent so far, and the database holds a settled
    one for each of ``ids``.

    Raises StorageError after ``timeout`` seconds, with how many are missing.
    """
    from streams.agents import labels
    from streams.lag import handled_all

    wanted = set(ids)
    deadline = time.monotonic() + timeout
    # A sample that is corrected has a label before.
    handled_all(settings.kafka, labels.GROUP, ("flywheel.labels",), timeout)
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
