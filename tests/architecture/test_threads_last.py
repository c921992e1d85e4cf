"""Every thread that lives as long as its process is one that says when it ends, and comes back."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What else starts a thread, and why that is right.
ALLOWED = {
    "flywheel/monitoring/threads.py": "starts the others",
    "flywheel/monitoring/health.py": "serves health itself: nobody would hear what it says",
    "flywheel/turn/watchdog.py": "ends its process, whatever ends it",
    "flywheel/serving/vllm/launch.py": "ends its process, whatever ends it",
    "flywheel/serving/closing.py": "closes one release, and is then done",
}


def starts_a_thread(file: Path) -> bool:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name == "Thread":
                return True
    return False


def test_threads_are_lasting() -> None:
    files = [
        file
        for folder in ("flywheel", "streams", "storage")
        for file in (ROOT / folder).rglob("*.py")
        if starts_a_thread(file)
    ]
    assert {str(file.relative_to(ROOT)) for file in files} == set(ALLOWED)
