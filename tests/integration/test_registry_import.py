"""Releases out of one workspace and into another: by the gate, with the same id and answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from registry_workspace import (
    TASK,
    Workspace,
)
from tiny_encoder import labelled

from flywheel.contracts.artefacts import Address
from flywheel.contracts.dataset_folder import read_manifest
from flywheel.contracts.ids import utc_now
from flywheel.contracts.layout import BASES, RELEASES
from flywheel.contracts.model_folder import (
    RELEASE_FILE,
    ModelDescription,
    digest_model_files,
    write_description,
)
from flywheel.contracts.release import Release
from flywheel.errors import ArtefactError
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice
from flywheel.registry.archive import export_release
from flywheel.registry.history import read_history
from flywheel.registry.release_folder import assemble, read_record, verify_release
from flywheel.retraining.ports import Turn
from flywheel.serving.runtime import load_classifier
from flywheel.settings import load_settings
from flywheel.turn.importer import WorkspaceImporter
from flywheel.turn.measure import ServedFolder
from flywheel.turn.staging import (
    request_import,
    share,
    stage_archive,
)
from storage.objects import open_artefacts


@pytest.fixture
def exported(here: Workspace, models: Path, tmp_path: Path) -> tuple[Release, Path]:
    release = here.release(models)
    file = tmp_path / "release.tar"
    export_release(here.folder(release.release), here.settings.state / BASES, file)
    return release, file


def bring(
    workspace: Workspace,
    file: Path,
    *,
    override: bool = False,
    importer: WorkspaceImporter | None = None,
) -> Turn:
    request_id, staged = stage_archive(workspace.settings, TASK, file)
    request_import(
        workspace.database,
        TASK,
        request_id,
        staged,
        by="ada",
        why="a better one",
        override=override,
    )
    return workspace.turn(importer)


def test_an_exported_release_serves_elsewhere_with_equal_answers(
    exported: tuple[Release, Path], here: Workspace, there: Workspace
) -> None:
    release, file = exported
    there.hold_out()
    turn = bring(there, file)
    assert (turn.state, turn.release) == ("succeeded", release.release), turn.error
    with there.database.transaction(read_only=True) as tx:
        found = tx.releases.get(release.release)
        assert found is not None
        registered = read_history(tx, found)[0]
    assert found.gate_passed
    assert found.metrics["samples"] == 60
    assert found.metrics["measured_on"].startswith("d-")
    assert found.recipe["training"] == release.recipe["training"]
    assert found.recipe["imported"]["accuracy"] == release.accuracy
    assert found.recipe["imported"]["by"] == "ada"
    assert (registered.status, registered.by) == ("registered", "gate")
    assert registered.reason.startswith("imported from release.tar; first release")
    kept = Address.parse(found.address or "")
    assert open_artefacts(there.settings).has(kept)
    written = read_record(there.folder(found.release))
    assert msgspec.structs.replace(written, address=found.address) == found
    verify_release(there.settings.state, release.release)
    texts = [sample.text for sample in labelled(40, seed=8)]
    one, two = (
        load_classifier(of.folder(release.release), 1).predict(texts) for of in (here, there)
    )
    assert one == two
    assert not list((there.settings.layout.imports).iterdir())
    there.control()
    with there.database.transaction(read_only=True) as tx:
        assert tx.rollouts.champion(TASK) == release.release


def test_the_same_release_makes_the_same_file(
    exported: tuple[Release, Path], here: Workspace, tmp_path: Path
) -> None:
    release, file = exported
    export_release(
        here.folder(release.release), here.settings.state / BASES, tmp_path / "again.tar"
    )
    assert (tmp_path / "again.tar").read_bytes() == file.read_bytes()


def test_what_the_gate_refuses_enters_only_by_name(
    here: Workspace, there: Workspace, models: Path, tmp_path: Path
) -> None:
    there.hold_out()
    bad = here.release(models, "worse")
    export_release(here.folder(bad.release), here.settings.state / BASES, tmp_path / "bad.tar")
    turn = bring(there, tmp_path / "bad.tar")
    assert turn.release is None
    assert turn.error is not None
    assert turn.error.startswith("no release: accuracy")
    assert not (there.settings.state / "releases" / bad.release).exists()
    turn = bring(there, tmp_path / "bad.tar", override=True)
    assert turn.release == bad.release
    with there.database.transaction(read_only=True) as tx:
        found = tx.releases.get(bad.release)
        assert found is not None
        registered = read_history(tx, found)[0]
    assert not found.gate_passed
    assert found.override is not None
    assert registered.by == "ada"
    assert "put past the gate: a better one (the gate: accuracy" in registered.reason


def test_an_import_meets_the_champion_on_the_same_samples(
    exported: tuple[Release, Path], there: Workspace, models: Path
) -> None:
    """The champion here was never asked these held-out samples: it is, for the comparison."""
    there.hold_out()
    champion = there.release(models, "worse")
    there.control()
    turn = bring(there, exported[1])
    assert turn.release == exported[0].release
    with there.database.transaction(read_only=True) as tx:
        assert tx.rollouts.champion(TASK) == champion.release
        found = tx.releases.get(turn.release)
    assert found is not None
    assert found.metrics["gate"]["compared"] == 60
    assert found.metrics["gate"]["fixed"] > found.metrics["gate"]["broken"]


def test_without_a_holdout_it_takes_a_person(
    exported: tuple[Release, Path], there: Workspace
) -> None:
    turn = bring(there, exported[1])
    assert turn.release is None
    assert turn.error is not None
    assert "flywheel ingest FILE --split holdout" in turn.error
    turn = bring(there, exported[1], override=True)
    assert turn.release == exported[0].release
    with there.database.transaction(read_only=True) as tx:
        found = tx.releases.get(exported[0].release)
    assert found is not None
    assert found.accuracy == exported[0].accuracy, "it is what was measured where it was made"
    assert found.metrics["measured_on"] == exported[0].dataset_version
    assert "nothing was measured" in found.gate_reason


def test_a_registered_release_is_not_imported_twice(
    exported: tuple[Release, Path], here: Workspace
) -> None:
    here.hold_out()
    turn = bring(here, exported[1])
    assert turn.state == "failed"
    assert turn.error is not None
    assert "registered here already" in turn.error


def test_a_staged_release_that_is_changed_is_not_registered(
    exported: tuple[Release, Path], there: Workspace
) -> None:
    release, file = exported
    there.hold_out()
    request_id, staged = stage_archive(there.settings, TASK, file)
    request_import(there.database, TASK, request_id, staged, by="ada", why="x", override=True)
    path = there.settings.layout.imports / request_id / "releases" / release.release
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    turn = there.turn()
    assert turn.state == "failed"
    assert turn.error is not None
    assert "SHA-256 differs" in turn.error
    with there.database.transaction(read_only=True) as tx:
        assert tx.releases.history(TASK) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b'{"auto_map": {"AutoModel": "net.Net"}}', "needs code of its own"),
        ("model.safetensors", b"\x80\x04" + b"x" * 50, "no safetensors file"),
        ("tokenizer.json", b"\x80\x04.", "not valid JSON"),
    ],
)
def test_a_forged_release_is_refused_by_what_its_files_hold(
    here: Workspace, models: Path, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """Every hash and the id are right, for whoever made the file made them too."""
    forged = tmp_path / "forged"
    shutil.copytree(models / "trained", forged)
    (forged / name).write_bytes(content)
    files = digest_model_files(forged)
    told = msgspec.json.decode((forged / RELEASE_FILE).read_bytes(), type=ModelDescription)
    write_description(forged, msgspec.structs.replace(told, files=files))
    release = assemble(
        forged,
        metrics=measure([], Choice(told.labels), 0.95),
        manifest=read_manifest(models / "data"),
        to_root=tmp_path / RELEASES,
        created_at=utc_now(),
        git_commit="",
        parent=None,
        gate_passed=True,
        gate_reason="it says so",
    )
    export_release(tmp_path / RELEASES / release.release, tmp_path / BASES, tmp_path / "forged.tar")
    with pytest.raises(ArtefactError, match=words):
        stage_archive(here.settings, TASK, tmp_path / "forged.tar")
    assert not list((here.settings.layout.imports).iterdir())


def test_a_release_of_another_task_is_refused(
    exported: tuple[Release, Path], tmp_path: Path
) -> None:
    other = Workspace(
        tmp_path / "other",
        '[tasks.other]\nlabels = ["weather", "money", "food"]\n'
        '[tasks.other.training]\nbase_model = "encoder"\n',
    )
    with pytest.raises(ArtefactError, match="a release of task 'topics', not of 'other'"):
        stage_archive(other.settings, "other", exported[1])
    other.close()


def test_a_turn_that_trains_is_not_taken_for_an_import_that_waits(
    exported: tuple[Release, Path], there: Workspace
) -> None:
    """A trainer that was stopped within a turn goes on with that turn, not with the request."""
    from flywheel.contracts.ids import utc_now
    from flywheel.processes.trainer import gather
    from flywheel.retraining.trigger import decide

    with there.database.transaction("trainer") as tx:
        tx.turns.save(
            Turn(
                turn_id="before",
                task=TASK,
                state="running",
                stage="train",
                reason="200 new labels",
                started_at=utc_now(),
            )
        )
    request_id, staged = stage_archive(there.settings, TASK, exported[1])
    request_import(there.database, TASK, request_id, staged, by="ada", why="x", override=False)
    with there.database.transaction("trainer") as tx:
        start = decide(gather(tx, TASK), there.settings.task(TASK).retraining, utc_now())
    assert start is not None
    assert start.resume is not None
    assert start.request is None


def test_servers_measure_an_import_and_answer_equally_in_both_workspaces(
    exported: tuple[Release, Path], here: Workspace, there: Workspace
) -> None:
    """As production does it: `flywheel serve` answers for the staged folder, and for both."""
    there.hold_out()
    turn = bring(there, exported[1], importer=WorkspaceImporter(there.settings, there.database))
    assert turn.release == exported[0].release, turn.error
    with there.database.transaction(read_only=True) as tx:
        found = tx.releases.get(exported[0].release)
    assert found is not None
    assert found.metrics["latency_p95_ms"] > 0
    texts = [sample.text for sample in labelled(50, seed=8)]
    one, two = (
        ServedFolder(
            of.folder(found.release),
            engine="embedded",
            labels=True,
            workspace=of.settings.workspace,
        )
        for of in (here, there)
    )
    try:
        one.ready()
        two.ready()
        assert one.model != "", "both are served under the name of the release"
        assert (one.model, one.answers(texts)) == (two.model, two.answers(texts))
    finally:
        one.stop()
        two.stop()


def test_what_is_staged_elsewhere_waits_in_the_store(
    exported: tuple[Release, Path], there: Workspace, tmp_path: Path
) -> None:
    """Whoever calls `releases import` shares the database and the store with the trainer alone."""
    release, file = exported
    store = {"FLYWHEEL_ARTEFACTS_URL": str(tmp_path / "store")}
    config = (there.settings.workspace / "flywheel.toml").read_text("utf-8")
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "flywheel.toml").write_text(config, "utf-8")
    desk = load_settings(tmp_path / "desk", store)
    there.settings = load_settings(there.settings.workspace, store)
    there.hold_out()
    request_id, staged = stage_archive(desk, TASK, file)
    staged = share(desk, request_id, staged)
    assert not list(desk.layout.imports.iterdir())
    request_import(
        there.database, TASK, request_id, staged, by="ada", why="a better one", override=False
    )
    turn = there.turn()
    assert (turn.state, turn.release) == ("succeeded", release.release), turn.error
    assert not list(there.settings.layout.imports.iterdir())
