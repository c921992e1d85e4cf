"""Rollouts, transitions, champions and waiting challengers; and the commands of people."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select, func, literal, select, union

from flywheel.contracts.ids import utc_now
from flywheel.errors import Conflict
from flywheel.retention.releases import PrunedRelease
from flywheel.rollout.ports import Command, CommandRecord, Rollout, Transition
from storage.repositories.versions import override_of, override_values
from storage.tables.columns import table_of
from storage.tables.retention import PrunedReleaseRow
from storage.tables.rollouts import (
    ChallengerRow,
    ChampionRow,
    CommandOutcomeRow,
    CommandRow,
    RolloutRow,
    TakenChallengerRow,
    TransitionRow,
)
from storage.work import Work, arrived

_rollouts = table_of(RolloutRow)
_transitions = table_of(TransitionRow)
_champions = table_of(ChampionRow)
_challengers = table_of(ChallengerRow)
_taken = table_of(TakenChallengerRow)
_commands = table_of(CommandRow)
_outcomes = table_of(CommandOutcomeRow)
_pruned = table_of(PrunedReleaseRow)

# Asked again and again, so made once: of each task whether a command waits, or there is other work.
_DUE = union(
    select(_rollouts.c.task, literal(0).label("command")).where(_rollouts.c.ended_at.is_(None)),
    select(_commands.c.task, literal(1)).where(
        _commands.c.command_id.not_in(select(_outcomes.c.command_id))
    ),
    select(_challengers.c.task, literal(0)).where(
        _challengers.c.release.not_in(select(_taken.c.release)),
        _challengers.c.gate_passed.is_(True),
    ),
)


class SqlRollouts:
    """``rollout.ports.RolloutStore``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def active(self, task: str) -> Rollout | None:
        row = self._work.row(
            select(_rollouts).where(_rollouts.c.task == task, _rollouts.c.ended_at.is_(None))
        )
        return None if row is None else _rollout(dict(row._mapping))

    def running(self) -> list[Rollout]:
        rows = self._work.rows(
            select(_rollouts).where(_rollouts.c.ended_at.is_(None)).order_by(_rollouts.c.task)
        )
        return [_rollout(dict(row._mapping)) for row in rows]

    def due(self) -> dict[str, bool]:
        due: dict[str, bool] = {}
        for row in self._work.rows(_DUE):
            due[row.task] = due.get(row.task, False) or bool(row.command)
        return due

    def champions(self) -> dict[str, str]:
        latest = select(func.max(_champions.c.id)).group_by(_champions.c.task)
        rows = self._work.rows(select(_champions).where(_champions.c.id.in_(latest)))
        return {row.task: row.release for row in sorted(rows, key=lambda row: row.task)}

    def champion(self, task: str) -> str | None:
        row = self._work.row(
            select(_champions.c.release)
            .where(_champions.c.task == task)
            .order_by(_champions.c.id.desc())
            .limit(1)
        )
        return None if row is None else str(row.release)

    def was_champion(self, task: str, release: str) -> bool:
        row = self._work.row(
            select(_champions.c.id)
            .where(_champions.c.task == task, _champions.c.release == release)
            .limit(1)
        )
        return row is not None

    def set_champion(self, task: str, release: str, at: datetime | None = None) -> None:
        """Make a release the one that serves a task (``at`` None: from now on)."""
        if self.champion(task) != release:
            since = at or utc_now()
            values = {"task": task, "release": release, "since": since}
            self._work.run(_champions.insert().values(**values))

    def save(self, rollout: Rollout, transition: Transition | None) -> None:
        """Insert or replace a rollout, with the transition that led to it.

        Raises Conflict when the stored one has another revision, or when another rollout of the
        task has not ended.
        """
        more = 0 if transition is None else 1
        values = msgspec.structs.asdict(rollout)
        values |= {"steps": list(rollout.steps), "revision": rollout.revision + more}
        # PostgreSQL looks at the row again once whoever holds it has committed.
        unchanged = _rollouts.c.revision == rollout.revision
        if not self._work.put(_rollouts, [values], ["rollout_id"], lambda _: unchanged):
            raise Conflict(f"rollout {rollout.rollout_id} has changed meanwhile")
        if transition is not None:
            self._work.run(_transitions.insert().values(**msgspec.structs.asdict(transition)))

    def find(self, rollout_id: str) -> Rollout | None:
        row = self._work.row(select(_rollouts).where(_rollouts.c.rollout_id == rollout_id))
        return None if row is None else _rollout(dict(row._mapping))

    def history(self, task: str, limit: int = 50, skip: int = 0) -> list[Rollout]:
        rows = self._work.rows(
            select(_rollouts)
            .where(_rollouts.c.task == task)
            .order_by(_rollouts.c.started_at.desc(), _rollouts.c.rollout_id.desc())
            .limit(limit)
            .offset(skip)
        )
        return [_rollout(dict(row._mapping)) for row in rows]

    def transitions(self, rollout_id: str) -> list[Transition]:
        rows = self._work.rows(
            select(*(c for c in _transitions.c if c.name != "id"))
            .where(_transitions.c.rollout_id == rollout_id)
            .order_by(_transitions.c.id)
        )
        return [Transition(**row._mapping) for row in rows]


class SqlCommands:
    """``rollout.ports.CommandStore``; outcomes are a table of their own, the controller's."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def add(self, command: Command) -> None:
        """Record a command; the same id twice changes nothing.

        The rollout that it names can't change until the transaction ends: the controller, which
        looks for commands after its change and before it commits, meets this one.
        """
        self._work.row(
            select(_rollouts.c.rollout_id)
            .where(_rollouts.c.rollout_id == command.rollout_id)
            .with_for_update()
        )
        values = msgspec.structs.asdict(command)
        values["who"] = values.pop("by")
        values["override"] = override_values(command.override)
        self._work.add(_commands, [values], ["command_id"])

    def pending(self, task: str) -> list[Command]:
        done = select(_outcomes.c.command_id)
        rows = self._work.rows(
            select(_commands)
            .where(_commands.c.task == task, _commands.c.command_id.not_in(done))
            .order_by(_commands.c.at, _commands.c.command_id)
        )
        return [_command(dict(row._mapping)) for row in rows]

    def done(self, command_id: str, outcome: str) -> bool:
        values = {"command_id": command_id, "outcome": outcome, "at": utc_now()}
        return self._work.add(_outcomes, [values], ["command_id"]) == 1

    def asked(self, command_id: str) -> CommandRecord | None:
        row = self._work.row(_with_outcome().where(_commands.c.command_id == command_id))
        return None if row is None else _asked(dict(row._mapping))

    def history(self, task: str, limit: int = 50) -> list[CommandRecord]:
        rows = self._work.rows(
            _with_outcome()
            .where(_commands.c.task == task)
            .order_by(_commands.c.at.desc(), _commands.c.command_id.desc())
            .limit(limit)
        )
        return [_asked(dict(row._mapping)) for row in rows]

    def of_rollout(self, rollout_id: str) -> list[CommandRecord]:
        rows = self._work.rows(
            _with_outcome()
            .where(_commands.c.rollout_id == rollout_id)
            .order_by(_commands.c.at, _commands.c.command_id)
        )
        return [_asked(dict(row._mapping)) for row in rows]


class SqlChallengers:
    """``rollout.ports.Challengers``. ``taken`` may come before ``enqueue``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def enqueue(self, task: str, release: str, registered_at: datetime, gate_passed: bool) -> None:
        values = {
            "release": release,
            "task": task,
            "registered_at": arrived(registered_at),
            "gate_passed": gate_passed,
        }
        self._work.add(_challengers, [values], ["release"])

    def waiting(self, task: str) -> list[str]:
        rows = self._work.rows(
            select(_challengers.c.release)
            .where(
                _challengers.c.task == task,
                _challengers.c.release.not_in(select(_taken.c.release)),
                _challengers.c.gate_passed.is_(True),
            )
            .order_by(_challengers.c.registered_at, _challengers.c.release)
        )
        return [row.release for row in rows]

    def gate(self, task: str, release: str) -> bool | None:
        row = self._work.row(
            select(_challengers.c.gate_passed).where(
                _challengers.c.task == task, _challengers.c.release == release
            )
        )
        return None if row is None else bool(row.gate_passed)

    def taken(self, release: str) -> bool:
        return self._work.add(_taken, [{"release": release}], ["release"]) == 1

    def pruned(self, release: str) -> str:
        row = self._work.row(select(_pruned).where(_pruned.c.release == release))
        return "" if row is None else PrunedRelease(**row._mapping).described


def _rollout(values: dict[str, object]) -> Rollout:
    values["steps"] = tuple(values["steps"])  # type: ignore[arg-type]
    return Rollout(**values)  # type: ignore[arg-type]


def _command(values: dict[str, object]) -> Command:
    values["by"] = values.pop("who")
    values["override"] = override_of(values["override"])  # type: ignore[arg-type]
    return Command(**values)  # type: ignore[arg-type]


def _with_outcome() -> Select[Any]:
    return select(_commands, _outcomes.c.outcome, _outcomes.c.at.label("done_at")).join_from(
        _commands, _outcomes, _outcomes.c.command_id == _commands.c.command_id, isouter=True
    )


def _asked(values: dict[str, object]) -> CommandRecord:
    outcome, at = values.pop("outcome"), values.pop("done_at")
    return CommandRecord(command=_command(values), outcome=outcome, at=at)  # type: ignore[arg-type]
