"""The engine that a model server loads its releases with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flywheel.contracts.model_folder import read_description
from flywheel.errors import ArtefactError
from flywheel.serving.engine import Classifier, Generator
from flywheel.settings import ServingSettings


@dataclass(frozen=True, slots=True)
class Engine:
    """Loads release folders; ``close`` gives up a load under way."""

    load: Callable[[str, Path], Classifier | Generator]
    close: Callable[[], None]


def open_engine(serving: ServingSettings, *, cache: Path, bases: Path) -> Engine:
    """The engine that the settings name. ``cache`` is this process' alone."""
    if serving.engine == "vllm":
        from flywheel.serving.vllm.engine import VllmEngine

        vllm = VllmEngine(serving.vllm, cache=cache, bases=bases)
        return Engine(vllm.load, vllm.close)
    return Engine(lambda _release, folder: _load_embedded(folder, serving.threads), lambda: None)


def _load_embedded(folder: Path, threads: int) -> Classifier:
    from flywheel.serving.runtime import load_classifier

    if read_description(folder).kind == "llm":
        raise ArtefactError(
            f"{folder} is a language model, which the embedded engine does not run: "
            'set serving.engine = "vllm"'
        )
    return load_classifier(folder, threads)
