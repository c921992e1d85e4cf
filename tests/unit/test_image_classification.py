"""A task of kind image-classification: its inputs, its settings, and triage without a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from images import data_url, picture

from flywheel.contracts.dataset_folder import read_manifest, read_part
from flywheel.contracts.events import LabelRecorded, ReviewRequested, TrafficRecorded
from flywheel.contracts.ids import new_id
from flywheel.contracts.reasons import NO_MODEL, before_answering
from flywheel.contracts.sample import Content, ImagePart, Message, TextPart
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.datasets.export import export_dataset
from flywheel.datasets.input_lines import read_inputs
from flywheel.datasets.labelled_file import UnusableLines
from flywheel.errors import ArtefactError, ConfigurationError, RequestError
from flywheel.kinds import TaskKind
from flywheel.kinds import of as kind_of
from flywheel.kinds.images import image_of
from flywheel.ops.readiness import advice
from flywheel.ops.template import flywheel_toml
from flywheel.settings import load_settings
from flywheel.triage.config import TriageSettings
from flywheel.triage.triager import Triager

LABELS = ("disc", "square")
KIND = kind_of("image-classification")
TASK = TaskKind.of(KIND, LABELS)
PICTURE = picture()
PART = image_of(PICTURE).part
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def shown(part: ImagePart = PART, *texts: str) -> Content:
    return (Message("user", (part, *map(TextPart, texts))),)


@dataclass
class Said:
    role: str
    content: Any


def url_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def test_an_image_and_its_text_are_taken_from_a_chat_request() -> None:
    parts = [url_part(data_url(PICTURE)), {"type": "text", "text": "What is it?"}]
    found = KIND.read([Said("user", parts)])
    assert found.content == shown(PART, "What is it?")
    assert [(image.part, image.data) for image in found.images] == [(PART, PICTURE)]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "one message of the user"),
        ([Said("system", "x"), Said("user", [url_part(data_url(PICTURE))])], "one message of"),
        ([Said("user", "a text alone")], "parts are expected"),
        ([Said("user", [{"type": "text", "text": "x"}])], "0 images"),
        ([Said("user", [url_part(data_url(PICTURE))] * 2)], "2 images"),
        ([Said("user", [url_part("https://example.org/x.png")])], r"content\[0\]: .*data: URL"),
        ([Said("user", [{"type": "image_url"}])], "no image_url.url"),
        ([Said("user", [{"type": "input_audio"}])], "'input_audio'"),
        ([Said("user", [7])], "type None"),
    ],
)
def test_what_is_no_image_of_a_user_is_refused(messages: list[Said], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        KIND.read(messages)


def lines(folder: Path, *items: object) -> Path:
    path = folder / "images.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in items), "utf-8")
    return path


def test_a_file_names_images_beside_it_or_holds_them(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "disc.jpg").write_bytes(jpeg := picture("image/jpeg"))
    file = lines(
        tmp_path,
        {"image": "pictures/disc.jpg", "label": "disc"},
        {"image": data_url(PICTURE), "text": "teal", "label": "square"},
    )
    kept: list[bytes] = []
    one, two = read_inputs(file, TASK, keep=kept.append)
    assert (one.content, one.label) == (shown(image_of(jpeg).part), "disc")
    assert (two.content, two.label) == (shown(PART, "teal"), "square")
    assert kept == [jpeg, PICTURE]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"text": "x", "label": "disc"}, "names no file"),
        ({"image": "gone.png", "label": "disc"}, "'gone.png' cannot be read"),
        ({"image": ".", "label": "disc"}, "cannot be read"),
        ({"image": "/dev/zero", "label": "disc"}, "cannot be read"),
        ({"image": "images.jsonl", "label": "disc"}, "'images.jsonl': it is no image"),
        ({"image": data_url(PICTURE), "text": 7, "label": "disc"}, "the text is no text"),
        ({"image": data_url(PICTURE), "label": "disk"}, "did you mean 'disc'"),
    ],
)
def test_a_line_without_an_image_is_said(tmp_path: Path, item: object, words: str) -> None:
    with pytest.raises(UnusableLines, match=words):
        read_inputs(lines(tmp_path, item), TASK)


def labelled(number: int, content: Content) -> LabelledSample:
    return LabelledSample(
        sample_id=f"s{number}",
        content=content,
        label=LABELS[number % 2],
        source="expert",
        annotators=("ada",),
        split="holdout" if number == 0 else "train",
        inclusion_probability=1.0,
        audit=False,
        settled_at=NOW,
        event_id=f"e{number}",
    )


def build(folder: Path, samples: list[LabelledSample], **more: Any) -> None:
    build_dataset(
        samples,
        DatasetSettings(calibration_share=0),
        TASK.answers,
        task="t",
        watermark="e",
        parent=None,
        folder=folder,
        **more,
    )


def test_a_dataset_holds_its_images_under_their_digests(tmp_path: Path) -> None:
    kept = {image_of(data).part: data for data in (PICTURE, picture(colour="red"))}
    first, second = kept
    samples = [
        labelled(0, shown(first)),
        labelled(1, shown(second)),
        labelled(2, shown(second, "x")),
    ]
    build(tmp_path, samples, image_bytes=kept.__getitem__)
    manifest = read_manifest(tmp_path)
    assert {name for name in manifest.files if "/" in name} == {
        f"images/{part.sha256}.png" for part in kept
    }
    for part, data in kept.items():
        assert (tmp_path / f"images/{part.sha256}.png").read_bytes() == data
    assert [line.content for line in read_part(tmp_path, "train")] == [
        shown(second),
        shown(second, "x"),
    ]
    (tmp_path / f"images/{first.sha256}.png").write_bytes(b"another")
    with pytest.raises(ArtefactError, match="is not the file"):
        read_manifest(tmp_path)


def test_a_dataset_whose_images_are_nowhere_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="nowhere to take image"):
        build(tmp_path, [labelled(0, shown()), labelled(1, shown(PART, "x"))])


def test_an_image_that_is_gone_is_said_with_who_shows_it(tmp_path: Path) -> None:
    samples = [labelled(0, shown()), labelled(1, shown(PART, "x"))]
    ids = ", ".join(sorted(one.sample_id for one in samples))

    def gone(image: ImagePart) -> bytes:
        raise ArtefactError(f"the store has no {image.sha256}")

    with pytest.raises(ArtefactError, match=f"is shown by {ids}: .*flywheel erase --sample"):
        build(tmp_path, samples, image_bytes=gone)


def event(sample: str, *texts: str) -> TrafficRecorded:
    return TrafficRecorded(
        event_id=new_id(),
        occurred_at=NOW,
        task="t",
        sample_id=sample,
        content=shown(PART, *texts),
        status=202,
    )


class NoAudits:
    def changed(self, task: str, release: str, after: int = 0) -> Any:
        raise AssertionError("no release is asked about")


def triaged(*events: TrafficRecorded, **settings: Any) -> list[ReviewRequested | LabelRecorded]:
    told = TriageSettings.model_validate({"audit_rate": 1e-9} | settings)
    triager = Triager({"t": (TASK.answers, told)}, NoAudits(), salt="salt")
    for one in events:
        triager.accept(one)
    return triager(events)


def test_without_a_model_people_see_every_sample() -> None:
    found = triaged(*(event(f"s{n}") for n in range(50)))
    assert [one.sample_id for one in found] == [f"s{n}" for n in range(50)]
    for one in found:
        assert isinstance(one, ReviewRequested)
        assert (one.content, one.reason, one.inclusion_probability) == (shown(), NO_MODEL, 1.0)
        assert (one.prediction, one.scores, one.confidence) == (None, {}, None)
        assert before_answering(one.reason, audit=one.audit) == NO_MODEL


def test_rules_read_the_text_beside_an_image() -> None:
    rule = {"name": "says so", "pattern": "square", "label": "square"}
    (label,) = triaged(event("a", "a square"), rules=[rule])
    assert isinstance(label, LabelRecorded)
    assert (label.value, label.source, label.annotator) == ("square", "rule", "says so")
    (audit,) = triaged(event("a", "a square"), rules=[rule], audit_rate=1.0)
    assert isinstance(audit, ReviewRequested)
    assert audit.audit


def toml(folder: Path, more: str = "") -> Path:
    text = flywheel_toml("shapes", LABELS, "models/base", kind="image-classification")
    (folder / "flywheel.toml").write_text(text + more, "utf-8")
    return folder


def test_a_workspace_of_images_says_that_people_label(tmp_path: Path) -> None:
    settings = load_settings(toml(tmp_path), {})
    task = settings.task("shapes")
    assert (task.kind, task.labels, task.training.base_model) == (KIND.name, LABELS, "")
    (line,) = advice("shapes", task, {}, 0)
    assert "people and rules label every sample" in line
    written = (tmp_path / "flywheel.toml").read_text("utf-8")
    assert "[tasks.shapes.training]" not in written
    assert "[tasks.shapes.review]" in written


@pytest.mark.parametrize(
    "table", ["training]\nbase_model = 'x'", "gate]\nmin_accuracy = 0.5", "compression]\npin = 'x'"]
)
def test_what_is_about_a_model_has_no_meaning(tmp_path: Path, table: str) -> None:
    with pytest.raises(ConfigurationError, match="has no meaning where kind is image-class"):
        load_settings(toml(tmp_path, f"[tasks.shapes.{table}\n"), {})


def test_a_dataset_is_exported_with_its_images_as_it_is_ingested(tmp_path: Path) -> None:
    other = picture("image/webp")
    kept = {image_of(data).part: data for data in (PICTURE, other)}
    first, second = kept
    samples = [labelled(0, shown(first, "teal")), labelled(1, shown(second))]
    build(tmp_path / "data", samples, image_bytes=kept.__getitem__)
    export_dataset(tmp_path / "data", KIND, tmp_path / "out")
    found: list[bytes] = []
    (held,) = read_inputs(tmp_path / "out" / "holdout.jsonl", TASK, keep=found.append)
    (trained,) = read_inputs(tmp_path / "out" / "train.jsonl", TASK, keep=found.append)
    assert (held.content, trained.content) == (shown(first, "teal"), shown(second))
    assert found == [PICTURE, other]
