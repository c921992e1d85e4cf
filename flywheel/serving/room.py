"""How many releases a model server holds: what goes for one more, and whether that is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occupant:
    """A release that is loaded: its bytes, when it was asked last, and whether it must stay."""

    release: str
    size: int
    asked_at: float
    stays: bool


@dataclass(frozen=True, slots=True)
class Room:
    """Limits in number and in bytes; None: none."""

    releases: int | None = None
    size: int | None = None

    def to_unload(self, held: Sequence[Occupant], size: int) -> list[str] | None:
        """Which of ``held`` make room for one more of ``size`` bytes: the least recently asked ones
        first, none if it fits. None where it does not fit even without all that may go."""
        count, bytes_held = len(held), sum(one.size for one in held)
        going: list[str] = []
        movable = sorted((one for one in held if not one.stays), key=lambda one: one.asked_at)
        while not self._fits(count + 1, bytes_held + size):
            if not movable:
                return None
            oldest = movable.pop(0)
            going.append(oldest.release)
            count, bytes_held = count - 1, bytes_held - oldest.size
        return going

    def _fits(self, count: int, bytes_held: int) -> bool:
        return (self.releases is None or count <= self.releases) and (
            self.size is None or bytes_held <= self.size
        )

    def __str__(self) -> str:
        limits = [] if self.releases is None else [f"{self.releases} releases"]
        limits += [] if self.size is None else [f"{self.size / 2**30:.2g} GiB of files"]
        return " and ".join(limits)
