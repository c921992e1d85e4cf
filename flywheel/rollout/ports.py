"""What rollouts need of a database: evidence, rollouts and their transitions, commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeGuard

import msgspec

from flywheel.contracts.events import (
    Event,
    LabelRecorded,
    LabelSettled,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.labels import TRUSTED
from flywheel.contracts.publishing import Outbox
from flywheel.contracts.release import Override, Release
from flywheel.contracts.split import RolloutState

CommandKind = Literal["pause", "resume", "promote", "rollback", "start", "restore"]
# Requests routed by the split before last may still arrive so long after a step began; they are
# left out of the step's own counts.
SETTLE = timedelta(seconds=3)
REFUSED, WITHDRAWN = "refused: ", "withdrawn: "


class StepCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm did of the requests that were assigned while the challenger had one ``share``
    of live traffic: a step. None stands for those recorded before the share was.

    The counts are those of ``ArmSummary``, of this step alone.
    """

    share: float | None = None
    requests: int = 0
    errors: int = 0
    shadow_requests: int = 0
    shadow_errors: int = 0
    latency_buckets: tuple[tuple[int, int], ...] = ()


class ArmSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Live traffic of one arm in one rollout.

    ``latency_buckets`` are (``latency_bucket`` of the latency, how many), over *all* live answers
    of the rollout that were no errors: tests that hold at any look need the whole, not a window.
    ``audited`` live answers have an expert's label that was drawn uniformly; ``correct`` of them
    are right. ``shadow_requests`` and ``shadow_errors`` count what it answered without being seen.
    ``steps`` are the same counts step by step, by rising share; arms compare within those only.
    """

    requests: int = 0
    errors: int = 0
    audited: int = 0
    correct: int = 0
    latency_buckets: tuple[tuple[int, int], ...] = ()
    shadow_requests: int = 0
    shadow_errors: int = 0
    steps: tuple[StepCounts, ...] = ()


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Live requests and the distinct ``unit``s that sent them, per arm, since some moment.

    ``heaviest_requests`` are those of the one unit that sent most.
    """

    champion_requests: int = 0
    challenger_requests: int = 0
    champion_units: int = 0
    challenger_units: int = 0
    heaviest_requests: int = 0

    @property
    def units(self) -> int:
        """The units of both arms."""
        return self.champion_units + self.challenger_units

    @property
    def requests(self) -> int:
        """The requests of both arms."""
        return self.champion_requests + self.challenger_requests


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One audited sample that both arms scored: 1 where the arm's answer equals the label."""

    sample_id: str
    champion_correct: bool
    challenger_correct: bool
    inclusion_probability: float
    labelled_at: datetime


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One audited sample of a rollout, and whether each arm was right; None: it did not answer.

    An arm that answered live and in shadow counts as it answered live; ``champion_live`` and
    ``challenger_live`` are None where it was in shadow alone. ``seq`` rises with every change; one
    that is ``gone`` was judged once and has no label any more.
    """

    sample_id: str
    seq: int
    gone: bool
    champion: bool | None
    champion_live: bool | None
    challenger: bool | None
    challenger_live: bool | None
    inclusion_probability: float
    event_id: str
    labelled_at: datetime


def is_answer(event: Event) -> TypeGuard[TrafficRecorded | ShadowRecorded]:
    """Whether an event says something of a release and its arm.

    A failure while no model server answered anything says nothing of the arm, and an answer that
    nobody waited for is given again to who repeats the request.
    """
    if isinstance(event, TrafficRecorded):
        return event.release is not None and not (event.outage or event.abandoned)
    return isinstance(event, ShadowRecorded)


def is_truth(event: Event) -> TypeGuard[LabelRecorded | LabelSettled]:
    """Whether an event says what is true of a sample."""
    if isinstance(event, LabelRecorded):
        return event.source in TRUSTED
    return isinstance(event, LabelSettled)


class EvidenceIntake(Protocol):
    """Written by the evidence agent alone. Idempotent; any order of events will do."""

    def record(self, events: Sequence[Event]) -> None:
        """Keep what each live request says of its release and arm, what the other arm would have
        answered (one row a sample, release), and the true label of each sample: settled by
        experts, or a user's or an outcome. Other events are passed over."""
        ...


class Evidence(Protocol):
    """Read by the controller and the console. What it costs does not grow with the traffic."""

    def arms(self, rollout_id: str) -> tuple[ArmSummary, ArmSummary]:
        """(champion, challenger) on the traffic of this rollout, without what audits found."""
        ...

    def judged(self, rollout_id: str, after: int = 0) -> list[Judged]:
        """The audited samples that an arm of this rollout answered and whose row changed after
        ``after``, a ``seq`` that was read before; in no order."""
        ...

    def assignment(self, rollout_id: str, since: datetime) -> Assignment:
        """What each arm got live of the requests that occurred at ``since`` or later."""
        ...


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The life of one challenger. ``step`` indexes the plan's shares; -1 before the first.

    Without ``steps`` a former champion is restored: it takes all traffic once it answers.

    ``unready_since`` is when the challenger stopped answering on the model servers, and
    ``resumed_at`` when a person last let the rollout go on. ``revision`` counts its transitions:
    whoever decides on one state of it can't change another.
    """

    rollout_id: str
    task: str
    champion: str
    challenger: str
    state: RolloutState
    step: int
    share: float
    started_at: datetime
    step_started_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    looks_used: int = 0
    steps: tuple[float, ...] = ()
    resume_to: RolloutState | None = None
    unready_since: datetime | None = None
    resumed_at: datetime | None = None
    revision: int = 0


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a rollout: what was decided, by whom, on which evidence."""

    rollout_id: str
    at: datetime
    state: RolloutState
    share: float
    decided_by: str
    reason: str
    evidence: dict[str, object] = {}


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asked for. Recorded by the console or the CLI, carried out by the controller.

    ``rollout_id`` is the rollout that the person saw: the running one; for ``start`` the latest
    one. None where there was none. ``promote``, ``resume`` and ``start`` also name its
    ``revision`` then, and are refused at any other. For ``start`` the ``release`` is the
    challenger, and a failed gate needs an override; for ``restore`` it is a former champion, whose
    folder was verified before this was recorded."""

    command_id: str
    task: str
    kind: CommandKind
    by: str
    why: str
    at: datetime
    rollout_id: str | None
    revision: int | None = None
    release: str | None = None
    override: Override | None = None


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A command and how it went: the state that it led to, or ``refused: why``, or ``withdrawn:
    why``; None while it waits."""

    command: Command
    outcome: str | None = None
    at: datetime | None = None

    @property
    def accepted(self) -> bool:
        """Whether it was carried out."""
        return self.outcome is not None and not self.outcome.startswith((REFUSED, WITHDRAWN))


class RolloutStore(Protocol):
    """Rollouts and transitions: written by the controller alone."""

    def active(self, task: str) -> Rollout | None:
        """The rollout of a task that has not ended."""
        ...

    def running(self) -> list[Rollout]:
        """The rollouts of all tasks that have not ended."""
        ...

    def due(self) -> dict[str, bool]:
        """Tasks of which the controller may have something to do: a rollout runs, a release or a
        command waits; True where a command does. One question for all tasks."""
        ...

    def champion(self, task: str) -> str | None:
        """The release that serves a task."""
        ...

    def champions(self) -> dict[str, str]:
        """Task → the release that serves it, of every task there ever was."""
        ...

    def was_champion(self, task: str, release: str) -> bool:
        """Whether a release serves a task or ever served it."""
        ...

    def set_champion(self, task: str, release: str) -> None:
        """Make a release the one that serves a task."""
        ...

    def save(self, rollout: Rollout, transition: Transition | None) -> None:
        """Insert or replace a rollout, with the transition that led to it.

        Raises Conflict unless the stored one has ``rollout``'s revision (0 when it is new); a
        transition raises it by one.
        """
        ...

    def find(self, rollout_id: str) -> Rollout | None:
        """One rollout, or None."""
        ...

    def history(self, task: str, limit: int = 50, skip: int = 0) -> list[Rollout]:
        """Newest first, without the newest ``skip``."""
        ...

    def transitions(self, rollout_id: str) -> list[Transition]:
        """Oldest first."""
        ...


class CommandStore(Protocol):
    """Commands: added by the console or the CLI, marked done by the controller (by whoever asks
    when they are refused on the spot, or withdrawn)."""

    def add(self, command: Command) -> None:
        """Record a command; the same id twice changes nothing.

        The rollout that it names can't change until the transaction ends.
        """
        ...

    def pending(self, task: str) -> list[Command]:
        """The commands that are not yet carried out, oldest first."""
        ...

    def done(self, command_id: str, outcome: str) -> bool:
        """Mark one carried out (or refused), and say how it went; False where that was said."""
        ...

    def asked(self, command_id: str) -> CommandRecord | None:
        """One command with its outcome, or None."""
        ...

    def history(self, task: str, limit: int = 50) -> list[CommandRecord]:
        """Newest first."""
        ...

    def of_rollout(self, rollout_id: str) -> list[CommandRecord]:
        """All that named a rollout, oldest first."""
        ...


class Challengers(Protocol):
    """Releases waiting for a rollout: written by the controller from ReleaseRegistered events."""

    def enqueue(self, task: str, release: str, registered_at: datetime, gate_passed: bool) -> None:
        """Remember a registered release; the same one twice changes nothing."""
        ...

    def waiting(self, task: str) -> list[str]:
        """Releases that passed the gate (or were overridden) and had no rollout, oldest first."""
        ...

    def gate(self, task: str, release: str) -> bool | None:
        """Whether a registered release passed the gate (or was overridden); None: not known."""
        ...

    def taken(self, release: str) -> bool:
        """A rollout of this release began, or it was made champion, or it was passed over; False
        where that was known."""
        ...

    def pruned(self, release: str) -> str:
        """Why a release's bytes are gone for good; empty: they are not."""
        ...


class ReleaseReader(Protocol):
    """The registry, as far as it says what the gate decided and how a release is served."""

    def get(self, release: str) -> Release | None:
        """One release, or None."""
        ...


class RolloutTransaction(Protocol):
    """What one transaction of the controller offers."""

    @property
    def releases(self) -> ReleaseReader:
        """The registry."""
        ...

    rollouts: RolloutStore
    commands: CommandStore
    challengers: Challengers
    evidence: Evidence
    outbox: Outbox
