"""`flywheel erase` on a workspace: all places at once, and what it says of those that it leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dataset_workspace import build, make
from images import picture
from new_database import new_database
from settings_file import load

from flywheel.cli import cli
from flywheel.contracts.codec import encode
from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.release import Release
from flywheel.contracts.sample import Content, ImagePart, Message, TextPart
from flywheel.datasets.workspace import commit_dataset
from flywheel.gateway.spill import SpillLog
from flywheel.settings import FlywheelSettings
from storage.database import Database
from storage.objects import open_artefacts, open_blobs
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
    settings: FlywheelSettings, database: Database
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
    assert erased(settings, "--sample", "s2")["counts"]["images"] == 1
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


def test_it_asks_for_one_of_the_two(settings: FlywheelSettings) -> None:
    for more in ((), ("--user", "kim", "--sample", "s")):
        done = CliRunner().invoke(
            cli, ["-w", str(settings.workspace), "erase", *more, "--why", "asked"]
        )
        assert done.exit_code == 2
        assert "--user NAME or --sample ID" in done.output
