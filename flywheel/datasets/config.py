"""What a task may say about how settled labels become a dataset."""

from __future__ import annotations

from pydantic import Field

from flywheel.contracts.configuration import Settings


class DatasetSettings(Settings):
    """[tasks.NAME.dataset]: how settled labels become a dataset."""

    calibration_share: float = Field(
        0.1, ge=0, lt=0.5, description="Share of expert labels kept from training for calibration."
    )
    auto_labels_per_expert: float = Field(
        0.5, ge=0, description="Automatic labels taken at most, per expert label."
    )
    holdout_share: float = Field(
        0.2,
        ge=0,
        lt=0.9,
        description="Share of labels held out, when no sample was ingested as holdout.",
    )
    source_weights: bool = Field(
        True,
        description="Automatic labels count less, the more often experts corrected their source.",
    )
