"""`flywheel init`: a workspace with its configuration and, if named, its base model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from flywheel.cli.base_models import base_target, look_at
from flywheel.contracts.layout import Layout
from flywheel.contracts.model_folder import ModelKind
from flywheel.errors import ArtefactError, ConfigurationError, WorkspaceError
from flywheel.kinds import KINDS, USUAL
from flywheel.settings import load_settings, parse_settings
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
    from flywheel.ops.workspace import make_repository
    from flywheel.turn.bases import base_problem, import_command

    folder: Path = ctx.obj.resolve()
    config = Layout(folder).config
    given = _Given(
        task=task if _is_given(ctx, "task") else None,
        title=title,
        pairs=tuple(label.partition("=")[::2] for label in labels),
        base_model=base_model,
        kind=kind if _is_given(ctx, "kind") else None,
        model=model if _is_given(ctx, "model") else None,
        values=parse_values(values),
    )
    if config.exists():
        _refuse_other(config, given)
        click.echo(f"kept {config}, which is there already: edit it to change values")
    else:
        packaged = base_model.startswith(PACKAGE)
        _write_valid(config, given.text(folder, task, kind, model))
        click.echo(f"wrote {config}: read it, it says what every key does")
        if packaged:
            _, _, copied = look_at(base_model, folder, None)
            click.echo(f"copied the base model to {copied}")
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


def _is_given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is not ParameterSource.DEFAULT


@dataclass(frozen=True, slots=True)
class _Given:
    """What the command line says of a workspace; None or empty: nothing."""

    task: str | None
    title: str
    pairs: tuple[tuple[str, str], ...]
    base_model: str
    kind: str | None
    model: ModelKind | None
    values: Mapping[str, object]

    def text(self, folder: Path, task: str, kind: str, model: ModelKind) -> str:
        """The flywheel.toml of a new workspace; of what is not given, the arguments and defaults.

        Raises ConfigurationError or ArtefactError for what cannot be.
        """
        from flywheel.ops.template import flywheel_toml
        from flywheel.turn.bases import usual_base

        if self.pairs and not KINDS[kind].has_labels:
            raise ConfigurationError("--label", "free text has no labels", "leave it out")
        pairs = self.pairs or (("yes", ""), ("no", ""))
        if self.base_model.startswith(PACKAGE):
            base = _from_package(self.base_model, folder)
        else:
            base = _from_here(self.base_model, folder)
        return flywheel_toml(
            task,
            [name for name, _ in pairs],
            base or usual_base(model),
            title=self.title,
            label_titles={name: words for name, words in pairs if words},
            kind=kind,
            model=model,
            values=self.values,
        )

    def keys(self) -> list[str]:
        """The keys of flywheel.toml that the command line says something of."""
        from flywheel.ops.template import full_path

        said = {
            "title": self.title,
            "labels": self.pairs,
            "label_titles": any(words for _, words in self.pairs),
            "training.base_model": self.base_model,
            "kind": self.kind,
            "model": self.model,
        }
        return [*(key for key, value in said.items() if value), *map(full_path, self.values)]


def _refuse_other(config: Path, given: _Given) -> None:
    """Raise WorkspaceError when the file that is there says otherwise than the command line."""
    from flywheel.ops.kept_values import kept_values

    there = load_settings(config.parent)
    known = ", ".join(there.tasks)
    task = given.task or (next(iter(there.tasks)) if len(there.tasks) == 1 else None)
    keys = given.keys()
    if task is None:
        if keys:
            raise click.UsageError(f"{config} is there already: say which --task is meant: {known}")
        return
    if task not in there.tasks:
        raise WorkspaceError(
            f"{config} is there already and has no task {task!r} (it has {known}): add a table "
            f"[tasks.{task}] to it, or make the new task in another folder"
        )
    of_task = there.task(task)
    text = given.text(config.parent, task, given.kind or of_task.kind, given.model or of_task.model)
    asked = parse_settings(text, config.parent)
    if other := list(kept_values(there, asked, task, keys)):
        raise WorkspaceError(
            f"{config} is there already and is kept: {'; '.join(other)} — edit it to change "
            "values, or make the other workspace in another folder"
        )


def _from_package(base_model: str, workspace: Path) -> str:
    """Where a package's model will lie. Raises ArtefactError, before anything is written, when
    there is no such package or it carries no base model."""
    from flywheel.registry.hugging_face import look
    from flywheel.registry.packages import find_model

    model = find_model(base_model.removeprefix(PACKAGE))
    if model.gguf is None and look(model.folder, strict=False).holds == "classifier":
        raise ArtefactError(f"{base_model} carries a classifier, not a base model to train from")
    return str(base_target(workspace, model.package).relative_to(workspace))


def _from_here(base_model: str, workspace: Path) -> str:
    """A folder as flywheel.toml names it: that file's relative folders begin at the workspace, the
    command line's at the current folder."""
    path = Path(base_model).expanduser()
    if not base_model or (workspace / path).is_dir() or not path.is_dir():
        return base_model
    path = path.resolve()
    return str(path.relative_to(workspace) if path.is_relative_to(workspace) else path)


def _write_valid(config: Path, text: str) -> None:
    """Write a new flywheel.toml; one with a bad value is not written, or it would be kept."""
    parse_settings(text, config.parent)
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text, "utf-8")
    except OSError as error:
        raise WorkspaceError(f"cannot write {config} ({error.strerror})") from error
