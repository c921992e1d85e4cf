"""Which totals a database keeps."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class KeptTotalRow(SQLModel, table=True):
    """A kind of total that is kept, as its version counts it (``storage.totals``)."""

    __tablename__ = "kept_totals"

    name: str = Field(primary_key=True)
    version: int
