"""A classifier as Hugging Face's hub has it becomes a release that answers as it does there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from registry_workspace import TASK, Workspace, as_hugging_face, by_transformers
from tiny_encoder import labelled
from tokenizer_table import write_tokenizer_of

from flywheel.errors import ArtefactError
from flywheel.registry.release_folder import verify_release
from flywheel.serving.runtime import load_classifier
from flywheel.turn.same_answers import check_same_answers
from flywheel.turn.staging import MODEL, request_import, stage_model


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
