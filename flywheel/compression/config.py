"""What a task may say about compression."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from flywheel.contracts.configuration import Contradiction, Settings

Quantisation = Literal[
    "none", "int8-dynamic", "int8-static", "int8-qat", "w8a8", "w4a16-gptq", "w4a16-awq"
]

Model = Literal["encoder", "llm"]
_QUANTISATIONS: dict[Model, tuple[Quantisation, ...]] = {
    "encoder": ("none", "int8-dynamic", "int8-static", "int8-qat"),
    "llm": ("none", "w8a8", "w4a16-gptq", "w4a16-awq"),
}
# What a task compresses to that does not say.
USUAL: dict[Model, tuple[str, ...]] = {"encoder": ("int8-dynamic",), "llm": ("w8a8",)}
_ENCODER_STEPS = ("distil_to", "prune_heads", "prune_ffn")


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
    quantise: Quantisation = Field(
        "int8-dynamic", description="INT8 is for encoders; W8A8 and W4A16 for language models."
    )

    @model_validator(mode="after")
    def _distils(self) -> Self:
        if self.teacher and not self.distil_to:
            raise Contradiction("teacher", "it teaches nobody without distil_to")
        return self

    def misfit(self, model: Model) -> str | None:
        """Why this recipe cannot be made of a kind of model, or None."""
        if self.quantise not in _QUANTISATIONS[model]:
            return f"quantise = {self.quantise!r} is none of an {model}'s"
        if model == "encoder":
            return "merge is for adapters, which an encoder has not" if self.merge else None
        steps = [step for step in _ENCODER_STEPS if getattr(self, step)]
        return f"{', '.join(steps)} is for encoders" if steps else None


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
        USUAL["encoder"],
        min_length=1,
        description="Names of recipes, standard ones or those below; each is made and measured, "
        "and the cheapest that is no worse serves.",
    )
    recipes: dict[str, Recipe] = Field(
        default_factory=dict, description="Recipes of your own, by name."
    )
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
                raise Contradiction("variants", f"{name!r} is no recipe; there are {known}")
        if self.pin and self.pin not in self.variants:
            raise Contradiction("pin", f"{self.pin!r} is none of the variants")
        return self

    def misfit(self, model: Model) -> str | None:
        """Why one of the variants cannot be made of a kind of model, or None."""
        for name in self.variants:
            problem = self.recipe(name).misfit(model)
            if problem:
                fitting = [key for key, one in STANDARD.items() if one.misfit(model) is None]
                return f"{name!r}: {problem}; there are {', '.join(fitting)}"
        return None

    def recipe(self, name: str) -> Recipe:
        """The recipe of a variant; one of this task's own goes before a standard one."""
        return self.recipes.get(name) or STANDARD[name]
