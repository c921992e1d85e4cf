"""When experts who write free text agree, which events are accepted, what their figures say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.answers import normalised
from flywheel.contracts.events import LabelRecorded, LabelSettled
from flywheel.contracts.ids import new_id
from flywheel.datasets.labelled_file import read_labelled
from flywheel.errors import RejectedEvent
from flywheel.kinds import Choice, FreeText
from flywheel.review.agreement import verdict
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer
from streams.agents.acceptance import configured

AT = datetime(2026, 1, 1, tzinfo=UTC)


def answers(*values: str | None) -> list[Answer]:
    return [
        Answer(sample_id="s", annotator=f"expert {i}", value=value, answered_at=AT)
        for i, value in enumerate(values)
    ]


def test_texts_that_say_the_same_agree_and_the_first_words_are_kept() -> None:
    settings = ReviewSettings(answers_needed=2)
    given_ = answers("Nearly.", "It is  on its WAY", None, "it is on its way ")
    found = verdict(given_, settings, same=FreeText().agreeing)
    assert found is not None
    assert found.value == "It is  on its WAY"
    assert found.annotators == ("expert 1", "expert 3")
    assert found.agreement == pytest.approx(2 / 3)
    assert verdict(given_, settings, same=Choice(("a", "b")).agreeing) is None


@given(st.lists(st.sampled_from(["One", " one", "ONE", "two", "Two "]), min_size=1, max_size=7))
def test_a_text_settles_as_its_normalised_form_would(values: list[str]) -> None:
    settings = ReviewSettings(answers_needed=2)
    free = verdict(answers(*values), settings, same=FreeText().agreeing)
    plain = verdict(answers(*[normalised(value) for value in values]), settings)
    assert (free is None) == (plain is None)
    if free is not None and plain is not None:
        assert normalised(free.value) == plain.value
        assert free.annotators == plain.annotators
        first = next(value for value in values if normalised(value) == plain.value)
        assert free.value == first


def label(value: str) -> LabelRecorded:
    return LabelRecorded(
        event_id=new_id(),
        occurred_at=AT,
        task="replies",
        sample_id="s",
        value=value,
        source="user",
        annotator="x",
    )


def test_agents_accept_any_text_that_can_be_an_answer() -> None:
    accept = configured({"replies": FreeText()})
    accept(label("Whatever it takes"))
    withdrawal = LabelSettled(
        event_id=new_id(),
        occurred_at=AT,
        task="replies",
        sample_id="s",
        value=None,
        annotators=("ada",),
        agreement=0.0,
        inclusion_probability=1.0,
        audit=False,
    )
    accept(withdrawal)
    for useless in ("", "\t", "x" * 8001):
        with pytest.raises(RejectedEvent, match="task 'replies'"):
            accept(label(useless))


def test_a_file_of_texts_and_answers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"text": "Hi", "label": "Hello there"}\n', "utf-8")
    assert [(r.text, r.label) for r in read_labelled(path, FreeText())] == [("Hi", "Hello there")]
    for wrong in ('{"text": "Hi", "label": " "}', '{"text": "Hi", "label": 3}'):
        path.write_text(wrong, "utf-8")
        with pytest.raises(RejectedEvent, match="line 1: the label is"):
            read_labelled(path, FreeText())
