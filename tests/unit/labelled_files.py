"""Labelled files as tests write and read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flywheel.datasets.file_formats import format_named
from flywheel.datasets.labelled_file import read_labelled
from flywheel.errors import RejectedEvent
from flywheel.kinds import Answers, Choice

LABELS = ("billing", "outage", "other")
Rows = list[tuple[int, str, str]]


def lines(*items: object) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def array(*items: object) -> str:
    return json.dumps(items, indent=2)


ANSWERS = Choice(LABELS)


def read(
    folder: Path, content: str, name: str | None = None, answers: Answers = ANSWERS
) -> tuple[Rows, dict[str, tuple[int, ...]], str]:
    path = folder / "export.json"
    path.write_text(content, "utf-8")
    found = read_labelled(path, answers, format=format_named(name) if name else None)
    return [(r.line, r.text, r.label) for r in found], dict(found.left_out), found.format


def refused(folder: Path, content: str, name: str | None = None) -> str:
    with pytest.raises(RejectedEvent) as caught:
        read(folder, content, name)
    return str(caught.value)
