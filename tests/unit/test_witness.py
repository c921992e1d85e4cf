"""What serves a language model is held to what it answered where it was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.contracts.model_folder import write_json
from flywheel.contracts.witness import TEXTS, TOLERANCE, WITNESS_FILE, Witness, read_witness
from flywheel.errors import ArtefactError
from flywheel.turn.compress import check_witness

OWN = {"a": 0.7, "b": 0.2, "c": 0.1}


def test_rounding_is_no_other_model_and_another_letter_is(tmp_path: Path) -> None:
    assert read_witness(tmp_path) is None
    write_json(tmp_path / WITNESS_FILE, Witness(texts=TEXTS, probabilities=(OWN,) * len(TEXTS)))
    witness = read_witness(tmp_path)
    assert witness is not None
    rounded = {"b": 0.21, "a": 0.68, "c": 0.11}
    assert witness.apart([rounded] * len(TEXTS)) == pytest.approx(0.02)
    swapped = {"a": 0.2, "b": 0.7, "c": 0.1}
    assert witness.apart([OWN, *[swapped] * (len(TEXTS) - 1)]) > TOLERANCE
    check_witness(tmp_path, lambda texts: [rounded] * len(texts))
    with pytest.raises(ArtefactError, match="would be served otherwise than transformers"):
        check_witness(tmp_path, lambda texts: [swapped] * len(texts))
    (tmp_path / WITNESS_FILE).write_text("{")
    with pytest.raises(ArtefactError, match=r"witness\.json cannot be read"):
        read_witness(tmp_path)
