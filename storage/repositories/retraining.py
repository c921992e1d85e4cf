"""Turns of the wheel, the lease that keeps one at a time, and requests for one."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import case, func, or_, select

from flywheel.retraining.ports import Ahead, Turn, TurnRequest
from storage.repositories.versions import override_of, override_values
from storage.tables.columns import table_of
from storage.tables.training import FinishedRequestRow, LeaseRow, TurnRequestRow, TurnRow
from storage.work import Work

_turns = table_of(TurnRow)
_leases = table_of(LeaseRow)
_requests = table_of(TurnRequestRow)
_finished = table_of(FinishedRequestRow)


class SqlTurns:
    """``retraining.ports.TurnStore``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def acquire(self, task: str, holder: str, now: datetime, seconds: float) -> bool:
        lease = {"task": task, "holder": holder, "expires_at": now + timedelta(seconds=seconds)}
        mine_or_over = or_(_leases.c.holder == holder, _leases.c.expires_at <= now)
        return self._work.put(_leases, [lease], ["task"], lambda _: mine_or_over) == 1

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

    def ahead(self, task: str, tasks: Collection[str], now: datetime) -> Ahead:
        live = select(_leases.c.task).where(_leases.c.expires_at > now).limit(1)
        running = self._work.row(
            select(_turns)
            .where(_turns.c.state == "running", _turns.c.task.in_(tasks))
            .order_by(_turns.c.started_at.desc())
            .limit(1)
        )
        turn = None if running is None else Turn(**running._mapping)
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
            trainer=self._work.row(live) is not None,
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
