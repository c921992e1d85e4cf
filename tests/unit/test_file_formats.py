"""Exports of annotation tools: which of their labels hold, and what is said of the others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelled_files import LABELS, array, lines, read, refused

from flywheel.datasets.file_formats import FORMATS, format_named
from flywheel.datasets.labelled_file import UnusableLines, read_labelled
from flywheel.kinds import Choice, FreeText


def annotation(number: int, *choices: str, **fields: Any) -> dict[str, Any]:
    result = {
        "id": f"r{number}",
        "from_name": "topic",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": list(choices)},
    }
    whole = {"id": number, "completed_by": 1, "result": [result] if choices else []}
    return whole | {"was_cancelled": False, "ground_truth": False, "lead_time": 1.5} | fields


def task(number: int, text: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    data = {"text": text, "from": "mail"}
    return {"id": number, "data": data, "annotations": list(annotations), "predictions": []}


def hashes(text: str, **fields: Any) -> dict[str, Any]:
    return {"text": text, "_input_hash": 1, "_task_hash": 2} | fields


@pytest.mark.parametrize("name", [None, "prodigy"])
def test_prodigy_only_what_was_accepted(tmp_path: Path, name: str | None) -> None:
    options = [{"id": label, "text": label.title()} for label in LABELS]
    content = lines(
        hashes("paid twice", label="billing", answer="accept"),
        hashes("down", label="billing", answer="reject"),
        hashes("hm", label="other", answer="ignore"),
        hashes("gone", options=options, accept=["outage"], answer="accept"),
        hashes("none", options=options, accept=[], answer="accept"),
        hashes("late", options=options, accept=["other"], answer="reject"),
    )
    rows, left_out, format_ = read(tmp_path, content, name)
    assert rows == [(1, "paid twice", "billing"), (4, "gone", "outage")]
    assert left_out == {
        '"answer": "reject"': (2, 6),
        '"answer": "ignore"': (3,),
        "no label": (5,),
    }
    assert format_ == "prodigy"


def test_prodigy_lines_that_cannot_be_labels_are_each_named(tmp_path: Path) -> None:
    content = lines(
        hashes("a", label="billing", answer="accept"),
        hashes("b", label="billing"),
        hashes("c", accept=["billing", "outage"], answer="accept"),
        hashes("d", spans=[{"start": 0, "end": 1, "label": "billing"}], answer="accept"),
    )
    said = refused(tmp_path, content)
    assert 'line 2: no "answer"' in said
    assert "line 3: it has 2 labels" in said
    assert 'line 4: neither "label" nor a choice (it has spans' in said


TURNED: list[tuple[str, Any]] = [
    ("answer", "reject"),
    ("Answer", "Ignore"),
    ("rejected", True),
    ("was_cancelled", True),
    ("skipped", 1),
    ("discarded", "yes"),
    ("approved", False),
    ("is_correct", "false"),
    ("annotation_status", "rejected"),
    ("status", "discarded"),
    ("isRejected", True),
    ("Is Valid", "No"),
    ("invalid", "TRUE"),
    ("AssignmentStatus", "Rejected"),
    ("review-result", "wrong"),
    ("qaStatus", "failed"),
    ("mislabeled", "x"),
    ("keep", 0),
    ("_tainted", True),
]
# What is said of the text, not of its label.
KEPT: list[tuple[str, Any]] = [
    ("status", "cancelled"),
    ("state", "deleted"),
    ("decision", "rejected"),
    ("verdict", "wrong"),
    ("removed", True),
    ("answer", "incorrect"),
    ("invalid", False),
    ("is_valid", True),
    ("keep", None),
]


@pytest.mark.parametrize(("field", "value"), KEPT)
def test_a_field_that_speaks_of_the_text_leaves_its_label(
    tmp_path: Path, field: str, value: Any
) -> None:
    item = {"text": "kept", "label": "other", field: value}
    rows, left_out, _ = read(tmp_path, lines(item), "jsonl")
    assert ([text for _, text, _ in rows], left_out) == (["kept"], {})


@pytest.mark.parametrize(("field", "value"), TURNED)
def test_a_field_that_turns_the_meaning_round_is_seen_in_any_file(
    tmp_path: Path, field: str, value: Any
) -> None:
    kept = {"text": "kept", "label": "other", field: {"reject": "accept"}.get(str(value))}
    turned = {"text": "turned", "label": "billing", field: value}
    for first, second in ((kept, turned), (turned, kept)):
        rows, left_out, _ = read(tmp_path, lines(first, second), "jsonl")
        assert [text for _, text, _ in rows] == ["kept"]
        assert sum(map(len, left_out.values())) == 1
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(["text", "label", field])
    writer.writerow(["kept", "other", ""])
    writer.writerow(["turned", "billing", value])
    rows, left_out, format_ = read(tmp_path, sheet.getvalue())
    assert (rows, format_) == ([(2, "kept", "other")], "csv")
    assert [*left_out.values()] == [(3,)]


def test_nothing_comes_of_a_file_in_which_no_label_holds(tmp_path: Path) -> None:
    said = refused(tmp_path, lines(hashes("a", label="billing", answer="reject")))
    assert 'no label that holds ("answer": "reject": 1)' in said


@pytest.mark.parametrize("shape", [lines, array], ids=["JSONL", "JSON"])
@pytest.mark.parametrize("name", [None, "doccano"])
@pytest.mark.parametrize("field", ["label", "labels"])
def test_doccano(tmp_path: Path, shape: Callable[..., str], name: str | None, field: str) -> None:
    about: dict[str, Any] = {"Comments": [], "channel": "mail"}
    content = shape(
        {"id": 1, "text": "paid twice", field: ["billing"], **about},
        {"id": 2, "text": "not yet", field: [], **about},
        {"id": 3, "text": "down", field: ["outage"], **about},
    )
    rows, left_out, format_ = read(tmp_path, content, name)
    assert rows == [(1, "paid twice", "billing"), (3, "down", "outage")]
    assert (left_out, format_) == ({"no label": (2,)}, "doccano")


def test_doccano_what_nobody_approved_where_someone_approves(tmp_path: Path) -> None:
    def document(number: int, approver: str | None) -> dict[str, Any]:
        given = {"id": number, "text": f"text {number}", "label": ["other"], "meta": {}}
        return given | {"annotation_approver": approver}

    rows, left_out, _ = read(tmp_path, lines(document(1, None), document(2, "ann")))
    assert [line for line, *_ in rows] == [2]
    assert left_out == {"approved by nobody": (1,)}
    rows, left_out, _ = read(tmp_path, lines(document(1, None), document(2, None)))
    assert ([line for line, *_ in rows], left_out) == ([1, 2], {})


def test_doccano_of_other_projects_is_refused_line_by_line(tmp_path: Path) -> None:
    content = lines(
        {"id": 1, "text": "a b", "label": ["billing", "outage"]},
        {"id": 2, "text": "a b", "label": [[0, 1, "billing"]]},
        {"id": 3, "text": "a b", "label": [3]},
    )
    said = refused(tmp_path, content)
    assert "3 of 3 lines" in said
    assert "line 1: it has 2 labels" in said
    assert said.count("its labels are no words") == 2


@pytest.mark.parametrize("name", [None, "label-studio"])
def test_label_studio_with_annotations(tmp_path: Path, name: str | None) -> None:
    content = array(
        task(1, "paid twice", annotation(1, "billing")),
        task(2, "down", annotation(2, "outage"), annotation(3, "other", was_cancelled=True)),
        task(3, "hm", annotation(4, was_cancelled=True)),
        task(4, "hello"),
        task(5, "true", annotation(5, "other"), annotation(6, "outage", ground_truth=True)),
        task(6, "no", annotation(7, "billing", reviews=[{"accepted": True}, {"accepted": False}])),
        task(7, "empty", annotation(8)),
    )
    rows, left_out, format_ = read(tmp_path, content, name)
    assert rows == [(1, "paid twice", "billing"), (2, "down", "outage"), (5, "true", "outage")]
    assert left_out == {
        '"was_cancelled": true': (2, 3),
        "no annotation": (4,),
        "another annotation is the ground truth": (5,),
        "rejected by a reviewer": (6,),
        "no label": (7,),
    }
    assert format_ == "label-studio"


def test_label_studio_of_an_earlier_version(tmp_path: Path) -> None:
    old = task(1, "down", annotation(1, "outage"), annotation(2, "other", skipped=True))
    old["completions"] = old.pop("annotations")
    rows, left_out, _ = read(tmp_path, array(old))
    assert (rows, left_out) == ([(1, "down", "outage")], {'"skipped": true': (1,)})


@pytest.mark.parametrize("name", [None, "label-studio-min"])
def test_label_studio_json_min(tmp_path: Path, name: str | None) -> None:
    def flat(number: int, text: str, **answers: Any) -> dict[str, Any]:
        done = {"annotator": 1, "annotation_id": number, "created_at": "2026", "lead_time": 1.5}
        given = {"text": text, "from": "mail", "id": number, "updated_at": "2026"}
        return given | (done if answers else dict.fromkeys(done)) | answers

    content = array(
        flat(1, "paid twice", topic="billing"),
        flat(2, "hello"),
        flat(3, "down", topic={"choices": ["outage"]}),
    )
    rows, left_out, format_ = read(tmp_path, content, name)
    assert rows == [(1, "paid twice", "billing"), (3, "down", "outage")]
    assert (left_out, format_) == ({"no label": (2,)}, "label-studio")
    several = array(flat(1, "both", topic={"choices": ["outage", "billing"]}))
    assert "item 1: it has 2 labels" in refused(tmp_path, several)
    unclear = array(flat(1, "both", topic="billing", second="outage"))
    assert "several questions could be meant: second, topic" in refused(tmp_path, unclear)


def test_label_studio_answers_in_words_for_a_task_without_labels(tmp_path: Path) -> None:
    answer = annotation(1)
    value = {"text": ["Because it rained."]}
    answer["result"] = [{"from_name": "answer", "type": "textarea", "value": value}]
    rows, _, _ = read(tmp_path, array(task(1, "Why?", answer)), answers=FreeText())
    assert rows == [(1, "Why?", "Because it rained.")]


BATCH_OUT = {
    "id": "batch_req_1",
    "custom_id": "1",
    "response": {"status_code": 200, "body": {"choices": []}},
    "error": None,
}
BATCH_IN = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lines(BATCH_OUT), "the output of an OpenAI batch: it holds answers without the questions"),
        (lines(BATCH_IN), "the input of an OpenAI batch: it holds questions without answers"),
        (lines({"conversations": [{"from": "human", "value": "a"}]}), "a file of dialogues"),
        (array({"id": 1, "fields": {}, "responses": {}}), "an export of Argilla's records"),
        (lines({"body": "a", "category": "other"}), "an object with body, category"),
        (array({"text": "a", "label": "other"}), "a JSON array"),
        (array("a", "b"), "a JSON array"),
        (json.dumps({"data": [{"text": "a"}]}, indent=1), "one JSON object, with data"),
        ("__label__other a\n__label__billing b\n", "2 of 2 lines"),
        ("PK\x03\x04rest", "a ZIP archive, or a workbook of a spreadsheet"),
        ("BZh91AY", "compressed with bzip2"),
        ("%PDF-1.7\n", "a PDF"),
        ("ARROW1\x00\x00", "an Arrow file"),
        ("SQLite format 3\x00", "a database of SQLite"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        ("\ufeff\n<!DOCTYPE HTML>\n<html>text,label", "a web page"),
        ('<?xml version="1.0"?>\n<Workbook/>\n', "is XML"),
        ("sep=;\ntext;label\na;other\n", "a line that is for Excel alone"),
    ],
)
def test_every_other_shape_is_named_with_what_is_taken(
    tmp_path: Path, content: str, what: str
) -> None:
    said = refused(tmp_path, content)
    assert what in said
    for format_ in FORMATS:
        assert format_.title in said


@pytest.mark.parametrize("name", [one.name for one in FORMATS if one.name != "csv"])
@pytest.mark.parametrize(
    ("line", "why"),
    [
        (lines({"text": "a" * 1_200_000, "label": "other"}), ""),
        ('{"text": "a\\ud800", "label": "other", "answer": "accept"}\n', ""),
        ('{"text": "a", "text": "b", "label": "other"}\n', '"text" stands in it twice'),
        ('{"text": "a", "label": "other", "n": ' + "9" * 5000 + "}\n", "is not a JSON object"),
        ("[" * 100_000 + "\n", "is not a JSON object"),
        ("12\n", "is not a JSON object"),
    ],
    ids=["1.2 MB", "half a pair", "a field twice", "5,000 digits", "deep", "no object"],
)
def test_a_line_that_nobody_can_use_is_named_in_every_format(
    tmp_path: Path, name: str, line: str, why: str
) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(lines({"nothing": 1}) + line + line, "utf-8")
    with pytest.raises(UnusableLines) as caught:
        read_labelled(path, Choice(LABELS), format=format_named(name))
    assert [number for number, _ in caught.value.problems] == [1, 2, 3]
    assert why in caught.value.problems[1][1]


TWICE = '{"id": 1, "text": "a", "text": "b", "label": ["billing"]}'


@pytest.mark.parametrize(
    ("items", "named"),
    [
        ([TWICE, '{"id": 2, "text": "c", "label": ["other"]}', TWICE], [1, 3]),
        ([TWICE, TWICE], [1, 2]),
        ([TWICE], [1]),
        (['{"id": 2, "text": "c", "label": ["other"], "meta": [{"a": 1, "a": 2}]}'], [1]),
        (['[[{"a": 1, "a": 2}, 3]]'], [1]),
        (['{"text": "]{,", "text": "\\"[", "label": ["other"]}', "3"], [1, 2]),
    ],
)
@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_a_field_twice_in_an_array_is_named(
    tmp_path: Path, items: list[str], named: list[int], space: str
) -> None:
    path = tmp_path / "f.json"
    path.write_text(space + "[" + space + f"{space},{space}".join(items) + space + "]", "utf-8")
    with pytest.raises(UnusableLines) as caught:
        read_labelled(path, Choice(LABELS))
    assert [number for number, _ in caught.value.problems] == named
    assert "stands in it twice" in caught.value.problems[0][1]
    assert "nothing was brought in" in str(caught.value)


def test_an_array_is_read_item_by_item_as_a_whole(tmp_path: Path) -> None:
    texts = ['] "quoted" , [', "ünï\U0001f600", "a\nb", "{}"]
    items = [{"id": n, "text": text, "label": ["other"]} for n, text in enumerate(texts)]
    for dumped in (json.dumps(items), json.dumps(items, ensure_ascii=False, indent=3)):
        rows, _, _ = read(tmp_path, dumped)
        assert [text for _, text, _ in rows] == texts


def test_a_table_is_no_export_of_a_tool(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("text,label\na,billing\n", "utf-8")
    with pytest.raises(UnusableLines, match="2 of 2 lines"):
        read_labelled(path, Choice(LABELS), format=format_named("doccano"))


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    assert "names label twice" in refused(tmp_path, "text,label,label\na,billing,other\n")
