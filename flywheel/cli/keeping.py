"""How long data is kept: `flywheel retention`, `flywheel archive` and `flywheel erase`."""

from __future__ import annotations

import getpass

import click

from flywheel.cli.render import json_option, moment, show_json, show_table, utc_option
from flywheel.contracts.ids import utc_now
from flywheel.errors import Conflict
from flywheel.settings import load_settings


@click.group()
def retention() -> None:
    """What is kept no longer, by [retention]: see what would go, or remove it now."""


@retention.command("plan")
@json_option
@utc_option
@click.pass_context
def plan_(ctx: click.Context, as_json: bool, utc: bool) -> None:
    """What would go now, with counts. Removes nothing."""
    from flywheel.upkeep.retention import planned
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as database:
        plans = planned(settings, database, utc_now())
    if as_json:
        show_json(plans)
        return
    rows = [
        (one.task, kind, moment(before, utc), str(one.rows.get(kind, 0)))
        for one in plans
        for kind, before in one.before.items()
    ]
    for one in plans:
        rows += [(one.task, "release", "–", release) for release in one.releases]
        rows += [(one.task, "dataset", "–", version) for version in one.datasets]
    show_table(
        ["task", "kind", "before", "goes"],
        rows,
        right=["goes"],
        empty="nothing goes: [retention] of flywheel.toml keeps all for ever",
    )
    if gone := [one.task for one in plans if one.departed and any(one.rows.values())]:
        click.echo(
            f"{', '.join(gone)}: in flywheel.toml no longer, so what is old of it goes only by "
            "`flywheel retention run --departed`"
        )


@retention.command("run")
@click.option(
    "--departed",
    "also_departed",
    is_flag=True,
    help="Also of tasks that flywheel.toml has no more.",
)
@json_option
@click.pass_context
def run_(ctx: click.Context, also_departed: bool, as_json: bool) -> None:
    """Remove now what is kept no longer. The controller and the trainer do so by themselves, but
    for tasks that flywheel.toml has no more: their own days are known no longer.
    """
    from flywheel.upkeep.retention import departed, remove_all
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as database:
        others = departed(settings, database) if also_departed else ()
        removed = remove_all(settings, database, utc_now(), others)
    if removed is None:
        raise Conflict("another process removes data at this moment: try again when it has ended")
    if as_json:
        show_json(removed)
        return
    rows = [(one.task, what, str(count)) for one in removed for what, count in one.went().items()]
    show_table(["task", "what", "went"], rows, right=["went"], empty="nothing was too old")


@retention.command("erased")
@json_option
@utc_option
@click.pass_context
def erased_(ctx: click.Context, as_json: bool, utc: bool) -> None:
    """What was erased by `flywheel erase`: when, by whom, why, and how much; not whose it was."""
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        erasures = tx.erasures.history()
    if as_json:
        show_json(erasures)
        return
    rows = [
        (
            one.erasure_id,
            moment(one.at, utc),
            one.by,
            one.why,
            f"a {one.kind} of {one.task or 'every task'}",
            ", ".join(f"{count} {what}" for what, count in sorted(one.counts.items()))
            if one.finished_at
            else "ended midway: ask for it again",
        )
        for one in erasures
    ]
    show_table(
        ["erasure", "when", "by", "why", "what", "went"], rows, empty="nothing was ever erased"
    )


@click.group()
def archive() -> None:
    """What was archived before it was removed: list its files, or ask it in SQL."""


@archive.command("list")
@json_option
@click.pass_context
def list_archive(ctx: click.Context, as_json: bool) -> None:
    """The archive's files, by table, task and day."""
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        files = tx.archived.all()
    if as_json:
        show_json(files)
        return
    rows = [
        (file.source, file.task, file.day, str(file.rows), f"{file.bytes / 1e6:.2f} MB", file.key)
        for file in files
    ]
    show_table(
        ["table", "task", "day", "rows", "size", "file"],
        rows,
        right=["rows", "size"],
        empty="nothing was archived: `retention.archive` of flywheel.toml is what asks for it",
    )


@archive.command("query")
@click.argument("sql")
@json_option
@click.pass_context
def query_archive(ctx: click.Context, sql: str, as_json: bool) -> None:
    """Ask the archive in SQL (DuckDB's); its tables have the names of `flywheel archive list`."""
    from storage.archive_query import query
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        files = tx.archived.all()
    columns, rows = query(settings, files, sql)
    if as_json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    show_table(columns, cells, empty="no row")


@click.command()
@click.option("--user", help="Whose data: the user that clients named in their requests.")
@click.option("--sample", help="Which sample's data, by its id.")
@click.option("--task", help="Of this task alone; default: of every task.")
@click.option("--why", required=True, help="Recorded, without the data.")
@click.option("--by", default=getpass.getuser, help="Who asks for it; default: who runs this.")
@json_option
@click.pass_context
def erase(
    ctx: click.Context,
    user: str | None,
    sample: str | None,
    task: str | None,
    why: str,
    by: str,
    as_json: bool,
) -> None:
    """Remove a user's or a sample's data from everywhere that Flywheel keeps it, for good, and say
    what still holds it: dataset versions, releases, topics of Kafka.

    That it was erased stays recorded, without the data. What comes of it later is not taken in.
    """
    from flywheel.cli.operate import chosen_task
    from flywheel.upkeep.erasure import erase as erase_data
    from flywheel.upkeep.erasure import lines
    from storage.workspace import open_database

    if (user is None) == (sample is None):
        raise click.UsageError("name whose data goes: --user NAME or --sample ID")
    settings = load_settings(ctx.obj)
    tasks = None if task is None else [chosen_task(settings.tasks, task)]
    with open_database(settings) as database:
        done = erase_data(settings, database, tasks, user=user, sample=sample, by=by, why=why)
    if as_json:
        show_json(done)
        return
    for line in lines(done):
        click.echo(line)
