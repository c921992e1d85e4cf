"""Nobody but the user who runs it reads a workspace's state."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.gateway.spill import SpillLog
from flywheel.ops.template import flywheel_toml
from flywheel.settings import load_settings
from storage.workspace import open_database


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    """What below ``folder`` others could read if they came in, and the folder itself."""
    return [str(path) for path in (folder, *folder.rglob("*")) if rights(path) & 0o077]


@pytest.mark.usefixtures("usual_umask")
def test_a_new_workspaces_state_is_private(tmp_path: Path) -> None:
    (tmp_path / "flywheel.toml").write_text(flywheel_toml("species", ["a", "b"], "/base"))
    settings = load_settings(tmp_path, {})
    with open_database(settings) as database, database.transaction():
        assert rights(settings.state) == 0o700
        for name in ("flywheel.db", "flywheel.db-wal", "flywheel.db-shm"):
            assert rights(settings.state / name) == 0o600


@pytest.mark.usefixtures("usual_umask")
def test_an_older_workspaces_state_is_closed_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "flywheel.toml").write_text(flywheel_toml("species", ["a", "b"], "/base"))
    settings = load_settings(tmp_path, {})
    with open_database(settings) as database, database.transaction(read_only=True):
        for name in ("flywheel.db", "flywheel.db-wal", "flywheel.db-shm"):
            (settings.state / name).chmod(0o644)
        settings.state.chmod(0o755)
        with open_database(settings):
            assert open_to_others(settings.state) == []


@pytest.mark.usefixtures("usual_umask")
def test_the_spill_log_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    folder.mkdir(mode=0o755)
    SpillLog(folder).close()
    assert rights(folder) == 0o700
