"""kill -9 of the trainer anywhere in an import: no half release, and the import is finished."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from registry_workspace import TASK, Workspace, make_models

from flywheel.bootstrap.importer import WorkspaceImporter
from flywheel.bootstrap.registry import IMPORTS, request_import, stage_archive
from flywheel.contracts.ids import utc_now
from flywheel.registry.archive import export_release
from flywheel.registry.release_folder import BASES, RELEASES, verify_release
from flywheel.retraining.trigger import RETRY_AFTER

POINTS = ("measured", "half made", "made", "registered", "finished")
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("point", POINTS)
def test_an_import_survives_the_trainer(models: Path, tmp_path: Path, point: str) -> None:
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    release = here.release(models).release
    export_release(
        here.settings.state / RELEASES / release, here.settings.state / BASES, tmp_path / "a.tar"
    )
    there.hold_out()
    request_id, staged = stage_archive(there.settings, TASK, tmp_path / "a.tar")
    request_import(there.database, TASK, request_id, staged, by="ada", why="x", override=False)

    killed = subprocess.run(
        [
            sys.executable,
            str(TESTS / "faults/registry_import_process.py"),
            str(tmp_path / "there"),
            point,
        ],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    releases = there.settings.state / RELEASES
    complete = point in ("made", "registered", "finished")
    found = [p.name for p in releases.glob("*") if not p.name.startswith(".making")]
    assert found == ([release] if complete else [])
    with there.database.transaction(read_only=True) as tx:
        assert bool(tx.releases.history(TASK)) == (point in ("registered", "finished"))

    # The lease of the dead one has run out.
    with there.database.transaction("trainer") as tx:
        assert tx.turns.acquire(TASK, "after", utc_now() + RETRY_AFTER, -3600.0)
    trainer = there.trainer()
    trainer._importer = there.importer()
    trainer.step()
    with there.database.transaction(read_only=True) as tx:
        (turn,) = tx.turns.history(TASK)
        (registered,) = tx.releases.history(TASK)
        assert tx.turns.take_request(TASK) is None
    assert (turn.turn_id, turn.state, turn.release) == (request_id, "succeeded", release)
    assert registered.release == release
    verify_release(there.settings.state, release)
    assert [p.name for p in releases.iterdir()] == [release]
    assert not list((there.settings.state / IMPORTS).iterdir())
    events = [r for _, r in there.database.outbox_rows("trainer").unsent(10)]
    assert len(events) == 1, "it is announced once"
    WorkspaceImporter(there.settings, there.database)
    here.close()
    there.close()
