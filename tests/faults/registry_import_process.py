"""A trainer's step that is killed with -9 at a given point of an import. Run as a process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from registry_workspace import Loaded, Workspace, load_here

import flywheel.registry.release_folder
import flywheel.retraining.run_pipeline
from flywheel.turn.importer import WorkspaceImporter
from flywheel.turn.served import served_folder


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


@contextmanager
def die_measuring(folder: Path, bases: Path, labels: bool) -> Iterator[Loaded]:
    with load_here(folder, bases, labels) as loaded:
        yield loaded
        die()


@contextmanager
def die_serving(folder: Path, bases: Path, labels: bool) -> Iterator[Any]:
    workspace = Workspace(Path(sys.argv[1]))
    with served_folder(workspace.settings)(folder, bases, labels) as served:
        sys.stdout.write(served.url)  # type: ignore[attr-defined]
        sys.stdout.flush()
        die()
        yield served


def main(folder: str, point: str) -> None:
    workspace = Workspace(Path(folder))
    serve = {"measured": die_measuring, "served": die_serving}.get(point, load_here)
    if point == "half made":
        flywheel.registry.release_folder._sync = die
    elif point == "made":
        flywheel.retraining.run_pipeline._register = die
    elif point == "registered":
        flywheel.retraining.run_pipeline._finish = die
    elif point == "finished":
        WorkspaceImporter.forget = die  # type: ignore[method-assign]
    trainer = workspace.trainer()
    trainer._importer = WorkspaceImporter(workspace.settings, workspace.database, serve)
    trainer.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
