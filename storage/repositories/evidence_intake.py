"""Evidence as it comes in: what releases answered, and what was true; the evidence agent's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flywheel.contracts.events import LabelRecorded, LabelSettled, ShadowRecorded, TrafficRecorded
from flywheel.contracts.labels import TRUSTED, rank
from flywheel.statistics.buckets import latency_bucket
from storage.tables.columns import table_of
from storage.tables.evidence import ScoreRow, TruthRow
from storage.work import Work, arrived, earlier, later

_scores = table_of(ScoreRow)
_truths = table_of(TruthRow)


class SqlEvidenceIntake:
    """``rollout.ports.EvidenceIntake``. Of repeated words on one thing, time decides."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def record_traffic(self, events: Sequence[TrafficRecorded]) -> None:
        """Keep what each live request says of its release and arm (one row a sample, release).

        A request that was repeated under the same sample id counts as it went at first: a
        failure is not undone by trying again. A failure while no model server answered anything
        says nothing of the arm, and an answer that nobody waited for is given again to who repeats
        the request: neither is kept.
        """
        kept = [e for e in events if e.release is not None and not (e.outage or e.abandoned)]
        self._put_scores([_live_values(e) for e in kept])

    def record_shadow(self, events: Sequence[ShadowRecorded]) -> None:
        self._put_scores([_shadow_values(e) for e in events])

    def record_labels(self, events: Sequence[LabelRecorded | LabelSettled]) -> None:
        rows = [_truth_values(e) for e in events if _trusted(e)]
        rows.sort(key=lambda row: (row["task"], row["sample_id"], row["source"]))
        self._work.put(_truths, rows, ["task", "sample_id", "source"], later(_truths))

    def _put_scores(self, rows: list[dict[str, Any]]) -> None:
        # In one order everywhere, so that two batches at once can't lock each other out.
        rows.sort(key=lambda row: (row["task"], row["sample_id"], row["release"]))
        key = ["task", "sample_id", "release", "live"]
        self._work.put(_scores, rows, key, earlier(_scores))


def _trusted(event: LabelRecorded | LabelSettled) -> bool:
    return isinstance(event, LabelSettled) or event.source in TRUSTED


def _live_values(event: TrafficRecorded) -> dict[str, Any]:
    return {
        "task": event.task,
        "sample_id": event.sample_id,
        "release": event.release,
        "live": True,
        "event_id": event.event_id,
        "arm": event.arm,
        "rollout_id": event.rollout_id,
        "challenger_share": event.challenger_share,
        "output": event.output,
        "confidence": event.confidence,
        "scores": event.scores,
        "unit": event.unit or event.sample_id,
        "latency_ms": event.latency_ms,
        "latency_bucket": latency_bucket(event.latency_ms),
        "failed": event.error is not None or event.status >= 500,
        "cached": event.cached,
        "occurred_at": arrived(event.occurred_at),
    }


def _shadow_values(event: ShadowRecorded) -> dict[str, Any]:
    return {
        "task": event.task,
        "sample_id": event.sample_id,
        "release": event.release,
        "live": False,
        "event_id": event.event_id,
        "arm": event.arm,
        "rollout_id": event.rollout_id,
        "challenger_share": event.challenger_share,
        "output": event.output,
        "confidence": event.confidence,
        "scores": event.scores,
        "unit": event.sample_id,
        "latency_ms": event.latency_ms,
        "latency_bucket": latency_bucket(event.latency_ms),
        "failed": event.error is not None,
        "cached": False,
        "occurred_at": arrived(event.occurred_at),
    }


def _truth_values(event: LabelRecorded | LabelSettled) -> dict[str, Any]:
    source = "expert" if isinstance(event, LabelSettled) else event.source
    return {
        "task": event.task,
        "sample_id": event.sample_id,
        "source": source,
        "rank": rank("expert" if isinstance(event, LabelSettled) else event.source),
        "event_id": event.event_id,
        "value": event.value,
        "unlabelable": isinstance(event, LabelSettled)
        and event.value is None
        and event.unlabelable,
        "audit": event.audit,
        "inclusion_probability": event.inclusion_probability,
        "occurred_at": arrived(event.occurred_at),
    }
