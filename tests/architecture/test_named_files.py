"""Every file that the documents for who changes the code name is there, under that name."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("CONTRIBUTING.md", "SECURITY.md", "requirements/README.md", "docs/architecture.md")
_FILE = re.compile(r"[\w./-]+\.(?:py|md|html|js|css|toml|yaml|yml|txt|in)|(?:[\w.-]+/)+")
# What these documents name that is no file of the repository: a workspace's, and a release's.
ELSEWHERE = {
    *("flywheel.toml", "params.yaml", "build/bench/", "build/docs/site/"),
    *("dist/", "releases/", "bases/", "imports/"),
}


@cache
def tracked() -> tuple[str, ...]:
    """Paths of all files, and of folders with a slash at their end."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    paths = files.stdout.splitlines()
    folders = {f"{parent}/" for path in paths for parent in Path(path).parents if parent.name}
    return (*paths, *folders)


def named(text: str) -> list[str]:
    """Files and folders in inline code: `streams/relay.py`, `storage/tables/`, `threads.py`."""
    blocks = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [word for word in re.findall(r"`([^`\n]+)`", blocks) if _FILE.fullmatch(word)]


def is_there(name: str) -> bool:
    """Whether a file or folder has this path, or ends with it: the room may be left out."""
    return any(path == name or path.endswith(f"/{name}") for path in tracked())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_named_file_exists(document: str) -> None:
    names = named((ROOT / document).read_text("utf-8"))
    assert names
    assert [name for name in names if name not in ELSEWHERE and not is_there(name)] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("`storage/tables/` and `threads.py`", ["storage/tables/", "threads.py"]),
        ("`make test`, `BrokerError`, `a/b`", []),
        ("```\nfolder/file.py\n```", []),
    ],
)
def test_names_are_found_where_people_read_them(text: str, names: list[str]) -> None:
    assert named(text) == names


def test_what_is_not_there_is_noticed() -> None:
    assert is_there("review/agreement.py")
    assert is_there("storage/tables/")
    assert not is_there("review/agreements.py")
    assert not is_there("agreement")
