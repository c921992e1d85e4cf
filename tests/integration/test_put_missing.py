"""Releases that an earlier version made, or that were made for another store, get there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_files import make_release
from registry_workspace import TASK, Workspace

from flywheel.contracts.artefacts import Address
from flywheel.contracts.release import Release
from flywheel.errors import ArtefactError, ArtefactStoreError
from flywheel.settings import FlywheelSettings, load_settings
from flywheel.turn.artefacts import PAUSES, open_release_folders, patiently, put_missing
from storage.objects import open_artefacts


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "workspace")
    yield made
    made.close()


def of_before(workspace: Workspace, name: str, fill: int = 0) -> Release:
    """A release without an address, as earlier versions registered them."""
    release = make_release(workspace.settings.state, name=name, fill=fill)
    with workspace.database.transaction("test") as tx:
        tx.releases.add(release)
    return release


def recorded(workspace: Workspace) -> list[Release]:
    with workspace.database.transaction(read_only=True) as tx:
        return tx.releases.history(TASK)


def at(workspace: Workspace, store: Path) -> FlywheelSettings:
    return load_settings(workspace.settings.workspace, {"FLYWHEEL_ARTEFACTS_URL": str(store)})


def test_releases_of_before_get_an_address_when_the_trainer_starts(workspace: Workspace) -> None:
    of_before(workspace, "one")
    of_before(workspace, "two", fill=1)
    put_missing(workspace.settings, workspace.database, "trainer")
    artefacts = open_artefacts(workspace.settings)
    found = recorded(workspace)
    assert len(found) == 2
    assert all(artefacts.has(Address.parse(row.address or "")) for row in found)
    put_missing(workspace.settings, workspace.database, "trainer")
    assert recorded(workspace) == found


def test_another_store_gets_what_was_made_for_the_one_before(
    workspace: Workspace, tmp_path: Path
) -> None:
    release = of_before(workspace, "one")
    put_missing(workspace.settings, workspace.database, "trainer")
    moved = at(workspace, tmp_path / "elsewhere")
    put_missing(moved, workspace.database, "trainer")
    (found,) = recorded(workspace)
    assert open_artefacts(moved).has(Address.parse(found.address or ""))
    assert open_release_folders(moved, workspace.database).verified(release.release)


def test_what_cannot_be_put_goes_on_serving_where_it_lies(
    workspace: Workspace, tmp_path: Path
) -> None:
    gone, there = of_before(workspace, "one"), of_before(workspace, "two", fill=1)
    folder = workspace.folder(gone.release)
    (folder / "release.json").unlink()
    put_missing(workspace.settings, workspace.database, "trainer")
    assert {row.release for row in recorded(workspace) if row.address} == {there.release}
    (tmp_path / "no-folder").write_text("")
    put_missing(at(workspace, tmp_path / "no-folder"), workspace.database, "trainer")
    assert len(recorded(workspace)) == 2


def test_a_store_that_comes_back_costs_no_turn() -> None:
    waited: list[float] = []

    def attempt() -> str:
        if len(waited) < 3:
            raise ArtefactStoreError("away")
        return "put"

    assert patiently(attempt, waited.append) == "put"
    assert waited == list(PAUSES[:3])


def test_one_that_stays_away_is_said_and_other_errors_at_once() -> None:
    waited: list[float] = []

    def attempt() -> str:
        raise ArtefactStoreError("away")

    with pytest.raises(ArtefactStoreError, match="away"):
        patiently(attempt, waited.append)
    assert waited == list(PAUSES)

    def damaged() -> str:
        raise ArtefactError("damaged")

    with pytest.raises(ArtefactError, match="damaged"):
        patiently(damaged, lambda _: pytest.fail("nothing is to be waited for"))


def test_a_process_that_is_to_end_leaves_its_turn_to_be_resumed() -> None:
    def attempt() -> str:
        raise ArtefactStoreError("away")

    with pytest.raises(SystemExit):
        patiently(attempt, lambda _: True)
