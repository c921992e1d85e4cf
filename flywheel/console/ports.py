"""What the console's pages read: the stages' stores, and counts over the traffic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from flywheel.contracts.publishing import Outbox
from flywheel.contracts.stores import AuditLog, DatasetStore, LabelStore, ReleaseStore
from flywheel.retraining.ports import TurnStore
from flywheel.review.ports import ReviewDesk
from flywheel.rollout.ports import Challengers, CommandStore, Evidence, RolloutStore


class TrafficOverview(Protocol):
    """Counts over recorded traffic and labels, made by the database."""

    def traffic_counts(self, task: str) -> dict[str, Any]:
        """requests, failed, releases (release → requests), first, last."""
        ...

    def traffic_series(
        self, task: str, bucket_seconds: int, limit: int
    ) -> list[tuple[Any, int, int, int, int]]:
        """(bucket's start, requests, champion, challenger, errors), oldest first."""
        ...

    def coverage(self, task: str) -> dict[str, int]:
        """Samples by who labelled them: auto, expert, none."""
        ...

    def texts(self, task: str, sample_ids: Sequence[str]) -> dict[str, str]:
        """The texts of a few samples, of those that are known."""
        ...


class EndedSessions(Protocol):
    """Sessions that somebody signed out of before they ran out."""

    def end(self, session: str, expires: datetime, now: datetime) -> None:
        """Remember a session as ended for as long as its token would hold."""
        ...

    def ended(self, session: str) -> bool:
        """Whether a session was ended."""
        ...


class ConsoleTransaction(Protocol):
    """What one transaction of the console offers."""

    desk: ReviewDesk
    labels: LabelStore
    datasets: DatasetStore
    releases: ReleaseStore
    turns: TurnStore
    audits: AuditLog
    rollouts: RolloutStore
    commands: CommandStore
    challengers: Challengers
    evidence: Evidence
    outbox: Outbox
    sessions: EndedSessions

    @property
    def overview(self) -> TrafficOverview:
        """The counts over traffic."""
        ...


Transactions = Callable[[], AbstractContextManager[Any]]
Clock = Callable[[], datetime]
