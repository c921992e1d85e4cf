"""Makes one variant of a trained encoder by its recipe: distil, prune, quantise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from flywheel.compression.config import Recipe
from flywheel.contracts.model_folder import Method, Predictor

Undo = Callable[[], None]
Change = Callable[[Any], Undo]
"""Alters a torch module before it is trained; what it returns is called before it is saved."""
Load = Callable[[Path, int], Predictor]
"""Opens a model folder, on so many threads, as the engine that will serve it does."""


class VariantReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a variant was made. ``steps`` are what was done before quantisation and ``notes`` what
    else a person should know, in words; ``bytes`` are those of every file that decides answers."""

    name: str
    method: Method
    steps: tuple[str, ...]
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()


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
    ) -> None:
        """Train ``model`` for ``epochs`` on a dataset's training part and write it to ``folder``.

        ``soft_targets`` are a teacher's probabilities for each line of the training part.
        """
        ...


@dataclass(frozen=True)
class Tools:
    """What compression needs of other stages; bootstrap hands it in."""

    load: Load
    fine_tune: FineTune
    threads: int = 1


def make_variant(
    name: str, recipe: Recipe, trained: Path, dataset: Path, folder: Path, *, tools: Tools
) -> VariantReport:
    """Write the variant ``name`` of the encoder in ``trained`` to ``folder``, not yet calibrated.

    Raises ArtefactError for a damaged model or dataset, ConfigurationError for a recipe that is
    none of an encoder's.
    """
    raise NotImplementedError
