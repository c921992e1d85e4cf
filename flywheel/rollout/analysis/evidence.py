"""What a decision is made from: the facts of one moment, and the checks made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec
import numpy as np

from flywheel.rollout.ports import ArmSummary, Assignment, Pair
from flywheel.statistics.betting import Array, relative_weights

CheckKind = Literal["harm", "validity", "step", "promotion"]
Outcome = Literal["passed", "failed", "waiting", "warning"]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence of one rollout at one moment. ``step`` is the assignment of the whole present step,
    ``assignment`` that since a person resumed it, if one did."""

    champion: ArmSummary = ArmSummary()
    challenger: ArmSummary = ArmSummary()
    pairs: Sequence[Pair] = ()
    assignment: Assignment = Assignment()
    step: Assignment = Assignment()


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison, for people and for programs.

    ``value`` with ``low``–``high`` (its interval, if it has one) stands against ``margin``.
    ``passed`` for a harm check means that no harm is proven; ``failed`` that it is. A ``warning``
    holds nothing up.
    """

    kind: CheckKind
    name: str
    compares: str
    outcome: Outcome
    words: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    n: int = 0


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """Every check of a rollout at one moment, and where the scheduled looks stand."""

    checks: tuple[Check, ...]
    pairs: int
    looks_used: int
    next_look: int | None

    def of(self, kind: CheckKind) -> tuple[Check, ...]:
        """The checks of one kind."""
        return tuple(check for check in self.checks if check.kind == kind)

    def all_passed(self, kind: CheckKind) -> bool:
        """Whether every check of a kind passed."""
        return all(check.outcome == "passed" for check in self.of(kind))

    def failed(self, kind: CheckKind) -> tuple[Check, ...]:
        """The checks of a kind that failed."""
        return tuple(check for check in self.of(kind) if check.outcome == "failed")

    def open(self, kind: CheckKind) -> tuple[Check, ...]:
        """The checks of a kind that have not passed."""
        return tuple(check for check in self.of(kind) if check.outcome != "passed")


@runtime_checkable
class Figured(Protocol):
    """Pairs that come with the figures that tests of them need."""

    d: Array
    inclusion: Array


def differences(pairs: Sequence[Pair] | Figured) -> tuple[Array, Array]:
    """(d, w) of audited pairs in their order: differences in {−1, 0, 1}, weights in (0, 1]."""
    if isinstance(pairs, Figured):
        return pairs.d, relative_weights(pairs.inclusion)
    d = np.array([int(p.challenger_correct) - int(p.champion_correct) for p in pairs], float)
    return d, relative_weights(np.array([p.inclusion_probability for p in pairs], float))
