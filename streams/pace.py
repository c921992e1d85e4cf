"""How long an agent lets records gather before it begins with them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Between the beginnings of two batches lie so many seconds that about ``worth`` records come,
    from ``shortest`` to ``longest``: a batch has costs that no record adds to, and where little
    comes, one does for more of it. Without bounds nothing waits."""

    shortest: float = 0.0
    longest: float = 0.0
    worth: int = 100

    def pause(self, records: int, seconds: float) -> float:
        """Seconds from the beginning of a batch of ``records`` to that of the next, where
        ``seconds`` lie between it and the one before."""
        if not records:
            return self.longest
        return min(self.longest, max(self.shortest, seconds * self.worth / records))


UNPACED = Pace()
# Of an agent that writes to the database: each batch is a transaction.
WRITING = Pace(shortest=0.1, longest=0.5)
