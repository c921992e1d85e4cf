"""Leases: taken, renewed and lost by the database's own clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, select, update

from flywheel.contracts.leases import Lease
from flywheel.errors import LeaseLost
from storage.tables.columns import table_of
from storage.tables.leases import LeaseRow
from storage.work import Work

_leases = table_of(LeaseRow)
# A holder that hangs in the middle of a transaction keeps its rows locked on PostgreSQL: so long.
_LONGEST_PAUSE = "3s"


class SqlLeases:
    """``contracts.leases.LeaseStore``. Who waits for a lease passes over one whose row is locked:
    a transaction of its holder is under way."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        free = {"name": name, "holder": "", "token": 0, "expires_at": 0.0}
        self._work.add(_leases, [free], ["name"])
        now = self._work.clock()
        row = self._work.row(
            select(_leases.c.token)
            .where(_leases.c.name == name, _leases.c.expires_at <= now)
            .with_for_update(skip_locked=True)
        )
        if row is None:
            return None
        lease = Lease(name=name, holder=holder, token=row.token + 1)
        self._work.run(
            update(_leases)
            .where(_leases.c.name == name)
            .values(holder=holder, token=lease.token, expires_at=now + seconds)
        )
        return lease

    def renew(self, holder: str, seconds: float) -> list[Lease]:
        mine = (
            select(_leases.c.name)
            .where(_leases.c.holder == holder)
            .with_for_update(skip_locked=True)
        )
        until = self._work.clock() + seconds
        self._work.run(update(_leases).where(_leases.c.name.in_(mine)).values(expires_at=until))
        return self._read(select(_leases).where(_leases.c.holder == holder))

    def release(self, holder: str, names: Collection[str]) -> None:
        # The row stays: its token must never come again.
        self._work.run(
            update(_leases)
            .where(_leases.c.holder == holder, _leases.c.name.in_(list(names)))
            .values(holder="", expires_at=0.0)
        )

    def live(self, role: str = "") -> Sequence[Lease]:
        living = select(_leases).where(_leases.c.expires_at > self._work.clock())
        if role:
            living = living.where(_leases.c.name.startswith(role, autoescape=True))
        return self._read(living)

    def require(self, lease: Lease) -> None:
        if not self._work.sqlite:
            self._work.connection.exec_driver_sql(
                f"SET LOCAL idle_in_transaction_session_timeout = '{_LONGEST_PAUSE}'"
            )
        row = self._work.row(
            select(_leases.c.name)
            .where(
                _leases.c.name == lease.name,
                _leases.c.holder == lease.holder,
                _leases.c.token == lease.token,
            )
            .with_for_update(read=True)
        )
        if row is None:
            raise LeaseLost(
                f"{lease.holder} does not hold {lease.name} any more: what it was about to write "
                "is left to who does"
            )

    def forget(self, prefix: str, holder: str = "") -> None:
        named = _leases.c.name.startswith(prefix, autoescape=True)
        gone = _leases.c.holder == holder if holder else _leases.c.expires_at <= self._work.clock()
        self._work.run(delete(_leases).where(named, gone))

    def _read(self, statement: object) -> list[Lease]:
        rows = self._work.rows(statement)  # type: ignore[arg-type]
        return [Lease(name=row.name, holder=row.holder, token=row.token) for row in rows]
