"""What kind a task is, is asked in `flywheel/kinds/` alone.

What is looked for, in Python: a comparison with the name of a kind, or of an ``output`` with what
releases answer with; a choice (if, while, and, or, not, bool, a filter) by whether there are labels
or scores, which is how a task of free text is told from one with labels; ``isinstance(x, dict)`` of
a model's answer. In templates and scripts: a choice by labels, or a comparison with a kind. A table
that holds something for each kind, and asking an object of ``kinds`` what it can do, is no such
question.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel import kinds

ROOT = Path(__file__).parents[2]
NAMES = frozenset(kinds.KINDS)
OUTPUTS = frozenset(kind.output for kind in kinds.KINDS.values())
# By whether these are empty a task of free text would be told from one with labels.
TELLING = {"labels", "_labels", "scores"}
ANSWERS = {"given", "answer", "prediction"}
_PAGES = (
    re.compile(r"\bif (not )?(labels|scores|item\.scores)\b(?! \|)"),
    re.compile(r"\blabels\b(?! \|)[^{}]{0,3}\belse\b"),
    re.compile(rf"[=!]==? *[\"']({'|'.join(sorted(NAMES))})[\"']"),
)


def _name(node: ast.expr) -> str:
    """The last name of ``a``, ``b.a``, ``b.a()`` or ``b["a"]``."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
            return _word(node.args[0])
        return _name(node.func)
    if isinstance(node, ast.Subscript):
        return _word(node.slice)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _word(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _conditions(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions of which a node asks whether they are true."""
    if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
        yield node.test
    elif isinstance(node, ast.BoolOp):
        yield from node.values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.comprehension):
        yield from node.ifs
    elif isinstance(node, ast.Call) and _name(node.func) == "bool" and node.args:
        yield node.args[0]


def _compares_kinds(node: ast.Compare) -> bool:
    sides = [node.left, *node.comparators]
    words = {
        _word(one)
        for side in sides
        for one in (side.elts if isinstance(side, ast.Tuple | ast.Set | ast.List) else [side])
    }
    named = {_name(side) for side in sides}
    return bool(words & NAMES) or ("output" in named and bool(words & OUTPUTS))


def questions(tree: ast.Module) -> Iterator[int]:
    """The lines that ask what kind a task, or an answer, is."""
    for node in ast.walk(tree):
        asked = (
            (isinstance(node, ast.Compare) and _compares_kinds(node))
            or any(_name(condition) in TELLING for condition in _conditions(node))
            or (
                isinstance(node, ast.Call)
                and _name(node.func) == "isinstance"
                and _name(node.args[0]) in ANSWERS
                and _name(node.args[1]) == "dict"
            )
        )
        if asked:
            yield node.lineno if hasattr(node, "lineno") else 0


def test_no_other_python_file_asks_what_kind_a_task_is() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("flywheel", "streams", "storage")
        for path in sorted((ROOT / package).rglob("*.py"))
        if (ROOT / "flywheel" / "kinds") not in path.parents and "migrations" not in path.parts
        for line in questions(ast.parse(path.read_text("utf-8")))
    ]
    assert not found


def test_no_page_asks_what_kind_a_task_is() -> None:
    console = ROOT / "flywheel" / "console"
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted([*console.rglob("*.html"), *console.rglob("*.js")])
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if any(pattern.search(line) for pattern in _PAGES)
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        'x = 1 if kind == "generation" else 2',
        'found = task.kind in ("classification", "generation")',
        "if not task.labels:\n    pass",
        'text = ", ".join(labels) if labels else ""',
        'y = served.get("output", "label") == "text"',
        'about.output != "label"',
        "z = bool(settings.task(name).labels)",
        "both = [one for one in known if one.scores]",
        "if self._labels(body.task):\n    pass",
        "isinstance(given, dict)",
    ],
)
def test_such_a_question_is_found(code: str) -> None:
    assert list(questions(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "if answers.scored:\n    pass",
        'made = {"label": 1, "text": 2}[about.output]',
        'if about.kind == "encoder":\n    pass',
        "if labels is not None:\n    pass",
        "for label in labels:\n    pass",
    ],
)
def test_what_is_no_such_question_is_not(code: str) -> None:
    assert not list(questions(ast.parse(code)))


def test_every_kind_has_a_name_that_flywheel_toml_may_have() -> None:
    from typing import get_args

    assert set(get_args(kinds.KindName)) == NAMES
