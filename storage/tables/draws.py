"""What makes draws unforeseeable: made once by whoever needs it first, never shown."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class DrawSaltRow(SQLModel, table=True):
    """The secret that goes into every draw of a kind; it never changes.

    Empty where draws of the kind were made without one, by an earlier version, and have to stay.
    """

    __tablename__ = "draw_salts"

    purpose: str = Field(primary_key=True)
    salt: str
