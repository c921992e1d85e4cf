"""Which label of a sample counts: the one query that decides it."""

from __future__ import annotations

from sqlalchemy import Subquery, and_, func, select

from storage.tables.columns import table_of
from storage.tables.labels import LabelRow, TrafficRow

labels = table_of(LabelRow)
traffic = table_of(TrafficRow)


def settled_labels(task: str, watermark: int | None = None) -> Subquery:
    """One row per sample whose label is settled: the winning row of ``labels``, plus ``split``.

    Of each source the latest word counts, by time, then by event id; a withdrawn one does not.
    Of these the most trusted source wins. Nothing depends on the order in which rows came in, and
    rows later than ``watermark`` are not seen at all.
    """
    seen = [labels.c.task == task]
    if watermark is not None:
        seen.append(labels.c.seq <= watermark)
    latest = (
        select(
            labels,
            func.row_number()
            .over(
                partition_by=[labels.c.sample_id, labels.c.source],
                order_by=[labels.c.occurred_at.desc(), labels.c.event_id.desc()],
            )
            .label("nth"),
        )
        .where(labels.c.settles.is_(True), *seen)
        .subquery("latest")
    )
    ranked = (
        select(
            latest,
            func.row_number()
            .over(partition_by=latest.c.sample_id, order_by=latest.c.rank)
            .label("place"),
        )
        .where(latest.c.nth == 1, latest.c.value.is_not(None))
        .subquery("ranked")
    )
    # A sample that any label put in the holdout stays there, whoever labels it again. Of the two
    # words for a split, "holdout" is the smaller.
    splits = (
        select(labels.c.sample_id, func.min(labels.c.split).label("split"))
        .where(labels.c.split.is_not(None), *seen)
        .group_by(labels.c.sample_id)
        .subquery("splits")
    )
    columns = [column for column in ranked.c if column.name not in {"nth", "place", "split"}]
    return (
        select(*columns, splits.c.split)
        .select_from(ranked.outerjoin(splits, splits.c.sample_id == ranked.c.sample_id))
        .where(ranked.c.place == 1)
        .subquery("settled")
    )


def first_traffic(task: str, samples: Subquery, watermark: int | None = None) -> Subquery:
    """The first event of each of these samples: its text, and ``known``, the tick it came in."""
    of_task = [traffic.c.task == task]
    if watermark is not None:
        of_task.append(traffic.c.seq <= watermark)
    numbered = (
        select(
            traffic.c.sample_id,
            traffic.c.text,
            func.min(traffic.c.seq).over(partition_by=traffic.c.sample_id).label("known"),
            func.row_number()
            .over(
                partition_by=traffic.c.sample_id,
                order_by=[traffic.c.occurred_at, traffic.c.event_id],
            )
            .label("nth"),
        )
        .select_from(traffic.join(samples, traffic.c.sample_id == samples.c.sample_id))
        .where(and_(*of_task))
        .subquery("numbered")
    )
    return select(numbered).where(numbered.c.nth == 1).subquery("first_traffic")
