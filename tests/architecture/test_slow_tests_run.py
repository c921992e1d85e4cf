"""Every test that `make test` leaves out is run by CI."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CI = ROOT / ".ci/run"


def slow_runs(script: str) -> list[tuple[list[str], list[str]]]:
    """Of each `pytest -m slow`: the paths that it takes, and those that it leaves out."""
    joined = script.replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        if "pytest" not in words or "-m slow" not in " ".join(words):
            continue
        left = [words[n + 1] for n, word in enumerate(words) if word == "--ignore"]
        paths = [word for word in words if word.startswith("tests/") and word not in left]
        found.append((paths, left))
    return found


def marked_slow(code: str) -> bool:
    """Whether any test of a module has the mark, or a row of its parameters."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "slow" and _is_mark(node.value)
        for node in ast.walk(ast.parse(code))
    )


def _is_mark(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "mark"


def runs(file: str, script: str) -> int:
    """How many of the slow runs take a file."""
    return sum(
        any(_under(file, path) for path in paths) and not any(_under(file, path) for path in left)
        for paths, left in slow_runs(script)
    )


def _under(file: str, path: str) -> bool:
    return file == path or file.startswith(path.rstrip("/") + "/")


def slow_files() -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if marked_slow(path.read_text("utf-8"))
    )


@pytest.mark.parametrize("file", slow_files())
def test_ci_runs_each_file_with_slow_tests_once(file: str) -> None:
    assert runs(file, CI.read_text("utf-8")) == 1, f".ci/run should run {file} in one slow part"


def test_every_path_that_ci_names_is_there() -> None:
    named = re.findall(r"tests/[\w/.]+", CI.read_text("utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_path_that_is_left_out_does_not_count() -> None:
    script = "python -m pytest -m slow tests/a tests/b/test_c.py \\\n    --ignore tests/a/test_d.py"
    assert runs("tests/a/test_e.py", script) == 1
    assert runs("tests/a/test_d.py", script) == 0
    assert runs("tests/b/test_c.py", script) == 1
    assert runs("tests/b/test_f.py", script) == 0
    assert runs("tests/ab/test_g.py", script) == 0
    assert runs("tests/a/test_e.py", "make test") == 0
