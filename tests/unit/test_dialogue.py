"""A task of kind dialogue: what it takes of a chat request, of a file, and what a dataset keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from triage_samples import answered

from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.events import ReviewRequested
from flywheel.contracts.sample import MOST_MESSAGES, Content, Message, TextPart, as_text
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.datasets.export import export_dataset
from flywheel.datasets.file_formats import format_named
from flywheel.datasets.input_lines import read_inputs
from flywheel.datasets.labelled_file import UnusableLines
from flywheel.errors import ArtefactError, ConfigurationError, RejectedEvent, RequestError
from flywheel.kinds import Choice, TaskKind
from flywheel.kinds import of as kind_of
from flywheel.ops.template import flywheel_toml
from flywheel.settings import load_settings
from flywheel.triage.config import TriageSettings
from flywheel.triage.decide import TaskTriage, decide
from flywheel.triage.policy import AutoLabelPolicy

LABELS = ("refund", "delivery")
DIALOGUE = TaskKind.of(kind_of("dialogue"), LABELS)
SAID = [
    {"role": "system", "content": "Be polite."},
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "Where is what?"},
    {"role": "user", "content": [{"type": "text", "text": "My"}, {"type": "text", "text": "lamp"}]},
]
CONTENT = (
    Message("system", (TextPart("Be polite."),)),
    Message("user", (TextPart("Where is it?"),)),
    Message("assistant", (TextPart("Where is what?"),)),
    Message("user", (TextPart("My\nlamp"),)),
)


@dataclass
class Said:
    role: Any
    content: Any = None


def taken(*messages: Said) -> Content:
    return DIALOGUE.kind.read(messages).content


def test_a_conversation_is_taken_whole() -> None:
    assert taken(*(Said(**message) for message in SAID)) == CONTENT
    assert taken(Said("developer", "x"), Said("user", "y"))[0] == Message(
        "system", (TextPart("x"),)
    )


def test_one_message_of_a_user_is_plain_text() -> None:
    assert taken(Said("user", "Where is it?")) == "Where is it?"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "there are 0"),
        ([Said("user", "a")] * (MOST_MESSAGES + 1), "there are 1001"),
        ([Said("user", "a"), Said("tool", "b")], r"messages\[1\].role: 'tool'"),
        ([Said(None, "b")], r"messages\[0\].role"),
        ([Said("user", "a"), Said("assistant", None)], r"messages\[1\].content"),
        ([Said("user", [{"type": "image_url", "image_url": {"url": "x"}}])], "image_url"),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_place(messages: list[Said], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        taken(*messages)


def lines(folder: Path, *items: object) -> Path:
    path = folder / "dialogues.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in items), "utf-8")
    return path


def test_a_file_has_conversations_with_their_labels(tmp_path: Path) -> None:
    file = lines(
        tmp_path,
        {"messages": SAID, "label": "delivery"},
        {"messages": SAID[1:], "label": "refund", "rejected": True},
        {"messages": [SAID[1]], "label": "refund"},
    )
    read = read_inputs(file, DIALOGUE)
    assert [(row.line, row.content, row.label) for row in read] == [
        (1, CONTENT, "delivery"),
        (3, "Where is it?", "refund"),
    ]
    assert list(read.left_out.values()) == [(2,)]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"text": "Where?", "label": "refund"}, '"messages" is no list'),
        ({"messages": SAID, "label": "deliverey"}, "did you mean 'delivery'"),
        ({"messages": SAID}, "None is no label"),
        ({"messages": [*SAID, {"content": "x"}], "label": "refund"}, r"messages\[4\].role"),
        ({"messages": [{"role": {}, "content": "x"}], "label": "refund"}, "role"),
        ({"messages": [{"role": "user", "content": " "}], "label": "refund"}, "empty"),
        ({"messages": [{"role": "assistant", "content": ""}], "label": "refund"}, "nothing to be"),
    ],
)
def test_a_line_that_has_none_is_said(tmp_path: Path, item: object, words: str) -> None:
    with pytest.raises(UnusableLines, match=words) as caught:
        read_inputs(lines(tmp_path, item), DIALOGUE)
    assert '"messages": [' in str(caught.value), "what is taken is said"


def test_exports_of_texts_are_refused(tmp_path: Path) -> None:
    file = lines(tmp_path, {"messages": SAID, "label": "delivery"})
    with pytest.raises(RejectedEvent, match="prodigy holds texts"):
        read_inputs(file, DIALOGUE, format=format_named("prodigy"))


def labelled(number: int, content: Content) -> LabelledSample:
    return LabelledSample(
        sample_id=f"s{number}",
        content=content,
        label=LABELS[number % 2],
        source="expert",
        annotators=("ada",),
        split="holdout" if number == 0 else None,
        inclusion_probability=1.0,
        audit=False,
        settled_at=datetime(2026, 1, 1, tzinfo=UTC),
        event_id=f"e{number}",
    )


def test_a_dataset_keeps_messages_beside_the_text_that_a_model_reads(tmp_path: Path) -> None:
    other = (Message("user", (TextPart("I was charged twice"),)), *CONTENT[2:])
    again = (Message("system", (TextPart("be  POLITE."),)), *CONTENT[1:])
    samples = [labelled(0, CONTENT), labelled(1, other), labelled(2, again), labelled(3, "Hi")]
    manifest = build_dataset(
        samples,
        DatasetSettings(calibration_share=0),
        DIALOGUE.answers,
        task="t",
        watermark="e",
        parent=None,
        folder=tmp_path,
    )
    (held,) = read_part(tmp_path, "holdout")
    assert (held.content, held.text) == (CONTENT, as_text(CONTENT))
    assert [line.content for line in read_part(tmp_path, "train")] == [other, "Hi"]
    assert manifest.left_out == {"same text as a holdout sample": 1}, "case and spacing aside"


def test_triage_asks_experts_about_the_conversation_itself() -> None:
    task = TaskTriage.of(Choice(("NUM", "LOC", "HUM")), TriageSettings(audit_rate=1.0), "salt")
    decision = decide(answered("s", content=CONTENT), task, AutoLabelPolicy(), {})
    assert isinstance(decision.event, ReviewRequested)
    assert decision.event.content == CONTENT


def test_a_workspace_of_dialogues(tmp_path: Path) -> None:
    text = flywheel_toml("support", LABELS, "models/base", kind="dialogue")
    (tmp_path / "flywheel.toml").write_text(text, "utf-8")
    task = load_settings(tmp_path, {}).task("support")
    assert (task.kind, task.labels, task.of_kind.models) == ("dialogue", LABELS, ("encoder", "llm"))
    (tmp_path / "flywheel.toml").write_text(text.replace('"refund", "delivery"', ""), "utf-8")
    with pytest.raises(ConfigurationError, match="at least two"):
        load_settings(tmp_path, {})


def test_a_dataset_is_exported_as_it_is_ingested(tmp_path: Path) -> None:
    samples = [labelled(0, CONTENT), labelled(1, CONTENT[1:]), labelled(2, "Hi")]
    build_dataset(
        samples,
        DatasetSettings(calibration_share=0),
        DIALOGUE.answers,
        task="t",
        watermark="e",
        parent=None,
        folder=tmp_path / "data",
    )
    export_dataset(tmp_path / "data", DIALOGUE.kind, tmp_path / "out")
    (held,) = read_inputs(tmp_path / "out" / "holdout.jsonl", DIALOGUE)
    assert (held.content, held.label) == (CONTENT, LABELS[0])
    trained = read_inputs(tmp_path / "out" / "train.jsonl", DIALOGUE)
    assert [(row.content, row.label) for row in trained] == [
        (CONTENT[1:], LABELS[1]),
        ("Hi", LABELS[0]),
    ]
    with pytest.raises(ArtefactError, match="is there already"):
        export_dataset(tmp_path / "data", DIALOGUE.kind, tmp_path / "out")
