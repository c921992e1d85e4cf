"""What a task may say about its expert queue."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from flywheel.contracts.configuration import Contradiction, Settings


class ReviewSettings(Settings):
    """[tasks.NAME.review]: the expert queue."""

    answers_needed: int = Field(1, ge=1, le=9, description="Experts who must agree on a label.")
    answers_at_most: int = Field(3, ge=1, le=15, description="After so many the majority settles.")
    lease_seconds: float = Field(300, gt=0, description="How long a claimed sample is held.")
    guideline: str = Field("", description="Shown beside every sample.")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.answers_needed > self.answers_at_most:
            raise Contradiction(
                "answers_needed",
                f"{self.answers_needed} experts must agree, but answers_at_most = "
                f"{self.answers_at_most} answers settle a sample before: raise answers_at_most",
            )
        return self
