"""The controller's step: commands, the next challenger, evidence → one transition at most.

A tick reads in one transaction, asks the model servers outside of any, and writes rollout,
transition, command outcome and RolloutChanged in one more. Nothing is kept between ticks, so a
controller that is killed anywhere goes on as if nothing had happened: either the whole transition
and its event are stored, or none of it and the next tick decides anew.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

import structlog
from prometheus_client import Counter, Gauge

from flywheel.contracts.events import ReleaseRegistered, RolloutChanged
from flywheel.rollout import transitions
from flywheel.rollout.analysis.evidence import Facts
from flywheel.rollout.commands import carry_out
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.decide import CONTROLLER, Servers, decide
from flywheel.rollout.ports import Evidence, Rollout, RolloutTransaction
from flywheel.rollout.servers import ModelServers

Transactions = Callable[[], AbstractContextManager[RolloutTransaction]]

# Requests routed by the split before last may still arrive so long after a step began; they are
# left out of the step's own counts.
SETTLE = timedelta(seconds=3)

_log = structlog.get_logger(__name__)
_changes = Counter("flywheel_rollout_transitions_total", "Transitions.", ["task", "state"])
_share = Gauge("flywheel_rollout_challenger_share", "Live share of the challenger.", ["task"])


def on_release_registered(transactions: Transactions, event: ReleaseRegistered) -> None:
    """Remember a release; it waits for a rollout if it passed the gate or was put past it."""
    allowed = event.gate_passed or event.override is not None
    with transactions() as tx:
        tx.challengers.enqueue(event.task, event.release, event.occurred_at, allowed)


def tick(
    transactions: Transactions,
    task: str,
    settings: RolloutSettings,
    servers: ModelServers,
    now: datetime,
) -> RolloutChanged | None:
    """Carry one task's rollout one step on. Returns the change that was made, if any."""
    event = _commands_or_start(transactions, task, settings, now)
    if event is None:
        event = _evaluate(transactions, task, settings, servers, now)
    if event is not None:
        _changes.labels(task, event.state).inc()
        _share.labels(task).set(event.split.challenger_share)
        _log.info("rollout changed", task=task, state=event.state, reason=event.reason)
    return event


def announce(
    transactions: Transactions, task: str, settings: RolloutSettings, now: datetime
) -> RolloutChanged | None:
    """Publish the present split once more: for a broker that lost it, or a controller's start."""
    with transactions() as tx:
        newest = tx.rollouts.active(task) or next(iter(tx.rollouts.history(task, 1)), None)
        if newest is None:
            return None
        event = transitions.changed(newest, settings, now, CONTROLLER, newest.reason)
        tx.outbox.add([event])
    return event


def gather(evidence: Evidence, rollout: Rollout) -> Facts:
    """What is known of a rollout now."""
    champion, challenger = evidence.arms(rollout.rollout_id)
    return Facts(
        champion=champion,
        challenger=challenger,
        pairs=tuple(evidence.pairs(rollout.rollout_id)),
        assignment=evidence.assignment(rollout.rollout_id, rollout.step_started_at + SETTLE),
    )


def _commands_or_start(
    transactions: Transactions, task: str, settings: RolloutSettings, now: datetime
) -> RolloutChanged | None:
    with transactions() as tx:
        for command in tx.commands.pending(task):
            event = carry_out(tx, command, settings, now)
            if event is not None:
                return event
        if tx.rollouts.active(task) is None:
            return _next_challenger(tx, task, settings, now)
    return None


def _next_challenger(
    tx: RolloutTransaction, task: str, settings: RolloutSettings, now: datetime
) -> RolloutChanged | None:
    """Start the newest waiting release; older ones are passed over, for it supersedes them."""
    champion = tx.rollouts.champion(task)
    waiting = [release for release in tx.challengers.waiting(task) if release != champion]
    if not waiting:
        return None
    *older, release = waiting
    for passed in older:
        tx.challengers.taken(passed)
    reason = "first release" if champion is None else "newest release past the gate"
    if older:
        reason += f"; passed over for it, as older: {', '.join(older)}"
    return transitions.begin(tx, task, release, settings, now, CONTROLLER, reason)


def _evaluate(
    transactions: Transactions,
    task: str,
    settings: RolloutSettings,
    servers: ModelServers,
    now: datetime,
) -> RolloutChanged | None:
    with transactions() as tx:
        rollout = tx.rollouts.active(task)
        facts = gather(tx.evidence, rollout) if rollout else Facts()
    if rollout is None:
        return None
    # Asked outside of any transaction: a server that hangs must not hold the database's lock.
    found = Servers(
        challenger=servers.ready(rollout.challenger), champion=servers.ready(rollout.champion)
    )
    current = transitions.with_readiness(rollout, found, now)
    decision = decide(current, facts, settings, now, found)
    with transactions() as tx:
        if tx.rollouts.active(task) != rollout:
            return None  # changed meanwhile; the next tick sees the change
        if decision.changes(current):
            return transitions.apply(tx, current, decision, facts, settings, now)
        watched = transitions.with_looks(current, decision)
        if watched != rollout:
            tx.rollouts.save(watched, None)
    return None
