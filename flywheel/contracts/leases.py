"""Leases: who of several processes does what only one may do, with a token that fences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

# What a role does besides its tasks: sending what is in the outbox. No task has such a name.
OUTBOX = ":outbox"
# How long a holder that says nothing keeps what it has. All clocks are the database's.
LEASE_SECONDS = 3.0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right to do what ``name`` says. ``token`` rises whenever the right changes hands: what is
    written by an earlier holder is known by it, and refused."""

    name: str
    holder: str
    token: int


class LeaseStore(Protocol):
    """Leases, by name. A holder's name is one process' alone, for as long as that lives."""

    def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        """Take a lease that nobody holds, or whose holder has been silent for too long; None while
        somebody has it."""
        ...

    def renew(self, holder: str, seconds: float) -> list[Lease]:
        """Keep all that a holder has for so much longer, also what had run out and nobody took;
        what it has now."""
        ...

    def release(self, holder: str, names: Collection[str]) -> None:
        """Give these up, as far as the holder has them."""
        ...

    def live(self, role: str = "") -> Sequence[Lease]:
        """Every lease that has not run out, of one role or of all."""
        ...

    def require(self, lease: Lease) -> None:
        """Raise LeaseLost unless it is held as it was, and let nobody take it until the transaction
        ends."""
        ...

    def forget(self, prefix: str, holder: str = "") -> None:
        """Delete those whose name begins so: a holder's own, or without one those that ran out."""
        ...


def presence(role: str, holder: str = "") -> str:
    """The lease by which a process says that it lives; without a holder how all of a role begin."""
    return f"{role}@{holder}"


def duty(role: str, what: str) -> str:
    """The lease on one thing that a role does: a task, the outbox."""
    return f"{role}/{what}"


def holder_of(kind: str, name: str, nonce: str) -> str:
    """The holder that a process is: never another's, though hosts may have the same name."""
    return f"{kind}-{name}:{nonce}"


def holder_name(holder: str) -> str:
    """The part of it that people know the process by."""
    return holder.partition(":")[0]
