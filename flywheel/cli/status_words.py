"""`flywheel status` for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flywheel.rollout.plan import percent

if TYPE_CHECKING:
    from flywheel.ops.standing import Standing, TaskStanding

_FAILURES = 2
_REASON = 300


PROCESS_COLUMNS = ("process", "state", "pid", "up for", "")


def process_rows(standing: Standing) -> list[tuple[str, ...]]:
    """A row for each process, and for each that a killed supervisor left."""
    rows: list[tuple[str, ...]] = [
        (process.name, process.state, str(process.pid or ""), process.since, process.problem or "")
        for process in standing.processes
        if process.name not in standing.orphans
    ]
    left = "left by a killed supervisor"
    rows += [
        (name, left, ", ".join(map(str, pids)), "", "") for name, pids in standing.orphans.items()
    ]
    return rows


def status_text(standing: Standing) -> str:
    """Agents, then each task; last what to do next."""
    lines = []
    if standing.lag is not None:
        behind = ", ".join(
            f"{_agent(group)} {count}" for group, count in standing.lag.items() if count
        )
        lines.append(f"\nagents: {behind + ' events behind' if behind else 'nothing waits'}")
    lines += _duties(standing)
    lines += [
        f"  {_agent(group)}: {figures.rate:,.0f} events/s on {figures.partitions} partitions"
        for group, figures in sorted(standing.agents.items())
    ]
    lines += [f"\nproblem: {problem}" for problem in standing.problems]
    for name, task in standing.tasks.items():
        lines += ["", *_task(name, task)]
    several = len(standing.tasks) > 1
    steps = [*standing.next]
    for name, task in standing.tasks.items():
        steps += [f"{name}: {step}" if several else step for step in task.next]
    if steps:
        lines += ["", "next:", *(f"  {step}" for step in steps)]
    return "\n".join(lines)


def _duties(standing: Standing) -> list[str]:
    """Who carries which tasks, where there are several to do so."""
    if len([one for one in standing.duties if one.startswith("controller")]) < 2:
        return []
    said = (f"{name} ({', '.join(tasks) or 'no task'})" for name, tasks in standing.duties.items())
    return [f"\nprocesses: {', '.join(said)}"]


def _agent(group: str) -> str:
    return group.removeprefix("flywheel.")


def _task(name: str, task: TaskStanding) -> list[str]:
    lines = [f"{name}: {_serves(task)}"]
    if (rollout := task.rollout) is not None:
        lines.append(
            f"  {rollout['challenger']} at {percent(rollout['share'])} ({rollout['state']})"
        )
    lines += [f"  {line}" for line in _turn(task.turn)]
    shown = [f for f in task.failures if task.turn is None or f.reason != task.turn["error"]]
    lines += [
        f"  before, in {failure.stage}: {_short(failure.reason)}" for failure in shown[:_FAILURES]
    ]
    queue, labels = task.queue, task.labels
    lines.append(
        f"  {queue['open']} samples wait for an expert{_since(queue['oldest_seconds'])}, "
        f"{queue['claimed']} are in hand, {queue['settled']} are settled"
    )
    lines.append(
        "  labels: "
        + ", ".join(f"{labels[kind]} {kind}" for kind in ("expert", "seed", "other", "auto"))
        + f"; {labels['holdout']} held out"
    )
    if task.labels_without_sample:
        lines.append(f"  {task.labels_without_sample} labelled samples never came: labels wait")
    return lines


def _serves(task: TaskStanding) -> str:
    """What is answered now, not what is recorded."""
    answers = task.answers
    if task.champion is None or answers is None:
        return "nothing serves"
    if answers.ready == answers.total:
        return f"{task.champion} serves"
    if answers.ready:
        return (
            f"{task.champion} serves, on {answers.ready} of {answers.total} model servers "
            f"({_short(answers.reason)})"
        )
    if answers.late:
        return f"{task.champion} serves, slowly ({_short(answers.reason)})"
    return (
        f"{task.champion} is the champion and answers on none of {answers.total} model servers "
        f"({_short(answers.reason)})"
    )


def _turn(turn: dict[str, Any] | None) -> list[str]:
    if turn is None:
        return ["no turn yet"]
    if turn["state"] == "running":
        return [
            f"turn: {turn['stage']}, {turn['in_stage']:.0f} s; {turn['seconds']:.0f} s in all "
            f"({turn['reason']})"
        ]
    if turn["state"] == "failed":
        return [f"turn failed in {turn['stage']}: {_short(turn['error'])}"]
    outcome = turn["release"] or _short(turn["error"] or "")
    return [f"last turn: {outcome}, {turn['seconds']:.0f} s"]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _REASON else f"{line[: _REASON - 1]}…"


def _since(seconds: float | None) -> str:
    return "" if seconds is None else f" (the oldest for {seconds:.0f} s)"
