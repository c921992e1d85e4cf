"""One turn: build → train → compress → evaluate → release, resumable at every point."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec
import structlog
from prometheus_client import Counter, Histogram

from flywheel.contracts.events import ReleaseRegistered
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.release import Release, registered_already
from flywheel.errors import FlywheelError, LeaseLost
from flywheel.retraining.ports import (
    IMPORT,
    GateRefusal,
    Importer,
    Pipeline,
    RetrainingTransaction,
    Turn,
    TurnRequest,
)
from flywheel.retraining.trigger import Start

Transactions = Callable[[], AbstractContextManager[RetrainingTransaction]]

_log = structlog.get_logger(__name__)
_turns = Counter("flywheel_turns", "Turns of the wheel by how they ended", ["task", "state"])
_seconds = Histogram(
    "flywheel_turn_stage_seconds",
    "Wall-clock seconds of each stage of a turn",
    ["task", "stage"],
    buckets=(1, 3, 10, 30, 60, 180, 600, 1800, 7200),
)


def make_turn(
    task: str, start: Start, pipeline: Pipeline, importer: Importer, transactions: Transactions
) -> Turn:
    """Make (or go on with) one turn and return how it ended.

    Everything it leaves behind is written in transactions together with the events it causes, and
    every stage is a DVC stage that does nothing when its inputs are unchanged: after a crash the
    same turn is run again and comes to the same dataset version and release.
    """
    request = start.request
    imports = request is not None and request.imports
    turn = start.resume or Turn(
        turn_id=request.request_id if request else new_id(),
        task=task,
        state="running",
        stage=IMPORT if imports else "build",
        reason=start.reason,
        started_at=utc_now(),
    )
    fresh = start.resume is None or (not imports and not pipeline.prepared(turn))
    if fresh or imports:
        with transactions() as tx:
            watermark = tx.labels.watermark(task)
            tx.turns.save(turn)
    _log.info("turn begins", task=task, turn=turn.turn_id, reason=turn.reason)
    try:
        if request is not None and imports:
            turn = _import(turn, request, importer, transactions)
        else:
            if fresh:
                pipeline.prepare(turn, request, watermark or "")
            turn = _run(turn, request, pipeline, transactions)
    except LeaseLost:
        raise  # it is another trainer's turn
    except FlywheelError as error:
        turn = _failed(turn, str(error), transactions)
    except Exception as error:  # noqa: BLE001 - or it would end the process at every start, unseen
        _log.exception("turn failed on an error that nobody foresaw", turn=turn.turn_id)
        turn = _failed(turn, f"{type(error).__name__}: {error}", transactions)
    _finish(turn, request, transactions)
    if request is not None and imports:
        importer.forget(request)
    _turns.labels(task, turn.state).inc()
    return turn


def _run(
    turn: Turn, request: TurnRequest | None, pipeline: Pipeline, transactions: Transactions
) -> Turn:
    turn = _stage(turn, "build", pipeline, transactions)
    dataset = pipeline.commit_dataset(turn.task)
    turn = msgspec.structs.replace(turn, dataset_version=dataset.version)
    with transactions() as tx:
        latest = tx.datasets.latest(turn.task)
        # Also one that is as it was: the labels up to its watermark are new no longer.
        tx.datasets.add(dataset)
        if latest is None or latest.version != dataset.version:
            tx.outbox.add([dataset])
        tx.turns.save(turn)
    stages = pipeline.stages(turn.task)
    for stage in stages:
        turn = _stage(turn, stage, pipeline, transactions)
    if not stages:
        return msgspec.structs.replace(turn, state="succeeded", ended_at=utc_now())
    outcome = pipeline.assemble(turn, dataset, request.override if request else None)
    return _settled(turn, outcome, transactions)


def _import(
    turn: Turn, request: TurnRequest, importer: Importer, transactions: Transactions
) -> Turn:
    began = time.monotonic()
    outcome = importer.bring_in(request)
    seconds = {IMPORT: round(time.monotonic() - began, 3)}
    return _settled(msgspec.structs.replace(turn, seconds=seconds), outcome, transactions)


def _settled(turn: Turn, outcome: Release | GateRefusal, transactions: Transactions) -> Turn:
    """What came of a turn: a registered release, the gate's refusal, or a release of before."""
    if isinstance(outcome, GateRefusal):
        why = outcome.reason
    else:
        known = _register(outcome, transactions)
        why = _made_before(known, turn) if known is not None else ""
    if isinstance(outcome, GateRefusal) or why:
        return msgspec.structs.replace(
            turn, state="succeeded", ended_at=utc_now(), error=f"no release: {why}"
        )
    return msgspec.structs.replace(
        turn, state="succeeded", ended_at=utc_now(), release=outcome.release
    )


def _stage(turn: Turn, stage: str, pipeline: Pipeline, transactions: Transactions) -> Turn:
    turn = msgspec.structs.replace(turn, stage=stage)
    with transactions() as tx:
        tx.turns.save(turn)
    began = time.monotonic()
    pipeline.run(turn.task, stage)
    seconds = time.monotonic() - began
    _seconds.labels(turn.task, stage).observe(seconds)
    _log.info("stage done", task=turn.task, stage=stage, seconds=round(seconds, 2))
    return msgspec.structs.replace(turn, seconds={**turn.seconds, stage: round(seconds, 3)})


def _made_before(known: Release, turn: Turn) -> str:
    """Words on a turn that made what an earlier one did, which begins no rollout; empty where it
    was this turn, before it was interrupted."""
    by = known.recipe.get("imported", {}).get("request") or known.recipe.get("turn")
    if by == turn.turn_id:
        return ""
    return f"the turn made the same as before. {registered_already(known)}"


def _register(release: Release, transactions: Transactions) -> Release | None:
    """The one place where a release enters the registry; the record of one that is there, which
    stays as it is. There is no ``Release`` that neither passed the gate nor was put past it by
    name."""
    event = ReleaseRegistered(
        event_id=new_id(),
        occurred_at=utc_now(),
        task=release.task,
        release=release.release,
        dataset_version=release.dataset_version,
        parent=release.parent,
        accuracy=release.accuracy,
        gate_passed=release.gate_passed,
        gate_reason=release.gate_reason,
        override=release.override,
        address=release.address,
        base_address=release.base_address,
    )
    with transactions() as tx:
        known = tx.releases.get(release.release)
        if known is None:
            tx.releases.add(release)
            tx.outbox.add([event])
    said = "release registered" if known is None else "release is registered already"
    _log.info(said, task=release.task, release=release.release)
    return known


def _failed(turn: Turn, reason: str, transactions: Transactions) -> Turn:
    _log.error("turn failed", task=turn.task, turn=turn.turn_id, error=reason)
    turn = _latest(turn, transactions)
    return msgspec.structs.replace(turn, state="failed", ended_at=utc_now(), error=reason)


def _latest(turn: Turn, transactions: Transactions) -> Turn:
    with transactions() as tx:
        for saved in tx.turns.history(turn.task, 5):
            if saved.turn_id == turn.turn_id:
                return saved
    return turn


def _finish(turn: Turn, request: TurnRequest | None, transactions: Transactions) -> None:
    with transactions() as tx:
        tx.turns.save(turn)
        if request is not None:
            tx.turns.finish_request(request.request_id)
