"""What a task may say about the gate."""

from __future__ import annotations

from pydantic import Field

from flywheel.contracts.configuration import Settings


class GateSettings(Settings):
    """[tasks.NAME.gate]: what a release must show on held-out samples."""

    max_regression: float = Field(
        0.02, ge=0, le=1, description="Non-inferiority margin on held-out accuracy."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of every interval.")
    min_accuracy: float = Field(0.0, ge=0, le=1, description="Floor for any release.")
