"""What a task may say about compression."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from flywheel.contracts.configuration import Settings

Quantisation = Literal[
    "none", "int8-dynamic", "int8-static", "int8-qat", "w8a8", "w4a16-gptq", "w4a16-awq"
]


class Recipe(Settings):
    """[tasks.NAME.compression.recipes.VARIANT]: distil, then prune, then quantise."""

    distil_to: str = Field(
        "", description="Folder of a smaller base model that learns from the trained one."
    )
    teacher: str = Field(
        "",
        description="Folder of the model that the distilled one learns from, an encoder or a "
        "language model (vLLM serves it meanwhile); empty: the trained one.",
    )
    prune_heads: float = Field(0.0, ge=0, lt=1, description="Share of attention heads removed.")
    prune_ffn: float = Field(0.0, ge=0, lt=1, description="Share of FFN channels removed.")
    epochs: int = Field(
        2, ge=0, description="Of fine-tuning after distilling, pruning, or while training for INT8."
    )
    merge: bool = Field(False, description="A LoRA adapter becomes part of its base.")
    quantise: Quantisation = "int8-dynamic"


# Recipes that need no more words than their name.
STANDARD: dict[str, Recipe] = {
    "none": Recipe(quantise="none"),
    "int8-dynamic": Recipe(quantise="int8-dynamic"),
    "int8-static": Recipe(quantise="int8-static"),
    "int8-qat": Recipe(quantise="int8-qat"),
    "pruned": Recipe(prune_heads=0.0, prune_ffn=0.25, quantise="none"),
    "pruned-int8": Recipe(prune_heads=0.0, prune_ffn=0.25, quantise="int8-dynamic"),
    "w8a8": Recipe(quantise="w8a8"),
    "merged": Recipe(merge=True, quantise="none"),
    "merged-w8a8": Recipe(merge=True, quantise="w8a8"),
    "w4a16-gptq": Recipe(quantise="w4a16-gptq"),
    "w4a16-awq": Recipe(quantise="w4a16-awq"),
}


class CompressionSettings(Settings):
    """[tasks.NAME.compression]: which variants a turn makes, and how one is chosen."""

    variants: tuple[str, ...] = Field(
        ("int8-dynamic",),
        min_length=1,
        description="Names of recipes, standard ones or those below; each is made and measured.",
    )
    recipes: dict[str, Recipe] = Field(default_factory=dict)
    pin: str = Field(
        "", description="Always take this variant; empty: the cheapest that is not inferior."
    )
    margin: float = Field(
        0.01, gt=0, le=1, description="Accuracy that a variant may lose against the trained model."
    )
    max_accuracy_loss: float = Field(
        0.02, ge=0, le=1, description="A proven loss of more than this refuses a variant outright."
    )
    measure_seconds: float = Field(
        2.0, ge=0, description="How long each variant's speed is measured; 0: not at all."
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (*self.variants, *([self.pin] if self.pin else [])):
            if name not in self.recipes and name not in STANDARD:
                known = ", ".join([*STANDARD, *self.recipes])
                raise ValueError(f"{name!r} is no recipe; there are {known}")
        if self.pin and self.pin not in self.variants:
            raise ValueError(f"pin {self.pin!r} is none of the variants")
        return self

    def recipe(self, name: str) -> Recipe:
        """The recipe of a variant; one of this task's own goes before a standard one."""
        return self.recipes.get(name) or STANDARD[name]
