"""Paths of a workspace have one home, `contracts/layout.py`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = "flywheel/contracts/layout.py"
# Names that mean a place of a workspace and nothing else.
PLACES = {
    *(".flywheel", "flywheel.toml", "params.yaml", "flywheel.db", "gateway-splits.json"),
    *("releases", "bases", "imports", "features", "spill", "checkpoints", "evaluation"),
}


def joined(tree: ast.Module) -> set[str]:
    """What paths are continued with by a literal: ``folder / "name"``."""
    return {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and isinstance(node.right, ast.Constant)
        and isinstance(node.right.value, str)
        for part in node.right.value.split("/")
    }


def test_no_other_file_spells_a_place_of_a_workspace() -> None:
    found = {
        str(path.relative_to(ROOT)): sorted(spelled)
        for package in ("flywheel", "streams", "storage")
        for path in (ROOT / package).rglob("*.py")
        if (spelled := PLACES & joined(ast.parse(path.read_text("utf-8"))))
        and str(path.relative_to(ROOT)) != HOME
    }
    assert not found
