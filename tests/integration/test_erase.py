"""`flywheel erase` on a workspace: all places at once, and what it says of those that it leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from dataset_workspace import build, make
from images import picture
from new_database import new_database
from settings_file import load

import flywheel.upkeep.images
import streams.lag
from flywheel.cli import cli
from flywheel.contracts.codec import encode
from flywheel.contracts.events import (
    DatasetVersioned,
    LabelRecorded,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.release import Release
from flywheel.contracts.sample import Content, ImagePart, Message, TextPart
from flywheel.datasets.versions import versions
from flywheel.datasets.workspace import commit_dataset
from flywheel.errors import ArtefactStoreError, PipelineError
from flywheel.gateway.spill import SpillLog
from flywheel.settings import FlywheelSettings
from flywheel.turn.pipeline import WorkspacePipeline
from flywheel.upkeep.retention import remove_rows
from storage.archive import RowArchive
from storage.database import Database
from storage.objects import open_artefacts, open_blobs
from storage.objects.folder import FolderBlobs
from storage.objects.store import file_key

# DVC's own dependency warns of its future.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")
MAIL = """
[tasks.mail]
labels = ["a", "b"]
training.base_model = "/models/base"
"""


@pytest.fixture
def settings(tmp_path: Path) -> FlywheelSettings:
    (tmp_path / "ws").mkdir()
    return load(tmp_path / "ws", MAIL)


@pytest.fixture
def database(settings: FlywheelSettings) -> Iterator[Database]:
    made = new_database(settings.database)
    yield made
    made.dispose()


def sent(sample: str, content: Content = "a text", unit: str = "kim") -> TrafficRecorded:
    return TrafficRecorded(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="mail",
        sample_id=sample,
        content=content,
        unit=unit,
    )


def erased(settings: FlywheelSettings, *arguments: str) -> Any:
    done = CliRunner().invoke(
        cli, ["-w", str(settings.workspace), "erase", *arguments, "--why", "asked", "--json"]
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_an_image_goes_unless_somebody_else_shows_it(
    settings: FlywheelSettings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shared = picture(), picture(colour="red")
    blobs = open_blobs(settings)

    def showing(*pictures: bytes) -> Content:
        artefacts = open_artefacts(settings)
        parts = [
            ImagePart(artefacts.put_bytes(data).sha256, "image/png", 12, 8) for data in pictures
        ]
        return (Message("user", (TextPart("look"), *parts)),)

    with database.transaction() as tx:
        tx.label_intake.record_samples(
            [sent("s1", showing(own, shared)), sent("s2", showing(shared), unit="bo")]
        )
    done = erased(settings, "--user", "kim")
    assert done["counts"]["images"] == 1
    assert blobs.size(file_key(hashlib.sha256(own).hexdigest())) is None
    assert blobs.size(file_key(hashlib.sha256(shared).hexdigest())) == len(shared)
    # It was sent twice: who knows what else shows it that nobody has read yet.
    done = erased(settings, "--sample", "s2")
    assert "images" not in done["counts"]
    assert done["holds"]["images"] == 1
    monkeypatch.setattr(flywheel.upkeep.images, "ON_ITS_WAY", timedelta())
    monkeypatch.setattr(streams.lag, "handled_all", lambda *_: True)
    remove_rows(settings, database, utc_now())
    assert blobs.size(file_key(hashlib.sha256(shared).hexdigest())) is None


def test_what_a_gateway_has_captured_and_not_published_goes_while_it_runs(
    settings: FlywheelSettings, database: Database
) -> None:
    spill = SpillLog(settings.layout.spill(8080))
    for event in (sent("s1"), sent("s2", unit="bo"), sent("s3"), sent("s4", unit="bo")):
        spill.append(encode(event))
    assert erased(settings, "--user", "kim")["counts"]["captured requests"] == 2
    spill.append(encode(sent("s5", unit="bo")))
    records, position = spill.read()
    assert [record.key for record in records] == [b"s2", b"s4", b"s5"]
    files = settings.layout.spill(8080).glob("*.log")
    assert not any(b"kim" in path.read_bytes() for path in files)
    spill.advance(position)
    assert spill.pending_bytes == 0
    spill.close()


def test_it_names_the_versions_and_releases_that_hold_it_and_kafka(
    settings: FlywheelSettings, database: Database
) -> None:
    root = make(settings.workspace)
    manifest = build(root, 40, None)
    commit_dataset(root, "mail", manifest)
    release = Release(
        release="mail-r1",
        task="mail",
        dataset_version=manifest.version,
        parent=None,
        created_at=utc_now(),
        git_commit="abc",
        accuracy=0.9,
        accuracy_low=0.8,
        accuracy_high=0.95,
        size_bytes=1,
        expert_labels=1,
        auto_labels=0,
        auto_label_error=None,
        gate_passed=True,
        gate_reason="first",
        metrics={},
        recipe={},
    )
    held_out = settings.layout.held_out_answers("mail-r1")
    held_out.parent.mkdir(parents=True)
    held_out.write_text('{"sample_id":"s003","label":"a"}\n{"sample_id":"s004","label":"b"}\n')
    with database.transaction() as tx:
        tx.releases.add(release)
        tx.label_intake.record_samples([sent("s003"), sent("s004", unit="bo")])
    done = erased(settings, "--user", "kim")
    assert done["holds"]["datasets"] == {"mail": [manifest.version]}
    assert done["holds"]["releases"] == {"mail": ["mail-r1"]}
    assert done["holds"]["topics"]["flywheel.labels"] == "for ever"
    assert {"flywheel.traffic", "flywheel.review", "flywheel.dead-letters"} < set(
        done["holds"]["topics"]
    )
    assert done["counts"]["held-out answers"] == 1
    assert held_out.read_text() == '{"sample_id":"s004","label":"b"}\n'
    shown = CliRunner().invoke(
        cli, ["-w", str(root), "erase", "--sample", "s004", "--why", "asked", "--by", "ada"]
    )
    assert f"dataset {manifest.version} of mail still holds it" in shown.output
    assert "made from those datasets, of mail: mail-r1" in shown.output


def test_what_was_erased_can_be_listed_without_whose_it_was(
    settings: FlywheelSettings, database: Database
) -> None:
    def listed() -> str:
        done = CliRunner().invoke(cli, ["-w", str(settings.workspace), "retention", "erased"])
        assert done.exit_code == 0, done.output
        return done.output

    assert "nothing was ever erased" in listed()
    with database.transaction() as tx:
        tx.label_intake.record([sent("s1")])
    erased(settings, "--user", "kim", "--by", "ada", "--task", "mail")
    assert "ada" in listed()
    assert "asked" in listed()
    assert "1 traffic" in listed()
    assert "kim" not in listed()


def test_no_file_of_the_database_has_it_any_more(
    settings: FlywheelSettings, database: Database
) -> None:
    """A process goes on with the database meanwhile, as always."""
    secret = "a very private text " * 500
    with database.transaction() as tx:
        tx.label_intake.record([sent("s1", secret), sent("s2", "of another", unit="bo")])
    erased(settings, "--user", "kim")
    files = list(settings.layout.state.glob("flywheel.db*"))
    assert any(b"of another" in file.read_bytes() for file in files)
    for file in files:
        assert b"private" not in file.read_bytes(), file.name


def test_what_was_only_captured_takes_along_what_was_said_of_it(
    settings: FlywheelSettings, database: Database
) -> None:
    """Its feedback and its shadow name nobody, and its image lies in the store already."""
    shown = picture()
    artefact = open_artefacts(settings).put_bytes(shown)
    looked = (Message("user", (TextPart("?"), ImagePart(artefact.sha256, "image/png", 12, 8))),)
    said = LabelRecorded(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="mail",
        sample_id="s1",
        value="a",
        source="user",
        annotator="",
    )
    copied = ShadowRecorded(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="mail",
        sample_id="s1",
        release="r2",
        arm="challenger",
        rollout_id="rollout",
        output="a",
    )
    spill = SpillLog(settings.layout.spill("8080"))
    for event in (sent("s1", looked), copied, said, sent("s2", unit="bo")):
        spill.append(encode(event))
    with database.transaction() as tx:  # what was published before its request
        tx.label_intake.record([said])
    assert erased(settings, "--user", "kim")["counts"]["captured requests"] == 3
    assert [record.key for record in spill.read()[0]] == [b"s2"]
    spill.close()
    assert open_blobs(settings).size(file_key(artefact.sha256)) is None
    with database.transaction(read_only=True) as tx:
        assert tx.balance.labels_without_sample() == []


def test_the_image_of_what_is_refused_goes_too(
    settings: FlywheelSettings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = open_artefacts(settings).put_bytes(picture())
    looked = (Message("user", (TextPart("?"), ImagePart(artefact.sha256, "image/png", 12, 8))),)
    on_its_way = sent("s1", looked)
    erased(settings, "--user", "kim")
    with database.transaction() as tx:
        tx.label_intake.record([on_its_way])
    monkeypatch.setattr(streams.lag, "handled_all", lambda *_: True)
    remove_rows(settings, database, utc_now())
    assert open_blobs(settings).size(file_key(artefact.sha256)) is None


def test_a_task_that_is_configured_no_longer_is_erased_too(
    settings: FlywheelSettings, database: Database
) -> None:
    retired = msgspec.structs.replace(sent("s1"), task="retired")
    with database.transaction() as tx:
        tx.label_intake.record([retired, sent("s2")])
    done = erased(settings, "--user", "kim")
    assert done["counts"]["traffic"] == 2
    assert done["task"] is None


def test_asked_again_after_it_was_cut_short_it_names_what_holds_it(
    settings: FlywheelSettings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(settings.workspace)
    manifest = build(root, 40, None)
    commit_dataset(root, "mail", manifest)
    with database.transaction() as tx:
        tx.label_intake.record([sent("s003")])

    def away(*_: Any) -> int:
        raise ArtefactStoreError("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(RowArchive, "rewrite_without", away)
        cut = CliRunner().invoke(cli, ["-w", str(root), "erase", "--user", "kim", "--why", "x"])
        assert cut.exit_code != 0
    done = erased(settings, "--user", "kim")
    assert done["holds"]["datasets"] == {"mail": [manifest.version]}


def test_no_dataset_that_was_being_built_becomes_a_version_with_it(
    settings: FlywheelSettings, database: Database
) -> None:
    root = make(settings.workspace)
    build(root, 40, None)
    with database.transaction() as tx:
        tx.label_intake.record([sent("s003")])
    assert erased(settings, "--user", "kim")["holds"]["datasets"] == {}
    pipeline = WorkspacePipeline(settings, database, threading.Event())
    with pytest.raises(PipelineError, match="erased"):
        pipeline.commit_dataset("mail")
    assert versions(root, "mail") == []
    shutil.rmtree(root / "staging")  # what the test's build takes, in place of a database
    left = [file for file in root.rglob("*") if file.is_file() and b'"s003"' in file.read_bytes()]
    assert left == []


def test_versions_that_another_workspace_made_are_not_passed_over(
    settings: FlywheelSettings, database: Database
) -> None:
    elsewhere = DatasetVersioned(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="mail",
        version="d-elsewhere",
        parent=None,
        git_commit="abc",
        dvc_hash="def.dir",
        watermark="000000000001",
        expert_labels=1,
        auto_labels=0,
        holdout_labels=0,
    )
    with database.transaction() as tx:
        tx.datasets.add(elsewhere)
        tx.label_intake.record([sent("s1")])
    assert erased(settings, "--user", "kim")["holds"]["elsewhere"] == {"mail": ["d-elsewhere"]}
    shown = CliRunner().invoke(
        cli, ["-w", str(settings.workspace), "erase", "--user", "kim", "--why", "asked"]
    )
    assert "made in other workspaces, of mail: d-elsewhere" in shown.output


def test_it_asks_for_one_of_the_two(settings: FlywheelSettings) -> None:
    for more in ((), ("--user", "kim", "--sample", "s")):
        done = CliRunner().invoke(
            cli, ["-w", str(settings.workspace), "erase", *more, "--why", "asked"]
        )
        assert done.exit_code == 2
        assert "--user NAME or --sample ID" in done.output


def test_while_the_store_is_away_all_else_is_done_and_that_is_said(
    settings: FlywheelSettings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = open_artefacts(settings).put_bytes(picture())
    looked = (Message("user", (TextPart("?"), ImagePart(artefact.sha256, "image/png", 12, 8))),)
    spill = SpillLog(settings.layout.spill("8080"))
    spill.append(encode(sent("s2")))
    on_its_way = sent("s3")
    with database.transaction() as tx:
        tx.label_intake.record([sent("s1", looked)])

    def away(*_: Any) -> Any:
        raise ArtefactStoreError("no route to the store")

    with monkeypatch.context() as patched:
        for name in ("size", "read", "remove"):
            patched.setattr(FolderBlobs, name, away)
        patched.setattr(RowArchive, "samples_of", away)
        cut = CliRunner().invoke(
            cli, ["-w", str(settings.workspace), "erase", "--user", "kim", "--why", "asked"]
        )
    assert cut.exit_code != 0
    said = str(cut.exception)
    assert "no route to the store" in said
    assert "give the same command again" in said
    with database.transaction() as tx:
        tx.label_intake.record([on_its_way])
        assert tx.overview.texts("mail", ["s1", "s3"]) == {}
        assert [one.finished_at for one in tx.erasures.history()] == [None]
    assert spill.read()[0] == []
    spill.close()
    assert open_blobs(settings).size(file_key(artefact.sha256)) is not None
    monkeypatch.setattr(streams.lag, "handled_all", lambda *_: True)
    assert erased(settings, "--user", "kim")["counts"]["images"] == 1
