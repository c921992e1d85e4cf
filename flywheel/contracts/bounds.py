"""The bounds of what may stand in an event, the same on its way in and on its way out.

Generous enough for all that the product itself ever wrote; what is asked of people who bring data
in (the gateway, ingest) is tighter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from flywheel.contracts.invisible import is_blank

LONGEST_NAME = 256
# A topic takes a record of 1 MiB: no text that came through one is longer.
LONGEST_TEXT = 1_000_000
# Of a sample that someone brings in: at four bytes a character it fits every topic.
LONGEST_SAMPLE = 200_000
EARLIEST_YEAR = 2000
LATEST_YEAR = 2199
# Softmax in single precision, and a mean of log-probabilities, may round up past 1.
_ROUNDING = 1e-6

_KIND = "kind"
# Identifies something, stands in URLs and keys: never empty, nor what URLs take for a folder.
Id = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME, extra={_KIND: "id"})]
# The name of a folder as well.
ReleaseId = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME, extra={_KIND: "folder"})]
# Who or what, for people to read; may be empty.
Name = Annotated[str, Meta(max_length=LONGEST_NAME, extra={_KIND: "name"})]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
Label = Annotated[str, Meta(max_length=LONGEST_TEXT)]
Score = Annotated[float, Meta(ge=0.0, le=1.0 + _ROUNDING)]
Scores = Annotated[dict[Annotated[str, Meta(max_length=1_000)], Score], Meta(max_length=10_000)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Chance = Annotated[float, Meta(gt=0.0, le=1.0 + _ROUNDING)]
Priority = Annotated[float, Meta(ge=0.0, le=100.0)]
Milliseconds = Annotated[float, Meta(ge=0.0, le=1e9)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Moment = Annotated[datetime, Meta(tz=True)]

_NO_IDS = (".", "..")
# And halves of surrogate pairs, which JSON can spell and UTF-8 can't.
_control = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def id_problem(value: str) -> str | None:
    """Why ``value`` identifies nothing, or None."""
    if not 1 <= len(value) <= LONGEST_NAME:
        return f"an id has 1 to {LONGEST_NAME} characters"
    return _id_problem(value)


def sample_problem(text: str) -> str | None:
    """Why a text cannot be a sample's, or None."""
    if is_blank(text):
        return "the text is empty"
    if len(text) > LONGEST_SAMPLE:
        return f"the text has {len(text)} characters; at most {LONGEST_SAMPLE} are accepted"
    return unkept_problem(text)


def unkept_problem(text: str) -> str | None:
    """What a text has that an event or a database cannot keep as it is, or None."""
    if "\0" in text:
        return "the text has a NUL"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "the text holds half of a surrogate pair"
    return None


def name_problem(value: str) -> str | None:
    """Why ``value`` cannot be a name for people to read, or None."""
    if len(value) > LONGEST_NAME:
        return f"it has {len(value)} characters; at most {LONGEST_NAME} are accepted"
    return _name_problem(value)


def release_problem(value: str) -> str | None:
    """Why ``value`` names no release, and so no folder, or None."""
    return id_problem(value) or _folder_problem(value)


def bounds_problem(struct: msgspec.Struct) -> str | None:
    """What a decoded struct holds that lengths and ranges cannot rule out, with its field."""
    checks = _checks_of(type(struct))
    # One question for all ids and names, which nearly always decides.
    names = [value for name in checks.names if (value := getattr(struct, name))]
    plain = "".join(names).isprintable() and not any(one in names for one in _NO_IDS)
    for name, check in checks.others if plain else checks.all:
        problem = check(getattr(struct, name))
        if problem is not None:
            return f"{name}: {problem}"
    return None


def _name_problem(value: str) -> str | None:
    # The first question is cheap and nearly always decides.
    if not value.isprintable() and _control.search(value):
        return "control characters"
    return None


def _id_problem(value: str) -> str | None:
    if value in _NO_IDS:
        return f"{value!r} is no id"
    return _name_problem(value)


def _folder_problem(value: str) -> str | None:
    return f"{value!r} has a slash" if "/" in value else _id_problem(value)


def _moment_problem(value: datetime) -> str | None:
    if EARLIEST_YEAR <= value.year <= LATEST_YEAR:
        return None
    return f"the year {value.year} is not between {EARLIEST_YEAR} and {LATEST_YEAR}"


Check = Callable[[Any], str | None]
_BY_KIND: dict[str, Check] = {
    "name": _name_problem,
    "id": _id_problem,
    "folder": _folder_problem,
}


class _Checks(NamedTuple):
    """The fields of a struct type that need a check, and which: all of them, and those that are
    neither an id nor a name; ``names`` are the fields that are."""

    all: tuple[tuple[str, Check], ...]
    others: tuple[tuple[str, Check], ...]
    names: tuple[str, ...]


@cache
def _checks_of(struct: type[msgspec.Struct]) -> _Checks:
    hints = get_type_hints(struct, include_extras=True)
    every = ((name, _check_of(hints[name])) for name in struct.__struct_fields__)
    checks = tuple((name, check) for name, check in every if check is not None)
    names = tuple(name for name, check in checks if check in (_name_problem, _id_problem))
    return _Checks(checks, tuple(one for one in checks if one[0] not in names), names)


def _check_of(hint: Any) -> Check | None:
    """The check of one type; for a union or a collection, that of what it holds."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return bounds_problem if _checks_of(hint).all else None
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        if inner is datetime:
            return _moment_problem
        for note in notes:
            if isinstance(note, Meta) and note.extra:
                return _BY_KIND[note.extra[_KIND]]
        return _check_of(inner)
    inside = [check for check in map(_check_of, get_args(hint)) if check is not None]
    if not inside:
        return None
    check = inside[0]
    if get_origin(hint) is tuple:
        return lambda values: next(filter(None, map(check, values)), None)
    return lambda value: None if value is None else check(value)
