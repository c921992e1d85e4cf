"""The champion is asked what its held-out samples grew by, each once, before the gate compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from registry_workspace import (
    TASK,
    Workspace,
    load_here,
)
from tiny_encoder import labelled

from flywheel.contracts.dataset_folder import DatasetLine, read_part
from flywheel.errors import PipelineError
from flywheel.registry.release_folder import verify_release
from flywheel.serving.runtime import load_classifier
from flywheel.turn.champion import champion_answers
from flywheel.turn.measure import Answer
from flywheel.turn.served import Answering, Serve


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
