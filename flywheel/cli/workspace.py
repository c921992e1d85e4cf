"""Commands on a workspace as a whole: up, down, status, doctor."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import click

from flywheel.cli.render import json_option, show_json, show_table
from flywheel.errors import WorkspaceError
from flywheel.settings import load_settings


@click.command()
@click.pass_context
def up(ctx: click.Context) -> None:
    """Start every process of the workspace and stay in the foreground; Ctrl-C stops them all.

    Says when all of them are healthy."""
    from flywheel.ops.announce import addresses, announce_beside
    from flywheel.ops.orphans import end, members, names
    from flywheel.ops.supervisor import (
        check_compressor,
        check_disk,
        check_engine,
        check_ports,
        command,
        programs,
    )
    from flywheel.ops.up_lock import lock
    from flywheel.ops.workspace import prepare
    from flywheel.turn.bases import check_bases
    from flywheel.turn.contradictions import begin_with

    settings = load_settings(ctx.obj)
    # First of all: who waits for what this starts sees by it that it is here.
    with lock(settings) as held:
        check_engine(settings)
        check_compressor(settings)
        check_disk(settings)
        for line in begin_with(settings):
            click.echo(f"warning: {line}", err=True)
        # Before anything is ended: what a killed supervisor left may be serving.
        check_bases(settings)
        if orphans := members(settings):
            click.echo(f"ending what a killed supervisor left: {names(orphans)}", err=True)
            if left := end(settings):
                raise WorkspaceError(
                    f"{names(left)} would not end: kill it by hand, then start again"
                )
        prepare(settings)
        check_ports(settings)
        click.echo(
            f"starting {', '.join(program.name for program in programs(settings))}", err=True
        )
        click.echo(f"{addresses(settings)}  logs {settings.layout.logs}", err=True)
        announce_beside(settings, held, partial(click.echo, err=True))
        # The lock lives as long as the supervisor that takes this process' place.
        os.set_inheritable(held.fileno(), True)
        arguments = command(settings)
        os.chdir(settings.workspace)
        os.execv(arguments[0], arguments)  # noqa: S606


@click.command()
@click.pass_context
def down(ctx: click.Context) -> None:
    """Stop every process that `up` started, each in its own good order, and wait for its end.

    What a killed supervisor left behind is ended too. Exit code 1 when something would not end.
    """
    from flywheel.ops.orphans import names
    from flywheel.ops.shutdown import stop

    stopped = stop(load_settings(ctx.obj))
    if stopped.supervised:
        click.echo(f"stopped {', '.join(stopped.supervised)}")
    if stopped.orphans:
        click.echo(f"ended what a killed supervisor had left: {names(stopped.orphans)}")
    if stopped.left:
        raise WorkspaceError(f"{names(stopped.left)} would not end: kill it by hand")
    if not stopped.supervised and not stopped.orphans:
        click.echo("nothing of this workspace runs")


@click.command()
@click.option("--urls", is_flag=True, help="Only where gateway and console are, as JSON.")
@json_option
@click.option(
    "--wait",
    type=float,
    metavar="SECONDS",
    help="First wait until all is healthy; less when no `up` runs, or it ended.",
)
@click.pass_context
def status(ctx: click.Context, urls: bool, as_json: bool, wait: float | None) -> None:
    """What runs, what is made, what serves which task, what waits, and what to do next.

    Answers also while parts are down. Exit code 1 while no supervisor runs.
    """
    from flywheel.cli.status_words import PROCESS_COLUMNS, process_rows, status_text
    from flywheel.ops.await_healthy import wait_healthy
    from flywheel.ops.standing import standing
    from flywheel.ops.supervisor import address

    settings = load_settings(ctx.obj)
    if urls:
        where = {
            "gateway": address(settings.gateway.host, settings.gateway.port),
            "console": address(settings.console.host, settings.console.port),
        }
        click.echo(json.dumps(where))
        return
    if wait is not None:
        wait_healthy(settings, wait)
    state = standing(settings)
    if as_json:
        show_json(state)
    else:
        show_table(PROCESS_COLUMNS, process_rows(state))
        click.echo(status_text(state))
    if state.supervisor is None:
        sys.exit(1)


@click.command()
@json_option
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of sample ids, one a line, each of which must have been recorded exactly once.",
)
@click.option("--wait", type=float, default=0.0, help="Seconds to let agents catch up first.")
@click.option(
    "--full",
    is_flag=True,
    help="Read the whole log and every row, instead of what agents did not note as handled.",
)
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, expect: Path | None, wait: float, full: bool) -> None:
    """Say what is used and why, whether agents have handled all that they passed in the log, and
    whether every task has a base model, a holdout and samples of each label.

    Ends with exit code 1 when something is lost, doubled, unusable or cannot be reached; with
    --json the counts say so, and the exit code is 0. Events that only wait for an agent are said,
    and are no fault.
    """
    from flywheel.ops.doctor import examine

    settings = load_settings(ctx.obj)
    expected = expect.read_text("utf-8", errors="replace").split() if expect else []
    deadline = time.monotonic() + wait
    while True:
        finding = examine(settings, expected, full=full)
        if (finding.ok and not finding.waiting) or time.monotonic() >= deadline:
            break
        time.sleep(1.0)
    click.echo(json.dumps(finding.as_json()) if as_json else finding.as_text())
    if not finding.ok and not as_json:
        sys.exit(1)
