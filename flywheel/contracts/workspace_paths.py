"""Paths of flywheel.toml: a relative one begins at the workspace, wherever a command was called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
# To SQLAlchemy a path from the current folder follows three slashes; one from the root makes four.
_SQLITE_FILE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)(.+)", re.DOTALL)


def from_workspace(raw: Mapping[str, Any], workspace: Path) -> None:
    """Make the relative paths in what was read of the file absolute. What is of the wrong type
    stays: it is refused with its key."""
    _change(
        raw,
        "database_url",
        lambda url: _SQLITE_FILE.sub(lambda part: part[1] + _below(workspace, part[2]), url),
    )
    for table, key in ((raw, "dvc_remote_url"), (_table(raw, "artefacts"), "url")):
        _change(table, key, lambda url: url if "://" in url else _joined(workspace, url))
    for key in _FILES:
        _change(_table(raw, "kafka"), key, lambda path: _joined(workspace, path))
    # A name alone is a command of the search path.
    _change(
        _table(_table(raw, "serving"), "vllm"),
        "python",
        lambda path: _joined(workspace, path) if os.sep in path else path,
    )
    for name in _table(raw, "tasks"):
        training = _table(_table(_table(raw, "tasks"), name), "training")
        _change(training, "base_model", lambda path: _below(workspace, path))


def _change(table: dict[str, Any] | Mapping[str, Any], key: str, change: Any) -> None:
    if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
        table[key] = change(table[key])


def _joined(workspace: Path, path: str) -> str:
    return os.path.normpath(_below(workspace, path))


def _below(workspace: Path, path: str) -> str:
    """Else as it was written: the pipeline compares a base model's path with an earlier one."""
    return os.path.join(workspace, os.path.expanduser(path))


def _table(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = raw.get(key)
    return table if isinstance(table, dict) else {}
