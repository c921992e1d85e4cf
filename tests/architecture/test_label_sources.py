"""Sets of label sources have one home, `contracts/labels.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from flywheel.contracts import labels
from flywheel.contracts.events import LabelSource

ROOT = Path(__file__).parents[2]
SOURCES = frozenset(get_args(LabelSource))
HOMES = {"flywheel/contracts/labels.py", "flywheel/contracts/events.py"}


def collections_of_sources(tree: ast.Module) -> Iterator[int]:
    """The lines of literals that hold two or more sources and nothing else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Set | ast.Tuple | ast.List):
            values = [one.value if isinstance(one, ast.Constant) else None for one in node.elts]
            if len(values) > 1 and SOURCES.issuperset(values):
                yield node.lineno


def test_no_other_file_lists_sources() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("flywheel", "streams", "storage")
        for path in (ROOT / package).rglob("*.py")
        if "migrations" not in path.parts and str(path.relative_to(ROOT)) not in HOMES
        for line in collections_of_sources(ast.parse(path.read_text("utf-8")))
    ]
    assert not found


def test_every_source_has_one_rank_and_is_known_how() -> None:
    assert sorted(labels.SOURCE_RANK) == sorted(SOURCES)
    assert labels.AUTOMATIC | labels.TRUTHS == SOURCES
    assert not labels.AUTOMATIC & labels.TRUTHS


@pytest.mark.parametrize("trusted", sorted(labels.TRUTHS))
def test_what_is_known_outranks_what_was_made(trusted: LabelSource) -> None:
    assert all(labels.rank(trusted) < labels.rank(made) for made in labels.AUTOMATIC)


def test_experts_and_guesses_settle_nothing_alone() -> None:
    assert {"expert", "model"} == SOURCES - labels.SETTLES_ALONE
    assert labels.CALIBRATES <= labels.TRUTHS
