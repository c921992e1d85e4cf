"""What a task may say about when the wheel turns."""

from __future__ import annotations

from pydantic import Field

from flywheel.contracts.configuration import Settings


class RetrainingSettings(Settings):
    """[tasks.NAME.retraining]: when a turn of the wheel starts."""

    min_new_labels: int = Field(
        200,
        ge=1,
        description="Labels given by people since the last dataset that start a turn.",
    )
    max_age_hours: float | None = Field(
        None,
        gt=0,
        examples=[168],
        description="A turn starts after so long if there is any new label at all.",
    )
    enabled: bool = Field(True, description="False: only `flywheel retrain` starts a turn.")
