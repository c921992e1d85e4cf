"""The model card says what of the training's samples was not read."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_files import LABELS, make_release

from flywheel.contracts.layout import RELEASES
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice


@pytest.mark.parametrize("cut", [0, 3])
def test_samples_that_were_longer_than_the_model_reads_are_counted(
    tmp_path: Path, cut: int
) -> None:
    training = {"samples": 40, "epochs": 2, "steps": 10, "seconds": 3.0, "losses": [1.0, 0.5]}
    metrics = measure([], Choice(LABELS), 0.95) | {"training": training | {"cut": cut}}
    release = make_release(tmp_path, metrics=metrics)
    card = (tmp_path / RELEASES / release.release / "MODEL_CARD.md").read_text("utf-8")
    assert "Trained on 40 samples" in card
    assert "32 tokens at most; the rest of a text is cut off" in card
    assert ("3 were longer than it reads." in card) == (cut > 0)
