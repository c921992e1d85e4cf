"""The world that the console's tests are told of: one task, a clock, and a model that errs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from storage.database import Database

TASK = "questions"
LABELS = ("abbreviation", "description", "entity", "human", "location", "number")


@dataclass
class World:
    """The story that is told, and where its clock stands."""

    database: Database
    now: datetime
    random: random.Random = field(default_factory=lambda: random.Random(7))
    number: int = 0
    batch: list[object] = field(default_factory=list)

    def ago(self, minutes: float) -> datetime:
        return self.now - timedelta(minutes=minutes)


def release_id(number: int) -> str:
    return f"{TASK}-{random.Random(number).getrandbits(48):012x}"


def answered(rnd: random.Random, truth: str, quality: float) -> tuple[str, dict[str, float]]:
    """A label and probabilities; right with probability ``quality``."""
    right = rnd.random() < quality
    output = truth if right else rnd.choice([label for label in LABELS if label != truth])
    top = rnd.betavariate(9, 1.2) if right else rnd.betavariate(3, 3)
    top = max(top, 0.3)
    rest = [rnd.random() for _ in LABELS[1:]]
    others = iter((1 - top) * part / sum(rest) for part in rest)
    return output, {label: top if label == output else next(others) for label in LABELS}
