"""The database: transactions for stages, outbox rows for relays, migrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.engine import make_url

from flywheel.contracts.codec import Record
from flywheel.contracts.ids import utc_now
from flywheel.contracts.leases import Lease, LeaseStore
from flywheel.contracts.publishing import Outbox
from flywheel.contracts.stores import AuditLog, DatasetStore, LabelStore, ReleaseStore
from flywheel.datasets.ports import LabelIntake
from flywheel.retention.ports import Expiry
from flywheel.retraining.ports import TurnStore
from flywheel.review.ports import People, ReviewDesk, ReviewIntake
from flywheel.rollout.ports import Challengers, CommandStore, Evidence, EvidenceIntake, RolloutStore
from storage.changes import Changes, Version
from storage.engine import analyse, errors_translated, make_engine, read_only_engine, settle
from storage.exclusive import held_alone
from storage.migrations.upgrade import upgrade
from storage.repositories.archived import SqlArchiveFiles
from storage.repositories.balance import SqlBalance
from storage.repositories.desk import SqlReviewDesk
from storage.repositories.draws import SqlDrawSalts
from storage.repositories.effects import SqlEffects
from storage.repositories.erasure import SqlErasures
from storage.repositories.evidence import SqlAuditLog, SqlEvidence
from storage.repositories.evidence_intake import SqlEvidenceIntake
from storage.repositories.expiry import SqlExpiry
from storage.repositories.label_intake import SqlLabelIntake
from storage.repositories.labels import SqlLabels
from storage.repositories.leases import SqlLeases
from storage.repositories.messaging import SqlOutbox, mark_sent, unsent
from storage.repositories.overview import Overview
from storage.repositories.people import SqlPeople
from storage.repositories.positions import SqlPositions
from storage.repositories.pruned import SqlPrunedReleases
from storage.repositories.retraining import SqlTurns
from storage.repositories.review import SqlReviewIntake
from storage.repositories.rollouts import SqlChallengers, SqlCommands, SqlRollouts
from storage.repositories.sessions import SqlEndedSessions
from storage.repositories.versions import SqlDatasets, SqlReleases
from storage.totals import TOTALS, Progress, Total
from storage.totals import missing as missing_totals
from storage.totals import rebuild as rebuild_totals
from storage.work import Work

_COUNTING = "counting"


class Transaction:
    """Every store of the product, in one open transaction; stages see it through their ports."""

    def __init__(self, work: Work) -> None:
        self.outbox: Outbox = SqlOutbox(work)
        self.positions = SqlPositions(work)
        self.effects = SqlEffects(work)
        self.label_intake: LabelIntake = SqlLabelIntake(work)
        self.labels: LabelStore = SqlLabels(work)
        self.intake: ReviewIntake = SqlReviewIntake(work)
        self.desk: ReviewDesk = SqlReviewDesk(work)
        self.people: People = SqlPeople(work)
        self.evidence_intake: EvidenceIntake = SqlEvidenceIntake(work)
        self.evidence: Evidence = SqlEvidence(work)
        self.audits: AuditLog = SqlAuditLog(work)
        self.rollouts: RolloutStore = SqlRollouts(work)
        self.commands: CommandStore = SqlCommands(work)
        self.challengers: Challengers = SqlChallengers(work)
        self.datasets: DatasetStore = SqlDatasets(work)
        self.releases: ReleaseStore = SqlReleases(work)
        self.turns: TurnStore = SqlTurns(work)
        self.overview = Overview(work)
        self.sessions = SqlEndedSessions(work)
        self.balance = SqlBalance(work)
        self.draws = SqlDrawSalts(work)
        self.expiry: Expiry = SqlExpiry(work)
        self.erasures = SqlErasures(work)
        self.archived = SqlArchiveFiles(work)
        self.pruned = SqlPrunedReleases(work)
        self.leases: LeaseStore = SqlLeases(work)


class OutboxRows:
    """What the relay of one owner reads and marks; each call is a transaction of its own."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner
        self._empty_at: Version | None = None

    def unsent(self, limit: int) -> list[tuple[int, Record]]:
        """The oldest events that were not sent yet, with their row ids."""
        version = self._database.version()
        if version is not None and version == self._empty_at:
            return []
        with self._database.work(read_only=True) as work:
            rows = unsent(work, self._owner, limit)
        self._empty_at = None if rows else version
        return rows

    def mark_sent(self, ids: Sequence[int]) -> None:
        """These were acknowledged by the broker."""
        with self._database.work(self._owner) as work:
            mark_sent(work, self._owner, ids, utc_now())


class Database:
    """One database, by URL; safe to share between threads. Connects when first used."""

    def __init__(self, url: str) -> None:
        self._engine = make_engine(url)
        self._reading = read_only_engine(self._engine)
        self._changes = Changes(self._engine)

    def migrate(self, progress: Progress | None = None) -> None:
        """Bring the schema up to date, and count what it keeps totals of and did not before; safe
        when several processes do so at once.

        Raises StorageError when the database cannot be reached.
        """
        with errors_translated():
            upgrade(self._engine)
        if not self._missing():
            return
        # Others wait, and then find it done.
        with errors_translated(), self.alone(_COUNTING, wait=True):
            wanted = self._missing()
            self._rebuild(wanted, progress)

    def _missing(self) -> list[Total]:
        with self.work(read_only=True) as work:
            return missing_totals(work)

    def recount(self, progress: Progress | None = None) -> None:
        """Make every total anew from the rows; agents may go on meanwhile."""
        with errors_translated(), self.alone(_COUNTING, wait=True):
            self._rebuild(TOTALS, progress)

    def _rebuild(self, wanted: Sequence[Total], progress: Progress | None) -> None:
        # Without statistics a join of all labels with their samples can take their product.
        analyse(self._engine)
        rebuild_totals(self._informed, wanted, progress)

    @contextmanager
    def _informed(self) -> Iterator[Work]:
        """A transaction that knows what was last counted of the tables."""
        with self.work() as work:
            if work.sqlite:
                work.connection.exec_driver_sql("ANALYZE sqlite_schema")
            yield work

    def settle(self) -> None:
        """Leave nothing of what was removed in SQLite's log of changes, which keeps the pages of
        before until others take their place. PostgreSQL's own vacuum sees to its tables.

        Raises StorageError when readers are in the way for too long.
        """
        with errors_translated():
            settle(self._engine)

    def analyse(self) -> None:
        """Let SQLite count what its tables hold, which decides how it answers; PostgreSQL does so
        by itself. Other connections know when they are opened anew (``engine.RECYCLE_SECONDS``).
        """
        if self._engine.dialect.name == "sqlite":
            with errors_translated():
                analyse(self._engine)

    @contextmanager
    def transaction(
        self, owner: str = "", *, read_only: bool = False, lease: Lease | None = None
    ) -> Iterator[Transaction]:
        """All or nothing: commits at the end, rolls back on an exception.

        ``owner`` names whose relay sends the events added to the outbox. ``read_only`` sees one
        moment of the database, and neither waits for writers nor holds them up: right for pages.
        ``lease`` is what the writer must hold until the commit. Raises LeaseLost when it does not,
        and StorageError when the database cannot be reached, is locked or is full.
        """
        with self.work(owner, read_only=read_only) as work:
            tx = Transaction(work)
            if lease is not None:
                tx.leases.require(lease)
            yield tx

    def outbox_rows(self, owner: str) -> OutboxRows:
        """The outbox of one owner, for its relay."""
        return OutboxRows(self, owner)

    def alone(self, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
        """Whether this process alone does what ``name`` says, for as long as the block lasts."""
        return held_alone(self._engine, name, wait=wait)

    def now(self) -> datetime:
        """The moment by the database's own clock."""
        with self.work(read_only=True) as work:
            return datetime.fromtimestamp(
                work.connection.execute(select(work.clock())).scalar_one(), UTC
            )

    def version(self) -> Version | None:
        """What differs after every commit, to be asked before what it stands for is read: while it
        stays, so does what was read. None where that is not known."""
        return self._changes.now()

    def dispose(self) -> None:
        """Close every connection."""
        self._changes.close()
        self._engine.dispose()

    @contextmanager
    def work(self, owner: str = "", *, read_only: bool = False) -> Iterator[Work]:
        """The transaction under ``transaction``, without the stores."""
        engine = self._reading if read_only else self._engine
        with errors_translated(), engine.begin() as connection:
            yield Work(connection, owner, read_only)


def shown_url(url: str) -> str:
    """A database URL that may be shown: without its password."""
    return make_url(url).render_as_string(hide_password=True)
