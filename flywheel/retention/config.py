"""What flywheel.toml says about how long data is kept."""

from __future__ import annotations

from pydantic import Field

from flywheel.contracts.configuration import Settings

# A hundred years: whoever means for ever writes 0, and calendars end somewhere.
MOST_DAYS = 36_500


class RetentionSettings(Settings):
    """[retention]: how many days data is kept; 0 keeps it for ever."""

    traffic: int = Field(0, ge=0, le=MOST_DAYS, description="Requests whose sample has no label.")
    automatic: int = Field(
        0,
        ge=0,
        le=MOST_DAYS,
        description="Samples that only rules or the model labelled; they leave datasets to come.",
    )
    labelled: int = Field(
        0,
        ge=0,
        le=MOST_DAYS,
        description="Samples that people labelled, since the last label; they leave datasets to "
        "come.",
    )
    evidence: int = Field(
        0, ge=0, le=MOST_DAYS, description="What releases answered to samples that nobody labelled."
    )
    review: int = Field(
        0, ge=0, le=MOST_DAYS, description="Finished samples of the experts' queue."
    )
    features: int = Field(
        0, ge=0, le=MOST_DAYS, description="The history of sources, which training joins."
    )
    datasets: int = Field(
        0,
        ge=0,
        le=MOST_DAYS,
        description="The bytes of dataset versions of which no kept release was made.",
    )
    releases: int = Field(
        0,
        ge=0,
        le=MOST_DAYS,
        description="Releases since they last served: how far back `restore` reaches.",
    )
    archive: bool = Field(
        False, description="Write rows to the store of artefacts, as Parquet, before they go."
    )


class TaskRetentionSettings(Settings):
    """[tasks.NAME.retention]: days that differ from those of [retention] for this task."""

    traffic: int | None = Field(
        None, ge=0, le=MOST_DAYS, examples=[30], description="As in [retention]."
    )
    automatic: int | None = Field(
        None, ge=0, le=MOST_DAYS, examples=[90], description="As in [retention]."
    )
    labelled: int | None = Field(
        None, ge=0, le=MOST_DAYS, examples=[730], description="As in [retention]."
    )
    evidence: int | None = Field(
        None, ge=0, le=MOST_DAYS, examples=[30], description="As in [retention]."
    )
    review: int | None = Field(
        None, ge=0, le=MOST_DAYS, examples=[90], description="As in [retention]."
    )
    features: int | None = Field(
        None, ge=0, le=MOST_DAYS, examples=[365], description="As in [retention]."
    )
    datasets: int | None = Field(
        None, ge=0, le=MOST_DAYS, examples=[365], description="As in [retention]."
    )
    releases: int | None = Field(
        None, ge=0, le=MOST_DAYS, examples=[365], description="As in [retention]."
    )
    archive: bool | None = Field(None, examples=[True], description="As in [retention].")

    def within(self, workspace: RetentionSettings) -> RetentionSettings:
        """What holds for the task: its own, and the workspace's where it says nothing."""
        own = {name: value for name, value in self.model_dump().items() if value is not None}
        return workspace.model_copy(update=own)
