"""Commands to watch a rollout, and to decide in the controller's place."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

from flywheel.cli.ids import find_release, full_id
from flywheel.cli.operate import chosen_task
from flywheel.cli.render import json_option, moment, show_json, show_table, utc_option
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import Conflict, NotFound, Unavailable
from flywheel.registry.history import ALL
from flywheel.rollout.plan import final_share, percent
from flywheel.settings import FlywheelSettings, load_settings

if TYPE_CHECKING:
    from flywheel.rollout.analysis.units import UnitsView
    from flywheel.rollout.ports import Command, CommandKind, CommandRecord, Rollout
    from storage.database import Database, Transaction

POLL_SECONDS = 0.2


# Of every command that decides.
_by = click.option("--by", required=True, help="Who decides.")
_why = click.option("--why", required=True, help="Recorded with the transition.")
_revision = click.option(
    "--revision",
    type=int,
    help="The one that `rollout show` said: at any other it is refused. Default: as it is.",
)
_wait = click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the controller has; after that the command is withdrawn.",
)


@click.group()
def rollout() -> None:
    """Watch a rollout, and decide in its place."""


@rollout.command()
@click.argument("task", required=False)
@click.option("--follow", is_flag=True, help="Go on until it ends.")
@click.option(
    "--limit",
    type=click.IntRange(1, ALL),
    default=10,
    show_default=True,
    help="How many of the latest rollouts, and of what was asked for.",
)
@json_option
@utc_option
@click.pass_context
def show(
    ctx: click.Context, task: str | None, follow: bool, limit: int, as_json: bool, utc: bool
) -> None:
    """The running rollout of TASK, how the latest ones ended, and what people asked for."""
    from storage.workspace import open_database

    if follow and as_json:
        raise click.UsageError("--follow is for people: use one of --follow and --json")
    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    with open_database(settings) as database:
        if not follow:
            with database.transaction(read_only=True) as tx:
                _show(tx, settings, name, limit, as_json, utc)
            return
        said = ""
        while True:
            with database.transaction(read_only=True) as tx:
                newest = next(iter(tx.rollouts.history(name, 1)), None)
            text = _line(newest, utc) if newest else f"{name} had no rollout yet"
            if text != said:
                click.echo(text)
                said = text
            if newest is not None and newest.ended_at is not None:
                return
            time.sleep(1.0)


def _show(
    tx: Transaction, settings: FlywheelSettings, task: str, limit: int, as_json: bool, utc: bool
) -> None:
    from flywheel.rollout.analysis.units import units_view
    from flywheel.rollout.control import of_step

    history = tx.rollouts.history(task, limit + 1)
    rollouts, older = history[:limit], len(history) > limit
    active = tx.rollouts.active(task)
    units = None
    if active is not None:
        units = units_view(active, of_step(tx.evidence, active), settings.task(task).rollout)
    waiting = [one for one in tx.challengers.waiting(task) if one != tx.rollouts.champion(task)]
    asked = tx.commands.history(task, limit)
    if as_json:
        shown = {"task": task, "rollouts": rollouts, "older": older, "waiting": waiting}
        show_json({**shown, "asked": asked, "units": units})
        return
    rows = [
        (
            moment(row.started_at, utc),
            row.rollout_id,
            row.challenger,
            row.state.replace("_", " "),
            percent(final_share(row)),
            str(row.revision),
            row.reason,
        )
        for row in rollouts
    ]
    running = [n for n, row in enumerate(rollouts) if row.ended_at is None]
    show_table(
        ["started", "rollout", "challenger", "state", "share", "revision", "why"],
        rows,
        right=["share", "revision"],
        bold=running,
        empty=f"{task} had no rollout yet",
    )
    if older:
        click.echo(f"the latest {limit}; there are older ones: --limit shows more")
    if units is not None and units.share_of_requests is not None:
        click.echo(_of_step(units))
    if waiting:
        click.echo(f"{waiting[-1]} waits: its rollout begins when none is running")
    if asked:
        click.echo()
        show_table(
            ["asked", "by", "for", "why", "outcome"],
            [
                (
                    moment(one.command.at, utc),
                    one.command.by,
                    one.command.kind,
                    one.command.why,
                    one.outcome or "nobody has carried it out yet",
                )
                for one in asked
            ],
        )


def _of_step(seen: UnitsView) -> str:
    """What share of the step's requests the challenger answered, and what to know of it."""
    assert seen.share_of_requests is not None  # noqa: S101 - its caller has looked
    lines = [
        f"in this step the challenger answered {seen.challenger_requests} of {seen.requests} "
        f"requests ({percent(seen.share_of_requests)}); {seen.challenger_units} of {seen.units} "
        f"units fell to it, {percent(seen.share)} expected (assigned by {seen.assign_by})"
    ]
    return "\n  ".join([*lines, *seen.warnings, *filter(None, [seen.way_out])])


def _line(row: Rollout, utc: bool) -> str:
    running = f" (rollout {row.rollout_id}, revision {row.revision})"
    return (
        f"{moment(row.started_at, utc)}  {row.challenger}  {row.state.replace('_', ' '):12} "
        f"{percent(final_share(row)):>5}  {row.reason}{'' if row.ended_at else running}"
    )


def _command(kind: CommandKind, words: str) -> click.Command:
    sees = kind in ("promote", "resume")

    @click.argument("task", required=False)
    @_by
    @_why
    @click.option(
        "--rollout",
        "named",
        help="Which one (see `flywheel rollout show`); its beginning or end will do. "
        + ("Asked for where a person types." if sees else "Default: the running one."),
    )
    @_wait
    @click.pass_context
    def run(
        ctx: click.Context,
        task: str | None,
        by: str,
        why: str,
        named: str | None,
        wait: float,
        revision: int | None = None,
    ) -> None:
        from flywheel.rollout.ports import Command
        from storage.workspace import open_database

        settings = load_settings(ctx.obj)
        name = chosen_task(settings.tasks, task)
        with open_database(settings) as database:
            with database.transaction(read_only=True) as tx:
                seen = _named(tx, name, named) if named else tx.rollouts.active(name)
            if sees and seen is not None and not named:
                _confirm(kind, seen)
            command = Command(
                command_id=new_id(),
                task=name,
                kind=kind,
                by=by,
                why=why,
                at=utc_now(),
                rollout_id=seen.rollout_id if seen else None,
                revision=revision if revision is not None else seen.revision if seen else None,
            )
            click.echo(carried_out(settings, database, command, wait))

    run.__doc__ = words
    if sees:
        run = _revision(run)
    return click.command(kind)(run)


def _named(tx: Transaction, task: str, named: str) -> Rollout:
    """The rollout whose id is, begins or ends with what a person wrote."""
    known = [row.rollout_id for row in tx.rollouts.history(task, ALL)]
    row = tx.rollouts.find(full_id(named, known, "rollout", "flywheel rollout show"))
    assert row is not None  # noqa: S101 - it was in the list
    return row


def _confirm(kind: str, seen: Rollout) -> None:
    """Whoever decides says so of the rollout that is there, not of one that was."""
    from flywheel.rollout.commands import described

    words = f"the rollout of {seen.challenger}, {described(seen)} ({seen.reason})"
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"name the rollout, so that no other is meant: --rollout {seen.rollout_id} is {words}"
        )
    click.confirm(f"{kind} {words}?", abort=True, err=True)


@rollout.command()
@click.argument("task", required=False)
@_by
@_why
@click.option("--release", required=True, help="The challenger (see `flywheel releases list`).")
@click.option("--override", is_flag=True, help="Even if the gate said no.")
@click.option(
    "--rollout",
    "named",
    help="The latest one, as `rollout show` had it: refused where another has been since.",
)
@_revision
@_wait
@click.pass_context
def start(
    ctx: click.Context,
    task: str | None,
    by: str,
    why: str,
    release: str,
    override: bool,
    named: str | None,
    revision: int | None,
    wait: float,
) -> None:
    """Roll out --release, which need not be the newest one."""
    from flywheel.contracts.release import Override
    from flywheel.rollout.ports import Command
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    with open_database(settings) as database:
        with database.transaction(read_only=True) as tx:
            latest = next(iter(tx.rollouts.history(name, 1)), None)
            seen = _named(tx, name, named) if named else latest
            # What is no release is the controller's to refuse.
            with contextlib.suppress(NotFound):
                release = find_release(tx, [name], release).release
        command = Command(
            command_id=new_id(),
            task=name,
            kind="start",
            by=by,
            why=why,
            at=utc_now(),
            rollout_id=seen.rollout_id if seen else None,
            revision=revision if revision is not None else seen.revision if seen else None,
            release=release,
            override=Override(by=by, why=why) if override else None,
        )
        click.echo(carried_out(settings, database, command, wait))


def carried_out(
    settings: FlywheelSettings, database: Database, command: Command, seconds: float
) -> str:
    """Ask for a command, wait for its outcome, and say what changed.

    Raises Conflict when it was refused; Unavailable when nobody carried it out within ``seconds``:
    it is then withdrawn, so that it does not come true when nobody expects it any more.
    """
    from flywheel.rollout.commands import ask, described

    with database.transaction("cli") as tx:
        refused = ask(tx, command)
    if refused:
        raise Conflict(f"refused: {refused}")
    asked = _await(settings, database, command, seconds)
    if not asked.accepted:
        raise Conflict(asked.outcome or "refused")
    with database.transaction(read_only=True) as tx:
        one = next(iter(tx.rollouts.history(command.task, 1)), None)
        if command.rollout_id and command.kind not in ("start", "restore"):
            one = tx.rollouts.find(command.rollout_id)
        champion = tx.rollouts.champion(command.task)
    what = f"the rollout of {one.challenger} is {described(one)}" if one else asked.outcome
    return f"{command.kind} carried out: {what}; {champion} is the champion"


def _await(
    settings: FlywheelSettings, database: Database, command: Command, seconds: float
) -> CommandRecord:
    """The command with its outcome."""
    from flywheel.rollout.ports import WITHDRAWN

    deadline = time.monotonic() + seconds
    while True:
        with database.transaction(read_only=True) as tx:
            asked = tx.commands.asked(command.command_id)
        if asked is not None and asked.outcome is not None:
            return asked
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    late = f"nobody carried it out within {seconds:g} s"
    with database.transaction("cli") as tx:
        withdrawn = tx.commands.done(command.command_id, f"{WITHDRAWN}{late}")
        asked = tx.commands.asked(command.command_id)
    if not withdrawn and asked is not None:
        return asked
    raise Unavailable(f"{late}, so it was withdrawn and changes nothing: {_controller(settings)}")


def _controller(settings: FlywheelSettings) -> str:
    """Whether the controller answers, and what to do."""
    from flywheel.ops.health import NO_ANSWER, health_problem
    from flywheel.ops.supervisor import address

    url = address(settings.monitoring.host, settings.monitoring.controller_port)
    if health_problem(f"{url}/healthz") == NO_ANSWER:
        return f"no controller answers at {url}: start it with `flywheel up`"
    return f"the controller at {url} is running; its log says why it did not"


for _kind, _words in (
    ("pause", "Hold the share where it is."),
    ("resume", "Go on with the plan."),
    ("promote", "Make the challenger the champion now, without waiting for proof."),
    ("rollback", "Give the champion all traffic again."),
):
    rollout.add_command(_command(_kind, _words))  # type: ignore[arg-type]
