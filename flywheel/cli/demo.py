"""`flywheel demo`: the whole wheel on real input, from an empty folder."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--workspace",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("workspace-demo"),
    show_default=True,
    help="Made anew: what an earlier demo left there is removed.",
)
@click.option("--exit", "leave", is_flag=True, help="End when the report is written.")
@click.option(
    "--expert",
    type=click.Choice(["simulated", "me"]),
    default="simulated",
    help="'me' leaves the review queue to a person in the browser.",
)
@click.option("--turns", type=click.IntRange(0, 10), default=2, show_default=True)
@click.option("--drill/--no-drill", default=True, help="Roll out a broken challenger at the end.")
@click.option("--holdout", type=click.IntRange(50, 2000), default=1000, show_default=True)
@click.option("--set", "values", multiple=True, metavar="KEY=VALUE", help="As for `flywheel init`.")
def demo(
    folder: Path,
    leave: bool,
    expert: str,
    turns: int,
    drill: bool,
    holdout: int,
    values: tuple[str, ...],
) -> None:
    """Turn the wheel on real input: TREC questions, a MiniLM encoder, a simulated expert."""
    from flywheel.cli.workspace import parse_values
    from flywheel.demo.main import run_demo
    from flywheel.demo.run import Plan

    plan = Plan(
        workspace=folder.resolve(),
        turns=turns,
        drill=drill,
        expert=expert,
        holdout_size=holdout,
        ports=parse_values(values),
    )
    sys.exit(run_demo(plan, leave=leave))
