"""Events of earlier versions as those of today: one step from each version to the next, for ever.

A record is decoded as JSON, its fields are brought one version on until they are today's, and only
then checked like any other. A step adds, renames or splits fields; it never drops what it can keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Fields = dict[str, Any]
Step = Callable[[Fields], Fields]


def _text_becomes_content(fields: Fields) -> Fields:
    """Version 1 knew plain text alone."""
    return {"content" if name == "text" else name: value for name, value in fields.items()}


def _path_gives_way_to_addresses(fields: Fields) -> Fields:
    """Version 1 had a path, which means nothing to another machine and only repeated the id."""
    return {name: value for name, value in fields.items() if name != "path"}


# Schema and version → what makes the next version of it.
STEPS: Mapping[tuple[str, int], Step] = {
    ("TrafficRecorded", 1): _text_becomes_content,
    ("ReviewRequested", 1): _text_becomes_content,
    ("ReleaseRegistered", 1): _path_gives_way_to_addresses,
}


def upcast(schema: str, version: int, to: int, fields: Fields) -> Fields:
    """The fields of an event of an earlier ``version``, as version ``to`` has them."""
    for step in range(version, to):
        fields = STEPS[schema, step](fields)
    return fields
