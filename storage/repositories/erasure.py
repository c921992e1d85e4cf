"""What is known of a sample or a user, removed; and the record that it was, without the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, or_, select, union

from flywheel.retention.erasure import Erasure
from storage.repositories import judged, removal, review_states, settled
from storage.repositories.admission import Digests, erased_samples, erased_users, known_samples
from storage.repositories.review_states import answers, tasks
from storage.repositories.rollout_totals import units
from storage.repositories.settled import labels, traffic
from storage.tables.columns import table_of
from storage.tables.messaging import OutboxRow
from storage.tables.retention import ArchiveFileRow, ErasureRow, LeftImageRow
from storage.tables.rollouts import RolloutRow
from storage.work import Work

_erasures = table_of(ErasureRow)
_outbox = table_of(OutboxRow)
_rollouts = table_of(RolloutRow)
_images = table_of(LeftImageRow)
_archived = table_of(ArchiveFileRow)
# With few rows of each task.
_OF_TASKS = (settled.clocks, judged.clocks, review_states.totals, _archived)
_WITH_SAMPLES = (traffic, labels, judged.scores, judged.truths, tasks, answers)


class _About(msgspec.Struct):
    task: str = ""


class SqlErasures:
    """``retention.ports.Erasures``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def samples_of(self, unit: str, tasks_: Collection[str]) -> list[tuple[str, str]]:
        found = union(
            *(
                select(table.c.task, table.c.sample_id).where(
                    table.c.unit == unit, table.c.task.in_(sorted(tasks_))
                )
                for table in (traffic, judged.scores)
            )
        )
        return sorted((row.task, row.sample_id) for row in self._work.rows(found))

    def tasks_of(self, sample_id: str, tasks_: Collection[str]) -> list[str]:
        found: set[str] = set()
        for table in _WITH_SAMPLES:
            rows = self._work.rows(
                select(table.c.task)
                .where(table.c.sample_id == sample_id, table.c.task.in_(sorted(tasks_)))
                .distinct()
            )
            found.update(row.task for row in rows)
        return sorted(found)

    def tasks(self) -> set[str]:
        """Every task of which there is, or was, something."""
        known = union(*(select(table.c.task) for table in _OF_TASKS))
        return {row.task for row in self._work.rows(known)}

    def begin(self, erasure: Erasure) -> None:
        values = msgspec.structs.asdict(erasure)
        values["who"] = values.pop("by")
        self._work.add(_erasures, [values], ["erasure_id"])

    def refuse_samples(self, samples: Sequence[tuple[str, str]], erasure_id: str) -> None:
        digests = Digests.of(self._work)
        rows = [
            {"digest": digests.sample(*sample), "erasure_id": erasure_id}
            for sample in dict.fromkeys(samples)
        ]
        self._work.add(erased_samples, rows, ["digest"])

    def refuse_user(self, tasks_: Collection[str], unit: str, until: datetime, of: str) -> None:
        digests = Digests.of(self._work)
        rows = [
            {"digest": digests.user(task, unit), "until": until, "erasure_id": of}
            for task in sorted(tasks_)
        ]
        self._work.put(erased_users, rows, ["digest"])

    def remove(self, task: str, sample_ids: Sequence[str]) -> Counter[str]:
        removal.hold(self._work, task, sample_ids)
        went = removal.whole_samples(self._work, task, sample_ids)
        went["outbox"] += self._remove_outgoing(task, sample_ids)
        return +went

    def remove_units(self, unit: str, tasks_: Collection[str]) -> int:
        of_tasks = _rollouts.c.task.in_(sorted(tasks_))
        all_, ended = (
            select(_rollouts.c.rollout_id).where(of_tasks, *more)
            for more in ((), (_rollouts.c.ended_at.is_not(None),))
        )
        # What a running rollout counts goes with its rows.
        over = or_(units.c.requests <= 0, units.c.rollout_id.in_(ended))
        mine = (units.c.unit == unit, units.c.rollout_id.in_(all_), over)
        return self._work.run(delete(units).where(*mine))

    def erased(self, samples: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        digests = Digests.of(self._work)
        of = {digests.sample(*sample): sample for sample in samples}
        return {of[digest] for digest in known_samples(self._work, of)}

    def digests(self) -> Digests:
        return Digests.of(self._work)

    def gone_with(self, subject: str) -> set[str]:
        """Hashes of the samples that went when this user or sample was erased, however often."""
        mine = select(_erasures.c.erasure_id).where(_erasures.c.subject == subject)
        found = select(erased_samples.c.digest).where(erased_samples.c.erasure_id.in_(mine))
        return {row.digest for row in self._work.rows(found)}

    def subject(self, kind: str, name: str) -> str:
        digests = Digests.of(self._work)
        return digests.user("", name) if kind == "user" else digests.sample("", name)

    def finish(self, erasure: Erasure) -> None:
        self._work.run(
            _erasures.update()
            .where(_erasures.c.erasure_id == erasure.erasure_id)
            .values(finished_at=erasure.finished_at, counts=erasure.counts, holds=erasure.holds)
        )

    def history(self) -> list[Erasure]:
        rows = self._work.rows(select(_erasures).order_by(_erasures.c.at))
        return [_erasure(dict(row._mapping)) for row in rows]

    def forget_judged(self, task: str, seq: int) -> int:
        """Take away what is left of removed samples that were judged, up to this tick."""
        return removal.forget_judged(self._work, task, seq) if seq else 0

    def judged_tick(self, task: str) -> int:
        """The present tick of a task's evidence."""
        clock = select(judged.clocks.c.ticks).where(judged.clocks.c.task == task)
        row = self._work.row(clock)
        return 0 if row is None else int(row.ticks)

    def leave_images(self, digests: Collection[str]) -> None:
        """Remember images that may be nobody's now."""
        self._work.add(_images, [{"sha256": digest} for digest in sorted(digests)], ["sha256"])

    def left_images(self, after: str = "", limit: int = 1000) -> list[str]:
        """Images that may be nobody's now, by their digest, from one on."""
        mine = select(_images.c.sha256).where(_images.c.sha256 > after)
        rows = self._work.rows(mine.order_by(_images.c.sha256).limit(limit))
        return [row.sha256 for row in rows]

    def shown(self, digests: Collection[str]) -> set[str]:
        left, found = set(digests), set()
        for table in (traffic, tasks):
            shows = select(table.c.messages).where(table.c.messages.is_not(None))
            in_parts = shows.execution_options(yield_per=500)
            for (messages,) in self._work.connection.execute(in_parts):
                here = {digest for digest in left if digest in messages}
                found |= here
                left -= here
        return found

    def images_done(self, digests: Collection[str]) -> None:
        for part in self._work.chunks(digests):
            self._work.run(delete(_images).where(_images.c.sha256.in_(part)))

    def _remove_outgoing(self, task: str, sample_ids: Sequence[str]) -> int:
        going: list[int] = []
        for part in self._work.chunks(sample_ids):
            keys = [sample_id.encode() for sample_id in part]
            rows = self._work.rows(
                select(_outbox.c.id, _outbox.c.value).where(_outbox.c.key.in_(keys))
            )
            going += [row.id for row in rows if _task_in(bytes(row.value)) == task]
        for start in range(0, len(going), 500):
            part_ids = going[start : start + 500]
            self._work.run(delete(_outbox).where(_outbox.c.id.in_(part_ids)))
        return len(going)


def _task_in(value: bytes) -> str:
    try:
        return msgspec.json.decode(value, type=_About).task
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def _erasure(values: dict[str, Any]) -> Erasure:
    values["by"] = values.pop("who")
    return Erasure(**values)
