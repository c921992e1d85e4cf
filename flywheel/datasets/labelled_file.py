"""Labelled samples in a file that people wrote: JSON lines, or CSV with a header."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from flywheel.contracts.answers import text_problem
from flywheel.contracts.bounds import LONGEST_TEXT, sample_problem
from flywheel.contracts.configuration import nearest
from flywheel.errors import RejectedEvent

FORMATS = (
    'a JSON object a line, {"text": "…", "label": "…"}, or CSV whose header names text and label'
)
_DELIMITERS = (",", ";", "\t", "|")
_LISTED = 20
# As many letters of a line as show which one it is.
_SHOWN = 60
# Past the longest sample, for one that is too long to be told so. Python's own limit is below it.
csv.field_size_limit(LONGEST_TEXT)


class Row(msgspec.Struct, frozen=True):
    """One labelled sample, and the line of the file on which it begins (from 1)."""

    line: int
    text: str
    label: str


class UnusableLines(RejectedEvent):
    """Lines of a file that cannot be used; all of them, with what is wrong with each."""

    code = "unusable-lines"

    def __init__(self, path: Path, problems: Sequence[tuple[int, str]], lines: int) -> None:
        self.problems = problems
        if len(problems) == 1:
            line, problem = problems[0]
            super().__init__(f"{path}, line {line}: {problem}; nothing was brought in")
            return
        said = [
            f"{len(problems)} of {lines} lines of {path} cannot be used; nothing was brought in",
            *(f"  line {line}: {problem}" for line, problem in problems[:_LISTED]),
        ]
        if len(problems) > _LISTED:
            said.append(f"  and {len(problems) - _LISTED} more")
        super().__init__("\n".join(said))


def read_labelled(
    path: Path, labels: Sequence[str], titles: Mapping[str, str] | None = None
) -> list[Row]:
    """Every sample of a file, in its order. Without ``labels`` any text will do for one; ``titles``
    are the words for labels, which somebody may have written in their place.

    Raises UnusableLines with every line that is wrong, RejectedEvent for a file that is none of
    the two formats, or empty.
    """
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise RejectedEvent(f"{path} is empty: nothing was brought in")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RejectedEvent(f"{path} is UTF-16, not UTF-8: save it as UTF-8")
    lines = data.splitlines()
    first = next(line for line in lines if line.strip())
    problems: list[tuple[int, str]] = []
    if first.lstrip().startswith(b"[") and _is_array(data):
        raise RejectedEvent(f"{path} is a JSON array; what is taken is {FORMATS}")
    if delimiter := _delimiter(first):
        found = _csv(lines, data, delimiter, problems)
    elif first.lstrip().startswith(b"{") or path.suffix != ".csv":
        found = _json_lines(lines, problems)
    else:
        raise RejectedEvent(
            f"{path}, line 1: {_short(first.decode('utf-8', 'replace'))} is no header that names "
            f"text and label; what is taken is {FORMATS}"
        )
    rows: list[Row] = []
    for row in found:
        problem = _problem(row.text, row.label, labels, titles or {})
        if problem is None:
            rows.append(row)
        else:
            problems.append((row.line, problem))
    if problems:
        raise UnusableLines(path, sorted(problems), sum(1 for line in lines if line.strip()))
    if not rows:
        raise RejectedEvent(f"{path} has a header and no samples: nothing was brought in")
    return rows


def _is_array(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), list)
    except (ValueError, RecursionError):
        return False


def _json_lines(lines: Sequence[bytes], problems: list[tuple[int, str]]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
            yield Row(number, row["text"], row["label"])
        except UnicodeDecodeError:
            problems.append((number, "not UTF-8"))
        except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
            shown = _short(line.decode("utf-8"))
            problems.append((number, f'{shown} is not a JSON object with "text" and "label"'))


def _delimiter(header: bytes) -> str | None:
    """What separates the columns of a header with text and label; None for no such header."""
    words = header.decode("utf-8", "replace")
    if words.lstrip().startswith("{"):  # a JSON line
        return None
    for delimiter in _DELIMITERS:
        if {"text", "label"} <= set(_columns(words, delimiter)):
            return delimiter
    return None


def _columns(header: str, delimiter: str) -> list[str]:
    try:
        values = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:  # a line too long for a header, which is then said to be none
        return []
    return [name.strip().lower() for name in values]


def _csv(
    lines: Sequence[bytes], data: bytes, delimiter: str, problems: list[tuple[int, str]]
) -> Iterator[Row]:
    bad = [number for number, line in enumerate(lines, 1) if not _is_utf8(line)]
    problems += [(number, "not UTF-8") for number in bad]
    reader = csv.reader(
        io.StringIO(data.decode("utf-8", "replace"), newline=""), delimiter=delimiter, strict=True
    )
    columns: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append((line, f"not CSV from here on: {error}"))
            return
        unreadable = any(line <= number <= reader.line_num for number in bad)
        if unreadable or not any(value.strip() for value in values):
            continue
        if not columns:
            columns = [name.strip().lower() for name in values]
        elif len(values) != len(columns):
            shown = f"{len(values)} values under {len(columns)} columns"
            problems.append((line, f"{shown}: a value with {delimiter!r} in it needs quotes"))
        else:
            told = dict(zip(columns, values, strict=True))
            yield Row(line, told["text"], told["label"])


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _problem(
    text: object, label: object, labels: Sequence[str], titles: Mapping[str, str]
) -> str | None:
    """What is wrong with one sample, or None."""
    if not isinstance(text, str):
        return "the text is no text"
    if (problem := sample_problem(text) or _unsound(text)) is not None:
        return problem
    if labels and label not in labels:
        by_words = {**{words: name for name, words in titles.items()}, **{n: n for n in labels}}
        meant = nearest(label.strip(), by_words) if isinstance(label, str) else None
        hint = f"; did you mean {by_words[meant]!r}?" if meant else ""
        return f"{label!r} is no label of the task ({', '.join(labels)}){hint}"
    if not isinstance(label, str):
        return "the label is no text"
    problem = text_problem(label) or _unsound(label)
    return problem.replace("the text", "the label") if problem else None


def _unsound(text: str) -> str | None:
    """What a text has that neither an event nor a database can keep, or None."""
    if "\0" in text:
        return "the text has a NUL"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "the text holds half of a surrogate pair"
    return None


def _short(line: str) -> str:
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
