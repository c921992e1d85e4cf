"""Makes one variant of a trained encoder by its recipe."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from flywheel.compression.config import Recipe
from flywheel.compression.encoder_steps import LAYERS, EncoderWork, layer_count
from flywheel.compression.ports import Tools
from flywheel.contracts.model_folder import (
    RELEASE_FILE,
    TRAINING_REPORT,
    Method,
    Predictor,
    read_description,
)
from flywheel.errors import ConfigurationError

__all__ = ["Tools", "VariantReport", "make_variant"]

_METHODS: dict[str, Method] = {
    "none": "none",
    "int8-dynamic": "int8-dynamic",
    "int8-static": "int8-static",
    "int8-qat": "int8-qat",
}


class VariantReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a variant was made. ``steps`` are what was done before quantisation and ``notes`` what
    else a person should know, in words; ``bytes`` are those of every file that decides answers."""

    name: str
    method: Method
    steps: tuple[str, ...]
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()


def make_variant(
    name: str,
    recipe: Recipe,
    trained: Path,
    dataset: Path,
    folder: Path,
    *,
    tools: Tools,
    teacher: Predictor | None = None,
) -> VariantReport:
    """Write the variant ``name`` of the encoder in ``trained`` to ``folder``, not yet calibrated.

    ``teacher`` is what a distilled student learns from: the trained model when None. The folder
    was opened once, as it will be served, when this returns.
    Raises ArtefactError for a damaged model or dataset, ConfigurationError for a recipe that is
    none of an encoder's, and what training raises.
    """
    started = time.perf_counter()
    _check(name, recipe)
    method = _METHODS[recipe.quantise]
    read_description(trained)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELEASE_FILE).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".variant-", dir=folder.parent) as scratch:
        work = EncoderWork(recipe, trained, dataset, Path(scratch), tools)
        if recipe.distil_to:
            work.distil(teacher)
        if recipe.prune_heads or recipe.prune_ffn:
            work.prune()
        work.quantise(method, folder)
    if (trained / TRAINING_REPORT).is_file():
        shutil.copyfile(trained / TRAINING_REPORT, folder / TRAINING_REPORT)
    tools.load(folder, tools.threads)
    return VariantReport(
        name=name,
        method=method,
        steps=tuple(work.steps),
        bytes=read_description(folder).size_bytes,
        seconds=time.perf_counter() - started,
        notes=tuple(work.notes),
    )


def _check(name: str, recipe: Recipe) -> None:
    key = f"compression.recipes.{name}"
    if recipe.quantise not in _METHODS:
        raise ConfigurationError(
            f"{key}.quantise",
            f"{recipe.quantise!r} is for language models",
            f"an encoder takes {', '.join(_METHODS)}",
        )
    if recipe.merge:
        raise ConfigurationError(f"{key}.merge", "an encoder has no adapter to merge")
    if recipe.distil_to.startswith(LAYERS) and not layer_count(recipe.distil_to):
        raise ConfigurationError(f"{key}.distil_to", f"{recipe.distil_to!r} says no number > 0")
