"""The review desk and its intake in memory: the ports' words as short code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime, timedelta

import msgspec

from flywheel.contracts.events import Event, LabelSettled, ReviewRequested
from flywheel.errors import Conflict
from flywheel.review.ports import Answer, QueueDepth, ReviewTask


class MemoryOutbox:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, events: Sequence[Event]) -> None:
        self.events.extend(events)


class MemoryDesk:
    def __init__(self) -> None:
        self.tasks: dict[str, ReviewTask] = {}
        self.claims: dict[tuple[str, str], datetime] = {}
        self.given: list[Answer] = []
        self.settled: dict[str, str] = {}
        self.withdrawn: set[str] = set()

    def open(self, requests: Sequence[ReviewRequested]) -> int:
        known = len(self.tasks)
        for request in requests:
            if request.sample_id in self.tasks:
                continue
            fields = msgspec.structs.asdict(request)
            fields["requested_at"] = fields.pop("occurred_at")
            del fields["event_id"]
            self.tasks[request.sample_id] = ReviewTask(**fields)
        return len(self.tasks) - known

    def withdraw(self, sample_ids: Sequence[str]) -> int:
        self.withdrawn.update(sample_ids)
        return len(sample_ids)

    def claim(
        self,
        task: str,
        annotator: str,
        now: datetime,
        lease_seconds: float,
        limit: int,
        answers_needed: int = 1,
    ) -> list[ReviewTask]:
        done = {answer.sample_id for answer in self.given if answer.annotator == annotator}
        closed = done | self.withdrawn | self.settled.keys()
        mine, free = [], []
        for sample in self.tasks.values():
            if sample.task != task or sample.sample_id in closed:
                continue
            holders = self._holders(sample.sample_id, now)
            given = sum(answer.value is not None for answer in self.answers(sample.sample_id))
            if annotator in holders:
                mine.append(sample)
            elif len(holders) < max(1, answers_needed - given):
                free.append(sample)
        for samples in (mine, free):
            samples.sort(key=lambda sample: (-sample.priority, sample.requested_at))
        taken = (mine + free)[:limit]
        for sample in taken:
            self._hold(sample.sample_id, annotator, now, lease_seconds)
        return [msgspec.structs.replace(sample, state="claimed") for sample in taken]

    def find(self, sample_id: str) -> ReviewTask | None:
        sample = self.tasks.get(sample_id)
        if sample is None:
            return None
        if sample_id in self.settled:
            state = "settled"
        elif sample_id in self.withdrawn:
            state = "withdrawn"
        elif any(held == sample_id for held, _ in self.claims):
            state = "claimed"
        elif any(answer.value for answer in self.answers(sample_id)):
            state = "submitted"
        else:
            state = "open"
        return msgspec.structs.replace(sample, state=state)

    def answers(self, sample_id: str) -> list[Answer]:
        return [answer for answer in self.given if answer.sample_id == sample_id]

    def answer(self, answer: Answer, settled: LabelSettled | None) -> None:
        if any(a.annotator == answer.annotator for a in self.answers(answer.sample_id)):
            raise Conflict("answered already")
        self.given.append(answer)
        self.claims.pop((answer.sample_id, answer.annotator), None)
        if settled is not None and settled.value is not None:
            self.settled[answer.sample_id] = settled.value

    def undo(
        self, annotator: str, now: datetime, lease_seconds: float, task: str | None = None
    ) -> ReviewTask | None:
        mine = [a for a in reversed(self.given) if a.annotator == annotator]
        latest = next((a for a in mine if task in (None, self.tasks[a.sample_id].task)), None)
        if latest is None:
            return None
        before = self.find(latest.sample_id)
        self.given.remove(latest)
        self.settled.pop(latest.sample_id, None)
        self._hold(latest.sample_id, annotator, now, lease_seconds)
        return before

    def depth(self, task: str, now: datetime) -> QueueDepth:
        states = [self.find(s.sample_id) for s in self.tasks.values() if s.task == task]
        counts: dict[str, int] = {}
        for sample in states:
            if sample is not None:
                counts[sample.state] = counts.get(sample.state, 0) + 1
        return QueueDepth(**counts)

    def _holders(self, sample_id: str, now: datetime) -> set[str]:
        return {
            who for (held, who), until in self.claims.items() if held == sample_id and until > now
        }

    def _hold(self, sample_id: str, annotator: str, now: datetime, seconds: float) -> None:
        self.claims[sample_id, annotator] = now + timedelta(seconds=seconds)


class MemoryTransaction:
    def __init__(self) -> None:
        self.desk = MemoryDesk()
        self.intake = self.desk
        self.outbox = MemoryOutbox()


class MemoryDatabase:
    """Transactions that roll back as one."""

    def __init__(self) -> None:
        self.state = MemoryTransaction()

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        work = deepcopy(self.state)
        yield work
        self.state = work

    def sent(self) -> list[Event]:
        return self.state.outbox.events
