"""`flywheel releases`: what there is, what served when, what differs; back, out and in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flywheel.cli.base_models import look_at
from flywheel.cli.ids import find_release, full_id
from flywheel.cli.operate import chosen_task
from flywheel.cli.release_words import diff_lines, history_cells, release_facts, served_lines
from flywheel.cli.render import (
    Moment,
    json_option,
    moment,
    show_facts,
    show_json,
    show_table,
    utc_option,
)
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.percentages import rounded
from flywheel.errors import ArtefactError, Conflict
from flywheel.settings import FlywheelSettings, load_settings
from flywheel.turn.bases import PACKAGE

if TYPE_CHECKING:
    from flywheel.registry.release_folders import ReleaseFolders
    from storage.database import Database

TAKEN_UP_SECONDS = 30.0  # that the controller has before a command is withdrawn
POLL_SECONDS = 0.5


@click.group()
def releases() -> None:
    """Releases: what there is, what served when, what differs; back, out and in."""


@releases.command("list")
@click.argument("task", required=False)
@json_option
@utc_option
@click.pass_context
def list_releases(ctx: click.Context, task: str | None, as_json: bool, utc: bool) -> None:
    """Every release of TASK with its status, oldest first."""
    import msgspec

    from flywheel.registry.history import ALL, current_status
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        registered = tx.releases.history(name)
        champion, rollouts = tx.rollouts.champion(name), tx.rollouts.history(name, ALL)
    status = {row.release: current_status(row.release, champion, rollouts) for row in registered}
    if as_json:
        show_json(
            [{**msgspec.to_builtins(row), "status": status[row.release]} for row in registered]
        )
        return
    rows = [
        (
            row.release,
            moment(row.created_at, utc),
            status[row.release].replace("_", " "),
            row.dataset_version,
            f"{rounded(row.accuracy)}%",
            f"{row.size_bytes / 1e6:.1f} MB",
        )
        for row in registered
    ]
    serving = [n for n, row in enumerate(registered) if status[row.release] == "champion"]
    show_table(
        ["release", "registered", "status", "data", "accuracy", "size"],
        rows,
        right=["accuracy", "size"],
        bold=serving,
        empty=f"{name} has no release yet; the first turn makes one (`flywheel status`)",
    )


@releases.command("show")
@click.argument("release")
@json_option
@utc_option
@click.pass_context
def show_release(ctx: click.Context, release: str, as_json: bool, utc: bool) -> None:
    """What RELEASE scored, how the gate decided, what it was made of, and what became of it."""
    import msgspec

    from flywheel.registry.history import read_history
    from flywheel.registry.lineage import lineage
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        record = find_release(tx, settings.tasks, release)
        history = read_history(tx, record)
        family = lineage(tx, record.task, record.release)
    if as_json:
        show_json({**msgspec.to_builtins(record), "history": msgspec.to_builtins(history)})
        return
    for title, facts in release_facts(family, history[-1].status, utc):
        show_facts(facts, title=title)
        click.echo()
    rows = [(moment(one.at, utc), *history_cells(one)) for one in history]
    show_table(["since", "status", "share", "by", "why"], rows, right=["share"])


@releases.command("diff")
@click.argument("a")
@click.argument("b")
@json_option
@click.pass_context
def diff_releases(ctx: click.Context, a: str, b: str, as_json: bool) -> None:
    """What differs from release A to release B: data, recipe, quality, size, prompt, answers."""
    from flywheel.registry.diff import diff, read_files
    from flywheel.turn.artefacts import open_release_folders
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as database:
        with database.transaction(read_only=True) as tx:
            records = [find_release(tx, settings.tasks, given) for given in (a, b)]
        folders = open_release_folders(settings, database)
        one, two = (read_files(row, folders.hold) for row in records)
    difference = diff(one, two)
    if as_json:
        show_json(difference)
    else:
        click.echo("\n".join(diff_lines(difference)))


@releases.command("served-at")
@click.argument("at", type=Moment())
@click.argument("task", required=False)
@json_option
@utc_option
@click.pass_context
def served_at(ctx: click.Context, at: datetime, task: str | None, as_json: bool, utc: bool) -> None:
    """What served TASK at a moment: release, data, settings, and who shared traffic.

    AT is such as 2026-11-29T03:12+01:00; without a zone it is local time.
    """
    from flywheel.registry.served import served_at as what_served
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        served = what_served(tx, name, at)
    if as_json:
        show_json(served)
    elif served.release is None:
        click.echo(f"nothing served {name} at {moment(at, utc)}")
    else:
        click.echo("\n".join(served_lines(served, utc)))


@releases.command()
@click.argument("release")
@json_option
@click.pass_context
def verify(ctx: click.Context, release: str, as_json: bool) -> None:
    """Hash every file of RELEASE, and its base: is it exactly what was released?"""
    settings = load_settings(ctx.obj)
    with _held(settings, release) as (folders, full):
        description = folders.verified(full)
    if as_json:
        base = description.base.id if description.base else None
        show_json(
            {"release": full, "verified": True, "files": len(description.files), "base": base}
        )
        return
    base = f" and base {description.base.id}" if description.base else ""
    click.echo(f"{full} is exactly what was released: {len(description.files)} files{base}")


@contextmanager
def _held(settings: FlywheelSettings, given: str) -> Iterator[tuple[ReleaseFolders, str]]:
    """The releases, and the id of the one that is meant: one that lies here, whether the database
    knows it or not, or one that it says where to fetch."""
    from flywheel.turn.artefacts import open_release_folders
    from storage.workspace import open_database

    with open_database(settings) as database:
        folders = open_release_folders(settings, database)
        with database.transaction(read_only=True) as tx:
            known = [row.release for name in settings.tasks for row in tx.releases.history(name)]
        listing = "flywheel releases list"
        release = full_id(given, [*folders.here(), *known], "release", listing)
        with folders.hold(release):
            yield folders, release


@releases.command()
@click.argument("release")
@click.option("--by", required=True, help="Who decides.")
@click.option("--why", required=True, help="Recorded with the transition.")
@click.option("--wait/--no-wait", default=True, help="Return when it serves.")
@click.pass_context
def restore(ctx: click.Context, release: str, by: str, why: str, wait: bool) -> None:
    """Roll back to RELEASE, a former champion, once it is verified and loaded everywhere."""
    from flywheel.cli.rollout import carried_out
    from flywheel.rollout.commands import ask
    from flywheel.rollout.ports import Command
    from flywheel.turn.artefacts import open_release_folders
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as database:
        with database.transaction(read_only=True) as tx:
            record = find_release(tx, settings.tasks, release)
            task, release = record.task, record.release
            running = tx.rollouts.active(task)
        open_release_folders(settings, database).verified(release)
        command = Command(
            command_id=new_id(),
            task=task,
            kind="restore",
            by=by,
            why=why,
            at=utc_now(),
            rollout_id=running.rollout_id if running else None,
            release=release,
        )
        loads = f"{release} is exactly what was released; the controller loads it"
        if wait:
            carried_out(settings, database, command, TAKEN_UP_SECONDS)
            click.echo(loads)
            _await_restore(database, task, release, command.at)
            return
        with database.transaction("cli") as tx:
            refused = ask(tx, command)
        if refused:
            raise Conflict(refused)
        click.echo(loads)


@releases.command("export")
@click.argument("release")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def export(ctx: click.Context, release: str, file: Path) -> None:
    """Write RELEASE, with its base, to FILE (a tar), to be imported elsewhere."""
    from flywheel.registry.archive import export_release
    from flywheel.registry.release_folder import release_folder

    settings = load_settings(ctx.obj)
    if file.exists():
        raise ArtefactError(f"{file} exists already: name a file that does not")
    with _held(settings, release) as (_, full):
        folder = release_folder(settings.state, full)
        manifest = export_release(folder, settings.layout.bases, file.resolve())
    size = sum(one.bytes for one in manifest.files.values())
    click.echo(f"{full} is in {file}: {len(manifest.files)} files, {size / 1e6:.1f} MB")


@releases.command("import")
@click.argument("source")
@click.option("--task", help="Default: the only task there is.")
@click.option("--by", help="Who brings it in (a base model needs neither).")
@click.option("--why", help="Recorded with the release.")
@click.option("--override", is_flag=True, help="Register it even if the gate says no.")
@click.option("--name", help="Name of the folder below models/bases (for a base model).")
@click.option("--wait/--no-wait", default=True, help="Return when the gate has decided.")
@click.pass_context
def import_(
    ctx: click.Context,
    source: str,
    task: str | None,
    by: str | None,
    why: str | None,
    override: bool,
    name: str | None,
    wait: bool,
) -> None:
    """Bring in SOURCE: an exported release, a folder in the layout of Hugging Face, or
    package:NAME for an installed package that carries a model.

    A release and a classifier with the task's labels are measured on the held-out samples and meet
    the gate, like everything that was trained here; a base model is put where training finds it.
    """
    from flywheel.turn.staging import request_import, share, stage_archive, stage_model
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    path = Path(source)
    folder, called = path, source
    archive = not source.startswith(PACKAGE) and path.is_file()
    if not archive:
        classifier, called, target = look_at(source, settings.workspace, name)
        if classifier is None:
            click.echo(_how_to_use(settings, called, target))
            return
        folder = classifier
    if by is None or why is None:
        raise click.UsageError("a release is brought in by someone (--by) and for a reason (--why)")
    of_task = chosen_task(settings.tasks, task)
    if archive:
        request_id, staged = stage_archive(settings, of_task, path)
    else:
        request_id, staged = stage_model(settings, of_task, folder, called)
    staged = share(settings, request_id, staged)
    with open_database(settings) as database:
        request_import(database, of_task, request_id, staged, by=by, why=why, override=override)
        click.echo(f"{staged.source} is staged; the trainer measures it and asks the gate")
        if wait:
            _await_import(database, of_task, request_id)


def _how_to_use(settings: FlywheelSettings, called: str, target: Path) -> str:
    """What to say of a base model that lies in ``target`` now."""
    users = [
        name
        for name, task in settings.tasks.items()
        if Path(task.training.base_model).resolve() == target.resolve()
    ]
    said = f"{called} is in {target}: a base to train from"
    if users:
        return f"{said}, which {', '.join(f'tasks.{name}' for name in users)} names already"
    where = target.relative_to(settings.workspace)
    return f'{said}. In flywheel.toml set\n[tasks.NAME.training]\nbase_model = "{where}"'


def _await_import(database: Database, task: str, request_id: str) -> None:
    from flywheel.turn.staging import COMPARED

    while True:
        with database.transaction(read_only=True) as tx:
            turns = [turn for turn in tx.turns.history(task) if turn.turn_id == request_id]
            name = turns[0].release if turns else None
            release = None if name is None else tx.releases.get(name)
        if turns and turns[0].ended_at is not None:
            break
        time.sleep(POLL_SECONDS)
    turn = turns[0]
    if turn.release is None:
        raise ArtefactError(f"not imported: {turn.error}")
    click.echo(f"{turn.release} is registered; the controller rolls it out like any other")
    compared = release.recipe.get("imported", {}).get(COMPARED) if release is not None else None
    if compared is not None:
        click.echo(f"compared with transformers: {compared}")


def _await_restore(database: Database, task: str, release: str, since: datetime) -> None:
    while True:
        with database.transaction(read_only=True) as tx:
            mine = [
                rollout
                for rollout in tx.rollouts.history(task, 5)
                if rollout.challenger == release and rollout.started_at >= since
            ]
        if mine and mine[0].ended_at is not None:
            break
        time.sleep(POLL_SECONDS)
    if mine[0].state != "promoted":
        raise ArtefactError(f"not restored: {mine[0].reason}")
    click.echo(f"{release} serves {task} again")
