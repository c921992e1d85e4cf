"""`flywheel compress`: variants of a model beside each other, of a release or made by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from flywheel.cli.ids import find_release
from flywheel.cli.render import json_option, show_json, show_table
from flywheel.contracts.layout import Layout
from flywheel.contracts.percentages import percentage, rounded
from flywheel.errors import ConfigurationError, NotFound
from flywheel.settings import load_settings


@click.group()
def compress() -> None:
    """Compare compressed variants: size, accuracy, speed, memory."""


@compress.command("compare")
@click.argument("task", required=False)
@click.argument("release", required=False)
@json_option
@click.pass_context
def compare_release(
    ctx: click.Context, task: str | None, release: str | None, *, as_json: bool
) -> None:
    """The variants that were compared for RELEASE of TASK; by default the champion's."""
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    if task is None and len(settings.tasks) > 1:
        raise click.UsageError(f"name the task: one of {', '.join(sorted(settings.tasks))}")
    name = task or next(iter(settings.tasks))
    settings.task(name)
    with open_database(settings) as database, database.transaction(read_only=True) as tx:
        wanted = release or tx.rollouts.champion(name)
        if wanted is None:
            raise NotFound(f"{name} has no champion yet; see `flywheel releases list`")
        record = find_release(tx, [name], wanted)
    comparison = record.metrics.get("comparison")
    if not comparison:
        raise NotFound(f"{record.release} was registered without a comparison of variants")
    _show(comparison, f"Variants of {record.release}", as_json=as_json)


@compress.command("run")
@click.option(
    "--model",
    "model",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A trained model's folder (models/TASK/trained of a workspace).",
)
@click.option(
    "--dataset",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A dataset version's folder (see `flywheel datasets checkout`).",
)
@click.option("--variants", default="int8-dynamic", show_default=True, metavar="A,B,C")
@click.option("--margin", default=0.01, show_default=True, help="Accuracy that may be lost.")
@click.option("--seconds", default=4.0, show_default=True, help="Of measuring speed; 0 for none.")
@click.option("--engine", type=click.Choice(["embedded", "vllm"]), default="embedded")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="A key of a recipe of your own, as in [tasks.NAME.compression.recipes].",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep comparison.json, every answer and every variant here.",
)
@click.option(
    "--bases",
    type=click.Path(file_okay=False, path_type=Path),
    default=Layout(Path()).bases,
    help="Base models of adapters.",
)
@json_option
def run(
    model: Path,
    dataset: Path,
    variants: str,
    margin: float,
    seconds: float,
    engine: str,
    recipes: tuple[str, ...],
    out: Path | None,
    bases: Path,
    *,
    as_json: bool,
) -> None:
    """Make variants of any trained model and compare them, outside a turn.

    Each is calibrated on the dataset's calibration split, asked the held-out samples, and served by
    a model server of its own while its speed is measured.
    """
    import msgspec
    from pydantic import ValidationError

    from flywheel.compression.config import CompressionSettings
    from flywheel.contracts.configuration import refusal
    from flywheel.monitoring.logs import configure_logging
    from flywheel.training.config import TrainingSettings
    from flywheel.turn.compress import compare_variants
    from flywheel.turn.variants import VariantSetup

    values = {
        "variants": [name for name in variants.split(",") if name],
        "recipes": _recipes(recipes),
        "margin": margin,
        "measure_seconds": seconds,
    }
    try:
        settings = CompressionSettings.model_validate(values)
    except ValidationError as error:
        raise refusal(error, CompressionSettings) from error
    configure_logging("compress", "warning")
    with tempfile.TemporaryDirectory(prefix="flywheel-variants-") as scratch:
        setup = VariantSetup(
            trained=model.resolve(),
            dataset=dataset.resolve(),
            settings=settings,
            training=TrainingSettings(base_model=str(model.resolve())),
            engine="vllm" if engine == "vllm" else "embedded",
            scratch=(out.resolve() if out else Path(scratch)) / "variants",
            bases=bases.resolve(),
        )
        comparison = compare_variants(setup, out.resolve() if out else Path(scratch) / "comparison")
    _show(msgspec.to_builtins(comparison), f"Variants of {model}", as_json=as_json)


def _recipes(pairs: tuple[str, ...]) -> dict[str, dict[str, object]]:
    from flywheel.cli.init import parse_values

    recipes: dict[str, dict[str, object]] = {}
    for key, value in parse_values(pairs).items():
        name, dot, field = key.partition(".")
        if not dot:
            raise ConfigurationError(key, "a recipe's key is NAME.KEY", "such as small.prune_ffn")
        recipes.setdefault(name, {})[field] = value
    return recipes


def _show(comparison: Mapping[str, Any], title: str, *, as_json: bool) -> None:
    if as_json:
        show_json(comparison)
        return
    rows = comparison["rows"]
    numbers = ["size", "accuracy", "difference", "p50, p95", "per s", "compute", "memory"]
    chosen = [n for n, row in enumerate(rows) if row["name"] == comparison["chosen"]]
    show_table(
        ["variant", *numbers],
        [_cells(row) for row in rows],
        title=title,
        right=numbers,
        bold=chosen,
    )
    for row in rows:
        click.echo(f"{row['name']}: {row['reason']}")
    click.echo(
        f"\nChosen: {comparison['chosen']}, {comparison['reason']}. Served by the "
        f"{comparison['engine']} engine. Differences are in points, with the interval "
        f"of the exact paired test, each end at {percentage(comparison['confidence'])}%; a loss of "
        f"{percentage(comparison['margin'])}% is allowed."
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    measured = ["–", "–", "–"]
    if row["samples"]:
        ends = f"{rounded(row['accuracy_low'])} to {rounded(row['accuracy_high'])}"
        low, high = row["difference_low"] * 100, row["difference_high"] * 100
        change = f"{row['difference'] * 100:+.2f}\n{low:+.2f} to {high:+.2f}"
        measured = [f"{row['bytes'] / 1e6:.1f} MB", f"{rounded(row['accuracy'])}%\n{ends}", change]
        if row["standing"] == "reference":
            measured[-1] = "–"
    speed = row["speed"]
    timed = ["–"] * 4
    if speed:
        timed = [
            f"{speed['p50_ms']:.1f} ms\n{speed['p95_ms']:.1f} ms",
            f"{speed['per_second']:.0f}",
            f"{speed['cost_ms']:.1f} ms",
            f"{speed['memory_bytes'] / 1e6:.0f} MB",
        ]
    return [row["name"], *measured, *timed]
