"""The overview's read model: one task's loop as it stands, as plain data."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flywheel.console.ports import ConsoleTransaction
from flywheel.console.words import aware
from flywheel.contracts.release import Release
from flywheel.contracts.traffic_series import SIZES
from flywheel.retraining.ports import Turn
from flywheel.rollout.ports import Rollout, Transition
from flywheel.settings import TaskSettings
from flywheel.triage.config import TriageSettings
from flywheel.triage.policy import AutoLabelPolicy, CertifiedPolicy, certify
from flywheel.triage.ports import AuditReader

STAGES = ("build", "train", "compress", "evaluate")
_POINTS = 240
_RATE_SECONDS = 10


class ChampionPolicies:
    """What each task's champion may label by itself, for readers in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, CertifiedPolicy]] = {}

    def of(
        self, log: AuditReader, task: str, champion: str | None, settings: TriageSettings
    ) -> AutoLabelPolicy:
        """The policy of a task's champion; without one, that nothing is accepted."""
        if champion is None:
            return certify([], settings)
        with self._lock:
            release, certified = self._known.get(task, ("", None))
            if certified is None or release != champion:
                certified = CertifiedPolicy(task, champion, settings)
                self._known[task] = champion, certified
            return certified.read(log)


def overview(
    tx: ConsoleTransaction,
    task: str,
    settings: TaskSettings,
    now: datetime,
    policies: ChampionPolicies | None = None,
) -> dict[str, Any]:
    """Everything the overview page shows, times in seconds since 1970, shares in [0, 1].

    ``policies`` is the caller's, kept from one look to the next."""
    releases = tx.releases.history(task)
    rollouts = tx.rollouts.history(task)
    champion = tx.rollouts.champion(task)
    counts = tx.overview.traffic_counts(task)
    depth = tx.desk.depth(task, now)
    labels = tx.labels.counts(task)
    datasets = tx.datasets.history(task)
    active = tx.rollouts.active(task)
    known = policies or ChampionPolicies()
    policy = known.of(tx.audits, task, champion, settings.triage)
    return {
        "task": task,
        "now": now.timestamp(),
        "champion": champion,
        "traffic": _traffic(tx, task, counts, now),
        "queue": {
            "open": depth.open,
            "claimed": depth.claimed,
            "submitted": depth.submitted,
            "settled": depth.settled,
            "oldest_seconds": _since(depth.oldest_open, now),
        },
        "labels": {
            "expert": labels.expert,
            "auto": labels.auto,
            "seed": labels.seed,
            "other": labels.other,
            "holdout": labels.holdout,
            "total": labels.given + labels.auto,
        },
        "auto": _auto(tx.overview.coverage(task), policy, settings),
        "dataset": {
            "versions": len(datasets),
            "latest": datasets[-1].version if datasets else None,
            "new_labels": tx.labels.counts(task, datasets[-1].watermark).given
            if datasets
            else labels.given,
            "labels_needed": settings.retraining.min_new_labels,
            "enabled": settings.retraining.enabled,
        },
        "turn": _turn(tx.turns.history(task, 1), now),
        "rollout": _rollout(tx, active, now),
        "releases": [_release(release, champion, active) for release in releases],
        "split": _split(tx, rollouts, now),
    }


def _since(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else max(0.0, (now - aware(at)).total_seconds())


def _stamp(at: Any) -> float:
    return aware(at).timestamp() if isinstance(at, datetime) else float(at)


def _traffic(
    tx: ConsoleTransaction, task: str, counts: dict[str, Any], now: datetime
) -> dict[str, Any]:
    first, last = counts["first"], counts["last"]
    lived = now.timestamp() - _stamp(first) if first else 0.0
    bucket = next((size for size in SIZES if lived / size <= _POINTS), SIZES[-1])
    rows = tx.overview.traffic_series(task, bucket, _POINTS)
    newest = tx.overview.traffic_series(task, 1, _RATE_SECONDS)
    edge = now.timestamp() - _RATE_SECONDS
    return {
        "requests": counts["requests"],
        "failed": counts["failed"],
        "last": _stamp(last) if last else None,
        "per_second": sum(row[1] for row in newest if _stamp(row[0]) >= edge) / _RATE_SECONDS,
        "bucket_seconds": bucket,
        "series": _filled(rows, bucket, now),
    }


def _filled(rows: Sequence[tuple[Any, ...]], bucket: int, now: datetime) -> dict[str, list[Any]]:
    """Rates per second by arm, with the empty buckets put back as zero."""
    known = {int(_stamp(row[0])) // bucket * bucket: row for row in rows}
    if not known:
        return {"at": [], "champion": [], "challenger": [], "errors": []}
    # The bucket that has only begun would look like a fall.
    end = max(int(now.timestamp()) // bucket * bucket - bucket, min(known))
    start = max(min(known), end - bucket * (_POINTS - 1))
    at = list(range(start, end + 1, bucket))
    series: dict[str, list[Any]] = {"at": at, "champion": [], "challenger": [], "errors": []}
    for moment in at:
        _, requests, _champion, challenger, errors = known.get(moment, (moment, 0, 0, 0, 0))
        # Outside a rollout there is no arm; whoever answered then was the champion.
        series["champion"].append((requests - challenger) / bucket)
        series["challenger"].append(challenger / bucket)
        series["errors"].append(errors / bucket)
    return series


def _auto(
    coverage: dict[str, int], policy: AutoLabelPolicy, settings: TaskSettings
) -> dict[str, Any]:
    auto, expert = coverage["auto"], coverage["expert"]
    total = sum(coverage.values())
    return {
        "auto": auto,
        "expert": expert,
        "other": coverage["other"],
        "none": coverage["none"],
        "samples": total,
        "share": auto / total if total else 0.0,
        "open": policy.threshold is not None,
        "threshold": policy.threshold,
        "bound": policy.bound if policy.threshold is not None else None,
        "limit": settings.triage.auto_label_error,
        "risk": settings.triage.auto_label_risk,
        "audited": policy.audited,
        "accepted": policy.accepted,
        "errors": policy.errors,
        "accepts": policy.coverage,
        "reason": policy.reason,
    }


def _turn(turns: Sequence[Turn], now: datetime) -> dict[str, Any] | None:
    if not turns:
        return None
    turn = turns[0]
    end = aware(turn.ended_at) if turn.ended_at else now
    return {
        "state": turn.state,
        "stage": turn.stage,
        "reason": turn.reason,
        "error": turn.error,
        "release": turn.release,
        "elapsed": max(0.0, (end - aware(turn.started_at)).total_seconds()),
        "ended": _stamp(turn.ended_at) if turn.ended_at else None,
        "seconds": turn.seconds,
    }


def _rollout(
    tx: ConsoleTransaction, rollout: Rollout | None, now: datetime
) -> dict[str, Any] | None:
    if rollout is None:
        return None
    # Of a pause too, during which the step goes on.
    changes = tx.rollouts.transitions(rollout.rollout_id)
    began = changes[-1].at if changes else rollout.step_started_at
    return {
        "rollout_id": rollout.rollout_id,
        "challenger": rollout.challenger,
        "champion": rollout.champion,
        "state": rollout.state,
        "share": rollout.share,
        "step": rollout.step,
        "steps": list(rollout.steps),
        "reason": rollout.reason,
        "elapsed": _since(rollout.started_at, now),
        "in_state": _since(began, now),
    }


def _release(release: Release, champion: str | None, active: Rollout | None) -> dict[str, Any]:
    return {
        "release": release.release,
        "at": _stamp(release.created_at),
        "accuracy": release.accuracy,
        "low": release.accuracy_low,
        "high": release.accuracy_high,
        "gate_passed": release.gate_passed,
        "champion": release.release == champion,
        "challenger": active is not None and active.challenger == release.release,
    }


def _split(
    tx: ConsoleTransaction, rollouts: Sequence[Rollout], now: datetime
) -> dict[str, list[Any]]:
    """The challenger's share of live traffic over the latest rollouts, as steps, and ``paused``:
    (from, to) of every time that a rollout was held."""
    changes: list[Transition] = []
    for rollout in rollouts[:12]:
        changes += tx.rollouts.transitions(rollout.rollout_id)
    changes.sort(key=lambda change: aware(change.at))
    at, share = [], []
    for change in changes:
        ended = change.state in ("promoted", "rolled_back", "serving")
        at.append(_stamp(change.at))
        share.append(0.0 if ended else change.share)
    if at:
        at.append(max(now.timestamp(), at[-1]))
        share.append(share[-1])
    ends = at[1:]
    paused = [
        (at[index], ends[index]) for index, change in enumerate(changes) if change.state == "paused"
    ]
    return {"at": at, "challenger": share, "paused": paused}
