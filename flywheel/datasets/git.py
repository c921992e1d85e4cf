"""git in a workspace: the one place that runs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from flywheel.errors import WorkspaceError

_IDENTITY = ("-c", "user.name=Flywheel", "-c", "user.email=flywheel@localhost")
# What people tell git for their own work, and what would stop or change ours: files that are
# ignored everywhere, hooks, signatures, line ends that are turned into others. Names stay theirs.
_OURS = (
    *("core.excludesFile=/dev/null", "core.attributesFile=/dev/null", "core.hooksPath=/dev/null"),
    *("core.autocrlf=false", "core.safecrlf=false", "core.quotePath=false"),
    *("commit.gpgSign=false", "tag.gpgSign=false", "tag.forceSignAnnotated=false"),
    *("color.ui=false", "column.ui=never"),
)


def git(root: Path, *arguments: str) -> str:
    """What git prints. Raises WorkspaceError, with what it said, when it refuses."""
    done = _run(root, arguments)
    if done.returncode:
        raise WorkspaceError(
            f"git {' '.join(a for a in arguments if a != '-q')} failed in {root}: "
            f"{_text(done.stderr) or _text(done.stdout)}"
        )
    return _text(done.stdout)


def try_git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None when it refuses."""
    done = _run(root, arguments)
    return None if done.returncode else _text(done.stdout)


def blobs(root: Path, names: Sequence[str]) -> list[bytes | None]:
    """What git holds under names such as ``tag:path``, None where there is nothing."""
    done = _run(root, ["cat-file", "--batch"], "".join(f"{name}\n" for name in names))
    contents: list[bytes | None] = []
    rest = done.stdout
    while rest:
        head, _, rest = rest.partition(b"\n")
        if head.endswith(b" missing"):
            contents.append(None)
            continue
        size = int(head.rpartition(b" ")[2])
        contents.append(rest[:size])
        rest = rest[size + 1 :]
    return contents


def commit_paths(root: Path, message: str, paths: Sequence[str]) -> None:
    """Commit these paths, if they are there and differ; nothing else that is staged or lies
    around."""
    present = [name for name in paths if (root / name).exists()]
    git(root, "add", "-A", "--", *present)
    staged = try_git(root, "diff", "--cached", "--quiet", "--", *present) is None
    if staged:
        # A folder of which everything is ignored is no path that git knows.
        known = [p for p in present if git(root, "ls-files", "--", p) or _deleted(root, p)]
        git(root, *_identity(root), "commit", "-q", "--no-verify", "-m", message, "--", *known)


def tag(root: Path, name: str, message: str, target: str = "HEAD") -> None:
    """Make an annotated tag; one of that name is replaced."""
    git(root, *_identity(root), "tag", "-f", "-a", "-m", message, name, target)


def _deleted(root: Path, path: str) -> bool:
    """Whether the last commit has something there that this one will not."""
    return bool(try_git(root, "ls-tree", "--name-only", "HEAD", "--", path))


def _identity(root: Path) -> Iterable[str]:
    known = try_git(root, "config", "user.email") and try_git(root, "config", "user.name")
    return () if known else _IDENTITY


def _text(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape").strip()


def _run(
    root: Path, arguments: Iterable[str], given: str = ""
) -> subprocess.CompletedProcess[bytes]:
    # Variables of an enclosing git process (a hook, say) would point git at its repository.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    environment["GIT_TERMINAL_PROMPT"] = "0"
    try:
        return subprocess.run(
            ["git", *(part for setting in _OURS for part in ("-c", setting)), *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            input=given.encode(),
            check=False,
            timeout=120,
        )
    except FileNotFoundError:
        raise WorkspaceError("git is not installed: dataset versions need it") from None
    except subprocess.TimeoutExpired:
        raise WorkspaceError(f"git did not answer within two minutes in {root}") from None
