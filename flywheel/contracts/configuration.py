"""The base of every settings table, and how what is wrong in one is said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from flywheel.errors import ConfigurationError


class Settings(BaseModel):
    """One table of flywheel.toml. A key that does not exist is an error, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Contradiction(ValueError):
    """Keys that are right each by itself and wrong together. ``key`` is relative to the table whose
    validator raises this; empty: the table itself."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        self.problem = problem
        super().__init__(f"{key}: {problem}")


def table_of(annotation: Any) -> type[Settings] | None:
    """The settings class that a field holds: one of it, a tuple or a mapping of them; else None."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Settings):
            return kind
    return None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None."""
    by_folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), by_folded, 1, cutoff=0.6)
    return by_folded[near[0]] if near else None


def refusals(error: ValidationError, root: type[Settings]) -> list[ConfigurationError]:
    """All that is wrong with a ``root``, each with its full key and what was meant."""
    errors = []
    for detail in error.errors(include_url=False):
        key = ".".join(str(part) for part in detail["loc"])
        problem, hint = detail["msg"].removeprefix("Value error, "), ""
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, Contradiction):
            key, problem = ".".join(filter(None, (key, cause.key))), cause.problem
        elif detail["type"] == "extra_forbidden":
            problem, hint = _unknown(detail["loc"], root)
        elif detail["type"] == "missing":
            problem = "it is required"
        errors.append(ConfigurationError(key, problem, hint))
    return errors


def refusal(error: ValidationError, root: type[Settings]) -> ConfigurationError:
    """The first thing that is wrong with a ``root``, and how much more there is."""
    first, *others = refusals(error, root)
    if not others:
        return first
    more = f"and {len(others)} more"
    return ConfigurationError(first.key, first.problem, f"{first.hint}; {more}".lstrip("; "))


def _unknown(where: Sequence[int | str], root: type[Settings]) -> tuple[str, str]:
    table: type[Settings] | None = root
    for part in where[:-1]:
        field = table.model_fields.get(str(part)) if table else None
        # A name or a number chooses among tables of one class.
        table = table_of(field.annotation) if field else table
    meant = nearest(str(where[-1]), table.model_fields) if table else None
    return "no such key", f"did you mean {meant!r}?" if meant else ""
