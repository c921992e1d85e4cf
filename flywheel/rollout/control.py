"""The controller's step: commands, the next challenger, evidence → one transition at most.

A tick reads in a transaction that can't write, asks the model servers outside of any, and only
where something is to be changed writes rollout, transition, command outcome and RolloutChanged in
one more: collecting evidence holds nobody up. Nothing is kept between ticks, so a controller that
is killed anywhere goes on as if nothing had happened: either the whole transition and its event
are stored, or none of it and the next tick decides anew. The same holds for one that another
controller or a person forestalled: what is written must still be what was read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

import structlog
from prometheus_client import Counter

from flywheel.contracts.events import ReleaseRegistered, RolloutChanged
from flywheel.errors import Conflict
from flywheel.rollout import transitions
from flywheel.rollout.analysis.evidence import Facts
from flywheel.rollout.commands import carry_out
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.decide import CONTROLLER, Servers, decide
from flywheel.rollout.judged import JudgedSamples
from flywheel.rollout.ports import SETTLE, Assignment, Evidence, Rollout, RolloutTransaction
from flywheel.rollout.servers import ModelServers

Transactions = Callable[[], AbstractContextManager[RolloutTransaction]]

_log = structlog.get_logger(__name__)
_changes = Counter("flywheel_rollout_transitions_total", "Transitions.", ["task", "state"])


@dataclass(frozen=True, slots=True)
class LastLook:
    """What a tick found out of a rollout; ``servers`` None while they were not asked. The next one
    reads on from what was ``judged``."""

    rollout_id: str
    facts: Facts
    judged: JudgedSamples
    servers: Servers | None = None


Latest = dict[str, LastLook]  # by task, of the tick before


def on_release_registered(transactions: Transactions, event: ReleaseRegistered) -> None:
    """Remember a release; it waits for a rollout if it passed the gate or was put past it."""
    allowed = event.gate_passed or event.override is not None
    with transactions() as tx:
        tx.challengers.enqueue(event.task, event.release, event.occurred_at, allowed)


@dataclass(frozen=True, slots=True)
class Look:
    """What a tick read: the running rollout with its evidence, and whether there is more to do.

    ``fresh``: the evidence was collected now, not by the tick before, whose ``servers`` those are.
    """

    rollout: Rollout | None
    facts: Facts
    judged: JudgedSamples
    servers: Servers | None
    fresh: bool
    commands: bool
    waiting: bool


def tick(
    transactions: Transactions,
    reading: Transactions,
    task: str,
    settings: RolloutSettings,
    servers: ModelServers,
    now: datetime,
    latest: Latest | None = None,
    *,
    hurried: bool = False,
) -> RolloutChanged | None:
    """Carry one task's rollout one step on. Returns the change that was made, if any.

    ``reading`` opens transactions that can't write. ``latest`` is the caller's, kept
    from tick to tick: with it a person's command does not wait until evidence is
    collected once more, which takes seconds in a large rollout, or until a server that hangs is
    asked once more. A ``hurried`` tick, beside one that takes long, is for commands alone, and asks
    no server.
    """
    latest = {} if latest is None else latest
    with reading() as tx:
        seen = _look(tx, task, latest)
    readiness = seen.servers
    if seen.rollout is not None and readiness is None and not hurried:
        # Asked outside of any transaction: a server that hangs must not hold the database's lock.
        readiness = _asked(servers, seen.rollout)
        latest[task] = LastLook(seen.rollout.rollout_id, seen.facts, seen.judged, readiness)
    try:
        event = None
        if seen.commands or (seen.rollout is None and seen.waiting):
            event = _commands_or_start(transactions, task, settings, seen, readiness, now)
        if event is None and seen.rollout is not None and readiness is not None and seen.fresh:
            event = _evaluate(transactions, seen.rollout, seen.facts, settings, readiness, now)
    except Conflict as error:
        _log.info("forestalled; the next tick decides anew", task=task, by=str(error))
        return None
    if event is not None:
        _changes.labels(task, event.state).inc()
        _log.info("rollout changed", task=task, state=event.state, reason=event.reason)
    return event


def _look(tx: RolloutTransaction, task: str, latest: Latest) -> Look:
    rollout = tx.rollouts.active(task)
    commands = bool(tx.commands.pending(task))
    known = latest.get(task)
    if rollout is None or known is None or known.rollout_id != rollout.rollout_id:
        known = None
    judged = known.judged if known else JudgedSamples(rollout.rollout_id if rollout else "")
    # A person's command does not wait for evidence: what the tick before found out will do.
    fresh = known is None or not commands
    if not fresh:
        latest.pop(task, None)  # for this once
    facts = Facts() if known is None else known.facts
    if fresh:
        facts = Facts() if rollout is None else gather(tx.evidence, rollout, judged)
    return Look(
        rollout=rollout,
        facts=facts,
        judged=judged,
        servers=None if fresh or known is None else known.servers,
        fresh=fresh,
        commands=commands,
        waiting=bool(tx.challengers.waiting(task)),
    )


def _asked(servers: ModelServers, rollout: Rollout) -> Servers:
    return Servers(
        challenger=servers.ready(rollout.challenger), champion=servers.ready(rollout.champion)
    )


def announce(
    transactions: Transactions, task: str, settings: RolloutSettings, now: datetime
) -> RolloutChanged | None:
    """Publish the present split once more: for a broker that lost it, or a controller's start."""
    with transactions() as tx:
        newest = tx.rollouts.active(task) or next(iter(tx.rollouts.history(task, 1)), None)
        if newest is None:
            return None
        event = transitions.changed(tx, newest, settings, now, CONTROLLER, newest.reason)
        tx.outbox.add([event])
    return event


def gather(evidence: Evidence, rollout: Rollout, judged: JudgedSamples | None = None) -> Facts:
    """What is known of a rollout now. ``judged`` is the caller's, kept from look to look."""
    judged = judged or JudgedSamples(rollout.rollout_id)
    judged.read(evidence)
    champion, challenger = judged.with_audits(*evidence.arms(rollout.rollout_id))
    since = step = of_step(evidence, rollout)
    # Whoever resumed it has seen the assignment until then.
    if rollout.resumed_at is not None and rollout.resumed_at > rollout.step_started_at:
        since = evidence.assignment(rollout.rollout_id, rollout.resumed_at + SETTLE)
    return Facts(
        champion=champion,
        challenger=challenger,
        pairs=judged.pairs,
        assignment=since,
        step=step,
    )


def of_step(evidence: Evidence, rollout: Rollout) -> Assignment:
    """Requests and units of the present step."""
    return evidence.assignment(rollout.rollout_id, rollout.step_started_at + SETTLE)


def _commands_or_start(
    transactions: Transactions,
    task: str,
    settings: RolloutSettings,
    seen: Look,
    servers: Servers | None,
    now: datetime,
) -> RolloutChanged | None:
    with transactions() as tx:
        for command in tx.commands.pending(task):
            event = carry_out(tx, command, settings, now, seen.rollout, seen.facts, servers)
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
    if not tx.challengers.taken(release):
        raise Conflict(f"another controller has taken up {release}")
    past = transitions.past_the_gate(tx, release)
    if champion is None:
        reason = f"first release; {past}" if past else "first release"
    else:
        reason = past or "newest release that passed the gate"
    if older:
        reason += f"; passed over for it, as older: {', '.join(older)}"
    return transitions.begin(tx, task, release, settings, now, CONTROLLER, reason)


def _evaluate(
    transactions: Transactions,
    rollout: Rollout,
    facts: Facts,
    settings: RolloutSettings,
    servers: Servers,
    now: datetime,
) -> RolloutChanged | None:
    current = transitions.with_readiness(rollout, servers, now)
    decision = decide(current, facts, settings, now, servers, shown=False)
    if decision.changes(current):
        decision = decide(current, facts, settings, now, servers)
    watched = transitions.with_looks(current, decision)
    if not decision.changes(current) and watched == rollout:
        return None
    with transactions() as tx:
        if tx.rollouts.active(rollout.task) != rollout:
            return None  # changed meanwhile; the next tick sees the change
        if not decision.changes(current):
            tx.rollouts.save(watched, None)
            return None
        event = transitions.apply(tx, current, decision, facts, settings, now)
        # After the change, which whoever adds a command waits for: none is overlooked.
        if tx.commands.pending(rollout.task):
            raise Conflict("a person's command")
        return event
