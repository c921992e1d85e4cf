"""A log and a workspace of before inputs were messages: read as what they were.

``earlier/`` holds both; its README names the commit that wrote them, and how.
"""

from __future__ import annotations

import json
import lzma
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audits import audits_of
from dataset_workspace import files
from new_database import new_database
from rollout_evidence import arms_of, pairs_of

from flywheel.contracts.codec import decode, encode
from flywheel.contracts.events import (
    EVENTS,
    Event,
    LabelRecorded,
    LabelSettled,
    ReleaseRegistered,
    ReviewRequested,
    RolloutChanged,
    TrafficRecorded,
)
from flywheel.datasets.build import build_dataset
from flywheel.datasets.versions import versions
from flywheel.datasets.workspace import checkout, lacking_bytes
from flywheel.errors import MalformedEvent
from flywheel.kinds import of
from flywheel.registry.release_folder import verify_release
from flywheel.serving.runtime import load_classifier
from flywheel.settings import FlywheelSettings, load_settings
from storage.database import Database, Transaction
from storage.workspace import open_database

EARLIER = Path(__file__).parent / "earlier"
TASK = "topics"
# Two processors' kernels for eight-bit products round differently.
ROUNDING = 0.05
# Fields that events have got since, as they are where nothing was said.
NEWS = {"address": None, "base_address": None, "kept": [], "user": ""}


@cache
def log() -> list[dict[str, Any]]:
    text = lzma.decompress((EARLIER / "log.jsonl.xz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def read(row: dict[str, Any]) -> Event:
    return decode(row["value"].encode(), dict(row["headers"]))


def events() -> list[Event]:
    """Every event of the log that can be read; one record of it never could."""
    found = []
    for row in log():
        try:
            found.append(read(row))
        except MalformedEvent:
            assert json.loads(row["value"]) == {"task": TASK}
    return found


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> FlywheelSettings:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(EARLIER / "workspace.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return load_settings(folder / "support", {})


@pytest.fixture(scope="module")
def database(earlier: FlywheelSettings) -> Iterator[Database]:
    with open_database(earlier) as database:
        yield database


def test_the_log_has_every_event_there_was() -> None:
    assert {name for row in log() for _, name in row["headers"]} == {
        f"{spec.schema}/1" for spec in EVENTS
    }
    assert len(events()) == len(log()) - 1


def test_what_a_record_said_it_says_still() -> None:
    for row in log():
        said = json.loads(row["value"])
        if said == {"task": TASK}:
            continue
        event = read(row)
        now = msgspec.json.decode(encode(event).value)
        if isinstance(event, TrafficRecorded | ReviewRequested):
            assert (event.content, event.text) == (said["text"], said.pop("text"))
            del now["content"]
        if isinstance(event, ReleaseRegistered):
            del said["path"]  # of the machine that made it, and of no use to any other
        news = now.keys() - said.keys()
        assert all(now.pop(name) == NEWS[name] for name in news)
        assert now == said


def totals(tx: Transaction, known: list[Event]) -> list[Any]:
    """What is kept beside the rows."""
    rollouts = sorted({e.rollout_id for e in known if isinstance(e, RolloutChanged)})
    releases = sorted({e.release for e in known if isinstance(e, ReleaseRegistered)})
    return [
        tx.overview.traffic_counts(TASK),
        tx.overview.traffic_series(TASK, 10, 100),
        tx.overview.coverage(TASK),
        tx.overview.settled_values(TASK),
        tx.overview.source_history(TASK),
        tx.labels.counts(TASK),
        [(arms_of(tx.evidence, one), pairs_of(tx.evidence, one)) for one in rollouts],
        [audits_of(tx.audits, TASK, release) for release in releases],
    ]


def test_the_log_fills_a_database_of_today_as_it_filled_its_own(
    tmp_path: Path, database: Database
) -> None:
    again = new_database(f"sqlite:///{tmp_path / 'again.db'}")
    known = events()
    with again.transaction() as tx:
        tx.label_intake.record_samples([e for e in known if isinstance(e, TrafficRecorded)])
        tx.label_intake.record_labels([e for e in known if isinstance(e, LabelRecorded)])
        tx.label_intake.record_settlements([e for e in known if isinstance(e, LabelSettled)])
        asked = [e for e in known if isinstance(e, ReviewRequested)]
        assert tx.intake.open(asked) == len(asked)
        tx.evidence_intake.record(known)
        made = tx.labels.settled(TASK, str(tx.labels.watermark(TASK)))
        counted = totals(tx, known)
        queued = {e.sample_id: tx.desk.find(TASK, e.sample_id) for e in asked}
    with database.transaction(read_only=True) as tx:
        held = tx.labels.settled(TASK, str(tx.labels.watermark(TASK)))
        waiting = {sample: tx.desk.find(TASK, sample) for sample in queued}
        # Of what was there before anything was counted, when it was opened.
        assert totals(tx, known) == counted
    again.dispose()
    assert len(held) > 100
    assert made == held
    for sample, task in queued.items():
        of_before = waiting[sample]
        assert task is not None
        assert of_before is not None
        same = {"state": of_before.state, "priority": of_before.priority}
        assert msgspec.structs.replace(task, **same) == of_before


def test_the_workspace_has_its_datasets_releases_and_rollout(
    tmp_path: Path, earlier: FlywheelSettings, database: Database
) -> None:
    root = earlier.workspace
    assert lacking_bytes(root) == []
    made = [version.version for version in versions(root, TASK)]
    with database.transaction(read_only=True) as tx:
        assert [event.version for event in tx.datasets.history(TASK)] == made
        releases = tx.releases.history(TASK)
        rollouts = tx.rollouts.history(TASK)
    for version in made:
        checkout(root, TASK, version, tmp_path / version)
    assert len(releases) == 2
    assert {rollout.challenger for rollout in rollouts} == {one.release for one in releases}
    for release in releases:
        verify_release(earlier.state, release.release)


def test_its_labels_make_the_same_datasets_to_the_byte(
    tmp_path: Path, earlier: FlywheelSettings, database: Database
) -> None:
    of_task = earlier.tasks[TASK]
    for made in versions(earlier.workspace, TASK):
        before = tmp_path / "before" / made.version
        manifest = checkout(earlier.workspace, TASK, made.version, before)
        with database.transaction() as tx:
            salt = tx.draws.dataset(TASK)
            samples = tx.labels.settled(TASK, manifest.watermark)
        after = tmp_path / made.version
        build_dataset(
            samples,
            of_task.dataset,
            of(of_task.kind).answers(of_task.labels),
            task=TASK,
            watermark=manifest.watermark,
            parent=manifest.parent,
            folder=after,
            salt=salt,
        )
        assert files(after) == files(before)


def test_its_champion_answers_as_it_did(earlier: FlywheelSettings) -> None:
    answered = [
        event
        for event in events()
        if isinstance(event, TrafficRecorded) and event.scores and event.arm is None
    ]
    release = answered[0].release
    answered = [event for event in answered if event.release == release]
    served = load_classifier(earlier.layout.releases / str(release), 1)
    for event, answer in zip(
        answered, served.classify([event.text for event in answered]), strict=True
    ):
        assert answer.scores == pytest.approx(event.scores, abs=ROUNDING)
