"""A simulated expert who uses the review queue as a person's browser does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flywheel.demo.client import Client
from flywheel.errors import Unavailable


@dataclass
class SimulatedExpert:
    """Gives the true label, with mistakes; ``per_second`` 0 is a break.

    ``truth`` maps a sample's id to its true label. It gives ``budget`` answers at most.
    """

    client: Client
    task: str
    labels: Sequence[str]
    truth: Mapping[str, str]
    mistakes: float = 0.03
    budget: int = 600
    per_second: float = 0.0
    name: str = "simulated-expert"
    seed: int = 1
    given: int = 0

    async def run(self) -> None:
        """Answer until cancelled."""
        chance = random.Random(self.seed)
        loop = asyncio.get_running_loop()
        while True:
            rate = self.per_second
            if rate <= 0 or self.given >= self.budget:
                await asyncio.sleep(0.1)
                continue
            began = loop.time()
            try:
                batch = await self.client.next_samples(self.task, self.name, 2)
            except Unavailable:
                await asyncio.sleep(0.5)
                continue
            answered = 0
            for item in batch["items"]:
                if self.given < self.budget and await self._answer(item["sample_id"], chance):
                    answered += 1
            pause = answered / rate if answered else 0.2
            await asyncio.sleep(max(0.0, began + pause - loop.time()))

    async def _answer(self, sample_id: str, chance: random.Random) -> bool:
        value = self.truth.get(sample_id)
        if value is None:
            return False
        if chance.random() < self.mistakes:
            value = chance.choice([label for label in self.labels if label != value])
        try:
            await self.client.answer(self.task, sample_id, self.name, value)
        except Unavailable:
            return False
        self.given += 1
        return True
