"""The worker's agents, and how they share processes."""

from __future__ import annotations

from collections.abc import Sequence

AGENTS = ("triage", "review", "labels", "evidence")
# Which share a process where there are fewer than agents. Triage writes to no database and computes
# most; the others write one after the other anyway.
_SHARES: Sequence[tuple[tuple[str, ...], ...]] = (
    (AGENTS,),
    (("triage",), ("review", "labels", "evidence")),
    (("triage",), ("review", "labels"), ("evidence",)),
    (("triage",), ("review",), ("labels",), ("evidence",)),
)


def shares(processes: int) -> tuple[tuple[str, ...], ...]:
    """The agents of each of ``processes`` processes; an agent takes one at most."""
    return _SHARES[min(max(1, processes), len(AGENTS)) - 1]
