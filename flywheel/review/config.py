"""What a task may say about its expert queue."""

from __future__ import annotations

from pydantic import Field

from flywheel.contracts.configuration import Settings


class ReviewSettings(Settings):
    """[tasks.NAME.review]"""

    answers_needed: int = Field(1, ge=1, le=9, description="Experts who must agree on a label.")
    answers_at_most: int = Field(3, ge=1, le=15, description="After so many the majority settles.")
    lease_seconds: float = Field(300, gt=0, description="How long a claimed sample is held.")
    guideline: str = Field("", description="Shown beside every sample.")
