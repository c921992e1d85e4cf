"""What a model answered where it was trained: what serves it must answer the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from flywheel.errors import ArtefactError

WITNESS_FILE = "witness.json"
# Nobody's data: short, of other scripts and signs, and longer than most windows.
TEXTS = (
    "Which one?",
    "Good morning, and thank you for everything.",
    "2 + 2 = 4; déjà vu, ß, 你好",
    "What a long story it was that they told us on that evening by the sea. " * 12,
)
# Of a probability: bfloat16 moves few by more than a few hundredths, another network most of them.
TOLERANCE = 0.1


class Witness(msgspec.Struct, frozen=True, kw_only=True):
    """witness.json: probabilities by label of each of ``texts``, by transformers, uncalibrated."""

    texts: tuple[str, ...]
    probabilities: tuple[dict[str, float], ...]

    def apart(self, answers: Sequence[Mapping[str, float]]) -> float:
        """How far other answers to the texts are from these: the largest difference of a
        probability, as the mean over the texts."""
        pairs = zip(self.probabilities, answers, strict=True)
        return sum(
            max(abs(own[label] - other[label]) for label in own) for own, other in pairs
        ) / len(self.texts)


def read_witness(folder: Path) -> Witness | None:
    """What a model folder's witness.json says; None for one of a version that wrote none."""
    path = folder / WITNESS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Witness)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
