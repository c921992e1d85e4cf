"""What the embedded engine needs of a release: its labels, and probabilities for texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Classifier(Protocol):
    """A loaded release. ``predict`` is called from one thread at a time."""

    @property
    def labels(self) -> Sequence[str]:
        """Every label the release can give."""
        ...

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Calibrated probabilities, label → p, one dict per text, in the texts' order."""
        ...


Loader = Callable[[str], Classifier]
"""Release id → classifier. Raises ArtefactError when its files are missing or damaged."""
