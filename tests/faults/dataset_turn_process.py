"""A turn that kill -9 ends at a given point: `dataset_turn_process.py ROOT POINT`, as a process.

``turn`` is what it does, and what whoever resumes it does again. Run it in a session of its own: at
some points all that belongs to it dies together.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from dataset_workspace import PIPELINE, make, stage

import flywheel.datasets.stored
import flywheel.datasets.workspace
from flywheel.datasets.workspace import commit_dataset, commit_results
from flywheel.turn.reproduce import reproduce

POINTS = (
    *("build", "train"),
    *("built", "pushing", "pushed", "committed", "trained", "pushing models", "models pushed"),
)


def workspace(root: Path) -> Path:
    """One whose stages may be killed with all around them, once their output is half there."""
    make(root)
    copies = "cp -r staging data/${key}"
    text = PIPELINE.replace(copies, f"{copies} && {_dying('build')}")
    text = text.replace("        - date", f"        - {_dying('train')}\n        - date", 1)
    (root / "dvc.yaml").write_text(text)
    return root


def _dying(stage: str) -> str:
    return f"if [ -e die-in-{stage} ]; then kill -9 0; fi"


def turn(root: Path) -> str:
    """A turn on thirty samples; the version of its dataset."""
    manifest = stage(root, 30)
    reproduce(root, "build@mail")
    commit_dataset(root, "mail", manifest)
    for name in ("train", "compress", "evaluate"):
        reproduce(root, f"{name}@mail")
    commit_results(root, "mail", "a turn")
    return manifest.version


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def dies_after(calls: int, real: Any, counts: Any) -> Any:
    """``real``, which dies instead at the call after so many that ``counts``."""
    left = [calls]

    def called(*arguments: Any, **named: Any) -> Any:
        if counts(*arguments):
            if not left[0]:
                die()
            left[0] -= 1
        return real(*arguments, **named)

    return called


def arm(root: Path, point: str) -> None:
    """See to it that this process dies at a point."""
    stored, module = flywheel.datasets.stored, flywheel.datasets.workspace
    if point in ("build", "train"):
        (root / f"die-in-{point}").touch()
    elif point in ("built", "trained"):
        module.keep = dies_after(int(point == "trained"), module.keep, lambda *_: True)
    elif point in ("pushing", "pushing models"):
        # An object is taken away, if it is there, before its copy is made.
        begun = root / "models" if "models" in point else root
        stored.discard = dies_after(
            1, stored.discard, lambda store, _: "dvc-remote" in store.path and begun.is_dir()
        )
    elif point in ("pushed", "models pushed"):
        before = int(point == "models pushed")
        module.git.commit_paths = dies_after(before, module.git.commit_paths, lambda *_: True)
    elif point == "committed":
        module.git.tag = die
    else:
        raise ValueError(point)


if __name__ == "__main__":
    arm(Path(sys.argv[1]), sys.argv[2])
    turn(Path(sys.argv[1]))
