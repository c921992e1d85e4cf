"""One command per process, each runs alone."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flywheel.settings import FlywheelSettings, load_settings

# A second process of a kind on this machine, and from one workspace, listens elsewhere.
_port = click.option(
    "--port", type=click.IntRange(1, 65535), help="Instead of the one in flywheel.toml."
)


def _settings(ctx: click.Context, key: str = "", port: int | None = None) -> FlywheelSettings:
    """The settings, with another port in place of ``key``."""
    workspace: Path = ctx.obj
    settings = load_settings(workspace)
    if port is None:
        return settings
    table, _, name = key.partition(".")
    changed = getattr(settings, table).model_copy(update={name: port})
    return settings.model_copy(update={table: changed})


@click.command()
@_port
@click.pass_context
def gateway(ctx: click.Context, port: int | None) -> None:
    """Run the gateway: one OpenAI-compatible endpoint, sticky split, every answer recorded."""
    from flywheel.processes.gateway import run_gateway

    sys.exit(run_gateway(_settings(ctx, "gateway.port", port)))


@click.command()
@_port
@click.pass_context
def console(ctx: click.Context, port: int | None) -> None:
    """Run the console: overview, review queue, rollout and releases, as pages and as an API."""
    from flywheel.processes.console import run_console

    sys.exit(run_console(_settings(ctx, "console.port", port)))


@click.command()
@click.option("--agents", help="Run these alone, such as triage,review (default: all four).")
@_port
@click.pass_context
def worker(ctx: click.Context, agents: str | None, port: int | None) -> None:
    """Run the Faust agents: triage, review, labels, evidence; each a consumer group."""
    from flywheel.contracts.agents import AGENTS
    from flywheel.processes.worker import run_worker_process

    chosen = tuple(agents.split(",")) if agents else AGENTS
    for name in chosen:
        if name not in AGENTS:
            raise click.BadParameter(
                f"{name!r} is no agent: {', '.join(AGENTS)}", param_hint="--agents"
            )
    sys.exit(run_worker_process(_settings(ctx, "monitoring.worker_port", port), chosen))


@click.command()
@click.pass_context
def features(ctx: click.Context) -> None:
    """Keep the features of sources and answer from them, on standard input and output. A worker
    that has the triage agent runs this beside it."""
    from flywheel.processes.features import run_features

    sys.exit(run_features(_settings(ctx)))


@click.command()
@_port
@click.pass_context
def trainer(ctx: click.Context, port: int | None) -> None:
    """Run the trainer: watches settled labels and turns the wheel."""
    from flywheel.processes.trainer import run_trainer

    sys.exit(run_trainer(_settings(ctx, "monitoring.trainer_port", port)))


@click.command()
@_port
@click.pass_context
def controller(ctx: click.Context, port: int | None) -> None:
    """Run the rollout controller: proves a challenger or rolls it back."""
    from flywheel.processes.controller import run_controller

    sys.exit(run_controller(_settings(ctx, "monitoring.controller_port", port)))


@click.command()
@click.argument("stage_name", type=click.Choice(["build", "train", "compress", "evaluate"]))
@click.argument("task")
@click.pass_context
def stage(ctx: click.Context, stage_name: str, task: str) -> None:
    """Run one stage of the pipeline for TASK, in the workspace, from params.yaml."""
    from flywheel.turn.stage_failure import reported

    with reported():
        from flywheel.turn.stages import run_stage

        run_stage(_settings(ctx), stage_name, task)
