"""What an API's routes answer with: JSON of our own structs, which describe it too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import Response

_REFERENCE = "#/components/schemas/{name}"


def json_answer(value: Any, status: int = 200) -> Response:
    """An answer of this value."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def answers(kind: type[Any], description: str, status: int = 200) -> dict[int | str, Any]:
    """A route's ``responses`` that say: with this status it answers with such a struct."""
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    content = {"application/json": {"schema": schema}}
    return {status: {"description": description, "content": content}}


def schemas_of(kinds: Iterable[type[Any]]) -> dict[str, Any]:
    """The schemas to which ``answers`` refers, and all that those refer to, by name."""
    _, schemas = msgspec.json.schema_components(
        list(kinds), schema_hook=_of_anything, ref_template=_REFERENCE
    )
    return dict(schemas)


def _of_anything(kind: type[Any]) -> dict[str, Any]:
    """The schema of a field that may hold anything."""
    if kind is object:
        return {"description": "Anything."}
    raise NotImplementedError(kind)
