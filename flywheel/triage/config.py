"""What a task may say about triage: audits, uncertainty, auto-labels, rules."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from flywheel.contracts.answers import text_problem
from flywheel.contracts.bounds import name_problem
from flywheel.contracts.configuration import Settings


class ExpertRule(Settings):
    """[[tasks.NAME.triage.rules]]: a pattern that sends a sample to an expert, or labels it."""

    name: str = Field(description="Shown to the expert as the reason.")
    pattern: str = Field(
        description="Python regular expression, searched in the text as it is seen."
    )
    label: str | None = Field(
        None,
        examples=["…"],
        description="Label (or text) to give; without it the sample goes to an expert.",
    )
    priority: float = Field(80, ge=0, le=100, description="Priority in the review queue.")

    @field_validator("name")
    @classmethod
    def _names_an_annotator(cls, name: str) -> str:
        # The labels that a rule gives have its name as their annotator.
        problem = name_problem(name)
        if problem is not None:
            raise ValueError(problem)
        return name

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern is not a regular expression: {error}") from error
        problem = None if self.label is None else text_problem(self.label)
        if problem:
            raise ValueError(f"label of rule {self.name!r}: {problem}")
        return self


class TriageSettings(Settings):
    """[tasks.NAME.triage]: which traffic experts see, and what is labelled automatically."""

    audit_rate: float = Field(
        0.05, gt=0, le=1, description="Share of all traffic sent to experts uniformly at random."
    )
    rollout_audit_rate: float = Field(
        0.25, gt=0, le=1, description="The same share while a challenger is being compared."
    )
    uncertain_below: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Calibrated confidence (of generated text: the reported one) under which a "
        "sample may go to review.",
    )
    uncertain_share: float = Field(
        0.5, ge=0, le=1, description="Share of the uncertain samples sent to review (the budget)."
    )
    auto_label_error: float = Field(
        0.05, gt=0, lt=1, description="Largest error accepted among automatic labels."
    )
    auto_label_risk: float = Field(
        0.1, gt=0, lt=1, description="Chance that the bound on that error does not hold."
    )
    min_audits: int = Field(
        30,
        ge=1,
        description="Audited labels needed before any auto-label; a small error needs more.",
    )
    rules: tuple[ExpertRule, ...] = Field(
        (), description="Patterns that decide before the model is asked; the first that fits."
    )
