"""What compression needs of the stages that train and serve an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flywheel.contracts.model_folder import Predictor

if TYPE_CHECKING:
    from torch import Tensor

Undo = Callable[[], None]
Change = Callable[[Any], Undo]
"""Alters a torch module before it is trained; what it returns is called before it is saved."""
Load = Callable[[Path, int], Predictor]
"""Opens a model folder, on so many threads, as the engine that will serve it does."""


class FineTune(Protocol):
    """Training that goes on from a model folder, as the training stage does it."""

    def __call__(
        self,
        model: Path,
        dataset: Path,
        folder: Path,
        *,
        epochs: int,
        change: Change | None = None,
        soft_targets: Sequence[Mapping[str, float]] | None = None,
        learning_rate_factor: float = 1.0,
    ) -> None:
        """Train ``model`` for ``epochs`` on a dataset's training part and write it to ``folder``.

        ``model`` may be an encoder without a head, which then gets one. ``soft_targets`` are a
        teacher's probabilities for each line of the training part.
        """
        ...


class Observe(Protocol):
    """What enters the dense layers of a model, as the training stage computes it."""

    def __call__(
        self, model: Path, texts: Sequence[str], visit: Callable[[str, Tensor], None]
    ) -> None:
        """Run the FP32 model on ``texts``; ``visit`` gets a layer's name and (tokens, width)."""
        ...


@dataclass(frozen=True)
class Tools:
    """What compression needs of other stages; the turn hands it in."""

    load: Load
    fine_tune: FineTune
    observe: Observe
    threads: int = 1
