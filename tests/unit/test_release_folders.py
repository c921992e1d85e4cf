"""Releases of this machine: made here, or fetched by the addresses that travel with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from registry_files import make_release
from release_machine import Machine

from flywheel.errors import ArtefactError
from flywheel.registry.release_folder import verify_release


@pytest.fixture
def trainer(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "trainer")


@pytest.fixture
def server(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "server")


@pytest.mark.parametrize("adapter", [False, True])
def test_a_release_serves_where_it_was_not_made(
    trainer: Machine, server: Machine, adapter: bool
) -> None:
    made = trainer.make(adapter=adapter)
    release = server.learn(made)
    with server.folders.hold(release) as folder:
        assert folder == server.layout.releases / release
        description = verify_release(server.layout.state, release)
        assert (description.base is not None) == adapter
    assert (made.base_address is not None) == adapter
    assert server.folders.verified(release) == description
    assert server.folders.here() == [release]


def test_where_it_was_made_nothing_is_fetched(trainer: Machine) -> None:
    release = trainer.make().release
    with trainer.folders.hold(release) as folder:
        assert not folder.is_symlink()
    assert not trainer.layout.artefact_cache.exists()


def test_a_release_of_an_earlier_version_is_found_where_it_was_made_and_missed_elsewhere(
    trainer: Machine, server: Machine
) -> None:
    release = make_release(trainer.layout.state).release
    with trainer.folders.hold(release) as folder:
        assert folder.is_dir()
    with pytest.raises(ArtefactError, match=f"{release} is not in .*made by an earlier version"):
        server.folders.hold(release)


def test_a_folder_that_was_cleared_comes_back_from_the_store(trainer: Machine) -> None:
    release = trainer.learn(trainer.make())
    shutil.rmtree(trainer.layout.releases / release)
    assert trainer.folders.verified(release)


def test_one_small_file_is_read_without_the_weights(trainer: Machine, server: Machine) -> None:
    release = server.learn(trainer.make())
    card = (trainer.layout.releases / release / "MODEL_CARD.md").read_bytes()
    assert server.folders.read(release, "MODEL_CARD.md") == card
    assert not server.layout.artefact_cache.exists()
    with pytest.raises(ArtefactError, match=r"has no nothing\.txt"):
        server.folders.read(release, "nothing.txt")
    with server.folders.hold(release):
        assert server.folders.read(release, "MODEL_CARD.md") == card
    for folders in (trainer.folders, server.folders):
        with pytest.raises(ArtefactError, match=r"cannot be read|has no"):
            folders.read(release, "nothing.txt")


def test_a_release_in_use_outlives_the_room_there_is(trainer: Machine, tmp_path: Path) -> None:
    server = Machine(tmp_path, "small", most_bytes=1)
    one, two, three = (
        server.learn(trainer.make(name, fill=number))
        for number, name in enumerate(("one", "two", "three"))
    )
    held = server.folders.hold(one)
    server.folders.hold(two).release()
    assert held.path.is_dir()
    assert len(server.cached) == 2
    held.release()
    server.folders.hold(three).release()
    assert len(server.cached) == 1
    assert server.folders.here() == [three]
    assert server.folders.verified(one), "what was evicted is fetched again"


def test_a_moved_workspace_still_leads_to_its_cache(trainer: Machine, tmp_path: Path) -> None:
    server = Machine(tmp_path, "server")
    release = server.learn(trainer.make())
    server.folders.hold(release).release()
    server.layout.workspace.rename(tmp_path / "moved")
    moved = Machine(tmp_path, "moved")
    assert moved.folders.here() == [release]


def test_an_address_that_is_another_releases_serves_nobody(
    trainer: Machine, server: Machine
) -> None:
    one, two = trainer.make("one"), trainer.make("two", fill=1)
    release = server.learn(msgspec.structs.replace(one, address=two.address))
    with pytest.raises(ArtefactError, match="renamed"):
        server.folders.verified(release)


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda folder: (folder / "release.json").unlink()])
def test_a_damaged_folder_is_named(trainer: Machine, harm: Callable[[Path], None]) -> None:
    release = trainer.make().release
    harm(trainer.layout.releases / release)
    with pytest.raises(ArtefactError, match=release):
        trainer.folders.hold(release)


@pytest.mark.parametrize("evicted", [False, True])
def test_what_is_made_here_later_takes_the_place_of_what_was_fetched(
    trainer: Machine, server: Machine, evicted: bool
) -> None:
    """Two trainers come to the same release, on the same base."""
    release = server.learn(trainer.make(adapter=True))
    server.folders.hold(release).release()
    (base,) = server.layout.bases.iterdir()
    assert base.is_symlink()
    if evicted:
        shutil.rmtree(server.layout.artefact_cache)
    assert server.make(adapter=True).release == release
    assert base.is_dir()
    assert not base.is_symlink()
    assert server.folders.made_here(release) == evicted
    assert server.folders.verified(release)
