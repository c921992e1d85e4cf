"""What a task may say about compression."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.contracts.configuration import Settings


class CompressionSettings(Settings):
    """[tasks.NAME.compression]"""

    method: Literal["none", "int8-dynamic"] = "int8-dynamic"
    max_accuracy_loss: float = Field(
        0.02, ge=0, le=1, description="Largest loss on the calibration split before it is refused."
    )
