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
@click.option(
    "--engine",
    type=click.Choice(["embedded", "vllm"]),
    help="What serves the releases; vllm needs `make vllm`. Default: embedded, vllm for llm.",
)
@click.option(
    "--task",
    "model",
    type=click.Choice(["encoder", "llm"]),
    default="encoder",
    show_default=True,
    help="A MiniLM encoder, or SmolLM2 with LoRA adapters: slower, minutes more on two cores.",
)
@click.option("--turns", type=click.IntRange(0, 10), help="Default: 2; 1 with vLLM.")
@click.option(
    "--drill/--no-drill",
    default=None,
    help="Roll out a broken challenger at the end. Default: yes; no for llm.",
)
@click.option("--holdout", type=click.IntRange(50, 2000), help="Default: 1000; 150 for llm.")
@click.option("--set", "values", multiple=True, metavar="KEY=VALUE", help="As for `flywheel init`.")
def demo(
    folder: Path,
    leave: bool,
    expert: str,
    engine: str | None,
    model: str,
    turns: int | None,
    drill: bool | None,
    holdout: int | None,
    values: tuple[str, ...],
) -> None:
    """Turn the wheel on real input: TREC questions, a small model, a simulated expert."""
    from flywheel.cli.init import parse_values
    from flywheel.demo.main import run_demo
    from flywheel.demo.plan import make_plan

    plan = make_plan(
        folder.resolve(),
        engine=engine,
        model=model,
        turns=turns,
        drill=drill,
        expert=expert,
        holdout=holdout,
        values=parse_values(values),
    )
    sys.exit(run_demo(plan, leave=leave))
