"""params.yaml of a workspace: what the pipeline's stages are told, per task."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import msgspec
import yaml

from flywheel.compression.config import CompressionSettings
from flywheel.contracts.layout import Layout
from flywheel.errors import WorkspaceError
from flywheel.retraining.ports import Turn, TurnRequest
from flywheel.settings import TaskSettings

SHUFFLED = "shuffled-labels"
# A request's override: the champion's adapter becomes part of its base.
MERGE = "merge"


def read_params(workspace: Path) -> dict[str, Any]:
    """Task → parameters; empty before the first turn."""
    path = Layout(workspace).params
    if not path.exists():
        return {}
    loaded = yaml.safe_load(path.read_text("utf-8")) or {}
    return dict(loaded.get("tasks") or {})


def task_params(workspace: Path, task: str) -> dict[str, Any]:
    """The parameters of one task. Raises WorkspaceError when no turn has written them."""
    try:
        return dict(read_params(workspace)[task])
    except KeyError:
        raise WorkspaceError(
            f"{Layout(workspace).params} says nothing of {task!r}: the trainer writes it before a "
            "turn; ask for one with `flywheel retrain`"
        ) from None


def write_params(workspace: Path, tasks: dict[str, Any]) -> None:
    """Replace params.yaml in one step."""
    path = Layout(workspace).params
    text = "# Written by the trainer before each turn; DVC compares it with dvc.lock.\n"
    text += yaml.dump(
        {"tasks": tasks}, Dumper=_Plain, sort_keys=True, allow_unicode=True, width=math.inf
    )
    part = path.with_suffix(".tmp")
    part.write_text(text, "utf-8")
    os.replace(part, path)


class _Plain(yaml.SafeDumper):
    """Writes what means the same by YAML 1.1, by which it is read here, and by 1.2, by which DVC
    reads it: every text in quotes, or a label ``1e5`` would be a number to one of them."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        """The same text twice is written twice."""
        return True


_Plain.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def turn_params(
    settings: TaskSettings,
    turn: Turn,
    request: TurnRequest | None,
    watermark: str,
    *,
    parent_dataset: str | None,
    champion: str | None,
    engine: str,
    start_from: str | None = None,
) -> dict[str, Any]:
    """What one turn of a task is made of. ``start_from`` is a release whose adapter training may go
    on from; a drill begins from nothing, or it would hardly be broken."""
    overrides = dict(request.overrides) if request else {}
    dataset = settings.dataset.model_dump(mode="json")
    training = settings.training.model_dump(mode="json")
    lora = settings.lora.model_dump(mode="json")
    compression = settings.compression.model_dump(mode="json")
    drill = overrides.get("drill") == SHUFFLED
    warm = settings.model == "llm" and settings.lora.warm_start and not drill
    if overrides.get(MERGE):
        compression |= _merged(settings.compression)
    if settings.retired_labels:
        dataset["retired_labels"] = list(settings.retired_labels)
    if overrides.get("drill") == SHUFFLED:
        dataset["shuffle_labels"] = True
        # A broken challenger need not be broken with care.
        training["epochs"], training["min_steps"] = 1, 1
        lora["epochs"], lora["min_steps"] = 1, 1
    return {
        "turn": turn.turn_id,
        "watermark": watermark,
        "kind": settings.kind,
        "model": settings.model,
        "engine": engine,
        "labels": list(settings.labels),
        "parent_dataset": parent_dataset,
        "champion": champion,
        "dataset": dataset,
        "training": training,
        "lora": lora,
        "start_from": start_from if warm else None,
        "prompt": msgspec.to_builtins(settings.release_prompt),
        "compression": compression,
        "gate": settings.gate.model_dump(mode="json"),
    }


def _merged(compression: CompressionSettings) -> dict[str, Any]:
    """The same variants with the adapter merged, none pinned."""
    recipes = {
        f"merged-{name}": compression.recipe(name).model_copy(update={"merge": True})
        for name in compression.variants
        if not compression.recipe(name).merge
    }
    return {
        "variants": list(recipes) or list(compression.variants),
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()}
        or {name: one.model_dump(mode="json") for name, one in compression.recipes.items()},
        "pin": "",
    }
