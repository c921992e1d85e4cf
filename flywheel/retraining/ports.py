"""What retraining needs of a database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.publishing import Outbox
from flywheel.contracts.release import Override, Release
from flywheel.contracts.stores import DatasetStore, LabelStore, ReleaseStore

# The key of a request's overrides, and the stage of a turn, that bring in a model.
IMPORT = "import"

RunState = Literal["queued", "running", "succeeded", "failed"]


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Someone asked for a turn by hand. ``overrides`` are recipe keys, e.g. shuffle_labels; with
    the key ``import`` the turn trains nothing but brings in a model that lies staged."""

    request_id: str
    task: str
    by: str
    why: str
    at: datetime
    override: Override | None = None
    overrides: dict[str, object] = {}

    @property
    def imports(self) -> bool:
        """Whether a model is to be brought in, not trained."""
        return IMPORT in self.overrides


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the pipeline: what started it, where it stands, what came of it.

    A turn that someone asked for has the id of the request.
    """

    turn_id: str
    task: str
    state: RunState
    stage: str
    reason: str
    started_at: datetime
    ended_at: datetime | None = None
    dataset_version: str | None = None
    release: str | None = None
    error: str | None = None
    seconds: dict[str, float] = {}


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn that is asked for has before it: ``running`` is a turn that is being made and has
    to end first, the task's own or where every trainer makes one, ``asked`` the requests that come
    first. ``trainer`` is whether one was heard of."""

    trainer: bool = False
    running: Turn | None = None
    asked: int = 0


class TurnStore(Protocol):
    """Turns: written by the trainer that holds the task's lease (requests are added by the console
    or the CLI)."""

    def stirred(self, tasks: Collection[str]) -> dict[str, frozenset[str]]:
        """Task → what a decision on its next turn hangs on, as marks that differ when it does:
        settled labels, requests, a running turn, a running rollout. One question for all tasks."""
        ...

    def request(self, request: TurnRequest) -> None:
        """Ask for a turn; the same id twice changes nothing."""
        ...

    def take_request(self, task: str, first: str = "") -> TurnRequest | None:
        """The oldest request that no turn has finished, or the one with the id ``first``; it stays
        until ``finish_request``."""
        ...

    def finish_request(self, request_id: str) -> None:
        """A turn has been made of this request, or has failed for good."""
        ...

    def ahead(self, task: str, tasks: Collection[str]) -> Ahead:
        """What a turn of ``task`` that is asked for now has before it; the trainer makes those of
        ``tasks``."""
        ...

    def save(self, turn: Turn) -> None:
        """Insert or replace."""
        ...

    def history(self, task: str, limit: int = 50) -> list[Turn]:
        """Newest first."""
        ...


class GateRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """The gate said no, and nobody overrode it: there is a model, but no release."""

    reason: str


class Pipeline(Protocol):
    """The workspace, its DVC pipeline and the registry's folder, as one turn uses them."""

    def prepare(self, turn: Turn, request: TurnRequest | None, watermark: str) -> None:
        """Write what this turn is made of (params.yaml). Not called when a turn is resumed."""
        ...

    def prepared(self, turn: Turn) -> bool:
        """Whether params.yaml is that of this turn."""
        ...

    def run(self, task: str, stage: str) -> None:
        """Reproduce one stage; nothing happens when its inputs are unchanged.

        Raises PipelineError with the tail of the stage's log."""
        ...

    def stages(self, task: str) -> Sequence[str]:
        """What comes after the dataset, in order; none where a dataset is all that a turn makes."""
        ...

    def commit_dataset(self, task: str) -> DatasetVersioned:
        """Commit the built dataset to git and DVC and push it; the same bytes twice are one
        version."""
        ...

    def assemble(
        self, turn: Turn, dataset: DatasetVersioned, override: Override | None
    ) -> Release | GateRefusal:
        """Ask the gate and, when it agrees or is overridden, make the release's folder."""
        ...


class Importer(Protocol):
    """Brings in models that were made elsewhere, through the same gate."""

    def bring_in(self, request: TurnRequest) -> Release | GateRefusal:
        """Measure the staged model, ask the gate and, when it agrees or is overridden, make the
        release's folder. The same request twice comes to the same release.

        Raises ArtefactError for a model that is not what it should be, or cannot be served."""
        ...

    def forget(self, request: TurnRequest) -> None:
        """Remove what was staged for a request that has been dealt with."""
        ...


class RetrainingTransaction(Protocol):
    """What one transaction of the trainer offers."""

    turns: TurnStore
    labels: LabelStore
    datasets: DatasetStore
    releases: ReleaseStore
    outbox: Outbox
