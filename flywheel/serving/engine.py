"""What a model server needs of a loaded release, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from flywheel.contracts.model_folder import Predictor

if TYPE_CHECKING:
    from typing_extensions import TypeIs


class Served(Protocol):
    """A loaded release.

    It is asked from ``parallel`` threads at a time, with up to ``batch`` texts each (0: as many as
    the server batches). Everything with ``parallel`` 1 shares the one inference thread of the
    process, whose cores it computes on.
    """

    @property
    def labels(self) -> Sequence[str]:
        """Every label the release can give; none where it generates text."""
        ...

    @property
    def parallel(self) -> int:
        """How many batches it takes at a time."""
        ...

    @property
    def batch(self) -> int:
        """The most texts of one batch."""
        ...

    def problem(self) -> str | None:
        """Why it answers no more, for good (its process died), or None. Quick."""
        ...

    def close(self) -> None:
        """Give back what it holds. Nobody asks it any more."""
        ...


class Classified(msgspec.Struct, frozen=True, kw_only=True):
    """Calibrated probabilities, label → p. ``tokens_in`` tokens were read (0: nobody counted), with
    those of a prompt, and ``tokens_cut`` of the text were not."""

    scores: dict[str, float]
    tokens_in: int = 0
    tokens_cut: int = 0


class Classifier(Served, Protocol):
    """A release that answers with one of its labels."""

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        """One answer per text, in the texts' order."""
        ...


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """A generated text. ``confidence`` is exp of the mean log-probability of its tokens;
    ``tokens_cut`` tokens of the text it answers were not read."""

    text: str
    confidence: float
    tokens_in: int
    tokens_out: int
    tokens_cut: int = 0


class Generator(Served, Protocol):
    """A release that answers with text."""

    def generate(self, texts: Sequence[str]) -> list[Generated]:
        """One text per text, in the texts' order."""
        ...


class InProcess:
    """The part of ``Served`` that is the same for everything that computes in this process."""

    parallel = 1
    batch = 0

    def problem(self) -> str | None:
        """Never: it lives as long as the process."""
        return None

    def close(self) -> None:
        """Nothing is held but memory."""

    def classify(self: Predictor, texts: Sequence[str]) -> list[Classified]:
        """What a predictor says that reads every text whole."""
        return [Classified(scores=scores) for scores in self.predict(texts)]


Loader = Callable[[str], Classifier | Generator]
"""Release id → what serves it. Raises ArtefactError when its files are missing or damaged, and
Unavailable or ConfigurationError when what should serve it could not be started."""


def generates(served: Classifier | Generator) -> TypeIs[Generator]:
    """Whether it answers with text rather than with a label."""
    return hasattr(served, "generate")
