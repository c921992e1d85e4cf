"""Datasets of free text: counted together, drawn without regard to it, shuffled for drills."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from flywheel.contracts.dataset_folder import Manifest, read_manifest, read_part
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.kinds import FreeText


def sample(number: int, **given: object) -> LabelledSample:
    fields: dict[str, object] = {
        "sample_id": f"s{number:03}",
        "content": f"question {number}",
        "label": f"Answer {number}",
        "source": "expert",
        "annotators": ("ann",),
        "split": None,
        "inclusion_probability": 1.0,
        "audit": False,
        "settled_at": datetime(2026, 1, 1, tzinfo=UTC),
        "event_id": f"e{number:03}",
    }
    return LabelledSample(**(fields | given))  # type: ignore[arg-type]


def build(samples: list[LabelledSample], folder: Path, seed: int | None = None) -> Manifest:
    return build_dataset(
        samples,
        DatasetSettings(),
        FreeText(),
        task="replies",
        watermark="1",
        parent=None,
        folder=folder,
        shuffle_labels_seed=seed,
    )


SAMPLES = [sample(n) for n in range(200)] + [sample(n, source="auto") for n in range(200, 400)]


def test_free_texts_are_counted_together_and_calibration_gets_its_share(tmp_path: Path) -> None:
    manifest = build(SAMPLES, tmp_path)
    assert manifest.labels == ()
    assert {tuple(counts) for counts in manifest.label_counts.values()} == {("text",)}
    experts = 200 - manifest.count("holdout")
    assert manifest.count("calibration") == round(experts / 10)
    assert manifest.count("train", "auto") == experts // 2
    assert "of the expert and seed samples" in manifest.split_rule
    assert read_manifest(tmp_path) == manifest


def test_one_text_has_one_answer_the_most_trusted(tmp_path: Path) -> None:
    twice = [*SAMPLES, sample(900, content=" QUESTION  7 ", label="automatic", source="auto")]
    manifest = build(twice, tmp_path)
    lines = [
        line for part in ("train", "calibration", "holdout") for line in read_part(tmp_path, part)
    ]  # type: ignore[arg-type]
    assert "automatic" not in {line.label for line in lines}
    assert (
        sum(manifest.left_out.get(why, 0) for why in manifest.left_out if "same text" in why) == 1
    )


def test_the_drill_gives_answers_to_other_questions(tmp_path: Path) -> None:
    build(SAMPLES, tmp_path / "good")
    manifest = build(SAMPLES, tmp_path / "bad", seed=3)
    good, bad = read_part(tmp_path / "good", "train"), read_part(tmp_path / "bad", "train")
    assert manifest.labels_shuffled_with == 3
    assert sorted(line.label for line in good) == sorted(line.label for line in bad)
    assert sum(a.label == b.label for a, b in zip(good, bad, strict=True)) < len(good) / 10
    assert read_part(tmp_path / "good", "holdout") == read_part(tmp_path / "bad", "holdout")
