"""Held-back questions as production traffic, through the gateway over HTTP."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from flywheel.contracts.ids import new_id
from flywheel.demo.client import Client
from flywheel.demo.data import Question
from flywheel.errors import Unavailable

USERS = 400
# So many wait for an answer at most; then the next one asks when somebody has got theirs. A machine
# that answers more slowly than it is asked would have a longer and longer queue otherwise.
MOST_WAITING = 24


@dataclass
class Traffic:
    """Sends questions at ``rate`` a second, or as fast as they are answered where that is slower,
    each with an id of its own; 0 pauses.

    ``answered`` maps the id of every request that got an answer to its question's true label;
    ``failures`` holds every attempt that failed, also where a second one was answered.
    """

    client: Client
    task: str
    questions: Sequence[Question]
    rate: float = 0.0
    seed: int = 0
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    truth: dict[str, str] = field(default_factory=dict)
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Send until cancelled; when the questions are used up they come again."""
        chance = random.Random(self.seed)
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if self.rate <= 0:
                await asyncio.sleep(0.1)
                due = loop.time()
                continue
            due = max(due + 1 / self.rate, loop.time() - 1)
            await asyncio.sleep(max(0.0, due - loop.time()))
            while len(self._running) >= MOST_WAITING:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            if self.rate <= 0:
                continue
            question = self.questions[self.sent % len(self.questions)]
            user = f"user-{chance.randrange(USERS)}"
            task = asyncio.create_task(self._ask(question, user))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _ask(self, question: Question, user: str) -> None:
        sample_id = new_id()
        self.sent += 1
        self.truth[sample_id] = question.label
        try:
            await self.client.classify(
                self.task, question.text, user, sample_id, self.failures.append
            )
        except Unavailable:
            return
        self.answered[sample_id] = question.label
        self._times.append(asyncio.get_running_loop().time())

    async def drain(self) -> None:
        """Stop sending and wait for the answers that are under way."""
        self.rate = 0.0
        while self._running:
            await asyncio.gather(*list(self._running), return_exceptions=True)

    def per_second(self) -> float:
        """Answers a second over the last five seconds."""
        now = asyncio.get_running_loop().time()
        return sum(1 for moment in self._times if now - moment <= 5) / 5
