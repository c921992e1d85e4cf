"""An erasure, wired: database, images, spill logs, archive; and what still holds the data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from flywheel.contracts.codec import Record
from flywheel.contracts.events import EVENTS, TOPICS
from flywheel.contracts.ids import new_id, utc_now
from flywheel.datasets.workspace import versions_with
from flywheel.gateway.spill import scrub
from flywheel.retention.erasure import Erasure, ErasureKind, Sample, erase_rows, grouped
from flywheel.settings import FlywheelSettings
from flywheel.upkeep.retention import REMOVING, remove_images
from storage.archive import RowArchive
from storage.database import Database
from storage.objects import open_blobs


class _About(msgspec.Struct):
    task: str = ""
    sample_id: str = ""
    unit: str = ""


def erase(
    settings: FlywheelSettings,
    database: Database,
    tasks: Collection[str],
    *,
    user: str | None,
    sample: str | None,
    by: str,
    why: str,
) -> Erasure:
    """Remove what ``user`` sent to ``tasks``, or the sample, from everywhere; the record of it.

    One at a time, and none beside retention: it waits. Called again after it was ended midway, it
    goes on. Raises StorageError and ArtefactStoreError when database or store are away.
    """
    kind: ErasureKind = "sample" if user is None else "user"
    name = (sample if user is None else user) or ""
    with database.transaction() as tx:
        subject = tx.erasures.subject(kind, name)
    erasure = Erasure(
        erasure_id=new_id(),
        at=utc_now(),
        by=by,
        why=why,
        kind=kind,
        subject=subject,
        task=None if set(tasks) == set(settings.tasks) else ", ".join(sorted(tasks)),
    )
    with database.alone(REMOVING, wait=True):
        archive = RowArchive(database, open_blobs(settings))
        samples, counts = erase_rows(
            database.transaction,
            lambda: database.transaction(read_only=True),
            erasure,
            name,
            tasks,
            archive.samples_of(user, tasks) if user is not None else (),
        )
        counts += _beside(settings, database, tasks, user)
        done = msgspec.structs.replace(
            erasure,
            finished_at=utc_now(),
            counts=dict(+counts),
            holds=_holds(settings, database, samples, erasure),
        )
        with database.transaction() as tx:
            tx.erasures.finish(done)
    return done


def _beside(
    settings: FlywheelSettings, database: Database, tasks: Collection[str], user: str | None
) -> Counter[str]:
    """What lies beside the database of any erased sample, this erasure's or an earlier one's."""
    blobs = open_blobs(settings)

    def erased(samples: set[Sample]) -> set[Sample]:
        with database.transaction() as tx:
            return tx.erasures.erased(samples)

    def is_erased(record: Record) -> bool:
        try:
            about = msgspec.json.decode(record.value or b"", type=_About)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        if about.task in tasks and user is not None and about.unit == user:
            return True
        return bool(erased({(about.task, about.sample_id)}))

    return Counter(
        {
            "images": remove_images(database, blobs),
            "captured requests": sum(
                scrub(folder, is_erased) for folder in settings.layout.spills.glob("*")
            ),
            "archived rows": RowArchive(database, blobs).rewrite_without(tasks, erased),
            "held-out answers": _held_out(settings, database, tasks),
        }
    )


def _held_out(settings: FlywheelSettings, database: Database, tasks: Collection[str]) -> int:
    """What champions said of samples that were held out after they were made."""
    went = 0
    for task in tasks:
        with database.transaction(read_only=True) as tx:
            releases = [one.release for one in tx.releases.history(task)]
        for release in releases:
            file = settings.layout.held_out_answers(release)
            if not file.is_file():
                continue
            lines = file.read_bytes().splitlines(keepends=True)
            ids = [msgspec.json.decode(line, type=_About).sample_id for line in lines]
            with database.transaction() as tx:
                gone = tx.erasures.erased({(task, one) for one in ids})
            if not gone:
                continue
            left = [line for line, one in zip(lines, ids, strict=True) if (task, one) not in gone]
            beside = file.with_name(f"{file.name}.new")
            beside.write_bytes(b"".join(left))
            os.replace(beside, file)
            went += len(lines) - len(left)
    return went


def _holds(
    settings: FlywheelSettings, database: Database, samples: Sequence[Sample], erasure: Erasure
) -> dict[str, Any]:
    """What still has the samples: dataset versions, releases that learnt from them, Kafka's topics
    and until when."""
    datasets: dict[str, list[str]] = {}
    releases: dict[str, list[str]] = {}
    for task, sample_ids in grouped(samples).items():
        if not settings.layout.git.exists():
            continue
        found = versions_with(settings.workspace, task, set(sample_ids))
        with database.transaction(read_only=True) as tx:
            made = [r.release for r in tx.releases.history(task) if r.dataset_version in found]
        if found:
            datasets[task] = found
        if made:
            releases[task] = made
    of_samples = {spec.topic for spec in EVENTS if hasattr(spec.type, "sample_id")}
    # The letters of whatever could not be used hold records as they were.
    topics = [topic for topic in TOPICS if topic.name in of_samples or "dead" in topic.name]
    return {
        "datasets": datasets,
        "releases": releases,
        "topics": {
            topic.name: "for ever"
            if topic.retention_hours is None
            else f"{erasure.at + timedelta(hours=topic.retention_hours):%Y-%m-%d}"
            for topic in topics
        },
    }


def lines(erasure: Erasure) -> list[str]:
    """What went and what still holds it, for people."""
    went = ", ".join(f"{count} {what}" for what, count in sorted(erasure.counts.items()))
    said = [
        f"erasure {erasure.erasure_id}: {went or 'nothing of it was known'}",
        "nothing of it is taken in from now on, however late it comes",
    ]
    datasets: dict[str, list[str]] = erasure.holds.get("datasets", {})
    for task, versions in datasets.items():
        said += [
            f"dataset {version} of {task} still holds it; once another is the newest, "
            f"`flywheel datasets prune {version} --task {task} --by NAME --why TEXT` takes it away"
            for version in versions
        ]
    releases: dict[str, list[str]] = erasure.holds.get("releases", {})
    for task, names in releases.items():
        said.append(f"made from those datasets, of {task}: {', '.join(names)}")
    for topic, until in erasure.holds.get("topics", {}).items():
        said.append(f"the records of {topic} go by its retention: {until}")
    return said
