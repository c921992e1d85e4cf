"""How a workspace stands: processes, agents, turns, what serves, what waits, what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from flywheel.contracts.ids import utc_now
from flywheel.contracts.leases import OUTBOX, Lease, holder_name
from flywheel.errors import FlywheelError, WorkspaceError
from flywheel.ops.agents import AgentFigures, agent_figures
from flywheel.ops.health import HEALTH_SECONDS, health_problem
from flywheel.ops.next_steps import TaskFacts, next_steps, seconds_in_stage
from flywheel.ops.orphans import members
from flywheel.ops.supervisor import (
    Program,
    Supervisor,
    address,
    flywheel_command,
    programs,
)
from flywheel.ops.up_lock import holder
from flywheel.retraining.ports import Turn
from flywheel.review.ports import QueueDepth
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import Rollout
from flywheel.rollout.servers import PolledServers
from flywheel.serving.client import probes
from flywheel.settings import FlywheelSettings
from flywheel.turn.bases import base_problem
from storage.database import Transaction
from storage.workspace import champions, open_database
from streams.lag import agent_lag

_TURNS = 5
# supervisord's words, where a person's are clearer.
_STATES = {"backoff": "restarting", "fatal": "given up"}


class ProcessStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised process: running, starting, restarting, stopped …; and what ails it."""

    name: str
    state: str
    pid: int | None = None
    since: str = ""
    problem: str | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that came to no release."""

    at: datetime
    stage: str
    reason: str


class TaskStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One task. ``answers`` says on how many model servers the champion answers now, and why not on
    the others; ``waiting`` are releases whose rollout begins when none runs. ``turn`` is the
    latest one, its ``stages`` the seconds of those that are done; ``labels_without_sample`` wait
    for samples that never came, and train nothing meanwhile."""

    champion: str | None
    answers: Readiness | None
    waiting: list[str]
    rollout: dict[str, Any] | None
    turn: dict[str, Any] | None
    failures: list[Failure]
    queue: dict[str, Any]
    labels: dict[str, int]
    labels_without_sample: int
    next: list[str]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``supervisor`` is None while none runs; ``orphans`` are what a killed one left;
    ``lag`` is None while the broker is away, and ``problems`` says what could not be asked.
    ``duties`` has each controller, trainer and console that lives, wherever, by its name, with the
    tasks that it alone carries or makes a turn of; ``agents`` are those whose processes answer
    here."""

    workspace: str
    supervisor: int | None
    processes: list[ProcessStanding]
    orphans: dict[str, list[int]]
    lag: dict[str, int] | None
    duties: dict[str, list[str]] = {}
    agents: Mapping[str, AgentFigures]
    tasks: dict[str, TaskStanding]
    problems: list[str]
    next: list[str]


def standing(settings: FlywheelSettings) -> Standing:
    """Ask everything once. What is down is said, and hides nothing else."""
    supervisor = holder(settings)
    problems: list[str] = []
    processes = _processes(settings, supervisor, problems)
    orphans: dict[str, list[int]] = {}
    if supervisor is None:
        for member in members(settings):
            orphans.setdefault(member.name, []).append(member.pid)
    lag = None
    try:
        lag = agent_lag(settings.kafka)
    except FlywheelError as error:
        problems.append(str(error))
    tasks: dict[str, TaskStanding] = {}
    duties: dict[str, list[str]] = {}
    # Those elsewhere have nothing to do with a supervisor here.
    expected = supervisor is not None or bool(settings.serving.urls)
    servers = PolledServers(probes(settings.serving.endpoints, HEALTH_SECONDS, generate=False))
    try:
        with open_database(settings) as database:
            # Servers may take seconds, in which no transaction is open.
            ready = {one: servers.ready(one) for one in champions(database, settings).values()}
            with database.transaction(read_only=True) as tx:
                duties = _duties(tx.leases.live())
                unmatched = tx.balance.waiting()
                for task in settings.tasks:
                    facts = _facts(settings, tx, ready, task, utc_now())
                    facts = msgspec.structs.replace(facts, servers_expected=expected)
                    tasks[task] = _task(settings, facts, unmatched.get(task, 0), utc_now())
    except FlywheelError as error:
        problems.append(str(error))
    return Standing(
        workspace=str(settings.workspace),
        supervisor=supervisor,
        processes=processes,
        orphans=orphans,
        lag=lag,
        duties=duties,
        agents={} if supervisor is None else agent_figures(settings),
        tasks=tasks,
        problems=problems,
        next=_start(settings, supervisor, bool(orphans)),
    )


def _duties(live: Sequence[Lease]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for lease in sorted(live, key=lambda lease: lease.name):
        held = found.setdefault(holder_name(lease.holder), [])
        if not lease.name.endswith(f"/{OUTBOX}") and "/" in lease.name:
            held.append(lease.name.partition("/")[2])
    return dict(sorted(found.items()))


def _start(settings: FlywheelSettings, supervisor: int | None, orphaned: bool) -> list[str]:
    up, down = flywheel_command(settings, "up"), flywheel_command(settings, "down")
    if supervisor is not None:
        return []
    if orphaned:
        return [
            f"a supervisor was killed and left processes running: {up} ends them and starts anew, "
            f"{down} ends them"
        ]
    return [f"nothing runs: start it with {up}"]


def _processes(
    settings: FlywheelSettings, supervisor: int | None, problems: list[str]
) -> list[ProcessStanding]:
    rows: dict[str, dict[str, Any]] = {}
    if supervisor is not None:
        try:
            rows = Supervisor(settings).processes()
        except WorkspaceError:
            problems.append(f"process {supervisor} is starting this workspace, or ending it")
    return [_process(settings, program, rows.get(program.name)) for program in programs(settings)]


def _process(
    settings: FlywheelSettings, program: Program, row: dict[str, Any] | None
) -> ProcessStanding:
    if row is None:
        return ProcessStanding(name=program.name, state="not running")
    state = str(row["statename"]).lower()
    problem = None
    if state == "running":
        problem = health_problem(program.health) if program.health else None
    elif state not in ("starting", "stopping"):
        problem = f"its log says why: {settings.layout.log(program.name)}"
    # "pid 12, uptime 0:01:07" while it runs, else what it ended with.
    _, _, since = str(row["description"]).rpartition("uptime ")
    return ProcessStanding(
        name=program.name,
        state=_STATES.get(state, state),
        pid=row["pid"] or None,
        since=since,
        problem=problem,
    )


def _task(
    settings: FlywheelSettings, facts: TaskFacts, unmatched: int, now: datetime
) -> TaskStanding:
    task = facts.task
    console = address(settings.console.host, settings.console.port)
    counts = msgspec.structs.asdict(facts.labels)
    del counts["latest"]
    return TaskStanding(
        champion=facts.champion,
        answers=facts.answers,
        waiting=list(facts.waiting),
        rollout=None if facts.rollout is None else _rollout(facts.rollout),
        turn=_turn(facts.turns[0], now) if facts.turns else None,
        failures=[
            Failure(at=turn.ended_at or turn.started_at, stage=turn.stage, reason=turn.error)
            for turn in facts.turns
            if turn.error
        ],
        queue=_queue(facts.queue, now),
        labels=counts,
        labels_without_sample=unmatched,
        next=next_steps(
            facts,
            settings.task(task).retraining,
            now,
            _command_for(settings, task),
            f"{console}/review/{task}",
        ),
    )


def _rollout(rollout: Rollout) -> dict[str, Any]:
    return {"challenger": rollout.challenger, "share": rollout.share, "state": rollout.state}


def _turn(turn: Turn, now: datetime) -> dict[str, Any]:
    return {
        "state": turn.state,
        "stage": turn.stage,
        "reason": turn.reason,
        "seconds": ((turn.ended_at or now) - turn.started_at).total_seconds(),
        "in_stage": seconds_in_stage(turn, now) if turn.state == "running" else None,
        "stages": turn.seconds,
        "release": turn.release,
        "error": turn.error,
    }


def _queue(depth: QueueDepth, now: datetime) -> dict[str, Any]:
    oldest = depth.oldest_open
    return {
        "open": depth.open,
        "claimed": depth.claimed,
        "submitted": depth.submitted,
        "settled": depth.settled,
        "oldest_seconds": (now - oldest).total_seconds() if oldest else None,
    }


def _facts(
    settings: FlywheelSettings,
    tx: Transaction,
    ready: Mapping[str, Readiness],
    task: str,
    now: datetime,
) -> TaskFacts:
    dataset = tx.datasets.latest(task)
    turns = tx.turns.history(task, _TURNS)
    champion = tx.rollouts.champion(task)
    return TaskFacts(
        task=task,
        champion=champion,
        answers=None if champion is None else ready.get(champion),
        waiting=tuple(one for one in tx.challengers.waiting(task) if one != champion),
        rollout=tx.rollouts.active(task),
        turns=tuple(turns),
        request=tx.turns.take_request(task),
        # It is the oldest: none is asked for before it.
        ahead=msgspec.structs.replace(tx.turns.ahead(task, settings.tasks), asked=0),
        labels=tx.labels.counts(task),
        new=tx.labels.counts(task, dataset.watermark if dataset else None),
        queue=tx.desk.depth(task, now),
        base_problem=base_problem(settings, task),
        note=settings.task(task).of_kind.note,
    )


def _command_for(settings: FlywheelSettings, task: str) -> Callable[[str], str]:
    """Commands name the task where there are several: ingest by option, the others by argument."""

    def command(words: str) -> str:
        if len(settings.tasks) > 1:
            name, _, rest = words.partition(" ")
            if name == "ingest":
                words = f"{words} --task {task}"
            elif name == "rollout":
                words = f"{words} {task}"
            elif name == "retrain":
                words = f"retrain {task} {rest}"
        return flywheel_command(settings, words)

    return command
