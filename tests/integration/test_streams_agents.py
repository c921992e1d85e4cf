"""The agents on the real database: what each does with a batch, and that doubles change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from new_database import new_database
from streams_harness import traffic

from flywheel.contracts.codec import event_id_in
from flywheel.contracts.events import (
    Event,
    LabelRecorded,
    LabelSource,
    ReviewRequested,
    RolloutChanged,
    TrafficRecorded,
)
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.positions import Handled
from flywheel.contracts.split import TrafficSplit
from flywheel.kinds import Choice
from flywheel.settings import KafkaSettings
from storage.database import Database
from streams.agents import evidence, labels, review, triage
from streams.agents.acceptance import configured
from streams.batches import RejectedEvents, handle_batch
from streams.logs import topic_logs
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.reconcile import Reader, reconcile

TASK = "streams-agents"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = new_database(f"sqlite:///{tmp_path / 'flywheel.db'}")
    yield database
    database.dispose()


def request(sample_id: str, *, audit: bool = False, release: str | None = None) -> ReviewRequested:
    return ReviewRequested(
        event_id=new_id(),
        occurred_at=utc_now(),
        task=TASK,
        sample_id=sample_id,
        content="?",
        reason="unsure",
        priority=10.0,
        inclusion_probability=0.5,
        audit=audit,
        release=release,
    )


def label(sample_id: str, source: LabelSource, value: str = "yes") -> LabelRecorded:
    return LabelRecorded(
        event_id=new_id(),
        occurred_at=utc_now(),
        task=TASK,
        sample_id=sample_id,
        value=value,
        source=source,
        annotator="someone",
    )


def open_samples(db: Database) -> set[str]:
    with db.transaction() as tx:
        return {one.sample_id for one in tx.desk.claim(TASK, new_id(), utc_now(), 0.0, 100)}


def test_review_opens_what_is_asked_for_once(db: Database) -> None:
    handle = review.agent(db).handle
    one = request("s1")
    assert list(handle([one, one])) == []
    handle([one])
    assert open_samples(db) == {"s1"}


@pytest.mark.parametrize(
    ("source", "stays"),
    [("user", False), ("outcome", False), ("seed", False), ("auto", True), ("rule", True)],
)
def test_review_closes_what_was_settled_elsewhere(
    db: Database, source: LabelSource, stays: bool
) -> None:
    handle = review.agent(db).handle
    handle([request("s1"), request("audited", audit=True)])
    handle([label("s1", source), label("audited", source), label("unknown", source)])
    assert open_samples(db) == ({"s1", "audited"} if stays else {"audited"})


def test_review_lifts_the_failures_of_a_challenger_that_was_rolled_back(db: Database) -> None:
    handle = review.agent(db).handle
    handle([request("of-champion", release="a"), request("of-challenger", release="b")])
    split = TrafficSplit(task=TASK, champion="a", rollout_id="r")
    rolled_back = RolloutChanged(
        event_id=new_id(),
        occurred_at=utc_now(),
        task=TASK,
        rollout_id="r",
        state="rolled_back",
        split=split,
        decided_by="controller",
        reason="harm",
        challenger="b",
    )
    handle([rolled_back])
    with db.transaction() as tx:
        lifted, other = tx.desk.find(TASK, "of-challenger"), tx.desk.find(TASK, "of-champion")
        assert lifted is not None
        assert other is not None
        assert (lifted.priority, other.priority) == (review.ROLLED_BACK_PRIORITY, 10.0)


def test_labels_keeps_samples_and_labels_once(db: Database) -> None:
    handle = labels.agent(db).handle
    sample = traffic(1, task=TASK)[0]
    events = [sample, label(sample.sample_id, "user")]
    handle(events)
    with db.transaction() as tx:
        ticks = tx.overview.ticks()
    handle(events)
    with db.transaction() as tx:
        assert tx.labels.counts(TASK).other == 1
        assert tx.overview.ticks() == ticks


def test_evidence_takes_traffic_and_what_counts_as_truth(db: Database) -> None:
    handle = evidence.agent(db).handle
    sample = traffic(1, task=TASK)[0]
    events = [sample, label(sample.sample_id, "auto"), label(sample.sample_id, "user")]
    assert list(handle(events)) == []
    words = [(TASK, sample.sample_id, source) for source in ("auto", "user")]
    with db.transaction() as tx:
        assert tx.effects.unproved(words) == {words[0]}


def test_triage_is_asked_about_traffic_alone() -> None:
    asked: list[Event] = []

    def triager(events: object) -> list[Event]:
        asked.extend(events)  # type: ignore[arg-type]
        return [request(event.sample_id) for event in asked if isinstance(event, TrafficRecorded)]

    sample = traffic(1)[0]
    produced = triage.agent(triager).handle([sample, label("s", "user")])
    assert asked == [sample]
    assert len(produced) == 1


def test_foreign_tasks_and_labels_are_rejected_and_the_rest_handled(db: Database) -> None:
    handle = labels.agent(db, accept=configured({TASK: Choice(("yes", "no"))})).handle
    good = traffic(2, task=TASK)
    foreign, odd = traffic(1, task="other")[0], label(good[0].sample_id, "user", "maybe")
    with pytest.raises(RejectedEvents):
        handle([*good, foreign])
    outcome = handle_batch(handle, [good[0], foreign, odd, good[1]])
    assert [event for event, _ in outcome.rejected] == [foreign, odd]
    assert "not configured" in str(outcome.rejected[0][1])
    assert "'maybe' is no label" in str(outcome.rejected[1][1])
    with db.transaction() as tx:
        kept = tx.effects.unkept_traffic([(event.event_id,) for event in (*good, foreign)])
        assert kept == {(foreign.event_id,)}


def commit_all(kafka: KafkaSettings, group: str, topic: str) -> list[Any]:
    """As if ``group`` had handled all of a topic; what it holds."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.structs import OffsetAndMetadata

    everything = list(read_topic(kafka, topic))
    consumer = KafkaConsumer(bootstrap_servers=kafka.servers, group_id=group)
    ends = {TopicPartition(one.topic, one.partition): one.offset + 1 for one in everything}
    consumer.assign(list(ends))
    consumer.commit({place: OffsetAndMetadata(end, "", -1) for place, end in ends.items()})
    consumer.close()
    return everything


def handled(kafka: KafkaSettings, records: Sequence[Any], log: str | None = None) -> list[Handled]:
    """What an agent notes of these."""
    found = topic_logs(kafka, {record.topic for record in records})
    return [
        Handled(one.topic, one.partition, log or found[one.topic], [one.offset], one.offset + 1)
        for one in records
    ]


def test_reconciliation_finds_what_a_group_passed_without_an_effect(
    kafka: KafkaSettings, db: Database
) -> None:
    group = f"test.{new_id()}"
    sent = traffic(30, task=TASK)
    publisher = KafkaPublisher(kafka, "test")
    publisher.publish(sent)
    publisher.publish(sent[:5])  # a retried send: the log holds these twice
    publisher.close()
    readers = {group: Reader(("flywheel.traffic",), labels.trace)}
    before = reconcile(kafka, db, readers).groups[0]
    everything = commit_all(kafka, group, "flywheel.traffic")
    assert (before.events, before.waiting, before.lost) == (0, len(everything), ())

    labels.agent(db).handle(sent[1:])
    for full in (False, True):  # nothing is noted: all that is committed is looked for
        [after] = reconcile(kafka, db, readers, full=full).groups
        assert sent[0].event_id in after.lost
        assert not {event.event_id for event in sent[1:]} & set(after.lost)
        assert after.doubled_in_log >= 5
        assert (after.waiting, after.read) == (0, len(everything))


def test_only_what_is_not_noted_as_handled_is_looked_for(
    kafka: KafkaSettings, db: Database
) -> None:
    group = f"test.{new_id()}"
    sent = traffic(40, task=TASK)
    publisher = KafkaPublisher(kafka, "test")
    publisher.publish(sent)
    publisher.close()
    everything = commit_all(kafka, group, "flywheel.traffic")
    readers = {group: Reader(("flywheel.traffic",), labels.trace)}
    ours = {event.event_id for event in sent}
    mine = [one for one in everything if event_id_in(one.value) in ours]
    # The agent is never given two records, and everything else is said to be handled.
    skipped = [mine[10], mine[30]]
    with db.transaction() as tx:
        tx.positions.note(group, handled(kafka, [one for one in everything if one not in skipped]))
    [found] = reconcile(kafka, db, readers).groups
    assert found.read == 2
    assert set(found.lost) == {event_id_in(one.value) for one in skipped}
    assert found.events == len(everything) - 2
    labels.agent(db).handle([event for event in sent if event.event_id in found.lost])
    [found] = reconcile(kafka, db, readers).groups
    assert found.lost == ()
    with db.transaction() as tx:  # and given after all, they are gaps no longer
        tx.positions.note(group, handled(kafka, skipped))
    assert reconcile(kafka, db, readers).groups[0].read == 0


def test_positions_of_a_log_that_was_there_before_say_nothing_of_this_one(
    kafka: KafkaSettings, db: Database
) -> None:
    group = f"test.{new_id()}"
    sent = traffic(5, task=TASK)
    publisher = KafkaPublisher(kafka, "test")
    publisher.publish(sent)
    publisher.close()
    everything = commit_all(kafka, group, "flywheel.traffic")
    with db.transaction() as tx:
        tx.positions.note(group, handled(kafka, everything, log="of the topic before"))
    [found] = reconcile(kafka, db, {group: Reader(("flywheel.traffic",), labels.trace)}).groups
    assert {event.event_id for event in sent} <= set(found.lost)


def test_reconciliation_names_reviews_that_were_never_queued(
    kafka: KafkaSettings, db: Database
) -> None:
    """What an earlier version made of one sample id in two tasks: handled, and in one queue."""
    group, sample = f"test.{new_id()}", new_id()
    asked = [request(sample), msgspec.structs.replace(request(sample), task="another task")]
    publisher = KafkaPublisher(kafka, "test")
    publisher.publish(asked)
    publisher.close()
    everything = commit_all(kafka, group, "flywheel.review")
    with db.transaction() as tx:
        tx.intake.open(asked[:1])
        tx.positions.note(group, handled(kafka, everything))
    readers = {group: Reader(("flywheel.review",), review.trace)}
    assert reconcile(kafka, db, readers).groups[0].lost == ()
    [found] = reconcile(kafka, db, readers, full=True).groups
    assert asked[1].event_id in found.lost
    assert asked[0].event_id not in found.lost


@pytest.mark.parametrize("same_event", [True, False], ids=["the same event id", "another event id"])
def test_a_sample_id_that_comes_back_with_another_text_is_rejected(
    db: Database, same_event: bool
) -> None:
    handle = labels.agent(db).handle
    one = traffic(1, "the first text", task=TASK)[0]
    event_id = one.event_id if same_event else new_id()
    other = msgspec.structs.replace(
        one, event_id=event_id, content="another text", occurred_at=utc_now()
    )
    elsewhere = msgspec.structs.replace(other, event_id=new_id(), task="another-task")
    handle([one])
    outcome = handle_batch(handle, [one, other, elsewhere])
    assert [event for event, _ in outcome.rejected] == [other]
    assert "another text" in str(outcome.rejected[0][1])
    together = handle_batch(
        handle,
        [
            msgspec.structs.replace(event, sample_id="together", event_id=f"together-{number}")
            for number, event in enumerate((other, one))
        ],
    )
    assert [event.event_id for event, _ in together.rejected] == ["together-0"]


def test_a_review_of_another_text_is_rejected(db: Database) -> None:
    one = traffic(1, "?", task=TASK)[0]
    labels.agent(db).handle([one])
    handle = review.agent(db).handle
    other = msgspec.structs.replace(request(one.sample_id), content="another text")
    outcome = handle_batch(handle, [other, request(one.sample_id), request("not there yet")])
    assert [event for event, _ in outcome.rejected] == [other]
    assert open_samples(db) == {one.sample_id, "not there yet"}


def test_feedback_waits_for_its_sample_and_is_listed_meanwhile(db: Database) -> None:
    handle = labels.agent(db).handle
    late = traffic(1, task=TASK)[0]
    handle([label("never served", "user"), label(late.sample_id, "outcome")])

    def standing() -> tuple[int, list[str]]:
        with db.transaction(read_only=True) as tx:
            return tx.labels.counts(TASK).other, tx.balance.labels_without_sample()

    assert standing() == (0, sorted([f"{TASK}/never served", f"{TASK}/{late.sample_id}"]))
    handle([late])
    assert standing() == (1, [f"{TASK}/never served"])
    handle([msgspec.structs.replace(late, task="another", sample_id="never served", event_id="e")])
    assert standing() == (1, [f"{TASK}/never served"])
