"""Old releases, dataset versions and what DVC caches: taken away by policy, and said so."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dataset_workspace import build, make
from registry_files import make_release
from registry_workspace import TASK, Workspace

from flywheel.cli import main
from flywheel.contracts.artefacts import Address
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.release import Release
from flywheel.datasets.workspace import (
    checkout,
    commit_dataset,
    lacking_bytes,
    prune,
    sweep_cache,
    versions_with,
)
from flywheel.errors import ArtefactError
from flywheel.retention.config import RetentionSettings
from flywheel.retraining.ports import Turn
from flywheel.rollout.commands import ask
from flywheel.rollout.ports import Command
from flywheel.settings import load_settings
from flywheel.turn.artefacts import open_release_folders, put_missing
from flywheel.upkeep import pruning
from flywheel.upkeep.pruning import prune_task
from storage.objects import open_artefacts, open_blobs
from storage.objects.store import key_of

# DVC's own dependency warns of its future.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")
KEPT = RetentionSettings(releases=30)


class Served(Workspace):
    """Three releases that served one after the other, long ago, kept in the store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.now = utc_now()
        self.folders = open_release_folders(self.settings, self.database)
        days = (300, 200, 100)
        self.releases = [self.add(f"n{n}", ago, fill=n) for n, ago in enumerate(days)]

    def add(self, name: str, days: int, fill: int) -> Release:
        at = self.now - timedelta(days=days)
        made = make_release(self.settings.state, name=name, fill=fill, created_at=at)
        kept = self.folders.publish(made)
        with self.database.transaction() as tx:
            tx.releases.add(kept)
            tx.rollouts.set_champion(TASK, kept.release, at)
        return kept


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "workspace")
    yield made
    made.close()


def pruned(served: Served, kept: RetentionSettings = KEPT) -> list[str]:
    return prune_task(served.settings, served.database, TASK, kept, served.now)[0]


def test_an_old_release_goes_and_what_others_share_with_it_stays(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, champion = served.releases
    assert pruned(served, RetentionSettings(releases=150)) == [first.release], "served 200 days ago"
    store = open_artefacts(served.settings)
    assert first.address is not None
    assert not store.has(Address.parse(first.address))
    assert served.folders.here() == sorted([second.release, champion.release])
    for left in (second, champion):
        assert left.address is not None
        with store.fetch(Address.parse(left.address)) as folder:
            assert any(folder.iterdir())
        served.folders.verified(left.release)
    with pytest.raises(ArtefactError, match=r"was pruned on .* \(not needed for 150 days"):
        served.folders.hold(first.release)
    folder, who = str(served.settings.workspace), ("--by", "ada", "--why", "it was better")
    with pytest.raises(SystemExit):
        main(["-w", folder, "releases", "restore", first.release, *who])
    assert "was pruned on" in capsys.readouterr().err


def test_what_a_release_of_a_task_that_is_gone_shares_stays(served: Served) -> None:
    first = served.releases[0]
    with served.database.transaction() as tx:
        tx.releases.add(msgspec.structs.replace(first, release="gone-1", task="gone"))
    assert first.release in pruned(served)
    assert first.address is not None
    with open_artefacts(served.settings).fetch(Address.parse(first.address)) as folder:
        assert any(folder.iterdir())


def test_nothing_goes_while_a_turn_runs(served: Served) -> None:
    turn = Turn(
        turn_id="t", task=TASK, state="running", stage="build", reason="x", started_at=served.now
    )
    with served.database.transaction() as tx:
        tx.turns.save(turn)
    assert pruned(served) == []


def restore_of(served: Served, release: str) -> tuple[str, str]:
    """Somebody asks for a former champion: the command, and why it is refused."""
    command = Command(
        command_id=new_id(),
        task=TASK,
        kind="restore",
        by="ada",
        why="it was better",
        at=utc_now(),
        rollout_id=None,
        release=release,
    )
    with served.database.transaction("cli") as tx:
        return command.command_id, ask(tx, command)


def test_what_somebody_waits_for_stays_until_the_controller_has_decided(served: Served) -> None:
    first, second, _ = served.releases
    command, refused = restore_of(served, first.release)
    assert not refused
    assert pruned(served) == [second.release]
    served.folders.verified(first.release)
    with served.database.transaction() as tx:
        tx.commands.done(command, "refused: a test")
    assert pruned(served) == [first.release]
    assert "was pruned on" in restore_of(served, first.release)[1]


def test_who_asks_while_it_is_decided_what_goes_gets_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = served.releases
    decide = pruning.prunable

    def meanwhile(*of: Any) -> tuple[list[str], list[str]]:
        decided = decide(*of)
        assert not restore_of(served, first.release)[1]
        return decided

    monkeypatch.setattr(pruning, "prunable", meanwhile)
    assert pruned(served) == [second.release]
    served.folders.verified(first.release)


def test_what_another_host_pruned_goes_here_too_and_is_not_put_again(
    served: Served, tmp_path: Path
) -> None:
    """A host with a store and releases of its own can only note it."""
    first, second, _ = served.releases
    here = served.settings
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(here.workspace / "flywheel.toml", elsewhere)
    other = load_settings(elsewhere, {"FLYWHEEL_DATABASE_URL": here.database})
    gone, _ = prune_task(other, served.database, TASK, KEPT, served.now)
    assert sorted(gone) == sorted([first.release, second.release])
    store = open_artefacts(here)
    assert first.address is not None
    open_blobs(here).remove(key_of(Address.parse(first.address)))
    put_missing(here, served.database, "trainer")
    assert not store.has(Address.parse(first.address))
    assert pruned(served) == []
    assert served.folders.here() == [served.releases[2].release]
    assert second.address is not None
    assert not store.has(Address.parse(second.address))


def test_ended_midway_it_goes_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = served.releases

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pruning, "release_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            pruned(served)
    pruned(served)
    assert first.release not in served.folders.here()
    assert second.release not in served.folders.here()
    with served.database.transaction(read_only=True) as tx:
        assert all(one.done for one in tx.pruned.history(TASK))


def test_what_nothing_names_leaves_the_cache_and_what_is_kept_stays(tmp_path: Path) -> None:
    root = make(tmp_path / "workspace")
    first = build(root, 40, None)
    commit_dataset(root, "mail", first)
    second = build(root, 60, first.version)
    commit_dataset(root, "mail", second)
    # A build that no version was made of: an ended turn's.
    build(root, 50, second.version)
    build(root, 60, first.version)
    before = sum(1 for path in (root / ".dvc/cache/files").rglob("*") if path.is_file())
    assert sweep_cache(root, time.time() - 3600) == 0, "young ones stay"
    assert sweep_cache(root, time.time() + 60) > 0
    after = sum(1 for path in (root / ".dvc/cache/files").rglob("*") if path.is_file())
    assert after < before
    assert lacking_bytes(root) == []
    for version in (first, second):
        assert checkout(root, "mail", version.version, tmp_path / version.version) == version


def test_versions_that_hold_a_sample_are_named(tmp_path: Path) -> None:
    root = make(tmp_path / "workspace")
    first = build(root, 40, None)
    commit_dataset(root, "mail", first)
    second = build(root, 60, first.version)
    commit_dataset(root, "mail", second)
    lines = (root / "data/mail/train.jsonl").read_text("utf-8").splitlines()
    ids = [line.split('"sample_id":"')[1].split('"')[0] for line in lines]
    earlier = tmp_path / "earlier"
    checkout(root, "mail", first.version, earlier)
    old = "".join(path.read_text("utf-8") for path in earlier.glob("*.jsonl"))
    new = next(one for one in ids if f'"{one}"' not in old)
    assert versions_with(root, "mail", {new}.intersection) == [second.version]
    assert versions_with(root, "mail", {"nobody"}.intersection) == []
    both = next(one for one in ids if f'"{one}"' in old)
    assert versions_with(root, "mail", {both}.intersection) == [first.version, second.version]
    prune(root, "mail", first.version, "test")
    assert versions_with(root, "mail", {both}.intersection) == [second.version]
