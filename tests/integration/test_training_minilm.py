"""The real encoder on real questions: sixty labels are enough to start with, INT8 costs nothing."""

from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from holdout_metrics import holdout_metrics

from flywheel.compression.config import STANDARD
from flywheel.compression.variants import Tools, make_variant
from flywheel.contracts.model_folder import read_description
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.demo.data import LABELS, load_demo_data
from flywheel.errors import ArtefactError
from flywheel.kinds import Choice
from flywheel.serving.runtime import load_classifier
from flywheel.training.config import TrainingSettings
from flywheel.training.train import fine_tune, observe, train


@pytest.mark.slow
def test_sixty_questions_teach_minilm_most_of_six_classes(tmp_path: Path) -> None:
    try:
        data = load_demo_data(seed_size=60, holdout_size=500)
    except (ArtefactError, PackageNotFoundError) as error:
        pytest.skip(str(error))
    labels = tuple(LABELS)
    samples = [
        LabelledSample(
            sample_id=f"q{index:04}",
            content=question.text,
            label=question.label,
            source="seed",
            annotators=("seed",),
            split="holdout" if index >= len(data.seed) else "train",
            inclusion_probability=1.0,
            audit=False,
            settled_at=datetime(2026, 1, 1, tzinfo=UTC),
            event_id=f"e{index:04}",
        )
        for index, question in enumerate((*data.seed, *data.holdout))
    ]
    build_dataset(
        samples,
        DatasetSettings(),
        Choice(labels),
        task="questions",
        watermark="e",
        parent=None,
        folder=tmp_path / "data",
    )
    settings = TrainingSettings(base_model=str(data.encoder))
    report = train(tmp_path / "data", settings, labels, tmp_path / "trained")
    assert report.pooling == "mean"
    tools = Tools(load=load_classifier, fine_tune=partial(fine_tune, settings), observe=observe)
    accuracy = {}
    for name in ("none", "int8-dynamic", "int8-static"):
        folder = tmp_path / name
        made = make_variant(
            name, STANDARD[name], tmp_path / "trained", tmp_path / "data", folder, tools=tools
        )
        metrics = holdout_metrics(
            load_classifier(folder, 1).predict, tmp_path / "data", Choice(labels)
        )
        accuracy[name] = metrics["accuracy"]
        if name != "none":
            assert made.bytes < read_description(tmp_path / "trained").size_bytes * 0.27
    assert accuracy["none"] > 0.65
    assert abs(accuracy["int8-dynamic"] - accuracy["none"]) < 0.02
    assert abs(accuracy["int8-static"] - accuracy["none"]) < 0.03
