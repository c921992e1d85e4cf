"""What the registry needs of a database."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec

from flywheel.contracts.publishing import Outbox
from flywheel.contracts.stores import ReleaseStore


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """A release took all traffic of a task at a moment (from RolloutChanged)."""

    task: str
    release: str
    since: datetime


class RegistryTransaction(Protocol):
    """What one transaction of the registry offers."""

    releases: ReleaseStore
    outbox: Outbox
