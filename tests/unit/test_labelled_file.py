"""Files of labelled samples as people have them, and how what is wrong in one is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.datasets.labelled_file import UnusableLines, read_labelled
from flywheel.errors import RejectedEvent
from flywheel.kinds import Choice

LABELS = ("billing", "outage", "other")


def written(folder: Path, content: str | bytes, name: str = "file.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path) -> list[tuple[int, str, str]]:
    return [(row.line, row.text, row.label) for row in read_labelled(path, Choice(LABELS))]


def problems(path: Path) -> dict[int, str]:
    with pytest.raises(UnusableLines) as caught:
        read_labelled(path, Choice(LABELS), {"billing": "Money matters"})
    return dict(caught.value.problems)


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n \n"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_json_lines_with_or_without_a_byte_order_mark(
    tmp_path: Path, before: bytes, end: bytes
) -> None:
    rows = [
        b'{"text": "Paid twice", "label": "billing", "id": 7}',
        b'{"text": "\xc3\xa9\\n", "label": "other"}',
    ]
    first = before.count(b"\n") + 1
    path = written(tmp_path, before + end.join(rows) + end)
    assert read(path) == [(first, "Paid twice", "billing"), (first + 1, "é\n", "other")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["file.csv", "file.txt"])
def test_csv_with_quotes_newlines_and_other_columns(
    tmp_path: Path, delimiter: str, mark: str, name: str
) -> None:
    lines = [
        ("id", "Label", " text "),
        ("1", "billing", '"Paid ""twice"""'),
        ("2", "other", f'"one{delimiter} two\nthree"'),
        ("",),
        ("3", "outage", "down"),
    ]
    content = mark + "".join(delimiter.join(line) + "\r\n" for line in lines)
    assert read(written(tmp_path, content, name)) == [
        (2, 'Paid "twice"', "billing"),
        (3, f"one{delimiter} two\nthree", "other"),
        (6, "down", "outage"),
    ]


def test_every_bad_line_is_said_at_once_with_what_was_meant(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        b'{"text": "a", "label": "billing"}\n'
        b'{"text": "b", "label": "Biling"}\n'
        b"\n"
        b"not json\n"
        b'{"text": " ", "label": "other"}\n'
        b'{"text": "\xff", "label": "other"}\n'
        b'{"text": "c", "label": "money matters"}\n'
        b'{"text": "d", "label": "zebra"}\n'
        b'{"text": "a\\u0000", "label": "other"}\n'
        b'{"text": "a\\ud800", "label": "other"}\n',
    )
    found = problems(path)
    assert sorted(found) == [2, 4, 5, 6, 7, 8, 9, 10]
    assert found[2] == (
        "'Biling' is no label of the task (billing, outage, other); did you mean 'billing'?"
    )
    assert found[4] == 'not json is not a JSON object with "text" and "label"'
    assert found[5] == "the text is empty"
    assert found[6] == "not UTF-8"
    assert found[7].endswith("did you mean 'billing'?")
    assert "did you mean" not in found[8]
    assert found[9] == "the text has a NUL"
    assert found[10] == "the text holds half of a surrogate pair"
    with pytest.raises(UnusableLines) as caught:
        read_labelled(path, Choice(LABELS))
    first, *rest = str(caught.value).splitlines()
    assert first == f"8 of 9 lines of {path} cannot be used; nothing was brought in"
    assert len(rest) == 8


def test_of_many_bad_lines_the_first_are_listed(tmp_path: Path) -> None:
    path = written(tmp_path, "x\n" * 50)
    with pytest.raises(UnusableLines) as caught:
        read_labelled(path, Choice(LABELS))
    assert len(caught.value.problems) == 50
    assert str(caught.value).endswith("\n  and 30 more")


def test_bad_lines_of_a_csv(tmp_path: Path) -> None:
    path = written(
        tmp_path, "text,label\nPaid, twice,billing\nb,billng\n,other\nc,other\n", "f.csv"
    )
    found = problems(path)
    assert found[2] == "3 values under 2 columns: a value with ',' in it needs quotes"
    assert found[3].endswith("did you mean 'billing'?")
    assert found[4] == "the text is empty"
    assert sorted(found) == [2, 3, 4]
    path = written(tmp_path, b'text,label\na,other\n"\xff",other\nb,"other\n', "f.csv")
    found = problems(path)
    assert found[3] == "not UTF-8"
    assert found[4].startswith("not CSV from here on")


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [('{"text": "', '", "label": "other"}\n', "f.jsonl"), ("text,label\n", ",other\n", "f.csv")],
)
def test_a_long_text_is_read_and_one_too_long_is_named(
    tmp_path: Path, before: str, after: str, name: str
) -> None:
    line = 1 + before.count("\n")
    path = written(tmp_path, before + "a" * 150_000 + after, name)
    assert read(path) == [(line, "a" * 150_000, "other")]
    for length in (250_000, 1_500_000):
        assert list(problems(written(tmp_path, before + "a" * length + after, name))) == [line]


def test_a_first_line_too_long_for_a_header_is_named(tmp_path: Path) -> None:
    endless = "a" * 1_500_000
    assert list(problems(written(tmp_path, endless, "f.txt"))) == [1]
    with pytest.raises(RejectedEvent, match="is no header that names"):
        read_labelled(written(tmp_path, endless, "f.csv"), Choice(LABELS))


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("", "f.jsonl", "is empty: nothing was brought in"),
        ("\ufeff \n\n", "f.csv", "is empty: nothing was brought in"),
        ("text,label\n", "f.csv", "has a header and no samples"),
        ('[{"text": "a", "label": "other"}]', "f.json", "is a JSON array; what is taken is"),
        ("[\n]\n", "f.json", "is a JSON array; what is taken is"),
        ("a,b\n1,2\n", "f.csv", "a,b is no header that names text and label"),
        ('{"text": "a"}'.encode("utf-16"), "f.jsonl", "is UTF-16, not UTF-8"),
        ('{"text": "a"}'.encode("utf-32"), "f.jsonl", "is UTF-32, not UTF-8"),
    ],
)
def test_a_file_that_is_something_else_is_named(
    tmp_path: Path, content: str | bytes, name: str, said: str
) -> None:
    with pytest.raises(RejectedEvent, match=said):
        read_labelled(written(tmp_path, content, name), Choice(LABELS))
