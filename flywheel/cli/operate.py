"""Commands for whoever runs the loop: labels in, turns, rollouts, releases, datasets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from flywheel.cli.ids import full_id
from flywheel.cli.render import json_option, moment, show_json, show_table, utc_option
from flywheel.contracts.events import Split
from flywheel.contracts.ids import new_id, utc_now
from flywheel.datasets.file_formats import FORMATS, OTHER_NAMES
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.settings import FlywheelSettings, load_settings


def chosen_task(settings_tasks: Mapping[str, object], task: str | None) -> str:
    """The task that a command is about: the one named, or the only one there is."""
    if task is None and len(settings_tasks) == 1:
        return next(iter(settings_tasks))
    if task is None:
        raise click.UsageError(f"name the task: one of {', '.join(sorted(settings_tasks))}")
    if task not in settings_tasks:
        known = ", ".join(sorted(settings_tasks))
        raise ConfigurationError(f"tasks.{task}", "no such task", f"known: {known}")
    return task


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--task", help="Default: the only task there is.")
@click.option(
    "--split",
    type=click.Choice(["train", "holdout"]),
    help="'holdout' is never trained on: the gate measures every release on it.",
)
@click.option("--annotator", default="import", show_default=True, help="Who gave these labels.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice([*(one.name for one in FORMATS), *OTHER_NAMES], case_sensitive=False),
    help="What wrote FILE; without it, what FILE begins with decides.",
)
@click.option("--wait/--no-wait", default=True, help="Return when the database knows them all.")
@json_option
@click.pass_context
def ingest(
    ctx: click.Context,
    file: Path,
    task: str | None,
    split: Split | None,
    annotator: str,
    format_name: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Bring in labelled samples: FILE has a JSON object a line with "text" and "label", or is CSV
    whose header names text and label, or an export of doccano, Label Studio (JSON, JSON_MIN),
    Prodigy, or a chat file of OpenAI's.

    All of FILE comes in, or nothing when a line is wrong. What was rejected or skipped is left out
    and said. A text brought in twice counts once; a label that differs from the one before counts.
    """
    from flywheel.cli.ingest_words import ingested_text
    from flywheel.datasets.file_formats import format_named
    from flywheel.ops.ingest import await_labels, ingest_file

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    format_ = format_named(format_name) if format_name else None
    ingested = ingest_file(settings, name, file, split, annotator, format_)
    if wait:
        await_labels(settings, name, ingested.sample_ids, 120.0)
    if as_json:
        show_json(ingested)
        return
    first, *rest = ingested_text(ingested)
    click.echo(first)
    if ingested.by_label:
        rows = [(label, str(count)) for label, count in ingested.by_label.items()]
        show_table(["label", "samples"], rows, right=["samples"])
    for line in rest:
        click.echo(line)


@click.command()
@click.argument("task", required=False)
@json_option
@utc_option
@click.pass_context
def review(ctx: click.Context, task: str | None, as_json: bool, utc: bool) -> None:
    """How the expert queue of TASK stands, and where to label."""
    import msgspec

    from flywheel.ops.supervisor import address
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        depth = tx.desk.depth(name, utc_now())
    where = f"{address(settings.console.host, settings.console.port)}/review/{name}"
    if as_json:
        show_json({"task": name, **msgspec.to_builtins(depth), "url": where})
        return
    counts = {
        "open": depth.open,
        "claimed": depth.claimed,
        "submitted": depth.submitted,
        "settled": depth.settled,
        "of these without a label": depth.unlabelable,
        "withdrawn": depth.withdrawn,
    }
    show_table(["state", "samples"], [(k, str(n)) for k, n in counts.items()], right=["samples"])
    if depth.oldest_open is not None:
        click.echo(f"the oldest waits since {moment(depth.oldest_open, utc)}")
    click.echo(f"label at {where}")


@click.command()
@click.argument("task", required=False)
@click.option("--by", required=True, help="Who asks for it.")
@click.option("--why", required=True, help="Recorded with the turn.")
@click.option("--override", is_flag=True, help="Register the result even if the gate says no.")
@click.option(
    "--drill",
    type=click.Choice(["shuffled-labels"]),
    help="Train something broken on purpose, to see the rollout roll it back.",
)
@click.option(
    "--merge",
    is_flag=True,
    help="No new training: the champion's adapter is merged into its base, which serves faster.",
)
@click.pass_context
def retrain(
    ctx: click.Context,
    task: str | None,
    by: str,
    why: str,
    override: bool,
    drill: str | None,
    merge: bool,
) -> None:
    """Ask the trainer for a turn of the wheel now."""
    from flywheel.contracts.release import Override
    from flywheel.ops.supervisor import flywheel_command
    from flywheel.retraining.ports import TurnRequest
    from flywheel.retraining.trigger import when_begun
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    if merge and settings.task(name).model != "llm":
        raise ConfigurationError(
            f"tasks.{name}.model", "an encoder has no adapter to merge", "leave --merge out"
        )
    request = TurnRequest(
        request_id=new_id(),
        task=name,
        by=by,
        why=why,
        at=utc_now(),
        override=Override(by=by, why=why) if override else None,
        overrides={**({"drill": drill} if drill else {}), **({"merge": True} if merge else {})},
    )
    with open_database(settings) as database, database.transaction("cli") as tx:
        ahead = tx.turns.ahead(name, settings.tasks)
        latest = next(iter(tx.turns.history(name, 1)), None)
        labelled = tx.labels.watermark(name) is not None
        tx.turns.request(request)
    begun = when_begun(ahead, latest, labelled, request.at)
    click.echo(f"asked for a turn of {name}: it begins {begun}")
    if not ahead.trainer:
        click.echo(f"no trainer was heard of: {flywheel_command(settings, 'up')} starts one")


@click.group()
def datasets() -> None:
    """Dataset versions: immutable, in git and DVC."""


@datasets.command("list")
@click.argument("task", required=False)
@json_option
@utc_option
@click.pass_context
def list_datasets(ctx: click.Context, task: str | None, as_json: bool, utc: bool) -> None:
    """Every dataset version of TASK, oldest first."""
    import msgspec

    from flywheel.ops.workspace import pruned_datasets
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        versions = tx.datasets.history(name)
    gone = pruned_datasets(settings, name)
    if as_json:
        show_json(
            [msgspec.to_builtins(row) | {"pruned": gone.get(row.version)} for row in versions]
        )
        return
    rows = [
        (
            row.version,
            moment(row.occurred_at, utc),
            str(row.expert_labels),
            str(row.seed_labels),
            str(row.auto_labels),
            str(row.holdout_labels),
            row.git_commit[:10],
            row.dvc_hash,
            "pruned" if row.version in gone else "kept",
        )
        for row in versions
    ]
    show_table(
        ["version", "made", "expert", "seed", "auto", "held out", "git", "dvc", "bytes"],
        rows,
        right=["expert", "seed", "auto", "held out"],
        empty=f"{name} has no dataset yet; the first turn makes one (`flywheel status`)",
    )


@datasets.command()
@click.argument("version")
@click.option("--task", help="Default: the only task there is.")
@click.option("--by", required=True, help="Who takes it away.")
@click.option("--why", required=True, help="Kept with the version.")
@click.pass_context
def prune(ctx: click.Context, version: str, task: str | None, by: str, why: str) -> None:
    """Take the bytes of dataset VERSION away for good; that it was made stays known."""
    from flywheel.ops.workspace import prune_dataset

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    version = full_id(version, _known(settings, name), "dataset", "flywheel datasets list")
    gone = prune_dataset(settings, name, version, by=by, why=why)
    click.echo(f"{version} of {name} is pruned: {gone} files that nothing else needs are gone")


@datasets.command()
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--task", help="Default: the only task there is.")
@click.pass_context
def checkout(ctx: click.Context, version: str, folder: Path, task: str | None) -> None:
    """Write the bytes of dataset VERSION to FOLDER, which must not exist."""
    from flywheel.ops.workspace import checkout_dataset

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    if folder.exists():
        raise WorkspaceError(f"{folder} exists already: name a folder that does not")
    version = full_id(version, _known(settings, name), "dataset", "flywheel datasets list")
    checkout_dataset(settings, name, version, folder)
    click.echo(f"{version} of {name} is in {folder}")


@datasets.command()
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--task", help="Default: the only task there is.")
@click.pass_context
def export(ctx: click.Context, version: str, folder: Path, task: str | None) -> None:
    """Write dataset VERSION to FOLDER, which must not exist, as files that `flywheel ingest` reads:
    JSON lines by part, and the images that they name."""
    import tempfile

    from flywheel.datasets.export import export_dataset
    from flywheel.ops.workspace import checkout_dataset

    settings = load_settings(ctx.obj)
    name = chosen_task(settings.tasks, task)
    version = full_id(version, _known(settings, name), "dataset", "flywheel datasets list")
    with tempfile.TemporaryDirectory() as scratch:
        checked_out = Path(scratch) / "dataset"
        checkout_dataset(settings, name, version, checked_out)
        export_dataset(checked_out, settings.task(name).of_kind, folder)
    click.echo(f"{version} of {name} is in {folder}, a file for each part")


def _known(settings: FlywheelSettings, task: str) -> list[str]:
    """The dataset versions that the database has of a task."""
    from storage.workspace import open_database

    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        return [row.version for row in tx.datasets.history(task)]
