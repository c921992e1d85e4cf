"""Who of several processes does what, and until when."""

from __future__ import annotations

from sqlalchemy import BigInteger, Double
from sqlmodel import Field, SQLModel


class LeaseRow(SQLModel, table=True):
    """One thing that one process does at a time. ``token`` rises with every holder; ``expires_at``
    is in seconds since 1970 by the database's own clock, for those of its hosts differ."""

    __tablename__ = "leases"

    name: str = Field(primary_key=True)
    holder: str
    token: int = Field(sa_type=BigInteger)
    expires_at: float = Field(sa_type=Double)
