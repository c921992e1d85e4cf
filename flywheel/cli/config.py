"""`flywheel config`: whether flywheel.toml, and what it names, can be used."""

from __future__ import annotations

import json
import sys

import click

from flywheel.settings import CONFIG_FILE


@click.group()
def config() -> None:
    """The configuration: flywheel.toml and the environment."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Look at every key, and at what it refers to: base models, ports, addresses.

    Names all that is wrong, each with its key. Exit code 1 when something is.
    """
    from flywheel.ops.config_check import check as problems_of

    problems = problems_of(ctx.obj)
    if as_json:
        rows = [{"key": one.key, "problem": one.problem, "hint": one.hint} for one in problems]
        click.echo(json.dumps({"problems": rows}))
    else:
        for problem in problems:
            click.echo(str(problem))
        several = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        click.echo(several if problems else f"{CONFIG_FILE} and all that it names can be used")
    if problems:
        sys.exit(1)
