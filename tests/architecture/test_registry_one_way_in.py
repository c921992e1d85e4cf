"""A release is registered in one place, and its folder made in one, both behind the gate."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in ("flywheel", "streams", "storage"):
        for path in (ROOT / package).rglob("*.py"):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8"))


def calls(tree: ast.Module) -> Iterator[str]:
    """What is called, as it is written: ``tx.releases.add``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_releases_are_added_by_the_trainer_alone() -> None:
    found = {
        path for path, tree in sources() if any(c.endswith("releases.add") for c in calls(tree))
    }
    assert found == {"flywheel/retraining/run_pipeline.py"}


def test_the_table_of_releases_is_written_by_its_repository_alone() -> None:
    found = {
        path
        for path, tree in sources()
        if any(isinstance(node, ast.Name) and node.id == "ReleaseRow" for node in ast.walk(tree))
    }
    assert found == {"storage/repositories/versions.py"}


def test_release_folders_are_assembled_by_the_two_that_ask_the_gate() -> None:
    """A turn of the pipeline, and an import."""
    makes = {path for path, tree in sources() if "assemble" in set(calls(tree))}
    assert makes == {"flywheel/turn/pipeline.py", "flywheel/turn/importer.py"}
    asks = {path for path, tree in sources() if "gate" in set(calls(tree))}
    assert makes <= asks


def test_registered_is_said_where_it_is_done() -> None:
    found = {path for path, tree in sources() if "ReleaseRegistered" in set(calls(tree))}
    assert found == {"flywheel/retraining/run_pipeline.py"}
