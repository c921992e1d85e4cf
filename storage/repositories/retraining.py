"""Turns of the wheel, and requests for one."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from sqlalchemy import String, and_, case, cast, func, literal, select, union_all

from flywheel.contracts.leases import presence
from flywheel.retraining.ports import Ahead, Turn, TurnRequest
from storage.repositories.versions import override_of, override_values
from storage.tables.columns import table_of
from storage.tables.labels import LabelClockRow
from storage.tables.leases import LeaseRow
from storage.tables.rollouts import RolloutRow
from storage.tables.training import FinishedRequestRow, TurnRequestRow, TurnRow
from storage.work import Work

_turns = table_of(TurnRow)
_leases = table_of(LeaseRow)
_requests = table_of(TurnRequestRow)
_finished = table_of(FinishedRequestRow)
_clocks = table_of(LabelClockRow)
_rollouts = table_of(RolloutRow)

# Asked again and again, so made once: what changes where a turn may be due.
_MARKS = union_all(
    select(
        _clocks.c.task,
        literal("labels").label("kind"),
        cast(_clocks.c.settled_at, String).label("mark"),
    ),
    select(_requests.c.task, literal("request"), _requests.c.request_id).where(
        _requests.c.request_id.not_in(select(_finished.c.request_id))
    ),
    select(_turns.c.task, literal("turn"), _turns.c.turn_id).where(_turns.c.state == "running"),
    select(_rollouts.c.task, literal("rollout"), _rollouts.c.rollout_id).where(
        _rollouts.c.ended_at.is_(None)
    ),
)


class SqlTurns:
    """``retraining.ports.TurnStore``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def stirred(self, tasks: Collection[str]) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {task: set() for task in tasks}
        for row in self._work.rows(_MARKS):
            if row.task in found:
                found[row.task].add(f"{row.kind} {row.mark}")
        return {task: frozenset(own) for task, own in found.items()}

    def request(self, request: TurnRequest) -> None:
        values = msgspec.structs.asdict(request)
        values["who"] = values.pop("by")
        values["override"] = override_values(request.override)
        self._work.add(_requests, [values], ["request_id"])

    def take_request(self, task: str, first: str = "") -> TurnRequest | None:
        done = select(_finished.c.request_id)
        row = self._work.row(
            select(_requests)
            .where(_requests.c.task == task, _requests.c.request_id.not_in(done))
            .order_by(
                case((_requests.c.request_id == first, 0), else_=1),
                _requests.c.at,
                _requests.c.request_id,
            )
            .limit(1)
        )
        if row is None:
            return None
        values = dict(row._mapping)
        values["by"] = values.pop("who")
        values["override"] = override_of(values["override"])
        return TurnRequest(**values)

    def finish_request(self, request_id: str) -> None:
        self._work.add(_finished, [{"request_id": request_id}], ["request_id"])

    def ahead(self, task: str, tasks: Collection[str]) -> Ahead:
        live = and_(
            _leases.c.name.startswith(presence("trainer"), autoescape=True),
            _leases.c.expires_at > self._work.clock(),
        )
        trainers = len(self._work.rows(select(_leases.c.name).where(live)))
        running = [
            Turn(**row._mapping)
            for row in self._work.rows(
                select(_turns)
                .where(_turns.c.state == "running", _turns.c.task.in_(tasks))
                .order_by(_turns.c.started_at.desc())
            )
        ]
        own = next((one for one in running if one.task == task), None)
        turn = own or (running[0] if running and len(running) >= trainers else None)
        asked = self._work.row(
            select(func.count())
            .select_from(_requests)
            .where(
                _requests.c.task == task,
                _requests.c.request_id.not_in(select(_finished.c.request_id)),
                _requests.c.request_id != ("" if turn is None else turn.turn_id),
            )
        )
        return Ahead(
            trainer=trainers > 0,
            running=turn,
            asked=0 if asked is None else asked[0],
        )

    def save(self, turn: Turn) -> None:
        self._work.put(_turns, [msgspec.structs.asdict(turn)], ["turn_id"])

    def history(self, task: str, limit: int = 50) -> list[Turn]:
        rows = self._work.rows(
            select(_turns)
            .where(_turns.c.task == task)
            .order_by(_turns.c.started_at.desc(), _turns.c.turn_id.desc())
            .limit(limit)
        )
        return [Turn(**row._mapping) for row in rows]
