"""The leases of one process: renewed from a thread, and shared evenly with others of its role."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping

import structlog
from prometheus_client import Gauge

from flywheel.contracts.leases import LEASE_SECONDS, OUTBOX, Lease, duty, presence
from flywheel.errors import FlywheelError
from flywheel.monitoring.threads import LastingThread
from storage.database import Database, Transaction

ROUND_SECONDS = 1.0

_log = structlog.get_logger(__name__)
_held = Gauge("flywheel_leases", "1 while this process holds the lease.", ["lease"])
_members = Gauge("flywheel_lease_members", "Processes of this role that live.", ["role"])


def moves(
    tasks: Collection[str], mine: Collection[str], taken: Collection[str], members: int
) -> tuple[list[str], list[str]]:
    """(tasks to take, tasks to give up) for a member that has ``mine`` while others have ``taken``:
    everyone comes to a like share, and nothing moves without need."""
    share = math.ceil(len(tasks) / max(1, members))
    over = sorted(mine)[share:]
    free = [task for task in sorted(tasks) if task not in mine and task not in taken]
    return free[: max(0, share - len(mine))], over


class Leases:
    """Thread-safe. What this process may do alone, and with which token.

    It takes the outbox of its ``role`` when nobody has that, its share of ``tasks``, and whatever
    else is asked for by ``acquire``. ``lost`` is told of a lease that another took meanwhile.
    """

    def __init__(
        self,
        database: Database,
        role: str,
        holder: str,
        *,
        tasks: Collection[str] = (),
        seconds: float = LEASE_SECONDS,
        lost: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._database = database
        self._role, self._holder, self._seconds = role, holder, seconds
        self._tasks = {duty(role, task) for task in tasks}
        self._lost = lost
        self._lock = threading.Lock()
        self._mine: dict[str, Lease] = {}
        self._asked: set[str] = set()
        self._until = 0.0
        self._stopping = threading.Event()
        self._thread = LastingThread("leases", self._run)

    def start(self) -> None:
        """Take and renew from now on; the first round is over when this returns."""
        self._try()
        self._thread.start()

    def stop(self) -> None:
        """Give everything up, so that others need not wait until it runs out."""
        self._stopping.set()
        self._thread.join(10.0)
        with self._lock:
            names, self._mine = list(self._mine), {}
        try:
            with self._database.transaction() as tx:
                tx.leases.release(self._holder, names)
                tx.leases.forget(presence(self._role), self._holder)
        except FlywheelError as error:
            _log.warning("leases not given up, they run out", reason=str(error))

    def held(self, what: str) -> Lease | None:
        """The lease on a task, or on the outbox, unless it may have run out."""
        lease = self._mine.get(duty(self._role, what))
        return lease if lease is not None and time.monotonic() < self._until else None

    def relays(self) -> bool:
        """Whether this process sends what its role's transactions left in the outbox."""
        return self.held(OUTBOX) is not None

    def acquire(self, what: str) -> Lease | None:
        """Take the lease on one thing until ``release``; None while somebody has it.

        Raises StorageError when the database cannot be reached.
        """
        name = duty(self._role, what)
        with self._lock:
            if name in self._asked:
                return None
            with self._database.transaction() as tx:
                lease = tx.leases.acquire(name, self._holder, self._seconds)
            if lease is not None:
                self._asked.add(name)
                self._keep({**self._mine, name: lease})
            return lease

    def release(self, lease: Lease) -> None:
        """Give up what ``acquire`` took; at the next round where the database is away."""
        with self._lock:
            self._asked.discard(lease.name)
            self._keep({name: one for name, one in self._mine.items() if name != lease.name})
            with self._database.transaction() as tx:
                tx.leases.release(self._holder, [lease.name])

    def round(self) -> None:
        """Renew, take and give up once. Raises StorageError when the database cannot be reached."""
        gone: list[str] = []
        with self._lock:
            began = time.monotonic()
            before = self._mine
            with self._database.transaction() as tx:
                renewed = {
                    lease.name: lease for lease in tx.leases.renew(self._holder, self._seconds)
                }
                mine = self._exchange(tx, renewed)
            gone = [name for name, lease in before.items() if renewed.get(name) != lease]
            gone = [name for name in gone if name != presence(self._role, self._holder)]
            self._until = began + self._seconds
            self._keep(mine)
        for name in gone:
            _log.warning("lease lost to another process", lease=name, holder=self._holder)
            self._lost(name)

    def _exchange(self, tx: Transaction, mine: Mapping[str, Lease]) -> dict[str, Lease]:
        live = tx.leases.live(self._role)
        place = presence(self._role, self._holder)
        members = {lease.holder for lease in live if lease.name.startswith(presence(self._role))}
        _members.labels(self._role).set(len(members | {self._holder}))
        take, give = moves(
            self._tasks,
            self._tasks & mine.keys(),
            {lease.name for lease in live} - mine.keys(),
            len(members | {self._holder}),
        )
        # And what was taken or given up by a word that the database did not answer.
        own = {place, duty(self._role, OUTBOX), *self._tasks, *self._asked}
        give += [name for name in mine if name not in own]
        kept = {name: lease for name, lease in mine.items() if name not in give}
        if give:
            tx.leases.release(self._holder, give)
            _log.info("leases given up", leases=give)
        if place not in kept:
            tx.leases.forget(presence(self._role))
        known = {lease.name for lease in live}
        for name in (place, duty(self._role, OUTBOX), *take):
            if name in kept or name in known:
                continue
            lease = tx.leases.acquire(name, self._holder, self._seconds)
            if lease is not None:
                kept[name] = lease
        return kept

    def _keep(self, mine: dict[str, Lease]) -> None:
        for name in self._mine.keys() - mine.keys():
            _held.labels(name).set(0)
        for name in mine.keys() - self._mine.keys():
            _held.labels(name).set(1)
        self._mine = mine

    def _run(self) -> None:
        # All processes of a machine at once: whoever looks whether the database has changed then
        # finds so once a round, and not for each of them.
        while not self._stopping.wait(ROUND_SECONDS - time.time() % ROUND_SECONDS):
            self._try()

    def _try(self) -> None:
        try:
            self.round()
        except FlywheelError as error:
            _log.warning("leases not renewed, trying again", reason=str(error))
