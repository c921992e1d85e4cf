"""`flywheel ingest` against a broker: all of a file comes in and is counted, or nothing does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from images import data_url, picture
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from new_database import new_database

from flywheel.cli import cli
from flywheel.contracts.artefacts import Address
from flywheel.contracts.codec import decode
from flywheel.contracts.events import LabelRecorded, TrafficRecorded
from flywheel.contracts.sample import images
from flywheel.contracts.stores import LabelledSample
from flywheel.errors import EventError, FlywheelError
from flywheel.ops import ingest
from flywheel.settings import KafkaSettings, load_settings
from storage.objects import open_artefacts
from streams.agents import labels
from streams.dead_letters import read_topic


@pytest.fixture
def workspace(tmp_path: Path, kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose labels are handled when a test says so: there is no worker to wait for."""
    monkeypatch.setattr(ingest, "CATCH_UP_SECONDS", 0.0)
    (tmp_path / "flywheel.toml").write_text(
        f'kafka.bootstrap_servers = "{kafka.servers}"\n'
        '[tasks.cli-inbox]\nlabels = ["billing", "outage", "other"]\n'
        'training.base_model = "models/base"\n',
        "utf-8",
    )
    return tmp_path


def rename_task(workspace: Path, task: str) -> None:
    """The broker is shared: each test has a task of its own."""
    path = workspace / "flywheel.toml"
    path.write_text(path.read_text("utf-8").replace("cli-inbox", task), "utf-8")


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
        "  line 5 says billing, line 6 outage",
        "no sample of other",
    ]
    texts = [
        getattr(event, "text", "") for event in sent(workspace, "flywheel.traffic", "cli-inbox")
    ]
    assert sorted(texts) == ["a, b", "down", "hm", "paid"]
    found = json.loads(CliRunner().invoke(cli, [*base, "--json"]).output)
    assert (found["samples"], found["again"], found["relabelled"]) == (4, 1, 1)


def handle_all(workspace: Path, task: str) -> list[LabelledSample]:
    """What the worker makes of all that was sent; the label group's offsets are at the end then."""
    settings = load_settings(workspace, {})
    database = new_database(settings.database)
    try:
        for topic in ("flywheel.traffic", "flywheel.labels"):
            labels.agent(database).handle(sent(workspace, topic, task))
        with database.transaction(read_only=True) as tx:
            return tx.labels.settled(task, tx.labels.watermark(task) or "0")
    finally:
        database.dispose()


def acknowledge(kafka: KafkaSettings) -> None:
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.servers, group_id=labels.GROUP, enable_auto_commit=False
    )
    try:
        numbers = consumer.partitions_for_topic("flywheel.labels") or ()
        places = [TopicPartition("flywheel.labels", number) for number in numbers]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.commit({place: OffsetAndMetadata(end, "", -1) for place, end in ends.items()})
    finally:
        consumer.close()


@pytest.mark.parametrize("behind", [False, True], ids=["worker up to date", "worker behind"])
def test_a_label_may_go_back_to_what_it_was(
    workspace: Path, kafka: KafkaSettings, behind: bool
) -> None:
    task = "cli-back" + ("-behind" if behind else "")
    rename_task(workspace, task)
    file = workspace / "seed.csv"
    before: list[LabelledSample] = []
    for number, label in enumerate(["billing", "outage", "outage", "billing", "other", "billing"]):
        file.write_text(f"text,label\ndown,{label}\n", "utf-8")
        done = CliRunner().invoke(
            cli, ["-w", str(workspace), "ingest", str(file), "--no-wait"], catch_exceptions=False
        )
        assert "1 labelled samples" in done.output
        if behind:
            continue
        (settled,) = handle_all(workspace, task)
        acknowledge(kafka)
        assert settled.label == label
        if number == 2:
            assert "changes nothing: 1" in done.output
            assert [settled] == before
            assert len(sent(workspace, "flywheel.labels", task)) == 2
        before = [settled]
    (settled,) = handle_all(workspace, task)
    assert settled.label == "billing"


def test_what_is_held_out_stays_so_and_is_said(workspace: Path, kafka: KafkaSettings) -> None:
    rename_task(workspace, "cli-held")
    file = workspace / "seed.csv"
    file.write_text("text,label\ndown,outage\npaid,billing\n", "utf-8")
    base = ["-w", str(workspace), "ingest", str(file), "--no-wait"]
    CliRunner().invoke(cli, [*base, "--split", "holdout"], catch_exceptions=False)
    handle_all(workspace, "cli-held")
    acknowledge(kafka)
    file.write_text("text,label\ndown,outage\npaid,other\nnew,other\n", "utf-8")
    done = CliRunner().invoke(cli, [*base, "--split", "train"], catch_exceptions=False)
    assert "of these known with the same label, which changes nothing: 1" in done.output
    assert "of these in the holdout already, where they stay: 2" in done.output
    found = {
        sample.text: (sample.label, sample.split) for sample in handle_all(workspace, "cli-held")
    }
    assert found == {
        "down": ("outage", "holdout"),
        "paid": ("other", "holdout"),
        "new": ("other", "train"),
    }


def test_a_file_that_says_what_is_rejected_and_what_is_in_it_twice(workspace: Path) -> None:
    rename_task(workspace, "cli-export")
    file = workspace / "export.jsonl"
    rows = [
        {"text": "down", "label": "outage", "answer": "accept"},
        {"text": "down\u200b", "label": "outage", "answer": "accept"},
        {"text": "paid", "label": "billing", "answer": "reject"},
        {"text": "Paid ", "label": "other", "answer": "accept"},
    ]
    file.write_text("\ufeff" + "\r\n".join(json.dumps(row) for row in rows), "utf-8")
    base = ["-w", str(workspace), "ingest", str(file), "--no-wait"]
    done = CliRunner().invoke(cli, base, catch_exceptions=False)
    assert done.output.splitlines() == [
        "2 labelled samples of cli-export brought in (read as prodigy)",
        "label    samples",
        "billing        0",
        "outage         1",
        "other          1",
        "repeated lines, which count once: 1",
        'left out, "answer": "reject": 1 (line 3)',
        "no sample of billing",
    ]
    found = json.loads(CliRunner().invoke(cli, [*base, "--json"]).output)
    assert found["left_out"] == {'"answer": "reject"': [3]}


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


@pytest.mark.parametrize("behind", [False, True], ids=["worker up to date", "worker behind"])
def test_a_later_file_that_writes_a_text_otherwise_speaks_of_the_same_sample(
    workspace: Path, kafka: KafkaSettings, behind: bool
) -> None:
    task = "cli-twins" + ("-behind" if behind else "")
    rename_task(workspace, task)
    file = workspace / "seed.csv"
    said = []
    for text, label in [
        ("It is down", "billing"),
        ("\u200bit  is DOWN\ufeff", "outage"),
        ("it is down", "outage"),
    ]:
        file.write_text(f"text,label\n{text},{label}\n", "utf-8")
        base = ["-w", str(workspace), "ingest", str(file), "--no-wait"]
        said.append(CliRunner().invoke(cli, base, catch_exceptions=False).output)
        if not behind:
            handle_all(workspace, task)
            acknowledge(kafka)
    (settled,) = handle_all(workspace, task)
    assert (settled.text, settled.label) == ("It is down", "outage")
    if not behind:
        assert "of these known with the same label, which changes nothing: 1" in said[2]


def test_a_sample_that_an_earlier_version_brought_in_keeps_its_id(
    workspace: Path, kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename_task(workspace, "cli-earlier")
    file = workspace / "seed.csv"
    base = ["-w", str(workspace), "ingest", str(file), "--no-wait"]
    file.write_text("text,label\nIt is Down,billing\n", "utf-8")
    with monkeypatch.context() as earlier:
        earlier.setattr(ingest, "fingerprint", str)
        CliRunner().invoke(cli, base, catch_exceptions=False)
    (before,) = handle_all(workspace, "cli-earlier")
    acknowledge(kafka)
    file.write_text("text,label\nIt is Down,outage\n", "utf-8")
    CliRunner().invoke(cli, base, catch_exceptions=False)
    (after,) = handle_all(workspace, "cli-earlier")
    assert (after.sample_id, after.label) == (before.sample_id, "outage")


def test_conversations_come_in_as_they_were_held(workspace: Path) -> None:
    rename_task(workspace, "cli-talk")
    toml = workspace / "flywheel.toml"
    toml.write_text(toml.read_text("utf-8").replace("labels =", 'kind = "dialogue"\nlabels ='))
    said = [
        {"role": "user", "content": "It is down"},
        {"role": "assistant", "content": "Since when?"},
        {"role": "user", "content": "Today"},
    ]
    file = workspace / "talks.jsonl"
    rows = [
        {"messages": said, "label": "outage"},
        {"messages": [*said[:2], {"role": "user", "content": " TODAY "}], "label": "outage"},
        {"messages": said[:1], "label": "billing"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    done = CliRunner().invoke(
        cli, ["-w", str(workspace), "ingest", str(file), "--no-wait"], catch_exceptions=False
    )
    assert "2 labelled samples" in done.output, "the same conversation is one sample"
    events = sent(workspace, "flywheel.traffic", "cli-talk")
    contents = [event.content for event in events if isinstance(event, TrafficRecorded)]
    assert [len(content) if isinstance(content, tuple) else content for content in contents] == [
        3,
        "It is down",
    ]
    given = sent(workspace, "flywheel.labels", "cli-talk")
    assert [event.value for event in given if isinstance(event, LabelRecorded)] == [
        *("outage", "billing")
    ]


def test_images_are_in_the_store_before_their_samples_are_known(workspace: Path) -> None:
    toml = workspace / "flywheel.toml"
    head, _, _ = toml.read_text("utf-8").partition("[tasks")
    toml.write_text(
        f'{head}[tasks.cli-shapes]\nkind = "image-classification"\nlabels = ["disc", "square"]\n'
    )
    (workspace / "pictures").mkdir()
    (workspace / "pictures" / "one.webp").write_bytes(one := picture("image/webp"))
    file = workspace / "shapes.jsonl"
    rows = [
        {"image": "pictures/one.webp", "label": "disc"},
        {"image": data_url(two := picture()), "text": "north", "label": "square"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    base = ["-w", str(workspace), "ingest", str(file), "--no-wait"]
    done = CliRunner().invoke(cli, base, catch_exceptions=False)
    assert "2 labelled samples" in done.output
    store = open_artefacts(load_settings(workspace, {}))
    kept = [
        store.read(Address("file", image.sha256))
        for event in sent(workspace, "flywheel.traffic", "cli-shapes")
        if isinstance(event, TrafficRecorded)
        for image in images(event.content)
    ]
    assert sorted(kept) == sorted([one, two])
    (workspace / "pictures" / "one.webp").write_bytes(b"no image")
    with pytest.raises(FlywheelError, match=r"'pictures/one.webp': it is no image"):
        CliRunner().invoke(cli, base, catch_exceptions=False)
