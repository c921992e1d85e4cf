"""Third-party scripts and styles: taken from installed packages, never from a CDN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flywheel.errors import ArtefactError

# URL path under /assets/ → file inside the folder that holds the packages.
FILES: Mapping[str, str] = {
    "uplot.js": "uplot/static/uPlot.iife.js",
    "uplot.css": "uplot/static/uPlot.min.css",
}


def locate(folder: Path) -> dict[str, Path]:
    """Each served name with its file.

    Raises ArtefactError, naming what to run, when one of them is not there.
    """
    files = {name: folder / inside for name, inside in FILES.items()}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise ArtefactError(
            f"the console's chart library is not there: {', '.join(missing)}; run `make install`, "
            "which installs it from requirements/lock.txt"
        )
    return files
