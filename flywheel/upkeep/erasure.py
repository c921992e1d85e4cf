"""An erasure, wired: database, images, spill logs, archive; and what still holds the data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec

from flywheel.contracts.codec import Record, decode
from flywheel.contracts.events import EVENTS, TOPICS, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.sample import images
from flywheel.datasets.versions import versions
from flywheel.datasets.workspace import versions_with
from flywheel.errors import ArtefactStoreError, EventError
from flywheel.gateway.spill import captured, scrub
from flywheel.retention.erasure import Erasure, ErasureKind, Sample, erase_rows
from flywheel.settings import FlywheelSettings
from flywheel.upkeep.images import left_images, remove_images
from flywheel.upkeep.retention import REMOVING
from storage.archive import RowArchive
from storage.database import Database
from storage.objects import open_blobs


class _About(msgspec.Struct):
    task: str = ""
    sample_id: str = ""


def erase(
    settings: FlywheelSettings,
    database: Database,
    chosen: Collection[str] | None,
    *,
    user: str | None,
    sample: str | None,
    by: str,
    why: str,
) -> Erasure:
    """Remove what ``user`` sent to the ``chosen`` tasks (None: to every task, also to those that
    flywheel.toml has no more), or the sample, from everywhere; the record of it.

    One at a time, and none beside retention: it waits. Called again after it was ended midway, it
    goes on. Raises StorageError when the database is away, and ArtefactStoreError, once all else is
    done, when the store is.
    """
    kind: ErasureKind = "sample" if user is None else "user"
    name = (sample if user is None else user) or ""
    with database.transaction() as tx:
        subject = tx.erasures.subject(kind, name)
        every = set(settings.tasks) | tx.erasures.tasks()
    tasks = sorted(every if chosen is None else chosen)
    erasure = Erasure(
        erasure_id=new_id(),
        at=utc_now(),
        by=by,
        why=why,
        kind=kind,
        subject=subject,
        task=None if set(tasks) >= every else ", ".join(tasks),
    )
    with database.alone(REMOVING, wait=True):
        earlier = left_images(database)
        away: ArtefactStoreError | None = None
        sent: list[Sample] = []
        if user is not None:
            sent = _captured(settings, erasure, user, tasks)
            try:
                sent += RowArchive(database, open_blobs(settings)).samples_of(user, tasks)
            except ArtefactStoreError as error:
                away = error
        _, counts = erase_rows(
            database.transaction,
            lambda: database.transaction(read_only=True),
            erasure,
            name,
            tasks,
            sent,
        )
        counts += _beside(settings, database, tasks)
        database.settle()
        try:
            counts += _in_store(settings, database, tasks, earlier)
        except ArtefactStoreError as error:
            away = error
        if away is not None:
            raise ArtefactStoreError(
                "its rows are gone and nothing of it is taken in any more, but archive and images "
                "are not done: give the same command again once the store of artefacts answers "
                f"({away})"
            ) from away
        done = msgspec.structs.replace(
            erasure,
            finished_at=utc_now(),
            counts=dict(+counts),
            holds=_holds(settings, database, tasks, erasure)
            | {"images": len(left_images(database))},
        )
        with database.transaction() as tx:
            tx.erasures.finish(done)
    return done


def _captured(
    settings: FlywheelSettings, erasure: Erasure, user: str, tasks: Collection[str]
) -> list[Sample]:
    """What the user had sent when they asked and gateways here have captured: nobody else may know
    of it yet."""
    found = []
    for folder in settings.layout.spills.glob("*"):
        for record in captured(folder):
            sent = _sent(record)
            theirs = sent is not None and sent.task in tasks and sent.sender == user
            if sent is not None and theirs and sent.occurred_at <= erasure.at:
                found.append((sent.task, sent.sample_id))
    return found


def _beside(settings: FlywheelSettings, database: Database, tasks: Collection[str]) -> Counter[str]:
    """What lies beside the database, here, of any erased sample, this erasure's or an earlier
    one's."""
    shown: set[str] = set()

    def is_erased(record: Record) -> bool:
        try:
            about = msgspec.json.decode(record.value or b"", type=_About)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        if not _erased(database, {(about.task, about.sample_id)}):
            return False
        if (sent := _sent(record)) is not None:
            shown.update(image.sha256 for image in images(sent.content))
        return True

    scrubbed = sum(scrub(folder, is_erased) for folder in settings.layout.spills.glob("*"))
    with database.transaction() as tx:
        tx.erasures.leave_images(shown)
    return Counter(
        {
            "captured requests": scrubbed,
            "held-out answers": _held_out(settings, database, tasks),
        }
    )


def _in_store(
    settings: FlywheelSettings, database: Database, tasks: Collection[str], earlier: Collection[str]
) -> Counter[str]:
    """What the store of artefacts has of it. Of images, those that were to go ``earlier`` may
    wait."""
    blobs = open_blobs(settings)
    erased = left_images(database).difference(earlier)
    return Counter(
        {
            "images": remove_images(database, blobs, settings.kafka, erased),
            "archived rows": RowArchive(database, blobs).rewrite_without(
                tasks, partial(_erased, database)
            ),
        }
    )


def _erased(database: Database, samples: set[Sample]) -> set[Sample]:
    with database.transaction() as tx:
        return tx.erasures.erased(samples)


def _sent(record: Record) -> TrafficRecorded | None:
    """The request in a captured record, if it is one."""
    try:
        event = decode(record.value, dict(record.headers))
    except EventError:
        return None
    return event if isinstance(event, TrafficRecorded) else None


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
    settings: FlywheelSettings, database: Database, tasks: Collection[str], erasure: Erasure
) -> dict[str, Any]:
    """What still has what was erased of this user or sample, now or by an earlier call: dataset
    versions, releases that learnt from them, Kafka's topics and until when. Versions that were made
    in another workspace are ``elsewhere``: nobody knows here what is in them."""
    datasets: dict[str, list[str]] = {}
    elsewhere: dict[str, list[str]] = {}
    releases: dict[str, list[str]] = {}
    with database.transaction(read_only=True) as tx:
        digests, gone = tx.erasures.digests(), tx.erasures.gone_with(erasure.subject)
        made = {task: tx.datasets.history(task) for task in tasks} if gone else {}
        served = {task: tx.releases.history(task) for task in made}
    for task, of_task in made.items():
        here = settings.layout.git.exists()

        def among(sample_ids: set[str], task: str = task) -> bool:
            return any(digests.sample(task, one) in gone for one in sample_ids)

        known = {one.version for one in versions(settings.workspace, task)} if here else set()
        found = versions_with(settings.workspace, task, among) if known else []
        others = [one.version for one in of_task if one.version not in known]
        learnt = [one.release for one in served[task] if one.dataset_version in found]
        for name, into in ((found, datasets), (others, elsewhere), (learnt, releases)):
            if name:
                into[task] = name
    of_samples = {spec.topic for spec in EVENTS if hasattr(spec.type, "sample_id")}
    # The letters of whatever could not be used hold records as they were.
    topics = [topic for topic in TOPICS if topic.name in of_samples or "dead" in topic.name]
    return {
        "datasets": datasets,
        "elsewhere": elsewhere,
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
    for task, names in datasets.items():
        said += [
            f"dataset {version} of {task} still holds it; once another is the newest, "
            f"`flywheel datasets prune {version} --task {task} --by NAME --why TEXT` takes it away"
            for version in names
        ]
    elsewhere: dict[str, list[str]] = erasure.holds.get("elsewhere", {})
    for task, names in elsewhere.items():
        said.append(
            f"made in other workspaces, of {task}: {', '.join(names)}; the same command, given "
            "there, says which of them hold it"
        )
    if images_left := erasure.holds.get("images"):
        said.append(
            f"images left in the store: {images_left}; they were sent more than once, and go by "
            "themselves, an hour or a day later, once no request on its way can show them"
        )
    releases: dict[str, list[str]] = erasure.holds.get("releases", {})
    for task, names in releases.items():
        said.append(f"made from those datasets, of {task}: {', '.join(names)}")
    for topic, until in erasure.holds.get("topics", {}).items():
        said.append(f"the records of {topic} go by its retention: {until}")
    return said
