"""`flywheel init`: a workspace with its configuration and, if named, its base model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from flywheel.cli.base_models import base_target, look_at
from flywheel.contracts.layout import Layout
from flywheel.contracts.model_folder import ModelKind
from flywheel.errors import ArtefactError, ConfigurationError, FlywheelError, WorkspaceError
from flywheel.kinds import KINDS, USUAL
from flywheel.settings import load_settings
from flywheel.turn.bases import PACKAGE


def parse_values(pairs: Sequence[str]) -> dict[str, object]:
    """``KEY=VALUE`` pairs; a value is JSON, or else taken as a string.

    Raises ConfigurationError for a pair without "=".
    """
    values: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigurationError("--set", f"{pair!r} is not KEY=VALUE")
        try:
            values[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[key.strip()] = text
    return values


@click.command()
@click.option("--task", default="my-task", show_default=True, help="Name of the task.")
@click.option("--title", default="", help="The task in a few words, shown to experts.")
@click.option(
    "--label", "labels", multiple=True, metavar="LABEL[=TITLE]", help="One of the task's labels."
)
@click.option(
    "--base-model",
    default="",
    metavar="FOLDER|package:NAME",
    help="A sentence-transformers encoder, or an LLM; an installed package's is copied in.",
)
@click.option(
    "--kind", type=click.Choice(list(KINDS)), default=USUAL, help="What goes in and what comes out."
)
@click.option(
    "--model",
    type=click.Choice(["encoder", "llm"]),
    default="encoder",
    help="An encoder with a head, or a language model with LoRA adapters (served by vLLM).",
)
@click.option("--set", "values", multiple=True, metavar="KEY=VALUE", help="Another value.")
@click.pass_context
def init(
    ctx: click.Context,
    task: str,
    title: str,
    labels: tuple[str, ...],
    base_model: str,
    kind: str,
    model: ModelKind,
    values: tuple[str, ...],
) -> None:
    """Make a workspace: a commented flywheel.toml, the pipeline, and a git and DVC repository."""
    from flywheel.ops.template import flywheel_toml
    from flywheel.ops.workspace import make_repository
    from flywheel.turn.bases import base_problem, import_command, usual_base

    folder: Path = ctx.obj.resolve()
    config = Layout(folder).config
    if config.exists():
        click.echo(f"kept {config}, which is there already: edit it to change values")
    else:
        pairs = [label.partition("=")[::2] for label in labels]
        if pairs and not KINDS[kind].has_labels:
            raise ConfigurationError("--label", "free text has no labels", "leave it out")
        pairs = pairs or [("yes", ""), ("no", "")]
        packaged = base_model.startswith(PACKAGE)
        base = _from_package(base_model, folder) if packaged else _from_here(base_model, folder)
        text = flywheel_toml(
            task,
            [name for name, _ in pairs],
            base or usual_base(model),
            title=title,
            label_titles={name: words for name, words in pairs if words},
            kind=kind,
            model=model,
            values=parse_values(values),
        )
        _write_valid(config, text)
        click.echo(f"wrote {config}: read it, it says what every key does")
        if packaged:
            look_at(base_model, folder, None)
            click.echo(f"copied the base model to {folder / base}")
    settings = load_settings(folder)
    make_repository(settings)
    click.echo(f"{folder} is a workspace; next:")
    for name, of_task in settings.tasks.items():
        if of_task.of_kind.note:
            click.echo(f"  {name}: {of_task.of_kind.note}")
        if base_problem(settings, name):
            command = import_command(folder, settings.task(name).model)
            click.echo(f"  `{command}`, or another base for tasks.{name}.training.base_model")
    click.echo(f"  `flywheel -w {shlex.quote(str(folder))} up`")


def _from_package(base_model: str, workspace: Path) -> str:
    """Where a package's model will lie. Raises ArtefactError, before anything is written, when
    there is no such package or it carries no base model."""
    from flywheel.registry.hugging_face import look
    from flywheel.registry.packages import find_model

    found = find_model(base_model.removeprefix(PACKAGE))
    if found.gguf is None and look(found.folder, strict=False).holds == "classifier":
        raise ArtefactError(f"{base_model} carries a classifier, not a base model to train from")
    return str(base_target(workspace, found.package).relative_to(workspace))


def _from_here(base_model: str, workspace: Path) -> str:
    """A folder as flywheel.toml names it: that file's relative folders begin at the workspace, the
    command line's at the current folder."""
    path = Path(base_model).expanduser()
    if not base_model or (workspace / path).is_dir() or not path.is_dir():
        return base_model
    path = path.resolve()
    return str(path.relative_to(workspace) if path.is_relative_to(workspace) else path)


def _write_valid(config: Path, text: str) -> None:
    """Write a new flywheel.toml; one with a bad value does not stay, or it would be kept."""
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text, "utf-8")
    except OSError as error:
        raise WorkspaceError(f"cannot write {config} ({error.strerror})") from error
    try:
        load_settings(config.parent)
    except FlywheelError:
        config.unlink()
        raise
