"""`flywheel serve`: one model server, for a workspace's splits or for one folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from flywheel.cli.render import show_table
from flywheel.contracts.configuration import refusal
from flywheel.contracts.layout import BASES, Layout
from flywheel.errors import ArtefactError, Unavailable
from flywheel.settings import FlywheelSettings, ServingSettings, load_settings


@click.group(invoke_without_command=True)
@click.option("--port", type=click.IntRange(0, 65535), help="Default: the first of serving.ports.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Serve this model folder alone, without Kafka or a workspace.",
)
@click.option("--name", help="The name it is served under (default: made from the folder).")
@click.option("--engine", type=click.Choice(["embedded", "vllm"]), help="Default: serving.engine.")
@click.option(
    "--bases",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the bases of adapters lie (default: the workspace's).",
)
@click.option("--dtype", envvar="FLYWHEEL_VLLM_DTYPE", help="serving.vllm.dtype for this run.")
@click.option("--threads", type=click.IntRange(0), help="CPU threads for this run; 0: all.")
@click.pass_context
def serve(
    ctx: click.Context,
    port: int | None,
    folder: Path | None,
    name: str | None,
    engine: str | None,
    bases: Path | None,
    dtype: str | None,
    threads: int | None,
) -> None:
    """Run one model server for every release that a traffic split names, or for one --folder."""
    if ctx.invoked_subcommand is not None:
        return
    changes = {"engine": engine, "dtype": dtype, "threads": threads}
    if folder is None:
        from flywheel.processes.serving import run_model_server

        settings = load_settings(ctx.obj)
        serving = _changed(settings.serving, changes)
        settings = settings.model_copy(update={"serving": serving})
        sys.exit(run_model_server(settings, port or serving.ports[0]))
    from flywheel.processes.serve_folder import folder_name, run_folder_server

    if not (folder / "release.json").is_file():
        raise ArtefactError(f"{folder} is no model: it has no release.json")
    workspace, level = _workspace(ctx.obj)
    serving = _changed(workspace.serving if workspace else ServingSettings(), changes)
    known = bases or _bases(workspace, folder)
    sys.exit(
        run_folder_server(serving, folder, name or folder_name(folder), port or 0, known, level)
    )


@serve.command()
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The model folder to serve: a release, or a model of the pipeline.",
)
@click.option(
    "--bases",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the bases of adapters lie (default: beside the folder, or the workspace's).",
)
@click.option("--seconds", type=click.FloatRange(1), default=6.0, show_default=True)
@click.pass_context
def tune(ctx: click.Context, folder: Path, bases: Path | None, seconds: float) -> None:
    """Try vLLM's settings on this machine, with real requests, and say which to write."""
    from rich.console import Console

    from flywheel.ops.tune import best
    from flywheel.ops.tune import tune as run

    workspace, _ = _workspace(ctx.obj)
    console = Console(stderr=True)
    trials = []
    for trial in run(folder, bases or _bases(workspace, folder), seconds):
        trials.append(trial)
        said = trial.problem or "measured"
        console.print(f"· {trial.dtype}, {trial.threads or 'all'} threads: {said}", highlight=False)
    rows = []
    for trial in trials:
        speed = trial.speed
        measured = ("–", "–", "–", "–")
        if speed is not None:
            measured = (
                f"{trial.ready_seconds:.1f}",
                f"{speed.p50_ms:.1f}",
                f"{speed.per_second:.1f}",
                f"{speed.memory_bytes / 2**30:.2f}",
            )
        rows.append((trial.dtype, str(trial.threads), *measured))
    numbers = ["ready s", "p50 ms alone", "requests/s", "memory GiB"]
    show_table(["dtype", "threads", *numbers], rows, right=["threads", *numbers])
    chosen = best(trials)
    if chosen is None:
        raise Unavailable(f"none of {len(trials)} settings could be served")
    click.echo("[serving.vllm]")
    click.echo(f'dtype = "{chosen.dtype}"')
    click.echo(f"threads = {chosen.threads}")


@serve.command()
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The release to serve.",
)
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write for vLLM (an encoder's weights; replaced if it is there).",
)
@click.option("--name", help="The name to serve it under (default: the folder's).")
@click.option("--bases", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def prepare(
    ctx: click.Context, folder: Path, to: Path, name: str | None, bases: Path | None
) -> None:
    """Write what a vLLM server elsewhere loads for a release, and print how to start it.

    That server's address then belongs into serving.vllm.urls. Its environment needs this package
    (without dependencies), which teaches vLLM our model class.
    """
    import shlex

    from flywheel.serving.vllm.engine import prepare as write

    workspace, _ = _workspace(ctx.obj)
    vllm = (workspace.serving if workspace else ServingSettings()).vllm
    known = bases or _bases(workspace, folder)
    arguments = write(name or folder.resolve().name, folder, to, known, vllm)
    adapters = "--enable-lora" in arguments
    before = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True " if adapters else ""
    click.echo(f"{before}vllm serve {shlex.join(arguments)}")


def _bases(workspace: FlywheelSettings | None, folder: Path) -> Path:
    return workspace.layout.bases if workspace else folder.resolve().parent / BASES


def _workspace(path: Path) -> tuple[FlywheelSettings | None, str]:
    if not Layout(path).config.is_file():
        return None, "warning"
    settings = load_settings(path)
    return settings, settings.log_level


def _changed(serving: ServingSettings, changes: dict[str, Any]) -> ServingSettings:
    """The settings with what the command line says of them, validated as a whole."""
    values = serving.model_dump()
    if changes["engine"] is not None:
        values["engine"] = changes["engine"]
    if changes["threads"] is not None:
        values["threads"] = values["vllm"]["threads"] = changes["threads"]
    if changes["dtype"] is not None:
        values["vllm"]["dtype"] = changes["dtype"]
    try:
        return ServingSettings.model_validate(values)
    except ValidationError as error:
        raise refusal(error, ServingSettings) from error
