"""Labelled samples in a file that people wrote, or that an annotation tool exported."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flywheel.contracts.answers import text_problem
from flywheel.contracts.bounds import LONGEST_TEXT, sample_problem
from flywheel.contracts.configuration import nearest
from flywheel.contracts.sample import Content, as_text
from flywheel.datasets.file_content import file_content
from flywheel.datasets.file_formats import (
    ACCEPTED,
    CSV,
    JSON_LINES,
    Format,
    Item,
    format_of,
    refusal,
)
from flywheel.datasets.label_fields import LeftOut, Unusable
from flywheel.errors import RejectedEvent
from flywheel.kinds import Answers

_DELIMITERS = (",", ";", "\t", "|")
_LISTED = 20
# As many letters of a line as show which one it is.
_SHOWN = 60
# Past the longest sample, for one that is too long to be told so. Python's own limit is below it.
csv.field_size_limit(LONGEST_TEXT)


class Row(msgspec.Struct, frozen=True):
    """One labelled sample, and the line of the file on which it begins (from 1); in a JSON array
    the number of its object."""

    line: int
    content: Content
    label: str

    @property
    def text(self) -> str:
        """The input for what only reads text."""
        return as_text(self.content)


@dataclass(frozen=True)
class LabelledFile:
    """The samples of a file in its order, and what of it is no sample: reason → lines.

    ``unit`` is what ``line`` counts.
    """

    format: str
    unit: str
    rows: tuple[Row, ...]
    left_out: Mapping[str, tuple[int, ...]]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


class UnusableLines(RejectedEvent):
    """Lines of a file that cannot be used; all of them, with what is wrong with each."""

    code = "unusable-lines"

    def __init__(
        self,
        path: Path,
        problems: Sequence[tuple[int, str]],
        lines: int,
        unit: str = "line",
        hint: str = "",
    ) -> None:
        self.problems = problems
        if len(problems) == 1:
            line, problem = problems[0]
            super().__init__(f"{path}, {unit} {line}: {problem}; nothing was brought in{hint}")
            return
        said = [
            f"{len(problems)} of {lines} {unit}s of {path} cannot be used; "
            f"nothing was brought in{hint}",
            *(f"  {unit} {line}: {problem}" for line, problem in problems[:_LISTED]),
        ]
        if len(problems) > _LISTED:
            said.append(f"  and {len(problems) - _LISTED} more")
        super().__init__("\n".join(said))


@dataclass(frozen=True)
class _Objects:
    """The objects of a file as they stand in it, before anyone asks what they say."""

    format: Format
    items: Sequence[tuple[int, Item]]
    unit: str
    count: int


def read_labelled(
    path: Path,
    answers: Answers,
    titles: Mapping[str, str] | None = None,
    format: Format | None = None,
) -> LabelledFile:
    """Every sample of a file, each with one of the ``answers``. ``titles`` are the words for
    labels, which somebody may have written in their place; without ``format`` the file's first
    object tells it.

    Raises UnusableLines with every line that is wrong, RejectedEvent for a file that is of no
    format that is known here, that is empty, or of which nothing is left.
    """
    data = file_content(path)
    problems: list[tuple[int, str]] = []
    read = _objects(path, data, format, problems)
    try:
        says = read.format.reader([item for _, item in read.items], answers)
    except RejectedEvent as error:
        raise RejectedEvent(f"{path}: {error}; nothing was brought in") from None
    rows: list[Row] = []
    left_out: dict[str, list[int]] = {}
    for line, item in read.items:
        try:
            said = says(item)
        except Unusable as error:
            problems.append((line, str(error)))
            continue
        for one in said:
            if isinstance(one, LeftOut):
                left_out.setdefault(one.reason, []).append(line)
            elif (problem := _problem(one.text, one.label, answers, titles or {})) is not None:
                problems.append((line, problem))
            else:
                rows.append(Row(line, str(one.text), str(one.label)))
    if problems:
        hint = "" if read.items else f"; what is taken is {ACCEPTED}"
        raise UnusableLines(path, sorted(problems), read.count, read.unit, hint)
    if not rows and left_out:
        reasons = ", ".join(f"{reason}: {len(lines)}" for reason, lines in left_out.items())
        raise RejectedEvent(f"{path} has no label that holds ({reasons}): nothing was brought in")
    if not rows:
        raise RejectedEvent(f"{path} has a header and no samples: nothing was brought in")
    return LabelledFile(
        read.format.name, read.unit, tuple(rows), {k: tuple(v) for k, v in left_out.items()}
    )


def _objects(
    path: Path, data: bytes, asked: Format | None, problems: list[tuple[int, str]]
) -> _Objects:
    lines = data.splitlines()
    count = sum(1 for line in lines if line.strip())
    first = next(line for line in lines if line.strip())
    if first.lstrip().startswith(b"[") and (array := _array(data)) is not None:
        return _of_array(path, array, asked, problems)
    if asked in (None, CSV) and (delimiter := _delimiter(first)):
        rows = list(_csv(lines, data, delimiter, problems))
        return _Objects(CSV, rows, "line", count)
    is_json = asked is not None or first.lstrip().startswith(b"{") or path.suffix != ".csv"
    if asked is not CSV and is_json:
        rows = list(json_lines(lines, problems))
        whole = _json(data) if not rows and len(lines) > 1 else None
        if isinstance(whole, dict):
            shown = ", ".join(list(whole)[:10])
            raise RejectedEvent(
                f"{path} is one JSON object, with {shown}; what is taken is {ACCEPTED}"
            )
        return _Objects(asked or _format_of_lines(path, rows), rows, "line", count)
    raise RejectedEvent(
        f"{path}, line 1: {_short(first.decode('utf-8', 'replace'))} is no header that names "
        f"text and label; what is taken is {ACCEPTED}"
    )


def _of_array(
    path: Path, array: list[Any], asked: Format | None, problems: list[tuple[int, str]]
) -> _Objects:
    numbered = list(enumerate(array, 1))
    items = [(number, item) for number, item in numbered if isinstance(item, dict)]
    problems += [
        (number, str(item) if isinstance(item, Unusable) else "it is no object")
        for number, item in numbered
        if not isinstance(item, dict)
    ]
    if not items and any(isinstance(item, Unusable) for item in array):
        return _Objects(JSON_LINES, [], "item", len(array))
    format_ = asked or (format_of(items[0][1]) if items else None)
    if format_ in (None, JSON_LINES, CSV):
        why = refusal(items[0][1]) if items else None
        shown = f"{path} is {why or 'a JSON array'}"
        raise RejectedEvent(f"{shown}; what is taken is {ACCEPTED}")
    assert format_ is not None  # noqa: S101 - for the type checker
    return _Objects(format_, items, "item", len(array))


def _format_of_lines(path: Path, items: Sequence[tuple[int, Item]]) -> Format:
    """The format of JSON lines by the first of them. Raises RejectedEvent for a known one that
    holds no samples, and where no line is of any."""
    if not items:
        return JSON_LINES
    line, first = items[0]
    if (format_ := format_of(first)) is not None:
        return format_
    if (why := refusal(first)) is not None:
        raise RejectedEvent(f"{path} is {why}; what is taken is {ACCEPTED}")
    if not any(format_of(item) for _, item in items):
        shown = ", ".join(list(first)[:10]) or "no field at all"
        raise RejectedEvent(
            f"{path}, line {line}: an object with {shown}, of no shape that is known; "
            f"what is taken is {ACCEPTED}"
        )
    return JSON_LINES


def _json(data: bytes, pairs: Callable[[list[tuple[str, Any]]], object] | None = None) -> Any:
    """What the bytes say, objects made by ``pairs``; None for no JSON."""
    try:
        return json.loads(data, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return None


def _array(data: bytes) -> list[Any] | None:
    """The items of a JSON array, or None; Unusable for one that says a field twice."""
    items = _json(data, _or_unusable)
    return [_flaw(item) or item for item in items] if isinstance(items, list) else None


def _or_unusable(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any] | Unusable:
    flaw = next((flaw for _, value in pairs if (flaw := _flaw(value))), None)
    try:
        return flaw or _once(pairs)
    except Unusable as error:
        return error


def _flaw(value: Any) -> Unusable | None:
    """What is wrong with a value, or with one in its lists."""
    inside = [value]
    while inside:
        one = inside.pop()
        if isinstance(one, Unusable):
            return one
        if isinstance(one, list):
            inside += reversed(one)
    return None


def json_lines(
    lines: Sequence[bytes], problems: list[tuple[int, str]]
) -> Iterator[tuple[int, Item]]:
    """The objects of JSON lines with their numbers; what is wrong with others goes to
    ``problems``."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
        except UnicodeDecodeError:
            problems.append((number, "not UTF-8"))
        except Unusable as error:
            problems.append((number, str(error)))
        except (ValueError, RecursionError):  # also a number of 5,000 digits
            problems.append((number, _no_object(line)))
        else:
            if isinstance(item, dict):
                yield number, item
            else:
                problems.append((number, _no_object(line)))


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unusable(f'"{twice}" stands in it twice')
    return fields


def _no_object(line: bytes) -> str:
    return f'{_short(line.decode("utf-8"))} is not a JSON object with "text" and "label"'


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
) -> Iterator[tuple[int, Item]]:
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
            for name in ("text", "label"):
                if columns.count(name) > 1:
                    problems.append((line, f"the header names {name} twice"))
                    return
        elif len(values) != len(columns):
            shown = f"{len(values)} values under {len(columns)} columns"
            problems.append((line, f"{shown}: a value with {delimiter!r} in it needs quotes"))
        else:
            yield line, dict(zip(columns, values, strict=True))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _problem(
    text: object, label: object, answers: Answers, titles: Mapping[str, str]
) -> str | None:
    """What is wrong with one sample, or None."""
    if not isinstance(text, str):
        return "the text is no text"
    if (problem := sample_problem(text)) is not None:
        return problem
    return label_problem(label, answers, titles)


def label_problem(label: object, answers: Answers, titles: Mapping[str, str]) -> str | None:
    """What is wrong with the label of one sample, or None."""
    if not answers.knows(label):
        by_words = {name: name for name in answers.labels}
        by_words = {words: name for name, words in titles.items()} | by_words
        meant = nearest(label.strip(), by_words) if isinstance(label, str) else None
        hint = f"; did you mean {by_words[meant]!r}?" if meant else ""
        return f"{label!r} is no label of the task ({answers.described}){hint}"
    if not isinstance(label, str):
        return "the label is no text"
    problem = text_problem(label)
    return problem.replace("the text", "the label") if problem else None


def _short(line: str) -> str:
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
