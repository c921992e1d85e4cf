"""[tasks.NAME] of flywheel.toml: what is asked, by which kind of model, and each stage's table."""

from __future__ import annotations

import string
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from flywheel.compression.config import USUAL, CompressionSettings
from flywheel.contracts.configuration import Contradiction, Settings
from flywheel.contracts.label_names import labels_problem, names_problem
from flywheel.contracts.model_folder import Prompt
from flywheel.datasets.config import DatasetSettings
from flywheel.evaluation.config import GateSettings
from flywheel.retraining.config import RetrainingSettings
from flywheel.review.config import ReviewSettings
from flywheel.rollout.config import RolloutSettings
from flywheel.training.config import ENCODER_ONLY, LoraSettings, TrainingSettings
from flywheel.triage.config import TriageSettings

# What a language model answers with: one token each in every tokenizer there is.
_LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits


class PromptSettings(Settings):
    """[tasks.NAME.prompt]: how a language model is asked."""

    system: str = Field(
        "",
        description="The system message; of a classification the options and their letters are "
        "added. Empty: the task's title.",
    )
    template: str = Field("{text}", description="The user's message; {text} is the sample.")
    max_answer_tokens: int = Field(128, ge=1, description="Longest generated answer.")

    @field_validator("template")
    @classmethod
    def _holds_text(cls, template: str) -> str:
        if template.count("{text}") != 1:
            raise ValueError("template must hold {text} exactly once")
        return template


class TaskSettings(Settings):
    """[tasks.NAME]: what is asked, and the answers there are."""

    kind: Literal["classification", "generation"] = Field(
        "classification", description="One of the labels, or free text."
    )
    model: Literal["encoder", "llm"] = Field(
        "encoder", description="An encoder with a head, or a language model with LoRA adapters."
    )
    title: str = Field("", description="The task in a few words, shown to experts.")
    labels: tuple[str, ...] = Field(
        (), description="Every label, in the order experts see them; none for generation."
    )
    retired_labels: tuple[str, ...] = Field(
        (),
        description="Taken out of labels, while a release may still answer with them: nobody is "
        "asked for them, and samples that have one are left out of training.",
    )
    label_titles: dict[str, str] = Field(default_factory=dict, description="Label → words for it.")
    triage: TriageSettings = TriageSettings()
    review: ReviewSettings = ReviewSettings()
    dataset: DatasetSettings = DatasetSettings()
    retraining: RetrainingSettings = RetrainingSettings()
    training: TrainingSettings
    lora: LoraSettings = LoraSettings()
    prompt: PromptSettings = PromptSettings()
    compression: CompressionSettings = CompressionSettings()
    gate: GateSettings = GateSettings()
    rollout: RolloutSettings = RolloutSettings()

    @property
    def release_prompt(self) -> Prompt | None:
        """How a language model is asked; None for an encoder.

        For a classification the options stand in the system message, the same for every request,
        each with a letter of its own that the model answers with.
        """
        if self.model != "llm":
            return None
        told = self.prompt
        if self.kind == "generation":
            return Prompt(
                system=told.system,
                template=told.template,
                max_answer_tokens=told.max_answer_tokens,
            )
        answers = dict(zip(self.labels, _LETTERS, strict=False))
        options = "".join(
            f"\n{letter}: {self.label_titles.get(label, label)}"
            for label, letter in answers.items()
        )
        asked = told.system or f"{self.title or 'Which class does the text belong to?'}"
        return Prompt(
            system=f"{asked} Answer with one letter.{options}",
            template=told.template,
            max_answer_tokens=1,
            answers=answers,
        )

    @model_validator(mode="before")
    @classmethod
    def _usual_variants(cls, told: Any) -> Any:
        compression = told.get("compression", {}) if isinstance(told, dict) else None
        if not isinstance(compression, dict) or told.get("model") != "llm":
            return told
        return {**told, "compression": {"variants": USUAL["llm"], **compression}}

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if self.kind == "generation":
            if self.labels:
                raise Contradiction(
                    "labels", "labels has no meaning where kind is generation: leave it out"
                )
            if self.model != "llm":
                raise Contradiction("kind", 'kind = "generation" needs model = "llm"')
        elif problem := labels_problem(self.labels):
            raise Contradiction("labels", problem)
        if self.model == "llm" and len(self.labels) > len(_LETTERS):
            raise Contradiction(
                "labels",
                f"there are {len(self.labels)}: a language model tells {len(_LETTERS)} apart",
            )
        for number, rule in enumerate(self.triage.rules if self.labels else ()):
            if rule.label is not None and rule.label not in self.labels:
                raise Contradiction(
                    f"triage.rules.{number}.label",
                    f"rule {rule.name!r} gives {rule.label!r}, which is no label",
                )
        both = [label for label in self.retired_labels if label in self.labels]
        if both or (self.retired_labels and not self.labels):
            found = f"it names {both}, which labels does too" if both else "there are no labels"
            raise Contradiction("retired_labels", found)
        unknown = set(self.label_titles) - set(self.labels)
        if unknown:
            raise Contradiction("label_titles", f"it names {sorted(unknown)}, which are no labels")
        if problem := names_problem([self.label_titles.get(one, one) for one in self.labels]):
            raise Contradiction("label_titles", f"what experts choose from: {problem}")
        return self

    @model_validator(mode="after")
    def _of_model(self) -> Self:
        for key, reason in ignored_keys(self.model, self.kind).items():
            table, _, name = key.partition(".")
            told = getattr(self, table)
            names = [name] if name else list(told.model_fields_set)
            for name in names:
                if name in told.model_fields_set:
                    raise Contradiction(f"{table}.{name}", reason)
        if problem := self.compression.misfit(self.model):
            raise Contradiction("compression.variants", problem)
        return self


def ignored_keys(model: str, kind: str) -> dict[str, str]:
    """Keys of a task that would have no effect → why; a table's name stands for all of its keys."""
    if model == "encoder":
        return {
            "lora": 'an encoder has no adapter: it is for model = "llm"',
            "prompt": 'an encoder is not asked in words: it is for model = "llm"',
        }
    found = {
        f"training.{name}": "a language model is trained by [tasks.NAME.lora]: set it there"
        if name in LoraSettings.model_fields
        else "it is for encoders: a language model's training does not know it"
        for name in ENCODER_ONLY
    }
    if kind == "classification":
        found["prompt.max_answer_tokens"] = "a classification is answered with one letter"
    return found
