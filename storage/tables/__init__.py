"""Tables, one module per owner. Importing this package registers all of them."""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlmodel import SQLModel

from storage.tables import (
    console,
    draws,
    evidence,
    labels,
    leases,
    messaging,
    retention,
    review,
    rollouts,
    totals,
    training,
)

__all__ = [
    "console",
    "draws",
    "evidence",
    "labels",
    "leases",
    "messaging",
    "metadata",
    "retention",
    "review",
    "rollouts",
    "totals",
    "training",
]


def metadata() -> MetaData:
    """Every table of the product."""
    return SQLModel.metadata
