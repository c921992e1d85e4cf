"""The base of every settings table: frozen, unknown keys refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """One table of flywheel.toml. A key that does not exist is an error, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
