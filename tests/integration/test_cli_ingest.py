"""`flywheel ingest` against a broker: all of a file comes in and is counted, or nothing does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from flywheel.cli import cli
from flywheel.contracts.codec import decode
from flywheel.contracts.events import LabelRecorded, TrafficRecorded
from flywheel.errors import EventError, FlywheelError
from flywheel.settings import KafkaSettings, load_settings
from streams.dead_letters import read_topic


@pytest.fixture
def workspace(tmp_path: Path, kafka: KafkaSettings) -> Path:
    (tmp_path / "flywheel.toml").write_text(
        f'kafka.bootstrap_servers = "{kafka.servers}"\n'
        '[tasks.cli-inbox]\nlabels = ["billing", "outage", "other"]\n'
        'training.base_model = "models/base"\n',
        "utf-8",
    )
    return tmp_path


def sent(workspace: Path, topic: str, task: str) -> list[TrafficRecorded | LabelRecorded]:
    found: list[TrafficRecorded | LabelRecorded] = []
    for record in read_topic(load_settings(workspace, {}).kafka, topic):
        # The broker is shared: other tests send what cannot be decoded.
        with contextlib.suppress(EventError):
            event = decode(record.value, dict(record.headers))
            if isinstance(event, TrafficRecorded | LabelRecorded) and event.task == task:
                found.append(event)
    return found


def test_a_file_comes_in_as_a_whole_and_is_counted(workspace: Path) -> None:
    file = workspace / "seed.csv"
    base = ["-w", str(workspace), "ingest", str(file), "--split", "holdout", "--no-wait"]
    file.write_text("text,label\ndown,outage\npaid,billng\n", "utf-8")
    with pytest.raises(FlywheelError, match=r"line 3: .* did you mean 'billing'"):
        CliRunner().invoke(cli, base, catch_exceptions=False)
    assert sent(workspace, "flywheel.traffic", "cli-inbox") == []

    rows = [
        "down,outage",
        "paid,billing",
        "paid,billing",
        "hm,billing",
        "hm,outage",
        '"a, b",billing',
    ]
    file.write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    done = CliRunner().invoke(cli, base, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "4 labelled samples of cli-inbox brought in for the holdout",
        "label    samples",
        "billing        2",
        "outage         2",
        "other          0",
        "repeated lines, which count once: 1",
        "lines with another label further down, which counts: 1",
        "no sample of other",
    ]
    texts = [
        getattr(event, "text", "") for event in sent(workspace, "flywheel.traffic", "cli-inbox")
    ]
    assert sorted(texts) == ["a, b", "down", "hm", "paid"]
    found = json.loads(CliRunner().invoke(cli, [*base, "--json"]).output)
    assert (found["samples"], found["again"], found["relabelled"]) == (4, 1, 1)


def test_a_text_that_no_record_can_carry_is_named_before_anything_is_sent(workspace: Path) -> None:
    file = workspace / "seed.jsonl"
    long = {"text": "x" * 200_001, "label": "other"}
    rows = [{"text": "before it", "label": "other"}, long, {**long, "label": "outage"}]
    rows[2]["text"] += "y"
    file.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    with pytest.raises(FlywheelError) as caught:
        CliRunner().invoke(cli, ["-w", str(workspace), "ingest", str(file)], catch_exceptions=False)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("2 of 3 lines of")
    assert [line.partition(":")[0] for line in lines] == ["  line 2", "  line 3"]
    texts = [
        getattr(event, "text", "") for event in sent(workspace, "flywheel.traffic", "cli-inbox")
    ]
    assert "before it" not in texts
