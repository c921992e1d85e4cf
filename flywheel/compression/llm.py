"""Makes one variant of a language model by its recipe: merge the adapter or not, quantise."""

from __future__ import annotations

from pathlib import Path

from flywheel.compression.config import Recipe
from flywheel.compression.variants import VariantReport


def make_llm_variant(
    name: str, recipe: Recipe, trained: Path, dataset: Path, folder: Path, *, bases: Path
) -> VariantReport:
    """Write the variant ``name`` of the adapter in ``trained`` to ``folder``, not calibrated."""
    raise NotImplementedError
