"""Commands on a workspace as a whole: init, up, down, status, doctor."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from flywheel.errors import ConfigurationError, FlywheelError, WorkspaceError
from flywheel.settings import CONFIG_FILE, FlywheelSettings, load_settings


def parse_values(pairs: Sequence[str]) -> dict[str, object]:
    """``KEY=VALUE`` pairs; a value is JSON, or else taken as a string.

    Raises ConfigurationError for a pair without "=".
    """
    values: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigurationError("--set", f"{pair!r} is not KEY=VALUE")
        try:
            values[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[key.strip()] = text
    return values


@click.command()
@click.option("--task", default="my-task", show_default=True, help="Name of the task.")
@click.option("--title", default="", help="The task in a few words, shown to experts.")
@click.option(
    "--label", "labels", multiple=True, metavar="LABEL[=TITLE]", help="One of the task's labels."
)
@click.option(
    "--base-model", default="", help="Folder of a sentence-transformers encoder, or of an LLM."
)
@click.option(
    "--kind", type=click.Choice(["classification", "generation"]), default="classification"
)
@click.option(
    "--model",
    type=click.Choice(["encoder", "llm"]),
    default="encoder",
    help="An encoder with a head, or a language model with LoRA adapters (served by vLLM).",
)
@click.option("--set", "values", multiple=True, metavar="KEY=VALUE", help="Another value.")
@click.pass_context
def init(
    ctx: click.Context,
    task: str,
    title: str,
    labels: tuple[str, ...],
    base_model: str,
    kind: str,
    model: str,
    values: tuple[str, ...],
) -> None:
    """Make a workspace: a commented flywheel.toml, the pipeline, and a git and DVC repository."""
    from flywheel.bootstrap.template import flywheel_toml
    from flywheel.bootstrap.workspace import make_repository

    folder: Path = ctx.obj.resolve()
    config = folder / CONFIG_FILE
    if config.exists():
        click.echo(f"kept {config}, which is there already: edit it to change values")
    else:
        titles = dict(label.partition("=")[::2] for label in labels) or {"yes": "", "no": ""}
        text = flywheel_toml(
            task,
            list(titles),
            base_model or "models/base",
            title=title,
            label_titles={name: words for name, words in titles.items() if words},
            kind=kind,
            model=model,
            values=parse_values(values),
        )
        _write_valid(config, text)
        click.echo(f"wrote {config}: read it, it says what every key does")
    settings = load_settings(folder)
    make_repository(settings)
    click.echo(f"{folder} is a workspace; next: `flywheel -w {shlex.quote(str(folder))} up`")


def _write_valid(config: Path, text: str) -> None:
    """Write a new flywheel.toml; one with a bad value does not stay, or it would be kept."""
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text, "utf-8")
    except OSError as error:
        raise WorkspaceError(f"cannot write {config} ({error.strerror})") from error
    try:
        load_settings(config.parent)
    except FlywheelError:
        config.unlink()
        raise


@click.command()
@click.pass_context
def up(ctx: click.Context) -> None:
    """Start every process of the workspace and stay in the foreground; Ctrl-C stops them all."""
    from flywheel.bootstrap.orphans import end, members, names
    from flywheel.bootstrap.supervisor import (
        address,
        check_disk,
        check_engine,
        check_ports,
        command,
        lock,
        programs,
    )
    from flywheel.bootstrap.workspace import prepare

    settings = load_settings(ctx.obj)
    check_engine(settings)
    check_disk(settings)
    held = lock(settings)
    if orphans := members(settings):
        click.echo(f"ending what a killed supervisor left: {names(orphans)}", err=True)
        if left := end(settings):
            raise WorkspaceError(f"{names(left)} would not end: kill it by hand, then start again")
    prepare(settings)
    check_ports(settings)
    click.echo(f"starting {', '.join(program.name for program in programs(settings))}", err=True)
    click.echo(
        f"console {address(settings.console.host, settings.console.port)}  "
        f"gateway {address(settings.gateway.host, settings.gateway.port)}  "
        f"logs {settings.state / 'logs'}",
        err=True,
    )
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
    from flywheel.bootstrap.orphans import names
    from flywheel.bootstrap.shutdown import stop

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
@click.option("--wait", type=float, metavar="SECONDS", help="First wait until all is healthy.")
@click.pass_context
def status(ctx: click.Context, urls: bool, wait: float | None) -> None:
    """What runs, what serves which task, and what waits."""
    from flywheel.bootstrap.supervisor import Supervisor, address

    settings = load_settings(ctx.obj)
    if urls:
        where = {
            "gateway": address(settings.gateway.host, settings.gateway.port),
            "console": address(settings.console.host, settings.console.port),
        }
        click.echo(json.dumps(where))
        return
    supervisor = Supervisor(settings)
    if wait is not None:
        supervisor.wait_healthy(wait)
    for name, row in supervisor.processes().items():
        click.echo(f"{name:12} {row['statename']:9} {row['description']}")
    _tasks(settings)


def _tasks(settings: FlywheelSettings) -> None:
    from flywheel.bootstrap.process import open_database
    from flywheel.contracts.ids import utc_now

    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        for task in settings.tasks:
            depth = tx.desk.depth(task, utc_now())
            active = tx.rollouts.active(task)
            click.echo(f"\n{task}: {tx.rollouts.champion(task) or 'nothing'} serves")
            if active is not None:
                click.echo(f"  {active.challenger} at {active.share:.0%} ({active.state})")
            click.echo(f"  {depth.open} samples wait for an expert, {depth.settled} are settled")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of sample ids, one a line, each of which must have been recorded exactly once.",
)
@click.option("--wait", type=float, default=0.0, help="Seconds to let agents catch up first.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, expect: Path | None, wait: float) -> None:
    """Say what is used and why, and reconcile the ids in the log with those in the database.

    Ends with exit code 1 when something is lost, doubled or cannot be reached; with --json the
    counts say so, and the exit code is 0.
    """
    from flywheel.bootstrap.doctor import examine

    settings = load_settings(ctx.obj)
    expected = expect.read_text("utf-8", errors="replace").split() if expect else []
    deadline = time.monotonic() + wait
    while True:
        finding = examine(settings, expected)
        if finding.ok or time.monotonic() >= deadline:
            break
        time.sleep(1.0)
    click.echo(json.dumps(finding.as_json()) if as_json else finding.as_text())
    if not finding.ok and not as_json:
        sys.exit(1)
