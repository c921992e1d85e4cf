"""What a flywheel.toml that is kept says otherwise than the one that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from flywheel.contracts.configuration import Settings
from flywheel.ops.template import toml_value
from flywheel.settings import FlywheelSettings


def kept_values(
    there: FlywheelSettings, asked: FlywheelSettings, task: str, keys: Iterable[str]
) -> Iterator[str]:
    """What each key that differs, such as "labels" or "gateway.port", is, and what was asked.

    ``task`` is in both. Keys of a task are relative to its table.
    """
    for key in keys:
        name = key if _of_all(key) else f"tasks.{task}.{key}"
        is_there, was_asked = _value(there, name), _value(asked, name)
        if is_there != was_asked:
            yield f"{name} is {_written(is_there)}, not {_written(was_asked)}"


def _of_all(key: str) -> bool:
    return key.partition(".")[0] in FlywheelSettings.model_fields


def _value(settings: FlywheelSettings, name: str) -> object:
    """A value by its full name; None where a table that people name, such as a recipe, is not."""
    value: object = settings
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def _written(value: object) -> str:
    if isinstance(value, Settings):
        return toml_value(value.model_dump(mode="json", exclude_unset=True))
    return "unset" if value is None else toml_value(value)
