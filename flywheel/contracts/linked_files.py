"""A second name for a file's bytes, where the disk allows it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_or_copy(source: Path, target: Path) -> None:
    """Have ``target`` hold what the file ``source`` holds, by a hard link if possible: neither may
    be written any more."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)
