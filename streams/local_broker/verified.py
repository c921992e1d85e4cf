"""Files whose SHA-256 is known: read in full once, then again when size or time have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def stamp(path: Path, sha256: str) -> list[Any]:
    """What is noted of a file after a full check: size, time of change and SHA-256."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, sha256]


def read_stamps(path: Path) -> dict[str, list[Any]]:
    """What was noted, by file name; nothing where the notes cannot be read."""
    try:
        stamps = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def write_stamps(path: Path, stamps: Mapping[str, list[Any]]) -> None:
    """Replace the notes; the caller sees to it that nobody else does meanwhile."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(stamps), "utf-8")
    partial.replace(path)


def is_intact(path: Path, sha256: str, stamps: Mapping[str, list[Any]]) -> bool:
    """Whether the file is there with this SHA-256."""
    if not path.is_file():
        return False
    return stamps.get(path.name) == stamp(path, sha256) or sha256_of(path) == sha256


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
