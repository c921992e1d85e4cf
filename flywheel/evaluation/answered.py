"""The file of what a model answered to each held-out sample, from which all its metrics follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from flywheel.errors import ArtefactError
from flywheel.kinds.predictions import Prediction


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """One JSON line a sample."""
    path.write_bytes(b"".join(msgspec.json.encode(p) + b"\n" for p in predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """What ``write_predictions`` wrote. Raises ArtefactError when missing or damaged."""
    try:
        return msgspec.json.Decoder(Prediction).decode_lines(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
