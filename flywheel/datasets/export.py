"""A dataset version as files that `flywheel ingest`, and anyone else, can read."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from flywheel.contracts.dataset_folder import (
    MANIFEST_FILE,
    PARTS,
    Manifest,
    image_path,
    read_manifest,
    read_part,
)
from flywheel.contracts.sample import images
from flywheel.errors import ArtefactError
from flywheel.kinds import Kind


def export_dataset(folder: Path, kind: Kind, to: Path) -> Manifest:
    """Write each part of the dataset in ``folder`` as JSON lines to ``to``, its images beside them.

    A line has the fields that a task of this ``kind`` ingests, its label, and who gave that. Raises
    ArtefactError for a damaged dataset, and where ``to`` holds something.
    """
    manifest = read_manifest(folder)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ArtefactError(f"{to} is there already: name a new folder")
    to.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        with (to / f"{part}.jsonl").open("wb") as stream:
            for line in read_part(folder, part):
                said = kind.to_line(line.content, image_path)
                said |= {"label": line.label, "source": line.source}
                stream.write(msgspec.json.encode(said) + b"\n")
                for image in images(line.content):
                    name = image_path(image)
                    (to / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(folder / name, to / name)
    shutil.copyfile(folder / MANIFEST_FILE, to / MANIFEST_FILE)
    return manifest
