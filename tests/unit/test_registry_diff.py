"""What differs between two releases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
from registry_files import LABELS, make_release, manifest

from flywheel.contracts.layout import PREDICTIONS_FILE, RELEASES
from flywheel.contracts.release import Release
from flywheel.errors import ArtefactError
from flywheel.evaluation.answered import write_predictions
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice
from flywheel.kinds.predictions import Prediction
from flywheel.registry.diff import diff, read_files
from flywheel.registry.release_folder import sweep


def prediction(sample: int, label: str, answer: str) -> Prediction:
    scores = {name: 0.9 if name == answer else 0.1 for name in LABELS}
    return Prediction(sample_id=f"s{sample}", label=label, prediction=answer, scores=scores)


def held(state: Path) -> Callable[[str], AbstractContextManager[Path]]:
    """The releases below ``state``, as ``read_files`` asks for them."""
    return lambda release: nullcontext(state / RELEASES / release)


def released(state: Path, name: str, answers: str, **given: Any) -> Release:
    """A release that answered ``answers``, a letter a sample; the truth is all "weather"."""
    names = {"w": "weather", "m": "money"}
    predictions = [
        prediction(index, "weather", names[letter]) for index, letter in enumerate(answers)
    ]
    state.mkdir(exist_ok=True)
    write_predictions(state / "answers.jsonl", predictions)
    metrics = measure(predictions, Choice(LABELS), 0.95)
    extras = {PREDICTIONS_FILE: state / "answers.jsonl"}
    return make_release(state, name=name, metrics=metrics, extras=extras, **given)


def test_two_releases_side_by_side(tmp_path: Path) -> None:
    one = released(tmp_path, "one", "wwmm", recipe={"training": {"epochs": 3, "seed": 0}})
    two = released(
        tmp_path,
        "two",
        "wmwm",
        fill=1,
        recipe={"training": {"epochs": 4, "seed": 0}, "turn": "t"},
        manifest=manifest("d-abcdefabcdef", label_counts={"train": {"weather": 5, "money": 1}}),
        parts={"deployment": "vllm"},
    )
    found = diff(read_files(one, held(tmp_path)), read_files(two, held(tmp_path)))
    assert found.dataset == ("d-0123456789ab", "d-abcdefabcdef")
    assert found.labels == {"train": {"weather": (2, 5)}}
    assert found.recipe == {"training.epochs": (3, 4)}
    assert found.parts == {"deployment": ("embedded", "vllm")}
    assert found.metrics["accuracy"][0]["value"] == 0.5
    assert found.metrics["accuracy"][0]["low"] < 0.5 < found.metrics["accuracy"][0]["high"]
    answers = found.answers
    assert answers is not None
    assert (answers.compared, answers.changed, answers.fixed, answers.broken) == (4, 2, 1, 1)
    assert [one.sample_id for one in answers.examples] == ["s1", "s2"], "what broke comes first"
    assert msgspec.to_builtins(found)["a"] == one.release


def test_a_release_whose_folder_is_gone_is_compared_by_its_record(tmp_path: Path) -> None:
    one = released(tmp_path, "one", "ww")

    def gone(release: str) -> AbstractContextManager[Path]:
        raise ArtefactError(f"{release} is not here")

    found = diff(read_files(one, held(tmp_path)), read_files(one, gone))
    assert found.answers is None
    assert found.labels == {}
    assert found.recipe == found.served == found.parts == {}


def test_the_id_is_over_all_that_decides_answers(tmp_path: Path) -> None:
    ids = {make_release(tmp_path, name="a").release}
    assert make_release(tmp_path, name="b").release in ids, "the same model, the same id"
    ids.add(make_release(tmp_path, name="c", fill=1).release)
    ids.add(make_release(tmp_path, name="d", adapter=True).release)
    ids.add(make_release(tmp_path, name="e", parts={"prompt": "another"}).release)
    ids.add(make_release(tmp_path, name="f", manifest=manifest("d-abcdefabcdef")).release)
    assert len(ids) == 5


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    one = make_release(tmp_path)
    releases = tmp_path / "releases"
    for name in (".making-topics.x", ".making-topics-more.x"):
        (releases / name).mkdir()
    sweep(releases, "topics")
    assert {p.name for p in releases.iterdir()} == {one.release, ".making-topics-more.x"}
