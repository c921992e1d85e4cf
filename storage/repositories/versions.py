"""Dataset versions and releases: written by the trainer, read by everyone."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Row, select, update

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.release import KeptRelease, Override, Release
from storage.tables.columns import table_of
from storage.tables.training import DatasetRow, ReleaseRow
from storage.work import Work, arrived

_datasets = table_of(DatasetRow)
_releases = table_of(ReleaseRow)


def newest_watermark(work: Work, task: str) -> str | None:
    """The upper end of a task's newest dataset; None without any."""
    row = work.row(
        select(_datasets.c.watermark)
        .where(_datasets.c.task == task)
        .order_by(_datasets.c.occurred_at.desc(), _datasets.c.event_id.desc())
        .limit(1)
    )
    return None if row is None else str(row.watermark)


class SqlDatasets:
    """``contracts.stores.DatasetStore``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def add(self, event: DatasetVersioned) -> None:
        """Record a version. One that is made again from later labels is the newest again, and keeps
        its parent; from the same labels or earlier ones it changes nothing."""
        values = msgspec.structs.asdict(event) | {"occurred_at": arrived(event.occurred_at)}
        if self._work.add(_datasets, [values], ["task", "version"]):
            return
        again = ("event_id", "occurred_at", "watermark")
        self._work.run(
            update(_datasets)
            .where(
                _datasets.c.task == event.task,
                _datasets.c.version == event.version,
                _datasets.c.watermark < event.watermark,
            )
            .values({name: values[name] for name in again})
        )

    def latest(self, task: str) -> DatasetVersioned | None:
        row = self._work.row(
            select(_datasets)
            .where(_datasets.c.task == task)
            .order_by(_datasets.c.occurred_at.desc(), _datasets.c.event_id.desc())
            .limit(1)
        )
        return None if row is None else DatasetVersioned(**row._mapping)

    def history(self, task: str) -> list[DatasetVersioned]:
        rows = self._work.rows(
            select(_datasets)
            .where(_datasets.c.task == task)
            .order_by(_datasets.c.occurred_at, _datasets.c.event_id)
        )
        return [DatasetVersioned(**row._mapping) for row in rows]


class SqlReleases:
    """``contracts.stores.ReleaseStore``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def add(self, release: Release) -> None:
        values = msgspec.structs.asdict(release)
        values["override"] = override_values(release.override)
        self._work.add(_releases, [values], ["release"])

    def keep(self, kept: KeptRelease) -> None:
        self._work.run(
            update(_releases)
            .where(_releases.c.release == kept.release)
            .values(address=kept.address, base_address=kept.base_address)
        )

    def get(self, release: str) -> Release | None:
        row = self._work.row(select(_releases).where(_releases.c.release == release))
        return None if row is None else _release(row)

    def history(self, task: str) -> list[Release]:
        rows = self._work.rows(
            select(_releases)
            .where(_releases.c.task == task)
            .order_by(_releases.c.created_at, _releases.c.release)
        )
        return [_release(row) for row in rows]


def every_release(work: Work) -> list[Release]:
    """All releases, of tasks too that are configured no longer."""
    return [_release(row) for row in work.rows(select(_releases).order_by(_releases.c.release))]


def override_values(override: Override | None) -> dict[str, str] | None:
    """An override as JSON."""
    return None if override is None else {"by": override.by, "why": override.why}


def override_of(values: dict[str, str] | None) -> Override | None:
    """An override from JSON."""
    return None if values is None else Override(**values)


def _release(row: Row[Any]) -> Release:
    values = dict(row._mapping)
    values["override"] = override_of(values["override"])
    return Release(**values)
