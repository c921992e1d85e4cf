"""Turns on a disk that is full, in a mount namespace of its own: `full_disk_process.py ROOT PLACE`.

A file system of 16 KiB is mounted at PLACE in the workspace at ROOT. Prints what came of a build
and its commit on it, and then of the same once there is room.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from dataset_workspace import PIPELINE, files, git, stage

from flywheel.datasets.versions import versions
from flywheel.datasets.workspace import checkout, commit_dataset, commit_results, lacking_bytes
from flywheel.errors import FlywheelError
from flywheel.turn.reproduce import reproduce


def mount(place: Path, options: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)


def turn(root: Path) -> str:
    manifest = stage(root, 600)
    try:
        for name in ("build", "train", "compress", "evaluate"):
            reproduce(root, f"{name}@mail")
            if name == "build":
                commit_dataset(root, "mail", manifest)
        commit_results(root, "mail", "a turn")
    except FlywheelError as error:
        return str(error)
    return "done"


def main(root: Path, place: Path) -> None:
    (root / "dvc.yaml").write_text(PIPELINE)
    mount(place, "size=16k")
    said = [turn(root), turn(root)]
    tagged = len(versions(root))
    mount(place, "remount,size=64m")
    said.append(turn(root))
    made = versions(root)
    lacking = len(lacking_bytes(root))
    checkout(root, "mail", made[0].version, root.parent / "out")
    same = files(root.parent / "out") == files(root / "data/mail")
    print(
        json.dumps(
            {
                "said": said,
                "tagged_while_full": tagged,
                "tagged": len(made),
                "lacking": lacking,
                "same": same,
                "log": git(root, "log", "--format=%s").splitlines(),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[1]) / sys.argv[2])
