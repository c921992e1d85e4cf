"""Labels: which one counts, and that what lies under a watermark never changes."""

from __future__ import annotations

import threading
from datetime import timedelta, timezone

import pytest
from storage_events import START, TASK, at, label, settled, traffic

from flywheel.contracts.stores import LabelCounts
from storage.database import Database


def labels_of(database: Database, watermark: str | None = None) -> dict[str, str]:
    with database.transaction(read_only=True) as tx:
        upto = watermark or tx.labels.watermark(TASK)
        return {s.sample_id: s.label for s in tx.labels.settled(TASK, upto)} if upto else {}


def test_nothing_is_settled_at_first(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
        assert tx.labels.watermark(TASK) is None
        assert tx.labels.counts(TASK) == LabelCounts()


def test_a_settled_label_comes_back_whole(database: Database) -> None:
    event = settled("s1", "b", seconds=5, reason="uncertain")
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1", content="what is love? 💚")])
        tx.label_intake.record_settlements([event])
    with database.transaction() as tx:
        (sample,) = tx.labels.settled(TASK, tx.labels.watermark(TASK) or "")
    assert (sample.text, sample.label, sample.source) == ("what is love? 💚", "b", "expert")
    assert (sample.annotators, sample.event_id) == (("ada", "bob"), event.event_id)
    assert (sample.inclusion_probability, sample.audit, sample.split) == (0.05, True, None)
    assert sample.settled_at == at(5)
    assert sample.settled_at.utcoffset() == timedelta(0)


def test_experts_outrank_seed_outcome_user_rule_and_auto(database: Database) -> None:
    ranked = ["expert", "seed", "outcome", "user", "rule", "auto"]
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
        for source in reversed(ranked):
            if source == "expert":
                tx.label_intake.record_settlements([settled("s1", "expert")])
            else:
                tx.label_intake.record_labels([label("s1", source, source)])
            (sample,) = tx.labels.settled(TASK, tx.labels.watermark(TASK) or "")
            assert (sample.label, sample.source) == (source, source)


@pytest.mark.parametrize("source", ["expert", "model"])
def test_one_expert_or_a_model_settles_nothing_alone(database: Database, source: str) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
        tx.label_intake.record_labels([label("s1", "a", source)])
    assert labels_of(database) == {}


def test_a_withdrawn_settlement_uncovers_the_next_source(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
        tx.label_intake.record_labels([label("s1", "a", "auto")])
        tx.label_intake.record_settlements([settled("s1", "b", seconds=1)])
    assert labels_of(database) == {"s1": "b"}
    with database.transaction() as tx:
        tx.label_intake.record_settlements([settled("s1", None, seconds=2)])
    assert labels_of(database) == {"s1": "a"}


def test_a_sample_in_the_holdout_stays_there_when_experts_label_it(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1"), traffic("s2")])
        tx.label_intake.record_labels(
            [label("s1", "a", "seed", split="holdout"), label("s2", "a", "seed", split="train")]
        )
        tx.label_intake.record_settlements([settled("s1", "b"), settled("s2", "b")])
        found = tx.labels.settled(TASK, tx.labels.watermark(TASK) or "")
        counts = tx.labels.counts(TASK)
    assert [(s.label, s.source, s.split) for s in found] == [
        ("b", "expert", "holdout"),
        ("b", "expert", "train"),
    ]
    assert (counts.expert, counts.seed, counts.holdout) == (1, 0, 1)


def test_counts_by_source_and_after_a_watermark(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic(f"s{i}") for i in range(6)])
        tx.label_intake.record_labels([label("s0", "a", "auto"), label("s1", "a", "seed")])
        watermark = tx.labels.watermark(TASK)
        tx.label_intake.record_labels([label("s2", "a", "user"), label("s3", "a", "rule")])
        tx.label_intake.record_settlements([settled("s0", "b", 7), settled("s4", "b", 3)])
        everything = tx.labels.counts(TASK)
        fresh = tx.labels.counts(TASK, after=watermark)
        none = tx.labels.counts(TASK, after=tx.labels.watermark(TASK))
    assert everything == LabelCounts(expert=2, auto=1, seed=1, other=1, latest=at(7))
    assert fresh == LabelCounts(expert=2, auto=1, seed=0, other=1, latest=at(7))
    assert none == LabelCounts()


def test_tasks_do_not_see_each_other(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1"), traffic("t1", task="other")])
        tx.label_intake.record_labels(
            [label("s1", "a", "seed"), label("t1", "b", "seed", task="other")]
        )
        assert [s.sample_id for s in tx.labels.settled("other", "999999999999")] == ["t1"]
        assert tx.labels.counts("other").seed == 1


def test_an_older_event_that_arrives_late_does_not_slip_under_a_watermark(
    database: Database,
) -> None:
    late = settled("s2", "b", seconds=-3600)
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1"), traffic("s2")])
        tx.label_intake.record_settlements([settled("s1", "a")])
        watermark = tx.labels.watermark(TASK)
    with database.transaction() as tx:
        tx.label_intake.record_settlements([late])
        assert tx.labels.counts(TASK, after=watermark).expert == 1
    assert labels_of(database, watermark) == {"s1": "a"}
    assert labels_of(database) == {"s1": "a", "s2": "b"}


def test_a_sample_that_arrives_after_its_label_enters_with_a_later_watermark(
    database: Database,
) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
        tx.label_intake.record_settlements([settled("s1", "a"), settled("s2", "b")])
        watermark = tx.labels.watermark(TASK)
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s2")])
        assert (tx.labels.watermark(TASK) or "") > (watermark or "")
        assert tx.labels.counts(TASK, after=watermark).expert == 1
    assert labels_of(database, watermark) == {"s1": "a"}
    assert labels_of(database) == {"s1": "a", "s2": "b"}


def test_labels_that_commit_later_do_not_appear_under_a_watermark(database: Database) -> None:
    """Whoever begins first gets the smaller tick, and the other has to wait for the commit."""
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1"), traffic("s2"), traffic("s3")])
        tx.label_intake.record_settlements([settled("s1", "a")])

    def second() -> None:
        with database.transaction() as tx:
            tx.label_intake.record_settlements([settled("s3", "a")])

    thread = threading.Thread(target=second)
    with database.transaction() as tx:
        tx.label_intake.record_settlements([settled("s2", "a")])
        thread.start()
        thread.join(0.3)
        with database.transaction(read_only=True) as reader:
            watermark = reader.labels.watermark(TASK)
        before = labels_of(database, watermark)
    thread.join()
    assert labels_of(database, watermark) == before == {"s1": "a"}
    assert set(labels_of(database)) == {"s1", "s2", "s3"}


def test_a_watermark_that_is_none_is_refused(database: Database) -> None:
    with database.transaction() as tx, pytest.raises(ValueError, match="not a watermark"):
        tx.labels.settled(TASK, "0190a1b2-0000-7000-8000-000000000000")


def test_moments_are_utc_whatever_zone_they_came_in(database: Database) -> None:
    east = START.astimezone(timezone(timedelta(hours=9)))
    naive = START.replace(tzinfo=None)
    absurd = START.replace(year=1, month=1, day=1, hour=0, tzinfo=timezone(timedelta(hours=9)))
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic(s) for s in ("s1", "s2", "s3")])
        tx.label_intake.record_labels(
            [
                label("s1", "a", "seed", occurred_at=east),
                label("s2", "a", "seed", occurred_at=naive),
                label("s3", "a", "seed", occurred_at=absurd),
            ]
        )
        found = tx.labels.settled(TASK, tx.labels.watermark(TASK) or "")
    assert [s.settled_at for s in found[:2]] == [START, START]
    assert found[2].settled_at.year == 1


def test_text_that_a_database_may_not_like_is_kept(database: Database) -> None:
    awkward = "nul \x00, quote ' \" \\, emoji 🧲, rtl \u202e, 100 % :param {}"
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1", content=awkward, error=awkward)])
        tx.label_intake.record_labels([label("s1", "a", "seed", reason=awkward)])
        (sample,) = tx.labels.settled(TASK, tx.labels.watermark(TASK) or "")
    assert sample.text == awkward.replace("\x00", "\ufffd")
