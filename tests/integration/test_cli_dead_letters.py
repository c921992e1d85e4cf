"""`flywheel dead-letters` and `flywheel topics` against a broker: what people read and name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from flywheel.cli import cli
from flywheel.contracts.events import TOPICS, Cut, DeadLettered
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import NotFound
from flywheel.settings import KafkaSettings
from streams.publisher import KafkaPublisher


@pytest.fixture
def workspace(tmp_path: Path, kafka: KafkaSettings) -> Path:
    (tmp_path / "flywheel.toml").write_text(
        f'kafka.bootstrap_servers = "{kafka.servers}"\n'
        '[tasks.inbox]\nlabels = ["a", "b"]\ntraining.base_model = "models/base"\n',
        "utf-8",
    )
    return tmp_path


@pytest.fixture
def letter(kafka: KafkaSettings) -> DeadLettered:
    """A letter of a record that was cut: naming it in a replay sends nothing to others."""
    made = DeadLettered(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="cli-letters",
        source_topic="flywheel.traffic",
        partition=3,
        offset=1_000_000,
        group="triage",
        code="malformed-event",
        reason="two\nlines",
        key=b"k",
        value=b"{",
        cut=Cut(value_bytes=2_000_000, value_sha256="0" * 64),
    )
    publisher = KafkaPublisher(kafka, "test-cli-letters")
    try:
        publisher.publish([made])
    finally:
        publisher.close()
    return made


def run(workspace: Path, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["-w", str(workspace), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_letters_are_a_table_and_json(workspace: Path, letter: DeadLettered) -> None:
    head, *rows = run(workspace, "dead-letters", "list", "--limit", "100000", "--utc").splitlines()
    assert head.split() == ["letter", "when", "task", "record", "group", "code", "reason"]
    row = next(line for line in rows if line.startswith(letter.event_id))
    assert re.split(r"  +", row)[1:] == [
        f"{letter.occurred_at:%Y-%m-%d %H:%M:%S} UTC",
        "cli-letters",
        "flywheel.traffic/3/1000000",
        "triage",
        "malformed-event",
        "two lines",
    ]
    found: list[dict[str, Any]] = json.loads(
        run(workspace, "dead-letters", "list", "--limit", "100000", "--json")
    )
    assert letter.event_id in {one["event_id"] for one in found}


def test_a_letter_is_named_by_a_short_id(workspace: Path, letter: DeadLettered) -> None:
    said = run(workspace, "dead-letters", "replay", letter.event_id[-8:])
    assert f"{letter.event_id} cannot be replayed" in said
    with pytest.raises(
        NotFound, match=r"no dead letter 'nobody'; see `flywheel dead-letters list`"
    ):
        run(workspace, "dead-letters", "replay", "nobody")


def test_topics_are_a_table_and_json(workspace: Path) -> None:
    head, *rows = run(workspace, "topics").splitlines()
    assert head.split() == ["topic", "kept", "events"]
    assert [row.split()[0] for row in rows] == [topic.name for topic in TOPICS]
    found = json.loads(run(workspace, "topics", "--json"))
    assert [one["topic"] for one in found] == [topic.name for topic in TOPICS]


def test_a_replay_names_what_kafka_refuses_and_fails(
    workspace: Path, kafka: KafkaSettings, letter: DeadLettered
) -> None:
    large = msgspec.structs.replace(
        letter, event_id=new_id(), offset=1_000_001, value=b"x" * (2 << 20), cut=None
    )
    publisher = KafkaPublisher(kafka, "test-cli-letters")
    try:
        publisher.publish([large])
    finally:
        publisher.close()
    arguments = ["-w", str(workspace), "dead-letters", "replay", large.event_id]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 1
    assert "sent 0 records again" in done.output
    assert f"{large.event_id} was not replayed" in done.output
