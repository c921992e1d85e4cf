"""The audit log: what it says of a release, the same in memory and in either database."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from audits import audits_of
from memory_audits import MemoryAuditLog
from storage_events import TASK, at, request, settled, shadow, traffic

from flywheel.console.overview import overview
from flywheel.contracts.events import (
    Event,
    LabelSettled,
    ReviewRequested,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.stores import AuditChanges, AuditedPrediction
from flywheel.kinds import Choice
from flywheel.settings import TaskSettings
from flywheel.training.config import TrainingSettings
from flywheel.triage.config import ExpertRule, TriageSettings
from flywheel.triage.policy import audited_error, policy_of
from flywheel.triage.ports import AuditReader
from flywheel.triage.triager import Triager
from storage.database import Database


class SqlAuditReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, events: Sequence[Event]) -> None:
        with self._database.transaction() as tx:
            for event in events:
                if isinstance(event, TrafficRecorded):
                    tx.label_intake.record_samples([event])
                    tx.evidence_intake.record([event])
                elif isinstance(event, ShadowRecorded):
                    tx.evidence_intake.record([event])
                elif isinstance(event, ReviewRequested):
                    tx.intake.open([event])
                elif isinstance(event, LabelSettled):
                    tx.evidence_intake.record([event])

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        with self._database.transaction(read_only=True) as tx:
            return tx.audits.changed(task, release, after)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def log(request: pytest.FixtureRequest) -> MemoryAuditLog | SqlAuditReader:
    if request.param == "memory":
        return MemoryAuditLog()
    return SqlAuditReader(request.getfixturevalue(f"{request.param}_database"))


def test_an_audit_has_what_was_asked_said_and_settled(
    log: MemoryAuditLog | SqlAuditReader,
) -> None:
    log.record(
        [
            traffic("s1", content="Where is Rome?", output="b", scores={"b": 0.9, "a": 0.1},
                    confidence=0.9),
            request("s1", content="Where is Rome?"),
            settled("s1", "a", 3),
        ]
    )  # fmt: skip
    assert audits_of(log, TASK, "r1") == [
        AuditedPrediction(
            sample_id="s1",
            text="Where is Rome?",
            prediction="b",
            label="a",
            confidence=0.9,
            scores={"b": 0.9, "a": 0.1},
            inclusion_probability=0.05,
            labelled_at=at(3),
            correct=False,
        )
    ]


def test_audits_are_of_one_task_and_release_live_before_shadow_oldest_label_first(
    log: MemoryAuditLog | SqlAuditReader,
) -> None:
    log.record(
        [
            traffic("s1", output="a"),
            traffic("s2", output="b", release="r2"),
            shadow("s2", output="a", release="r1"),
            shadow("s1", output="b", release="r1"),
            traffic("chosen", output="a"),
            traffic("undone", output="a"),
            traffic("s1", output="b", task="other"),
            settled("s1", "a", 3),
            settled("s2", "a", 1),
            settled("chosen", "a", audit=False),
            settled("undone", "a", 1),
            settled("undone", None, 2),
            settled("s1", "b", task="other"),
        ]
    )
    found = audits_of(log, TASK, "r1")
    assert [(a.sample_id, a.prediction, a.label, a.text) for a in found] == [
        ("s2", "a", "a", "text of s2"),
        ("s1", "a", "a", "text of s1"),
    ]
    assert [(a.sample_id, a.label) for a in audits_of(log, "other", "r1")] == [("s1", "b")]
    assert audits_of(log, TASK, "unknown") == []


def test_an_audit_whose_text_is_not_there_yet_waits_for_it(
    log: MemoryAuditLog | SqlAuditReader,
) -> None:
    log.record([shadow("s1", release="r1"), settled("s1", "a")])
    assert audits_of(log, TASK, "r1") == []
    log.record([traffic("s1", release="r2")])
    assert [audit.text for audit in audits_of(log, TASK, "r1")] == ["text of s1"]


# 200 audits that a rule decides, all right, after 10 of the model's own, all wrong.
RULE = ExpertRule(name="where", pattern="^where", label="a")
RULED = TriageSettings(auto_label_error=0.1, audit_rate=1e-9, rules=(RULE,))


def ruled() -> list[Event]:
    events: list[Event] = []
    for index in range(210):
        hard = index < 10
        sample, text = f"s{index}", "what is it" if hard else "where is it"
        events += [
            traffic(sample, content=text, scores={"a": 0.9, "b": 0.1}, confidence=0.9),
            request(sample, content=text, audit=True),
            settled(sample, "b" if hard else "a", index),
        ]
    return events


def test_audits_that_a_rule_decides_do_not_vouch_for_the_release(
    log: MemoryAuditLog | SqlAuditReader,
) -> None:
    log.record(ruled())
    reader: AuditReader = log
    together = policy_of(reader, TASK, "r1", RULED.model_copy(update={"rules": ()}))
    assert together.threshold is not None
    assert together.bound == pytest.approx(0.072, abs=0.001)
    policy = policy_of(reader, TASK, "r1", RULED)
    assert (policy.threshold, policy.audited) == (None, 10)
    assert audited_error(reader, TASK, ["r1"], RULED) is None
    asked = traffic("new", content="what else", scores={"a": 0.9, "b": 0.1}, confidence=0.99)
    assert Triager({TASK: (Choice(("a", "b")), RULED)}, reader, salt="salt")([asked]) == []


def test_the_overview_asks_the_rules_as_well(database: Database) -> None:
    SqlAuditReader(database).record(ruled())
    training = TrainingSettings(base_model="not read")
    task = TaskSettings(labels=("a", "b"), triage=RULED, training=training)
    with database.transaction() as tx:
        tx.rollouts.set_champion(TASK, "r1")
        shown = overview(tx, TASK, task, at(300))["auto"]
    assert (shown["open"], shown["audited"], shown["bound"]) == (False, 10, None)
