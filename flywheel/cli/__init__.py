"""The `flywheel` command: every sub-command is imported only when it is called."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from flywheel import __version__
from flywheel.errors import FlywheelError

# name → (module, attribute, short help): the help is kept here so that `flywheel --help` imports
# nothing but click.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("demo", "demo", "Turn the wheel on real input, from an empty folder."),
    "init": ("init", "init", "Make a workspace with a commented flywheel.toml."),
    "up": ("workspace", "up", "Start every process under one supervisor."),
    "down": ("workspace", "down", "Stop what `up` started."),
    "status": ("workspace", "status", "What runs, what serves, what waits."),
    "doctor": ("workspace", "doctor", "Say what is used and why; reconcile log and database."),
    "config": ("config", "config", "Check flywheel.toml and what it refers to."),
    "gateway": ("processes", "gateway", "Run the gateway: traffic in, answers out."),
    "console": ("processes", "console", "Run the console: review, rollout, releases."),
    "worker": ("processes", "worker", "Run the Faust agents."),
    "features": ("processes", "features", "Keep the features of sources (the worker runs it)."),
    "trainer": ("processes", "trainer", "Run the trainer: new labels become releases."),
    "controller": ("processes", "controller", "Run the rollout controller."),
    "serve": ("serve", "serve", "Run one model server, or tune it for this machine."),
    "kafka": ("kafka", "kafka", "The local broker: start, stop, status, reset."),
    "topics": ("kafka", "topics", "Create and list the topics."),
    "dead-letters": ("kafka", "dead_letters", "List and replay events that could not be used."),
    "ingest": ("operate", "ingest", "Bring in labelled samples from a file."),
    "review": ("operate", "review", "How the expert queue stands."),
    "retrain": ("operate", "retrain", "Ask for a turn of the wheel now."),
    "rollout": ("rollout", "rollout", "Watch a rollout, and decide in its place."),
    "releases": ("releases", "releases", "Releases: compare, restore, export, import."),
    "datasets": ("operate", "datasets", "List dataset versions; check one out, or export it."),
    "database": ("database", "database", "Count anew what pages and decisions read."),
    "retention": ("keeping", "retention", "What is kept no longer: see it, or remove it."),
    "archive": ("keeping", "archive", "List and ask what was archived before it went."),
    "erase": ("keeping", "erase", "Remove a user's or a sample's data for good."),
    "compress": ("compress", "compress", "Compare compressed variants of a model."),
    "stage": ("processes", "stage", "Run one stage of the pipeline (DVC calls this)."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command itself; imports its module."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"flywheel.cli.{module}"), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list in --help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--workspace",
    "-w",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    envvar="FLYWHEEL_WORKSPACE",
    help="Folder with flywheel.toml (default: this one, or FLYWHEEL_WORKSPACE).",
)
@click.version_option(__version__, prog_name="flywheel")
@click.pass_context
def cli(ctx: click.Context, workspace: Path) -> None:
    """An event-driven data flywheel: production traffic trains the next version of a model."""
    from flywheel.monitoring.logs import log_to_stderr

    log_to_stderr()
    ctx.obj = workspace


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; our own errors are one readable line and exit code 1."""
    try:
        return cli.main(args=arguments, prog_name="flywheel", standalone_mode=True)
    except FlywheelError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
