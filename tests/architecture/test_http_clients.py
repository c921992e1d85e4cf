"""One HTTP client library outside the hot path; one home of the model servers' protocol."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("flywheel", "streams", "storage")
CLIENTS = {"aiohttp", "requests", "urllib3", "urllib.request", "http.client", "httpx"}
# Beside httpx: the gateway's way to the model servers, and the errors of xmlrpc.client.
OTHERS = {("flywheel/gateway/forward.py", "aiohttp"), ("flywheel/ops/supervisor.py", "http.client")}
# The protocol, and that of vLLM, which stands behind a model server.
PROTOCOLS = {"flywheel/contracts/model_server.py", "flywheel/serving/vllm/client.py"}


def modules() -> list[tuple[str, ast.Module]]:
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_bytes())) for path in files]


def imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_one_library_speaks_http() -> None:
    used = {
        (file, client)
        for file, tree in modules()
        for client in CLIENTS
        if any(name == client or name.startswith(f"{client}.") for name in imported(tree))
    }
    assert {one for one in used if one[1] != "httpx"} == OTHERS


def test_one_file_writes_requests_to_the_model_servers() -> None:
    found = {
        file
        for file, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "/classify"
    }
    assert found == PROTOCOLS
