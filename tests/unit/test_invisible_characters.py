"""Texts that look the same are the same everywhere: splits, bounds, labels, agreement."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.answers import normalised, same_text, spelt, text_problem
from flywheel.contracts.bounds import sample_problem
from flywheel.contracts.dataset_folder import Part, read_part
from flywheel.contracts.ids import unit_fraction
from flywheel.contracts.invisible import is_blank, without_invisible
from flywheel.contracts.label_names import labels_problem
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.datasets.labelled_file import UnusableLines, read_labelled
from flywheel.errors import RequestError
from flywheel.gateway.requests import check_content
from flywheel.kinds import Choice, FreeText
from flywheel.triage.config import ExpertRule
from flywheel.triage.rules import Rules

IGNORABLE = [
    chr(code)
    for code in range(0x110000)
    if regex.match(r"\p{Default_Ignorable_Code_Point}", chr(code))
]
SHOWN_AS_NOTHING = [*"\u200b\ufeff\u00ad\u2060\u200d\ufe0f\u3164\x00\x08\x7f\u2063\U000e0041"]
invisible = st.sampled_from([*IGNORABLE, *SHOWN_AS_NOTHING])


def sample(number: int, text: str, split: str | None = None) -> LabelledSample:
    return LabelledSample(
        sample_id=f"s{number:04}",
        content=text,
        label="ab"[number % 2],
        source="seed",
        annotators=("ann",),
        split=split,  # type: ignore[arg-type]
        inclusion_probability=1.0,
        audit=False,
        settled_at=datetime(2026, 1, 1, tzinfo=UTC),
        event_id=f"e{number:04}",
    )


def texts(samples: list[LabelledSample], folder: Path) -> dict[Part, list[str]]:
    build_dataset(
        samples,
        DatasetSettings(holdout_share=0.3),
        Choice(("a", "b")),
        task="t",
        watermark="1",
        parent=None,
        folder=folder,
    )
    parts: tuple[Part, ...] = ("train", "calibration", "holdout")
    return {part: [line.text for line in read_part(folder, part)] for part in parts}


def test_every_character_that_unicode_ignores_by_default_is_invisible() -> None:
    assert len(IGNORABLE) > 4000
    assert without_invisible("".join(IGNORABLE)) == ""


@given(st.text(), st.lists(st.tuples(st.integers(0), invisible), max_size=5))
def test_invisible_characters_make_no_other_text(text: str, among: list[tuple[int, str]]) -> None:
    other = text
    for place, character in among:
        cut = place % (len(other) + 1)
        other = other[:cut] + character + other[cut:]
    assert normalised(without_invisible(text)) == normalised(without_invisible(other))
    assert same_text(text, other)
    assert FreeText().agreeing(text) == FreeText().agreeing(other)
    assert normalised(normalised(other)) == normalised(other)
    assert is_blank(text) == is_blank(other) == (normalised(text) == "")


@pytest.mark.parametrize("marked", [True, False], ids=["ingested holdout", "drawn holdout"])
@pytest.mark.parametrize("character", SHOWN_AS_NOTHING)
def test_nothing_of_the_holdout_is_trained_on(tmp_path: Path, marked: bool, character: str) -> None:
    plain = [f"text number {n}" for n in range(60)]
    spellings = ("{}" + character, character + "{}", "{} " + character, "{}")
    samples = [
        sample(
            4 * n + i, form.format(text), "holdout" if marked and i == n % 4 and n < 20 else None
        )
        for n, text in enumerate(plain)
        for i, form in enumerate(spellings)
    ]
    found = texts(samples, tmp_path)
    seen = {
        part: [text.replace(character, "").strip() for text in of] for part, of in found.items()
    }
    assert found["holdout"]
    assert not {*seen["holdout"]} & {*seen["train"], *seen["calibration"]}
    assert len(seen["train"]) == len({*seen["train"]})


def test_a_draw_of_an_earlier_version_is_neither_reversed_nor_hidden(tmp_path: Path) -> None:
    samples = [sample(n, f"zero\u200bwidth {n}") for n in range(200)]
    found = texts(samples, tmp_path)
    before = {s.text for s in samples if unit_fraction("holdout", spelt(s.text)) < 0.3}
    assert not before & {*found["train"], *found["calibration"]}
    assert {*found["holdout"]} <= before
    left_out = 200 - sum(map(len, found.values()))
    manifest = (tmp_path / "manifest.json").read_text("utf-8")
    assert f'"drawn otherwise by an earlier version": {left_out}' in manifest


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\ufeff\u200b \n", "\u2800", "\x00", "\u3164"])
def test_a_text_with_nothing_to_be_seen_is_empty_on_every_way_in(tmp_path: Path, text: str) -> None:
    assert sample_problem(text) == text_problem(text) == "the text is empty"
    with pytest.raises(RequestError, match="the text is empty"):
        check_content(text, 100)
    # One that an earlier version let in.
    found = texts([sample(1, text), sample(2, "seen"), sample(3, "too")], tmp_path)
    assert sorted(text for of in found.values() for text in of) == ["seen", "too"]


@pytest.mark.parametrize("text", ["می‌خواهم", "👩‍🚀", "\u0600", "❤️", "क्‍ष", "\ufffd", "."])
def test_what_is_seen_is_no_empty_text(text: str) -> None:
    assert sample_problem(text) is None


def test_labels_that_look_alike_are_refused() -> None:
    assert labels_problem(["spam", "sp\u200bam"]) is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the text is empty"),
        ("\u200b", "the text is empty"),
        ("a\x00b", "the text has a NUL"),
        ("a\ud800", "the text holds half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_none_on_every_way_in(tmp_path: Path, text: str, problem: str) -> None:
    assert sample_problem(text) == text_problem(text) == problem
    with pytest.raises(RequestError, match=problem):
        check_content(text, 100)
    file = tmp_path / "f.jsonl"
    for fields in ({"text": text, "label": "a"}, {"text": "a", "label": text}):
        file.write_text(json.dumps(fields), "utf-8")
        with pytest.raises(UnusableLines, match=problem.replace("the text ", "")):
            read_labelled(file, FreeText())


def rules(*patterns: str, label: str | None = None) -> Rules:
    return Rules([ExpertRule(name="rule", pattern=one, label=label) for one in patterns])


@given(st.lists(invisible, min_size=1, max_size=4), st.integers(0, 6))
def test_what_nobody_sees_hides_nothing_from_a_rule(between: list[str], place: int) -> None:
    text = "my " + "refund"[:place] + "".join(between) + "refund"[place:] + " please"
    assert rules(r"\brefund\b").reviewing(text)
    assert rules(r"^my refund please$", label="billing").labelling(text)
    assert rules("refund").matches(text)
    # Nor does it make a rule fit that speaks of what is not there.
    assert not rules(r"^(?!.*refund)").matches(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("refund", "\uff52\uff45\uff46\uff55\uff4e\uff44"),  # fullwidth letters
        (r"\b\d+ ?mg\b", "take 20\u00a0mg"),
        (r"\b\d+ ?mg\b", "take \uff12\uff10 mg"),
        ("café", "cafe\u0301"),
        ("(?i)CAFÉ", "cafe\u0301\u200b"),
        ("fix", "\ufb01x"),  # a ligature
        ("m²", "20 m²"),  # as it is written
        ("½", "take ½"),
        ("\u2764\ufe0f", "\u2764\ufe0f"),
        (r"[\u200b-\u200f]", "re\u200bfund"),  # a rule about such characters themselves
        (r"\N{ZERO WIDTH SPACE}", "re\u200bfund"),
        (r"\xad", "re\u00adfund"),
        (r"\x00", "a\x00b"),
        ("cafe\u0301", "cafe\u0301"),
        (r"a\nb", "a\nb"),
        (r"end$", "the end\ufeff"),
    ],
)
def test_a_rule_finds_the_text_as_it_is_seen(pattern: str, text: str) -> None:
    assert rules(pattern).reviewing(text)
    assert rules(pattern, label="x").labelling(text)


def test_a_rule_tells_case_where_its_pattern_does() -> None:
    assert not rules("REFUND").matches("refund")
    assert rules("(?i)REFUND").matches("refund")
