"""What a task may say about how a challenger is proved."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from flywheel.contracts.configuration import Contradiction, Settings
from flywheel.contracts.split import AssignBy


class RolloutSettings(Settings):
    """[tasks.NAME.rollout]: how a challenger is proved on live traffic, or rolled back."""

    steps: tuple[float, ...] = Field(
        (0.05, 0.25, 0.5), description="Challenger shares of live traffic, rising."
    )
    shadow_share: float = Field(
        1.0, ge=0, le=1, description="Share of requests that the other arm scores as well."
    )
    shadow_requests: int = Field(
        0, ge=0, description="Shadow answers needed before any live traffic; 0: no shadow state."
    )
    assign_by: AssignBy = Field(
        "user",
        description='What a lot is drawn for. "user": whoever the client names as its user meets '
        'one model throughout; one who sends most of the traffic is then one unit. "request": each '
        "request by itself; the shares are exact, but one user may meet both models in turn.",
    )
    min_requests: int = Field(50, ge=1, description="Challenger requests needed at each step.")
    min_units: int = Field(
        5,
        ge=1,
        description="Users (or requests, by assign_by) that the challenger has answered needed at "
        "each step.",
    )
    heavy_unit_share: float = Field(
        0.2, gt=0, le=1, description="One unit with more of a step's requests is warned of."
    )
    min_labels: int = Field(60, ge=1, description="Audited labels needed before promotion.")
    accuracy_margin: float = Field(0.05, gt=0, lt=1, description="Non-inferiority margin.")
    harm_margin: float = Field(
        0.0, ge=0, lt=1, description="Loss of accuracy that, even when proven, is no harm."
    )
    error_margin: float = Field(0.02, gt=0, lt=1, description="Accepted rise of the error rate.")
    latency_margin: float = Field(
        1.5, gt=1, description="Accepted ratio of the challenger's p95 latency to the champion's."
    )
    harm_alpha: float = Field(0.05, gt=0, lt=0.5, description="False-rollback rate, at any look.")
    promote_alpha: float = Field(0.05, gt=0, lt=0.5, description="False-promotion rate, all looks.")
    looks: int = Field(5, ge=1, le=50, description="Scheduled looks that promotion is split over.")
    max_minutes: float = Field(24 * 60, gt=0, description="After this a person must decide.")
    warm_seconds: float = Field(
        180.0, gt=0, description="How long a challenger may be missing from the model servers."
    )
    auto_promote: bool = Field(
        True, description="False: a proven challenger waits for `flywheel rollout promote`."
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.steps or any(not 0 < share < 1 for share in self.steps):
            raise Contradiction("steps", "they must be shares between 0 and 1")
        if list(self.steps) != sorted(set(self.steps)):
            raise Contradiction("steps", "they must rise")
        if self.harm_margin > self.accuracy_margin:
            raise Contradiction("harm_margin", "it cannot be larger than accuracy_margin")
        if self.shadow_requests and not self.shadow_share:
            raise Contradiction("shadow_requests", "it needs a shadow_share above 0")
        return self
