"""Releases out of one workspace and into another: by the gate, with the same id and answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from registry_workspace import (
    TASK,
    Workspace,
    as_hugging_face,
    by_transformers,
    load_here,
    make_models,
)
from tiny_encoder import labelled
from tokenizer_table import write_tokenizer_of

from flywheel.contracts.artefacts import Address
from flywheel.contracts.dataset_folder import DatasetLine, read_manifest, read_part
from flywheel.contracts.ids import utc_now
from flywheel.contracts.layout import BASES, RELEASES
from flywheel.contracts.model_folder import (
    RELEASE_FILE,
    ModelDescription,
    digest_model_files,
    write_description,
)
from flywheel.contracts.release import Release
from flywheel.errors import ArtefactError, PipelineError
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice
from flywheel.registry.archive import export_release
from flywheel.registry.history import read_history
from flywheel.registry.release_folder import assemble, read_record, verify_release
from flywheel.retraining.ports import Turn
from flywheel.serving.runtime import load_classifier
from flywheel.settings import load_settings
from flywheel.turn.champion import champion_answers
from flywheel.turn.importer import WorkspaceImporter
from flywheel.turn.measure import Answer, ServedFolder
from flywheel.turn.same_answers import check_same_answers
from flywheel.turn.served import Answering, Serve
from flywheel.turn.staging import (
    MODEL,
    request_import,
    share,
    stage_archive,
    stage_model,
)
from storage.objects import open_artefacts


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
    yield made
    made.close()


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


def test_the_champion_is_asked_what_its_holdout_grew_by(here: Workspace, models: Path) -> None:
    """Six held out at first, three hundred later: the gate compares on all of them."""
    champion = here.release(models)
    known = read_part(models / "data", "holdout")
    new = [
        DatasetLine(sample_id=sample.sample_id, text=sample.text, label=sample.label, source="seed")
        for sample in labelled(40, seed=77)
    ]

    folder = here.folder(champion.release)

    def answered(lines: Sequence[DatasetLine], serve: Serve = load_here) -> list[str]:
        found = champion_answers(here.settings, TASK, folder, lines, serve)
        return [prediction.sample_id for prediction in found]

    @contextmanager
    def away(folder: Path, bases: Path, labels: bool) -> Iterator[Answering]:
        raise PipelineError("it does not start")
        yield

    ids = [line.sample_id for line in known]
    added = [line.sample_id for line in new]
    # Nothing is started for a few, and the turn goes on with those that are known.
    assert answered([*known, *new[:2]], away) == ids
    assert answered([*known, *new], away) == ids
    with pytest.raises(PipelineError, match="does not start"):
        answered(new, away)
    assert answered([*known, *new]) == [*ids, *added]
    by_name = {
        one.sample_id: one
        for one in champion_answers(here.settings, TASK, folder, [*known, *new], away)
    }
    told = load_classifier(folder, 1).predict([line.text for line in new])
    for line, scores in zip(new, told, strict=True):
        assert by_name[line.sample_id].label == line.label
        assert by_name[line.sample_id].scores == scores


class Counting:
    """Says how many texts a model is asked."""

    def __init__(self, served: Answering, asked: list[int]) -> None:
        self._served, self._asked = served, asked
        self.speed = served.speed

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        self._asked.append(len(texts))
        return self._served.answers(texts)


def test_the_champion_is_asked_a_new_sample_once(here: Workspace, models: Path) -> None:
    """However many turns it stays champion; what was kept and is damaged, it is asked again."""
    champion = here.release(models)
    lines = [
        DatasetLine(sample_id=sample.sample_id, text=sample.text, label=sample.label, source="seed")
        for sample in labelled(60, seed=78)
    ]
    asked: list[int] = []

    @contextmanager
    def counting(folder: Path, bases: Path, labels: bool) -> Iterator[Answering]:
        with load_here(folder, bases, labels) as served:
            yield Counting(served, asked)

    def answers(lines: Sequence[DatasetLine]) -> dict[str, dict[str, float]]:
        found = champion_answers(
            here.settings, TASK, here.folder(champion.release), lines, counting
        )
        return {one.sample_id: one.scores for one in found}

    first = answers(lines[:30])
    assert answers(lines[:30]) == first
    assert asked == [30]
    grown = answers(lines)
    assert asked == [30, 30]
    assert answers(lines) == grown
    assert {key: grown[key] for key in first} == first
    kept = here.settings.layout.held_out_answers(champion.release)
    kept.write_bytes(kept.read_bytes()[:-9])
    assert answers(lines).keys() == grown.keys()
    assert asked == [30, 30, 60]
    verify_release(here.settings.state, champion.release)


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


def test_a_classifier_of_hugging_face_becomes_a_release(
    there: Workspace, models: Path, tmp_path: Path
) -> None:
    there.hold_out()
    as_hugging_face(models / "trained", tmp_path / "hub")
    request_id, staged = stage_model(there.settings, TASK, tmp_path / "hub", "hub")
    request_import(
        there.database, TASK, request_id, staged, by="ada", why="a start", override=False
    )
    turn = there.turn()
    assert turn.release is not None, turn.error
    with there.database.transaction(read_only=True) as tx:
        found = tx.releases.get(turn.release)
    assert found is not None
    assert found.accuracy > 0.9
    assert (found.dataset_version, found.recipe["imported"]["source"]) == ("external", "hub")
    description = verify_release(there.settings.state, found.release)
    assert description.pooling == "cls"
    texts = [sample.text for sample in labelled(30, seed=8)]
    expected = by_transformers(tmp_path / "hub", texts)
    given = load_classifier(there.folder(found.release), 1).predict(texts)
    for one, two in zip(expected, given, strict=True):
        assert one == pytest.approx(two, abs=1e-5)


@pytest.mark.parametrize(
    "kind", ["bert, left", "bert, cased in its file alone", "whole words, no marks"]
)
def test_a_classifier_is_served_with_the_tokens_that_it_has_elsewhere(
    there: Workspace, models: Path, tmp_path: Path, kind: str
) -> None:
    as_hugging_face(models / "trained", tmp_path / "hub")
    write_tokenizer_of(kind, tmp_path / "hub")
    request_id, _ = stage_model(there.settings, TASK, tmp_path / "hub", "hub")
    texts = ["Hello", "hello", "Rain or rain, World? " * 20]
    served = load_classifier(there.settings.layout.imports / request_id / MODEL, 1)
    for one, two in zip(
        by_transformers(tmp_path / "hub", texts), served.predict(texts), strict=True
    ):
        assert two == pytest.approx(one, abs=1e-5)


def test_a_classifier_in_several_files_is_served_as_one(
    there: Workspace, models: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    as_hugging_face(models / "trained", tmp_path / "hub")
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub")
    (tmp_path / "hub/model.safetensors").unlink()
    whole.save_pretrained(tmp_path / "hub", max_shard_size="40KB")
    assert len(list((tmp_path / "hub").glob("model-*.safetensors"))) > 1
    request_id, _ = stage_model(there.settings, TASK, tmp_path / "hub", "hub")
    served = load_classifier(there.settings.layout.imports / request_id / MODEL, 1)
    [expected] = by_transformers(tmp_path / "hub", ["rain and snow"])
    assert served.predict(["rain and snow"])[0] == pytest.approx(expected, abs=1e-5)


def test_a_classifier_that_would_answer_otherwise_here_is_refused(
    there: Workspace, models: Path, tmp_path: Path
) -> None:
    """What no rule knows shows in the answers: here, weights that are not those of the source."""
    as_hugging_face(models / "trained", tmp_path / "hub")
    request_id, _ = stage_model(there.settings, TASK, tmp_path / "hub", "hub")
    made = there.settings.layout.imports / request_id / MODEL
    as_hugging_face(models / "worse", tmp_path / "another")
    with pytest.raises(ArtefactError, match="served otherwise than transformers computes it"):
        check_same_answers(tmp_path / "another", made, "another")


def test_the_labels_must_be_those_of_the_task(
    there: Workspace, models: Path, tmp_path: Path
) -> None:
    as_hugging_face(models / "trained", tmp_path / "hub")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    (tmp_path / "hub/config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match=r"answers LABEL_0.*the labels of topics are weather"):
        stage_model(there.settings, TASK, tmp_path / "hub", "hub")
    assert not list((there.settings.layout.imports).iterdir())


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
