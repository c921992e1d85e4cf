"""Whatever days the classes of data are kept, in whatever order: totals stay, nothing names what is
gone, nothing comes back, and who compares log and database misses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from kept_rows import DAY, NOW, OF_LABELS, begin_rollout, keep, rows, totals
from storage_events import TASK, label, request, settled, shadow, traffic

from flywheel.contracts.events import Event
from flywheel.retention.config import RetentionSettings
from flywheel.retention.sweep import cutoffs, sweep
from storage.database import Database
from streams.reconcile import READERS

HOUR = DAY / 24
# Samples are as many days old: with days kept between, each class keeps some and not others.
AGES = (5, 25, 45, 65, 85)
ORDERS = [
    RetentionSettings(traffic=60, automatic=20),
    RetentionSettings(traffic=20, automatic=60, labelled=40, evidence=60, review=20),
    RetentionSettings(traffic=60, automatic=40, labelled=20, evidence=20, review=60),
    RetentionSettings(automatic=20, evidence=60),
    RetentionSettings(labelled=20),
    RetentionSettings(traffic=20, labelled=60, evidence=40),
    RetentionSettings(traffic=40, automatic=20, labelled=60, review=20),
    RetentionSettings(review=20, evidence=40),
]


def named(settings: RetentionSettings) -> str:
    return " ".join(f"{name}={days}" for name, days in settings.model_dump().items() if days)


def stories(age: int) -> list[Event]:
    """Every kind of sample that first came ``age`` days ago."""
    sent = (100 - age) * DAY
    events: list[Event] = []
    for kind in ("plain", "ruled", "ruled later", "asked", "waits", "told", "audited", "both"):
        name = f"{kind} {age}"
        of_arm = {"arm": "champion", "rollout_id": "rollout", "challenger_share": 0.1}
        events += [
            traffic(name, sent, **of_arm),
            # Its copy was late: over the border of a day, for all that anybody knows.
            shadow(name, sent + 13 * HOUR, challenger_share=0.1),
        ]
        if kind in ("ruled", "both", "asked"):
            events.append(label(name, "a", "rule", sent + 1))
        if kind in ("asked", "waits", "audited"):
            events.append(request(name, seconds=sent + 14 * HOUR, audit=kind == "audited"))
        if kind == "told":
            events.append(label(name, "b", "user", sent + 5 * DAY))
        if kind in ("audited", "both"):
            events.append(settled(name, "b", sent + 4 * DAY))
        if kind == "both":
            events.append(label(name, "a", "auto", sent + 4.9 * DAY))
        if kind == "ruled later":
            events.append(label(name, "a", "rule", sent + 4.9 * DAY))
    return events


def swept(database: Database, settings: RetentionSettings, days: float = 0) -> None:
    sweep(
        database.transaction,
        lambda: database.transaction(read_only=True),
        TASK,
        cutoffs(settings, NOW + timedelta(days=days)),
        rest=lambda _: None,
    )


def missed(database: Database, events: Sequence[Event]) -> list[str]:
    """What a reconciliation that reads all of the log would call lost."""
    found = []
    with database.transaction(read_only=True) as tx:
        for group, reader in READERS.items():
            for event in events:
                trace = reader.trace(event)
                if trace is None or not getattr(tx.effects, trace.check)({trace.key}):
                    continue
                if tx.effects.wanted([event], reader.kinds):
                    found.append(f"{group}: {type(event).__name__} of {trace.key}")
    return found


@pytest.mark.parametrize("kept", ORDERS, ids=named)
def test_any_order_of_days(database: Database, kept: RetentionSettings) -> None:
    begin_rollout(database, ended=True)
    events = [event for age in AGES for event in stories(age)]
    keep(database, events)
    with database.transaction("agents") as tx:
        done = [f"{kind} {age}" for kind in ("asked", "audited") for age in AGES]
        tx.intake.withdraw(TASK, done)
    counted = totals(database, OF_LABELS)
    for days in (0.0, 0.5, 7.0):
        swept(database, kept, days)
        assert totals(database, OF_LABELS) == counted
        everything = totals(database)
        assert missed(database, events) == []
        sent = rows(database, "traffic")
        for table in ("labels", "settled_labels", "evidence_truths"):
            assert rows(database, table) <= sent, f"{table} says something of what is gone"
        assert {f"waits {age}" for age in AGES} <= sent & rows(database, "review_tasks")
        held = {name: rows(database, name) for name in TABLES}
        # Out of the log once more, in whatever order agents come to it.
        keep(database, events)
        assert {name: rows(database, name) for name in TABLES} == held
        assert totals(database) == everything
        database.recount()
        assert totals(database) == everything


TABLES: tuple[Any, ...] = (
    "traffic",
    "labels",
    "settled_labels",
    "evidence_scores",
    "evidence_truths",
    "review_tasks",
)
