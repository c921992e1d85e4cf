"""Labelled inputs that are more than a text: a JSON object a line, of the fields of a kind."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from flywheel.datasets.file_content import file_content
from flywheel.datasets.file_formats import JSON_LINES, Format
from flywheel.datasets.label_fields import turned
from flywheel.datasets.labelled_file import (
    LabelledFile,
    Row,
    UnusableLines,
    json_lines,
    label_problem,
)
from flywheel.errors import RejectedEvent
from flywheel.kinds import TaskKind
from flywheel.kinds.reading import LARGEST_FILE

# Keeps the bytes of an image under their digest.
KeepImage = Callable[[bytes], object]


def _forget(_data: bytes) -> None:
    """Keep nothing, for whoever only wants to know what a file says."""


def read_inputs(
    path: Path,
    task: TaskKind,
    titles: Mapping[str, str] | None = None,
    format: Format | None = None,
    keep: KeepImage = _forget,
) -> LabelledFile:
    """Every sample of a file. What a line names, such as an image, is looked for beside the file;
    ``keep`` gets each image as it is read, also where a later line turns out to be wrong.

    Raises UnusableLines with every line that is wrong, RejectedEvent for a file of another format,
    or that is empty.
    """
    taken = f"what a task of kind {task.kind.name} takes is a JSON object a line, {task.kind.line}"
    if format not in (None, JSON_LINES):
        raise RejectedEvent(f"{path}: {format.name} holds texts; {taken}")
    problems: list[tuple[int, str]] = []
    beside = partial(_read_beside, path.parent)
    lines = file_content(path).splitlines()
    rows: list[Row] = []
    left_out: dict[str, list[int]] = {}
    for number, item in json_lines(lines, problems):
        if (reason := turned(item)) is not None:
            left_out.setdefault(reason, []).append(number)
            continue
        label = item.get("label")
        try:
            read = task.kind.from_line(item, beside)
        except ValueError as error:
            problems.append((number, str(error)))
            continue
        if (problem := label_problem(label, task.answers, titles or {})) is not None:
            problems.append((number, problem))
        else:
            for image in read.images:
                keep(image.data)
            rows.append(Row(number, read.content, str(label)))
    if problems:
        count = sum(1 for line in lines if line.strip())
        raise UnusableLines(path, sorted(problems), count, "line", f"; {taken}")
    if not rows:
        raise RejectedEvent(f"{path} has no label that holds: nothing was brought in")
    return LabelledFile(
        JSON_LINES.name, "line", tuple(rows), {k: tuple(v) for k, v in left_out.items()}
    )


def _read_beside(folder: Path, name: str) -> bytes:
    """A file's bytes, of a larger one as many as show that it is."""
    path = folder / name
    if not path.is_file():  # neither a folder nor a device, which has no end
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    with path.open("rb") as stream:
        return stream.read(LARGEST_FILE + 1)
