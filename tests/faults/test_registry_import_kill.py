"""kill -9 of the trainer anywhere in an import: no half release, and the import is finished."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_workspace import TASK, Workspace, make_models

from flywheel.contracts.layout import BASES, RELEASES
from flywheel.processes.trainer import Trainer
from flywheel.registry.archive import export_release
from flywheel.registry.release_folder import verify_release
from flywheel.turn.staging import request_import, stage_archive

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow

POINTS = ("measured", "half made", "made", "registered", "finished")
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "here")
    yield made
    made.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "there")
    made.hold_out()
    yield made
    made.close()


def ask(here: Workspace, there: Workspace, models: Path) -> tuple[str, str]:
    """Ask for an import from one workspace into the other; the release and the request's id."""
    release = here.release(models).release
    file = here.settings.workspace / "a.tar"
    export_release(here.settings.state / RELEASES / release, here.settings.state / BASES, file)
    request_id, staged = stage_archive(there.settings, TASK, file)
    request_import(there.database, TASK, request_id, staged, by="ada", why="x", override=False)
    return release, request_id


def until_made(there: Workspace, trainer: Trainer) -> None:
    """The dead one's lease runs out meanwhile."""
    deadline = time.monotonic() + 60
    while True:
        trainer.step()
        with there.database.transaction(read_only=True) as tx:
            if tx.turns.take_request(TASK) is None:
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill(there: Workspace, point: str) -> str:
    """Have a trainer take the import up, and die at a point of it; what it wrote."""
    program = str(TESTS / "faults/registry_import_process.py")
    killed = subprocess.run(
        [sys.executable, program, str(there.settings.workspace), point],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    return killed.stdout


@pytest.mark.parametrize("point", POINTS)
def test_an_import_survives_the_trainer(
    here: Workspace, there: Workspace, models: Path, point: str
) -> None:
    release, request_id = ask(here, there, models)
    kill(there, point)
    releases = there.settings.state / RELEASES
    complete = point in ("made", "registered", "finished")
    found = [p.name for p in releases.glob("*") if not p.name.startswith(".making")]
    assert found == ([release] if complete else [])
    with there.database.transaction(read_only=True) as tx:
        assert bool(tx.releases.history(TASK)) == (point in ("registered", "finished"))

    trainer = there.trainer()
    trainer._importer = there.importer()
    until_made(there, trainer)
    with there.database.transaction(read_only=True) as tx:
        (turn,) = tx.turns.history(TASK)
        (registered,) = tx.releases.history(TASK)
        assert tx.turns.take_request(TASK) is None
    assert (turn.turn_id, turn.state, turn.release) == (request_id, "succeeded", release)
    assert registered.release == release
    verify_release(there.settings.state, release)
    assert [p.name for p in releases.iterdir()] == [release]
    assert not list((there.settings.layout.imports).iterdir())
    events = [r for _, r in there.database.outbox_rows("trainer").unsent(10)]
    assert len(events) == 1, "it is announced once"


def test_the_server_that_measures_ends_with_the_trainer(
    here: Workspace, there: Workspace, models: Path
) -> None:
    ask(here, there, models)
    url = kill(there, "served").rpartition("http")[2]
    while True:
        try:
            urllib.request.urlopen(f"http{url}/health", timeout=10).close()  # noqa: S310
        except OSError:
            return
