"""What the registry reads of a database. It writes nothing: the trainer and the controller do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from flywheel.contracts.split import RolloutState
from flywheel.contracts.stores import DatasetStore, ReleaseStore


class RolloutLine(Protocol):
    """One rollout: who was tried against whom, and by which steps."""

    @property
    def rollout_id(self) -> str:
        """Its id."""
        ...

    @property
    def champion(self) -> str:
        """The release that served when it began."""
        ...

    @property
    def challenger(self) -> str:
        """The release that was tried."""
        ...

    @property
    def state(self) -> RolloutState:
        """How it stands."""
        ...

    @property
    def ended_at(self) -> datetime | None:
        """When it ended."""
        ...

    @property
    def resumed_at(self) -> datetime | None:
        """When a person last let it go on."""
        ...

    @property
    def steps(self) -> tuple[float, ...]:
        """Its shares; none where a former champion was restored."""
        ...


class TransitionLine(Protocol):
    """One change of a rollout."""

    @property
    def at(self) -> datetime:
        """When."""
        ...

    @property
    def state(self) -> RolloutState:
        """What it became."""
        ...

    @property
    def share(self) -> float:
        """The challenger's share of live traffic from then on."""
        ...

    @property
    def decided_by(self) -> str:
        """The controller, or a person."""
        ...

    @property
    def reason(self) -> str:
        """Why, with numbers."""
        ...


class RolloutReader(Protocol):
    """The controller's rollouts, as the registry reads them."""

    def champion(self, task: str) -> str | None:
        """The release that serves a task."""
        ...

    def history(self, task: str, limit: int = 50) -> Sequence[RolloutLine]:
        """Newest first."""
        ...

    def transitions(self, rollout_id: str) -> Sequence[TransitionLine]:
        """Oldest first."""
        ...


class RegistryReading(Protocol):
    """What one transaction of the registry reads."""

    @property
    def releases(self) -> ReleaseStore:
        """Registered releases."""
        ...

    @property
    def datasets(self) -> DatasetStore:
        """Dataset versions."""
        ...

    @property
    def rollouts(self) -> RolloutReader:
        """Rollouts and their transitions."""
        ...
