"""The review desk and its intake in memory: the ports' words as short code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime, timedelta

import msgspec

from flywheel.contracts.events import Event, LabelSettled, ReviewRequested
from flywheel.errors import Conflict
from flywheel.review.access import person
from flywheel.review.ports import Answer, QueueDepth, Resettle, ReviewTask, Undone


class MemoryOutbox:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, events: Sequence[Event]) -> None:
        self.events.extend(events)


Sample = tuple[str, str]  # task and sample id


class MemoryDesk:
    def __init__(self) -> None:
        self.tasks: dict[Sample, ReviewTask] = {}
        self.claims: dict[tuple[Sample, str], datetime] = {}
        self.given: list[tuple[str, Answer]] = []
        self.settled: dict[Sample, str | None] = {}
        self.withdrawn: set[Sample] = set()

    def open(self, requests: Sequence[ReviewRequested]) -> int:
        known = len(self.tasks)
        for request in requests:
            fields = msgspec.structs.asdict(request)
            fields["requested_at"] = fields.pop("occurred_at")
            del fields["event_id"]
            self.tasks.setdefault((request.task, request.sample_id), ReviewTask(**fields))
        return len(self.tasks) - known

    def withdraw(self, task: str, sample_ids: Sequence[str]) -> int:
        self.withdrawn.update((task, sample_id) for sample_id in sample_ids)
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
        done = {
            (of, answer.sample_id) for of, answer in self.given if answer.annotator == annotator
        }
        closed = done | self.withdrawn | self.settled.keys()
        mine, free = [], []
        for key, sample in self.tasks.items():
            if sample.task != task or key in closed:
                continue
            holders = self._holders(key, now)
            given = sum(not answer.skipped for answer in self.answers(*key))
            if annotator in holders:
                mine.append(sample)
            elif len(holders) < max(1, answers_needed - given):
                free.append(sample)
        for samples in (mine, free):
            samples.sort(key=lambda sample: (-sample.priority, sample.requested_at))
        taken = (mine + free)[:limit]
        for sample in taken:
            self._hold((task, sample.sample_id), annotator, now, lease_seconds)
        return [msgspec.structs.replace(sample, state="claimed") for sample in taken]

    def find(self, task: str, sample_id: str) -> ReviewTask | None:
        key = (task, sample_id)
        sample = self.tasks.get(key)
        if sample is None:
            return None
        if key in self.settled:
            state = "settled"
        elif key in self.withdrawn:
            state = "withdrawn"
        elif any(held == key for held, _ in self.claims):
            state = "claimed"
        elif any(not answer.skipped for answer in self.answers(*key)):
            state = "submitted"
        else:
            state = "open"
        return msgspec.structs.replace(sample, state=state)

    def answers(self, task: str, sample_id: str) -> list[Answer]:
        return [answer for of, answer in self.given if (of, answer.sample_id) == (task, sample_id)]

    def answer(self, task: str, answer: Answer, settled: LabelSettled | None) -> None:
        key = (task, answer.sample_id)
        if any(a.annotator == answer.annotator for a in self.answers(*key)):
            raise Conflict("answered already")
        self.given.append((task, answer))
        self.claims.pop((key, answer.annotator), None)
        self._record(key, settled)

    def undo(
        self, task: str, annotator: str, now: datetime, lease_seconds: float, resettle: Resettle
    ) -> Undone | None:
        mine = [a for of, a in reversed(self.given) if (of, a.annotator) == (task, annotator)]
        if not mine:
            return None
        latest = mine[0]
        key = (task, latest.sample_id)
        before = self.find(*key)
        assert before is not None
        self.given.remove((task, latest))
        settled = resettle(before, latest, self.answers(*key))
        self._record(key, settled)
        if key not in self.settled and key not in self.withdrawn:
            self._hold(key, annotator, now, lease_seconds)
        sample = self.find(*key)
        assert sample is not None
        return Undone(sample=sample, settled=settled)

    def depth(self, task: str, now: datetime) -> QueueDepth:
        states = [self.find(*key) for key in self.tasks if key[0] == task]
        counts: dict[str, int] = {}
        for sample in states:
            if sample is not None:
                counts[sample.state] = counts.get(sample.state, 0) + 1
        given_up = [key for key, value in self.settled.items() if key[0] == task and value is None]
        return QueueDepth(**counts, unlabelable=len(given_up))

    def _record(self, key: Sample, settled: LabelSettled | None) -> None:
        if settled is not None and settled.withdraws:
            self.settled.pop(key, None)
        elif settled is not None:
            self.settled[key] = settled.value

    def _holders(self, key: Sample, now: datetime) -> set[str]:
        return {who for (held, who), until in self.claims.items() if held == key and until > now}

    def _hold(self, key: Sample, annotator: str, now: datetime, seconds: float) -> None:
        self.claims[key, annotator] = now + timedelta(seconds=seconds)


class MemoryPeople:
    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def known_as(self, name: str) -> str:
        return self.names.setdefault(person(name), name)


class MemoryTransaction:
    def __init__(self) -> None:
        self.people = MemoryPeople()
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
