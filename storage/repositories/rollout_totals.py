"""What the answers of a rollout come to, kept as they come in: the evidence agent's.

Counts are sums over rows of ``evidence_scores``; ``rebuild`` makes them from those rows, and says
the same however the rows came in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, insert, literal, select

from flywheel.rollout.ports import SETTLE
from storage.tables.columns import table_of
from storage.tables.evidence import (
    RolloutLatencyRow,
    RolloutTotalRow,
    RolloutUnitRow,
    RolloutWindowRow,
    ScoreRow,
)
from storage.tables.rollouts import RolloutRow
from storage.work import Values, Work

scores = table_of(ScoreRow)
totals = table_of(RolloutTotalRow)
latencies = table_of(RolloutLatencyRow)
windows = table_of(RolloutWindowRow)
units = table_of(RolloutUnitRow)
_rollouts = table_of(RolloutRow)

ARMS = ("champion", "challenger")
# In place of a share that was not recorded: no part of a key may be missing.
NO_SHARE = -1.0

_TOTAL_KEY = ["rollout_id", "share", "arm", "live"]
_LATENCY_KEY = ["rollout_id", "share", "arm", "bucket"]

_Window = tuple[str, datetime]
_Unit = tuple[str, str]  # arm, unit


def timed(table: Any) -> ColumnElement[bool]:
    """Whether a row's latency says something of the model: a cached answer's does not, and only
    the older arm has a warm cache."""
    return and_(table.c.live.is_(True), table.c.failed.is_(False), table.c.cached.is_(False))


def count(work: Work, added: Sequence[Values], removed: Sequence[Values]) -> None:
    """Count rows of ``evidence_scores`` that were written, and those that they replaced."""
    signed = [(row, 1) for row in added] + [(row, -1) for row in removed]
    of_arms = _of_arms(signed)
    if not of_arms:
        return
    counted, spread = by_step(of_arms)
    # In one order everywhere, so that two batches at once can't lock each other out.
    work.increment(totals, counted, _TOTAL_KEY)
    work.increment(latencies, spread, _LATENCY_KEY)
    live = [(row, sign) for row, sign in of_arms if row["live"]]
    for window in _open_windows(work, {row["rollout_id"] for row, _ in live}):
        _count_window(work, window, live)


def by_step(
    signed: Sequence[tuple[Values, int]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of ``evidence_scores``, each with what it counts for, as rows of ``rollout_totals`` and
    of ``rollout_latencies``."""
    of_arms = _of_arms(signed)
    requests: Counter[tuple[Any, ...]] = Counter()
    failed: Counter[tuple[Any, ...]] = Counter()
    buckets: Counter[tuple[Any, ...]] = Counter()
    for row, sign in of_arms:
        share = NO_SHARE if row["challenger_share"] is None else row["challenger_share"]
        place = (row["rollout_id"], share, row["arm"])
        requests[*place, row["live"]] += sign
        failed[*place, row["live"]] += sign * row["failed"]
        if row["live"] and not row["failed"] and not row["cached"]:
            buckets[*place, row["latency_bucket"]] += sign
    counted = [
        dict(zip(_TOTAL_KEY, key, strict=True), requests=n, failed=failed[key])
        for key, n in sorted(requests.items())
    ]
    spread = [
        dict(zip(_LATENCY_KEY, key, strict=True), answers=n) for key, n in sorted(buckets.items())
    ]
    return counted, spread


def _of_arms(signed: Sequence[tuple[Values, int]]) -> list[tuple[Values, int]]:
    return [(row, sign) for row, sign in signed if row["rollout_id"] and row["arm"] in ARMS]


def rebuild(work: Work, rollout_id: str) -> None:
    """Count a rollout anew from its rows, and its windows from when they are next asked for."""
    for table in (totals, latencies, windows, units):
        work.run(delete(table).where(table.c.rollout_id == rollout_id))
    share = func.coalesce(scores.c.challenger_share, NO_SHARE)
    mine = (scores.c.rollout_id == rollout_id, scores.c.arm.in_(ARMS))
    counted = select(
        scores.c.rollout_id,
        share,
        scores.c.arm,
        scores.c.live,
        func.count(),
        func.sum(case((scores.c.failed, 1), else_=0)),
    )
    counted = counted.where(*mine).group_by(scores.c.rollout_id, share, scores.c.arm, scores.c.live)
    work.run(insert(totals).from_select([c.name for c in totals.c], counted))
    place = (scores.c.rollout_id, share, scores.c.arm, scores.c.latency_bucket)
    spread = select(*place, func.count()).where(*mine, timed(scores)).group_by(*place)
    work.run(insert(latencies).from_select([c.name for c in latencies.c], spread))
    for window in _open_windows(work, {rollout_id}):
        _fill(work, window)


def _open_windows(work: Work, rollout_ids: Iterable[str]) -> list[_Window]:
    """The windows that running rollouts look at. Their rows stay as they are until the transaction
    ends, so that no rollout moves on between a request and its count."""
    running = (
        select(_rollouts.c.rollout_id, _rollouts.c.step_started_at, _rollouts.c.resumed_at)
        .where(_rollouts.c.rollout_id.in_(sorted(rollout_ids)), _rollouts.c.ended_at.is_(None))
        .order_by(_rollouts.c.rollout_id)
    )
    if not work.sqlite:
        running = running.with_for_update(read=True)
    found: list[_Window] = []
    for row in work.rows(running):
        found.append((row.rollout_id, row.step_started_at + SETTLE))
        if row.resumed_at is not None and row.resumed_at > row.step_started_at:
            found.append((row.rollout_id, row.resumed_at + SETTLE))
    return found


def _count_window(work: Work, window: _Window, live: Sequence[tuple[Values, int]]) -> None:
    rollout_id, since = window
    counts: Counter[_Unit] = Counter()
    for row, sign in live:
        if row["rollout_id"] == rollout_id and row["occurred_at"] >= since:
            counts[row["arm"], row["unit"]] += sign
    marks = [
        {"rollout_id": rollout_id, "since": since, "arm": arm, "requests": 0, "units": 0}
        | {"heaviest": 0}
        for arm in ARMS
    ]
    if work.add(windows, marks, ["rollout_id", "since", "arm"]):
        _fill(work, window)
    elif counts:
        _move(work, window, counts)


def _move(work: Work, window: _Window, counts: Mapping[_Unit, int]) -> None:
    rollout_id, since = window
    at = (windows.c.rollout_id == rollout_id, windows.c.since == since)
    locked = select(windows).where(*at).order_by(windows.c.arm)
    if not work.sqlite:
        locked = locked.with_for_update()
    stored = {row.arm: row for row in work.rows(locked)}
    moved: dict[str, dict[str, int]] = {
        arm: {"requests": row.requests, "units": row.units, "heaviest": row.heaviest}
        for arm, row in stored.items()
    }
    written: list[dict[str, Any]] = []
    lost: set[str] = set()
    before = _units(work, window, counts)
    for (arm, unit), change in counts.items():
        was = before.get((arm, unit), 0)
        now = was + change
        moved[arm]["requests"] += change
        moved[arm]["units"] += (now > 0) - (was > 0)
        moved[arm]["heaviest"] = max(moved[arm]["heaviest"], now)
        if change < 0 and was == stored[arm].heaviest:
            lost.add(arm)
        place = {"rollout_id": rollout_id, "since": since, "arm": arm, "unit": unit}
        written.append(place | {"requests": now})
    work.put(units, written, ["rollout_id", "since", "arm", "unit"])
    for arm in lost:
        moved[arm]["heaviest"] = _heaviest(work, window, arm)
    work.put(
        windows,
        [{"rollout_id": rollout_id, "since": since, "arm": arm} | moved[arm] for arm in moved],
        ["rollout_id", "since", "arm"],
    )


def _units(work: Work, window: _Window, wanted: Iterable[_Unit]) -> dict[_Unit, int]:
    rollout_id, since = window
    names: dict[str, list[str]] = defaultdict(list)
    for arm, unit in wanted:
        names[arm].append(unit)
    known: dict[_Unit, int] = {}
    for arm, of_arm in names.items():
        for part in work.chunks(of_arm):
            rows = work.rows(
                select(units.c.unit, units.c.requests).where(
                    units.c.rollout_id == rollout_id,
                    units.c.since == since,
                    units.c.arm == arm,
                    work.among(units.c.unit, part),
                )
            )
            known |= {(arm, row.unit): row.requests for row in rows}
    return known


def _heaviest(work: Work, window: _Window, arm: str) -> int:
    rollout_id, since = window
    row = work.row(
        select(func.max(units.c.requests)).where(
            units.c.rollout_id == rollout_id, units.c.since == since, units.c.arm == arm
        )
    )
    return int(row[0] or 0) if row else 0


def _fill(work: Work, window: _Window) -> None:
    """Count a window from its rows."""
    rollout_id, since = window
    by_unit = (
        select(
            scores.c.rollout_id,
            literal(since, windows.c.since.type),
            scores.c.arm,
            scores.c.unit,
            func.count(),
        )
        .where(
            scores.c.rollout_id == rollout_id,
            scores.c.arm.in_(ARMS),
            scores.c.live.is_(True),
            scores.c.occurred_at >= since,
        )
        .group_by(scores.c.rollout_id, scores.c.arm, scores.c.unit)
    )
    work.run(insert(units).from_select([c.name for c in units.c], by_unit))
    rows = work.rows(window_from_units(units, window))
    found = {row.arm: row for row in rows}
    work.put(
        windows,
        [
            {
                "rollout_id": rollout_id,
                "since": since,
                "arm": arm,
                "requests": int(found[arm].requests) if arm in found else 0,
                "units": found[arm].units if arm in found else 0,
                "heaviest": found[arm].heaviest if arm in found else 0,
            }
            for arm in ARMS
        ],
        ["rollout_id", "since", "arm"],
    )


def window_from_units(table: Any, window: _Window) -> Any:
    """(arm, requests, units, heaviest) of a window, from a table with a row for each unit."""
    rollout_id, since = window
    return (
        select(
            table.c.arm,
            func.sum(table.c.requests).label("requests"),
            func.count().label("units"),
            func.max(table.c.requests).label("heaviest"),
        )
        .where(table.c.rollout_id == rollout_id, table.c.since == since, table.c.requests > 0)
        .group_by(table.c.arm)
    )
