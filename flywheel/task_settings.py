"""[tasks.NAME] of flywheel.toml: what is asked, by which kind of model, and each stage's table."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from flywheel.compression.config import USUAL as USUAL_VARIANTS
from flywheel.compression.config import CompressionSettings
from flywheel.contracts.configuration import Contradiction, Settings
from flywheel.contracts.label_names import names_problem
from flywheel.contracts.model_folder import ModelKind, Prompt
from flywheel.datasets.config import DatasetSettings
from flywheel.evaluation.config import GateSettings
from flywheel.kinds import KINDS, LETTERS, USUAL, Answers, Kind, KindName, TaskKind
from flywheel.kinds import of as kind_of
from flywheel.kinds.kind import MODEL_KEYS
from flywheel.retention.config import TaskRetentionSettings
from flywheel.retraining.config import RetrainingSettings
from flywheel.review.config import ReviewSettings
from flywheel.rollout.config import RolloutSettings
from flywheel.training.config import ENCODER_ONLY, LoraSettings, TrainingSettings
from flywheel.triage.config import TriageSettings


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

    kind: KindName = Field("classification", description="What goes in, and what comes out.")
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
    retention: TaskRetentionSettings = TaskRetentionSettings()

    @property
    def of_kind(self) -> Kind:
        """What is particular to tasks of this kind."""
        return kind_of(self.kind)

    @property
    def answers(self) -> Answers:
        """What experts, rules and files may answer with."""
        return self.of_kind.answers(self.labels)

    @property
    def task_kind(self) -> TaskKind:
        """The kind, with this task's answers."""
        return TaskKind(self.of_kind, self.answers)

    @property
    def kept_answers(self) -> Answers:
        """What is kept where it comes from elsewhere: a release may still give a retired label."""
        return self.of_kind.answers((*self.labels, *self.retired_labels))

    @property
    def release_prompt(self) -> Prompt | None:
        """How a language model is asked; None for an encoder."""
        if self.model != "llm":
            return None
        return self.answers.prompt(
            system=self.prompt.system,
            template=self.prompt.template,
            max_answer_tokens=self.prompt.max_answer_tokens,
            title=self.title,
            label_titles=self.label_titles,
        )

    @model_validator(mode="before")
    @classmethod
    def _without_model(cls, table: Any) -> Any:
        kind = KINDS.get(str(table.get("kind", USUAL))) if isinstance(table, dict) else None
        if kind is None or kind.models:
            return table
        if named := sorted(MODEL_KEYS & table.keys()):
            raise Contradiction(
                named[0], f"it has no meaning where kind is {kind.name}: {kind.note}"
            )
        return {**table, "training": {"base_model": ""}}

    @model_validator(mode="before")
    @classmethod
    def _usual_variants(cls, table: Any) -> Any:
        compression = table.get("compression", {}) if isinstance(table, dict) else None
        if not isinstance(compression, dict) or table.get("model") != "llm":
            return table
        return {**table, "compression": {"variants": USUAL_VARIANTS["llm"], **compression}}

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if problem := self.of_kind.labels_problem(self.labels):
            raise Contradiction("labels", problem)
        if problem := self.of_kind.model_problem(self.model):
            raise Contradiction("kind", problem)
        if self.model == "llm" and len(self.labels) > len(LETTERS):
            raise Contradiction(
                "labels",
                f"there are {len(self.labels)}: a language model tells {len(LETTERS)} apart",
            )
        for number, rule in enumerate(self.triage.rules):
            if rule.label is not None and not self.answers.knows(rule.label):
                raise Contradiction(
                    f"triage.rules.{number}.label",
                    f"rule {rule.name!r} gives {rule.label!r}, which is no label",
                )
        both = [label for label in self.retired_labels if label in self.labels]
        if both or (self.retired_labels and not self.of_kind.has_labels):
            problem = f"it names {both}, which labels does too" if both else "there are no labels"
            raise Contradiction("retired_labels", problem)
        unknown = set(self.label_titles) - set(self.labels)
        if unknown:
            raise Contradiction("label_titles", f"it names {sorted(unknown)}, which are no labels")
        if problem := names_problem([self.label_titles.get(one, one) for one in self.labels]):
            raise Contradiction("label_titles", f"what experts choose from: {problem}")
        return self

    @model_validator(mode="after")
    def _of_model(self) -> Self:
        for key, reason in ignored_keys(self.model, self.of_kind).items():
            table, _, name = key.partition(".")
            values = getattr(self, table)
            names = [name] if name else list(values.model_fields_set)
            for name in names:
                if name in values.model_fields_set:
                    raise Contradiction(f"{table}.{name}", reason)
        if problem := self.compression.misfit(self.model):
            raise Contradiction("compression.variants", problem)
        return self


def ignored_keys(model: ModelKind, kind: Kind) -> dict[str, str]:
    """Keys of a task that would have no effect → why; a table's name stands for all of its keys."""
    if model == "encoder":
        return {
            "lora": 'an encoder has no adapter: it is for model = "llm"',
            "prompt": 'an encoder is not asked in words: it is for model = "llm"',
        }
    ignored = {
        f"training.{name}": "a language model is trained by [tasks.NAME.lora]: set it there"
        if name in LoraSettings.model_fields
        else "it is for encoders: a language model's training does not know it"
        for name in ENCODER_ONLY
    }
    return ignored | dict(kind.ignored.get(model, {}))
