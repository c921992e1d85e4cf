"""Any order and any repetition of the same events leads to the same state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from audits import audits_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollout_evidence import arms_of, pairs_of
from storage_events import TASK, at, label, request, settled, shadow, traffic

from flywheel.contracts.events import (
    Event,
    LabelRecorded,
    LabelSettled,
    ReviewRequested,
    TrafficRecorded,
)
from storage.database import Database, Transaction

_several = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_samples = st.sampled_from(["s1", "s2", "s3"])
_values = st.sampled_from(["a", "b"])
_seconds = st.integers(0, 3)
_sources = st.sampled_from(["seed", "outcome", "user", "rule", "auto", "model", "expert"])
_splits = st.sampled_from([None, "train", "holdout"])
_releases = st.sampled_from(["r1", "r2"])
_arms = st.sampled_from(["champion", "challenger"])

_traffic = st.builds(
    lambda sample, text, seconds, release, arm, output, unit: traffic(
        sample,
        seconds,
        content=text,
        release=release,
        arm=arm,
        output=output,
        unit=unit,
        rollout_id="rollout",
        error=None if output else "no answer",
    ),
    _samples,
    st.sampled_from(["one", "two"]),
    _seconds,
    _releases,
    _arms,
    st.sampled_from([None, "a", "b"]),
    st.sampled_from(["u1", "u2"]),
)
_shadow = st.builds(
    lambda sample, seconds, release, arm, output: shadow(
        sample, seconds, release=release, arm=arm, output=output
    ),
    _samples,
    _seconds,
    _releases,
    _arms,
    st.sampled_from([None, "a", "b"]),
)
_label = st.builds(
    lambda sample, value, source, seconds, split: label(
        sample, value, source, seconds, split=split
    ),
    _samples,
    _values,
    _sources,
    _seconds,
    _splits,
)
_settlement = st.builds(
    lambda sample, value, seconds, audit, none_fits: settled(
        sample, value, seconds, audit=audit, unlabelable=value is None and none_fits
    ),
    _samples,
    st.sampled_from([None, "a", "b"]),
    _seconds,
    st.booleans(),
    st.booleans(),
)
_events = st.lists(st.one_of(_traffic, _shadow, _label, _settlement), max_size=14)


class _Undo(Exception):
    pass


@contextmanager
def undone(database: Database) -> Iterator[Transaction]:
    """A transaction that leaves nothing behind."""
    try:
        with database.transaction() as tx:
            yield tx
            raise _Undo
    except _Undo:
        pass


@st.composite
def deliveries(draw: st.DrawFn, events: st.SearchStrategy[list[Any]]) -> list[list[list[Any]]]:
    """The same events delivered twice: each time shuffled, repeated and cut into batches."""
    made = draw(events)
    found = []
    for _ in range(2):
        repeated = made + (draw(st.lists(st.sampled_from(made), max_size=4)) if made else [])
        shuffled = draw(st.permutations(repeated))
        size = draw(st.integers(1, 6))
        found.append([shuffled[i : i + size] for i in range(0, len(shuffled), size)])
    return found


def take_in(tx: Transaction, batch: Sequence[Event]) -> None:
    tx.label_intake.record_samples([e for e in batch if isinstance(e, TrafficRecorded)])
    tx.label_intake.record_labels([e for e in batch if isinstance(e, LabelRecorded)])
    tx.label_intake.record_settlements([e for e in batch if isinstance(e, LabelSettled)])
    tx.evidence_intake.record(batch)


def state(tx: Transaction) -> list[Any]:
    champion, challenger = arms_of(tx.evidence, "rollout")
    return [
        tx.labels.settled(TASK, "999999999999"),
        tx.labels.counts(TASK),
        (champion, challenger),
        pairs_of(tx.evidence, "rollout"),
        tx.evidence.assignment("rollout", at(1)),
        [audits_of(tx.audits, TASK, release) for release in ("r1", "r2")],
        tx.overview.traffic_counts(TASK),
        tx.overview.traffic_series(TASK, 1, 10),
        tx.overview.coverage(TASK),
        tx.overview.source_history(TASK),
        tx.balance.waiting(),
    ]


@_several
@given(both=deliveries(_events))
def test_labels_and_evidence_do_not_depend_on_order(
    database: Database, both: list[list[list[Event]]]
) -> None:
    states = []
    for batches in both:
        with undone(database) as tx:
            for batch in batches:
                take_in(tx, batch)
            states.append(state(tx))
    assert states[0] == states[1]


@_several
@given(both=deliveries(_events))
def test_what_lies_under_a_watermark_never_changes(
    database: Database, both: list[list[list[Event]]]
) -> None:
    with undone(database) as tx:
        versions = []
        for batch in both[0]:
            take_in(tx, batch)
            watermark = tx.labels.watermark(TASK)
            if watermark is not None:
                # At its own time, a watermark shows all that is settled.
                now = tx.labels.settled(TASK, watermark)
                assert now == tx.labels.settled(TASK, "999999999999")
                versions.append((watermark, now))
        assert versions == sorted(versions, key=lambda version: version[0])
        for watermark, rows in versions:
            assert tx.labels.settled(TASK, watermark) == rows


class Ended(NamedTuple):
    """A rollout came to its end."""

    rollout_id: str


@st.composite
def queue_events(draw: st.DrawFn) -> list[Any]:
    samples = draw(st.lists(st.sampled_from(["s1", "s2", "s3", "s4"]), unique=True))
    requests: list[Any] = [
        request(
            sample,
            draw(st.integers(0, 100)),
            draw(_seconds),
            release=draw(_releases),
            audit=draw(st.booleans()),
            rollout_id=draw(st.sampled_from([None, "x", "y"])),
        )
        for sample in samples
    ]
    withdrawn = draw(st.lists(st.sampled_from(["s1", "s2", "s3", "s4"]), max_size=2))
    lifts = draw(st.lists(st.tuples(_releases, st.integers(0, 100)), max_size=2))
    ended = draw(st.lists(st.sampled_from(["x", "y"]), unique=True))
    return [*requests, *withdrawn, *lifts, *(Ended(rollout) for rollout in ended)]


@_several
@given(both=deliveries(queue_events()))
def test_the_queue_does_not_depend_on_order(
    database: Database, both: list[list[list[Any]]]
) -> None:
    states = []
    for batches in both:
        with undone(database) as tx:
            for batch in batches:
                for word in batch:
                    if isinstance(word, ReviewRequested):
                        tx.intake.open([word])
                    elif isinstance(word, str):
                        tx.intake.withdraw(TASK, [word])
                    elif isinstance(word, Ended):
                        tx.intake.end_rollout(TASK, word.rollout_id, 50)
                    else:
                        tx.intake.raise_priority(TASK, *word)
            found = [tx.desk.find(TASK, sample) for sample in ("s1", "s2", "s3", "s4")]
            given_out = tx.desk.claim(TASK, "ada", at(10), 60, 10)
            states.append((found, given_out, tx.desk.depth(TASK, at(10))))
    assert states[0] == states[1]
