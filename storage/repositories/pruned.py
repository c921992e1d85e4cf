"""Releases whose bytes were taken away, and what decides which may be."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update

from flywheel.retention.releases import PrunedRelease, ReleaseUse
from storage.repositories.versions import SqlReleases, every_release
from storage.tables.columns import table_of
from storage.tables.retention import PrunedReleaseRow
from storage.tables.rollouts import (
    ChallengerRow,
    ChampionRow,
    CommandOutcomeRow,
    CommandRow,
    RolloutRow,
    TakenChallengerRow,
)
from storage.tables.training import TurnRow
from storage.work import Work

_pruned = table_of(PrunedReleaseRow)
_champions = table_of(ChampionRow)
_rollouts = table_of(RolloutRow)
_challengers = table_of(ChallengerRow)
_taken = table_of(TakenChallengerRow)
_turns = table_of(TurnRow)
_commands = table_of(CommandRow)
_outcomes = table_of(CommandOutcomeRow)


class SqlPrunedReleases:
    """Written by the trainer, or whoever runs retention by hand."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def hold(self) -> None:
        """Let nobody ask for a release until the transaction ends: whoever did before is seen, and
        whoever does so next sees what was pruned."""
        self._work.hold([_commands.name])

    def add(self, release: str, task: str, at: datetime, why: str) -> None:
        """A release's bytes are about to be taken away."""
        row = {"release": release, "task": task, "at": at, "why": why, "done": False}
        self._work.add(_pruned, [row], ["release"])

    def done(self, release: str) -> None:
        """They are gone."""
        self._work.run(update(_pruned).where(_pruned.c.release == release).values(done=True))

    def get(self, release: str) -> PrunedRelease | None:
        """When and why a release was pruned; None: it was not."""
        row = self._work.row(select(_pruned).where(_pruned.c.release == release))
        return None if row is None else PrunedRelease(**row._mapping)

    def history(self, task: str) -> list[PrunedRelease]:
        """Every pruned release of a task."""
        rows = self._work.rows(select(_pruned).where(_pruned.c.task == task).order_by(_pruned.c.at))
        return [PrunedRelease(**row._mapping) for row in rows]

    def addresses(self) -> set[str]:
        """Where every release that was not pruned is kept, with its base; of whatever task."""
        gone = {row.release for row in self._work.rows(select(_pruned.c.release))}
        kept = [one for one in every_release(self._work) if one.release not in gone]
        return {at for one in kept for at in (one.address, one.base_address) if at is not None}

    def turn_running(self, task: str) -> bool:
        """Whether a turn of the task is under way, which may read any release."""
        running = select(_turns.c.turn_id).where(_turns.c.task == task, _turns.c.ended_at.is_(None))
        return self._work.row(running.limit(1)) is not None

    def uses(self, task: str) -> list[ReleaseUse]:
        """Every release of a task that was not pruned, oldest first, and what it is needed for."""
        served = self._work.rows(
            select(_champions.c.release, _champions.c.since)
            .where(_champions.c.task == task)
            .order_by(_champions.c.id)
        )
        until: dict[str, datetime | None] = {}
        for one, following in zip(served, [*served[1:], None], strict=False):
            until[one.release] = None if following is None else following.since
        running = self._work.rows(
            select(_rollouts.c.champion, _rollouts.c.challenger).where(
                _rollouts.c.task == task, _rollouts.c.ended_at.is_(None)
            )
        )
        tried = {name for row in running for name in (row.champion, row.challenger)}
        waiting = self._work.rows(
            select(_challengers.c.release).where(
                _challengers.c.task == task,
                _challengers.c.gate_passed.is_(True),
                _challengers.c.release.not_in(select(_taken.c.release)),
            )
        )
        asked = self._work.rows(
            select(_commands.c.release).where(
                _commands.c.task == task,
                _commands.c.release.is_not(None),
                _commands.c.command_id.not_in(select(_outcomes.c.command_id)),
            )
        )
        needed = tried | {row.release for row in (*waiting, *asked)}
        pruned = {one.release for one in self.history(task)}
        return [
            ReleaseUse(
                release=one.release,
                dataset_version=one.dataset_version,
                parent=one.parent,
                registered_at=one.created_at,
                champion=one.release in until and until[one.release] is None,
                served_until=until.get(one.release),
                needed=one.release in needed,
            )
            for one in SqlReleases(self._work).history(task)
            if one.release not in pruned
        ]
