"""No file imports itself by way of others, not even within a function or for types alone."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("flywheel", "streams", "storage")


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for room in ROOMS for file in (ROOT / room).rglob("*.py")}


def imports(name: str) -> set[str]:
    """The files of ours that a file imports: modules, and the packages where names are taken."""
    imported = set()
    for node in ast.walk(ast.parse(FILES[name].read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [(node.module, f"{node.module}.{alias.name}") for alias in node.names]
            imported |= {inside if inside in FILES else module for module, inside in names}
    return imported & FILES.keys() - {name}


def test_no_file_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({name: imports(name) for name in FILES}).prepare()
    except CycleError as error:
        raise AssertionError(" ← ".join(error.args[1])) from None
