"""Evidence: what both arms answered, in numbers that a rollout may trust."""

from __future__ import annotations

from typing import Any

from rollout_evidence import arms_of, pairs_of
from storage_events import at, label, settled, shadow, traffic

from flywheel.rollout.ports import ArmSummary, Assignment, Pair, StepCounts
from flywheel.statistics.buckets import latency_bucket
from storage.database import Database

CHAMPION = {"release": "r1", "arm": "champion", "rollout_id": "rollout"}
CHALLENGER = {"release": "r2", "arm": "challenger", "rollout_id": "rollout"}


def record(database: Database, *events: Any) -> None:
    with database.transaction() as tx:
        for event in events:
            tx.evidence_intake.record([event])


def arms(database: Database) -> tuple[ArmSummary, ArmSummary]:
    with database.transaction(read_only=True) as tx:
        return arms_of(tx.evidence, "rollout")


def pairs(database: Database) -> list[Pair]:
    with database.transaction(read_only=True) as tx:
        return pairs_of(tx.evidence, "rollout")


def test_a_rollout_without_traffic_has_no_evidence(database: Database) -> None:
    record(database, traffic("s1"))
    assert arms(database) == (ArmSummary(), ArmSummary())
    assert pairs(database) == []


def test_an_answer_that_nobody_waited_for_is_no_evidence(database: Database) -> None:
    left = {"abandoned": True, "status": 499}
    live = [
        traffic("s1", 1, latency_ms=900.0, **left, **CHALLENGER),
        traffic("s2", 1, **left, **CHAMPION),
        traffic("s1", 2, latency_ms=20.0, **CHALLENGER),
    ]
    with database.transaction() as tx:
        tx.label_intake.record_samples(live)
        # And the repeated request has one answer, for the doctor too.
        assert tx.balance.doubled_answers() == []
    record(
        database,
        *live,
        settled("s1", "a"),
        settled("s2", "a"),
    )
    champion, challenger = arms(database)
    assert champion == ArmSummary()
    assert challenger.latency_buckets == ((latency_bucket(20.0), 1),)


def test_arms_count_live_requests_errors_and_labels(database: Database) -> None:
    failure = {"output": None, "confidence": None, "scores": {}}
    record(
        database,
        traffic("s1", 1, latency_ms=10.0, **CHAMPION),
        traffic("s2", 2, latency_ms=30.0, output="b", **CHAMPION),
        traffic("s3", 3, status=503, error="no model server", **(CHAMPION | failure)),
        traffic("s4", 4, latency_ms=20.0, **CHALLENGER),
        traffic("s5", 5, latency_ms=0.1, cached=True, **CHALLENGER),
        shadow("s1"),
        shadow("s2", output=None, error="timeout"),
        traffic("elsewhere", rollout_id="another", arm="champion"),
        settled("s1", "a"),
        settled("s2", "a"),
        settled("s3", "a"),
        label("s4", "b", "auto"),
    )
    champion, challenger = arms(database)
    assert champion == ArmSummary(
        requests=3,
        errors=1,
        audited=2,
        correct=1,
        latency_buckets=((latency_bucket(10.0), 1), (latency_bucket(30.0), 1)),
    )
    assert challenger == ArmSummary(
        requests=2,
        latency_buckets=((latency_bucket(20.0), 1),),
        shadow_requests=2,
        shadow_errors=1,
    )


def test_arms_count_step_by_step_what_was_assigned_at_each_share(database: Database) -> None:
    first, second = {"challenger_share": 0.05}, {"challenger_share": 0.5}
    failure = {"output": None, "confidence": None, "scores": {}, "status": 503, "error": "none"}
    record(
        database,
        traffic("s1", 1, latency_ms=10.0, **CHAMPION, **first),
        traffic("s2", 2, latency_ms=30.0, **CHAMPION, **first),
        # A step is that of the assignment, whenever the answer came.
        traffic("s3", 9, latency_ms=20.0, **CHALLENGER, **first),
        traffic("s4", 3, latency_ms=10.0, **CHAMPION, **second),
        traffic("s5", 4, **(CHALLENGER | failure | second)),
        shadow("s1", **first),
        shadow("s4", output=None, error="timeout", **second),
    )
    champion, challenger = arms(database)
    ten, twenty, thirty = (latency_bucket(ms) for ms in (10.0, 20.0, 30.0))
    assert champion.steps == (
        StepCounts(share=0.05, requests=2, latency_buckets=((ten, 1), (thirty, 1))),
        StepCounts(share=0.5, requests=1, latency_buckets=((ten, 1),)),
    )
    assert champion.latency_buckets == ((ten, 2), (thirty, 1))
    assert challenger.steps == (
        StepCounts(share=0.05, requests=1, shadow_requests=1, latency_buckets=((twenty, 1),)),
        StepCounts(share=0.5, requests=1, errors=1, shadow_requests=1, shadow_errors=1),
    )
    assert (challenger.requests, challenger.errors) == (2, 1)
    assert (challenger.shadow_requests, challenger.shadow_errors) == (2, 1)


def test_evidence_from_before_shares_were_recorded_stands_beside_that_of_later(
    database: Database,
) -> None:
    record(database, traffic("s1", 1, latency_ms=10.0, **CHAMPION))
    assert arms(database)[0].steps == ()
    record(database, traffic("s2", 2, latency_ms=10.0, **CHAMPION, challenger_share=0.25))
    steps = arms(database)[0].steps
    assert [(step.share, step.requests) for step in steps] == [(None, 1), (0.25, 1)]


def test_a_failure_in_an_outage_counts_for_no_arm_and_its_repeat_counts(
    database: Database,
) -> None:
    lost = {"output": None, "confidence": None, "scores": {}, "status": 503, "error": "none"}
    record(database, traffic("s1", 1, **(CHALLENGER | lost), outage=True))
    assert arms(database) == (ArmSummary(), ArmSummary())
    record(database, traffic("s1", 2, **CHALLENGER))
    assert (arms(database)[1].requests, arms(database)[1].errors) == (1, 0)


def test_latencies_are_counted_in_buckets(database: Database) -> None:
    many = [traffic(f"s{i}", i, latency_ms=float(i + 1), **CHAMPION) for i in range(2100)]
    with database.transaction() as tx:
        tx.evidence_intake.record(many)
    champion, _ = arms(database)
    assert champion.requests == 2100
    assert sum(count for _, count in champion.latency_buckets) == 2100


def test_only_uniformly_drawn_samples_say_how_often_an_arm_is_right(database: Database) -> None:
    right, wrong = "a", "b"
    record(
        database,
        *(traffic(f"s{number}", **CHAMPION) for number in range(1, 6)),
        label("s1", wrong, "user"),
        label("s2", wrong, "outcome"),
        settled("s3", wrong, audit=False),
        settled("s4", right),
        settled("s5", wrong),
    )
    assert (arms(database)[0].audited, arms(database)[0].correct) == (2, 1)
    record(database, settled("s5", None, 9))
    assert (arms(database)[0].audited, arms(database)[0].correct) == (1, 1)


def test_a_repeated_request_counts_once_as_it_went_at_first(database: Database) -> None:
    record(
        database,
        traffic("s1", 2, **CHAMPION),
        traffic("s1", 1, output=None, status=500, error="lost", **CHAMPION),
    )
    champion, _ = arms(database)
    assert (champion.requests, champion.errors) == (1, 1)


def test_pairs_are_audited_samples_that_both_arms_scored(database: Database) -> None:
    record(
        database,
        traffic("s1", output="a", **CHAMPION),
        shadow("s1", output="b"),
        traffic("s2", output="b", **CHALLENGER),
        shadow("s2", output="a", release="r1", arm="champion"),
        traffic("only the champion", **CHAMPION),
        traffic("not audited", **CHAMPION),
        shadow("not audited"),
        traffic("undone", **CHAMPION),
        shadow("undone"),
        traffic("no answer", **CHAMPION),
        shadow("no answer", output=None, error="timeout"),
        traffic("a user's", **CHAMPION),
        shadow("a user's"),
        settled("s1", "a", seconds=9),
        settled("s2", "b", seconds=8, inclusion_probability=0.25),
        settled("only the champion", "a"),
        settled("not audited", "a", audit=False),
        settled("undone", "a", seconds=1),
        settled("undone", None, seconds=2),
        settled("no answer", "a"),
        label("a user's", "a", "user", audit=True),
    )
    assert pairs(database) == [
        Pair(
            sample_id="s2",
            champion_correct=False,
            challenger_correct=True,
            inclusion_probability=0.25,
            labelled_at=at(8),
        ),
        Pair(
            sample_id="s1",
            champion_correct=True,
            challenger_correct=False,
            inclusion_probability=0.05,
            labelled_at=at(9),
        ),
    ]


def test_assignment_counts_requests_and_units_since(database: Database) -> None:
    record(
        database,
        traffic("s1", 1, unit="early", **CHAMPION),
        traffic("s2", 5, unit="u1", **CHAMPION),
        traffic("s3", 6, unit="u1", **CHAMPION),
        traffic("s4", 7, unit="u2", **CHALLENGER),
        traffic("s5", 8, unit="", **CHALLENGER),
        shadow("s1", 9),
    )
    with database.transaction() as tx:
        assert tx.evidence.assignment("rollout", at(5)) == Assignment(
            champion_requests=2,
            challenger_requests=2,
            champion_units=1,
            challenger_units=2,
            heaviest_requests=2,
        )
        assert tx.evidence.assignment("nothing", at(0)) == Assignment()
