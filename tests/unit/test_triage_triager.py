"""The triager over batches: policies by release, history of sources, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from memory_audits import MemoryAuditLog
from prometheus_client import REGISTRY
from triage_samples import AT, LABELS, answered, audit_events, audited

from flywheel.contracts.events import LabelRecorded, ShadowRecorded
from flywheel.contracts.ids import new_id
from flywheel.contracts.stores import AuditedPrediction
from flywheel.errors import RejectedEvent, StorageError
from flywheel.kinds import Choice
from flywheel.triage.config import ExpertRule, TriageSettings
from flywheel.triage.triager import Triager

QUIET = TriageSettings(audit_rate=1e-9, uncertain_share=1.0)


def audit_log(**by_release: list[AuditedPrediction]) -> MemoryAuditLog:
    return MemoryAuditLog(
        *(event for name, audits in by_release.items() for event in audit_events(name, audits))
    )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def triager(audits: MemoryAuditLog, settings: TriageSettings = QUIET, **more: object) -> Triager:
    return Triager({"questions": (Choice(LABELS), settings)}, audits, salt="salt", **more)  # type: ignore[arg-type]


GOOD = audited([0.5 + i / 200 for i in range(100)], [False] * 100)


def test_each_release_is_judged_by_its_own_audits() -> None:
    triage = triager(audit_log(good=GOOD))
    made = triage([answered("a", release="good"), answered("b", release="new")])
    assert [event.sample_id for event in made] == ["a"]
    assert isinstance(made[0], LabelRecorded)
    assert made[0].annotator == "good"


def test_an_answer_that_nobody_waited_for_is_neither_audited_nor_labelled() -> None:
    audited_always = TriageSettings(audit_rate=1.0, uncertain_share=1.0)
    for settings in (QUIET, audited_always):
        triage = triager(audit_log(good=GOOD), settings)
        left, read = (answered("a", release="good", abandoned=gone) for gone in (True, False))
        assert triage([left]) == []
        assert len(triage([left, read])) == 1


def test_a_policy_is_kept_for_a_while_then_certified_again() -> None:
    audits, clock = audit_log(good=GOOD), Clock()
    triage = triager(audits, policy_interval=5.0, clock=clock)
    assert triage([answered("a", release="good"), answered("b", release="good")])
    clock.now = 4.9
    assert triage([answered("c", release="good")])
    assert audits.reads == 1
    bad = audited(
        [0.9 + i * 1e-4 for i in range(60)], [i % 2 == 0 for i in range(60)], name="later"
    )
    audits.record(audit_events("good", bad))
    clock.now = 5.1
    assert triage([answered("d", release="good")]) == []
    assert audits.reads == 2


def test_audits_that_a_rule_decides_do_not_vouch_for_the_release() -> None:
    easy = [
        AuditedPrediction(
            sample_id=f"e{i}",
            prediction="LOC",
            label="LOC",
            confidence=0.9,
            scores={"LOC": 0.9, "NUM": 0.1},
            inclusion_probability=0.05,
            labelled_at=AT,
            text="where is Rome",
            correct=True,
        )
        for i in range(100)
    ]
    rule = ExpertRule(name="where", pattern="^where", label="LOC")
    settings = QUIET.model_copy(update={"rules": (rule,)})
    event = answered("a", release="good", content="what is Rome")
    assert triager(audit_log(good=easy))([event])
    assert triager(audit_log(good=easy), settings)([event]) == []


def test_history_of_sources_is_read_once_a_batch_and_may_fail() -> None:
    asked: list[tuple[str, list[str]]] = []

    def features(task: str, sources: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        asked.append((task, list(sources)))
        return {"app": {"expert_labels": 20.0, "corrections": 20.0}}

    def broken(_task: str, _sources: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        raise StorageError("no feature store")

    batch = [answered(f"s{i}", 0.5, source="app" if i % 2 else "web") for i in range(10)]
    with_history = triager(audit_log(), features=features)(batch)
    assert asked == [("questions", ["app", "web"])]
    without = triager(audit_log(), features=broken)(batch)
    assert [e.sample_id for e in without] == [e.sample_id for e in with_history]
    raised = [
        (one.priority, other.priority)
        for one, other in zip(with_history, without, strict=True)
        if one.source == "app"
    ]
    assert all(one > other for one, other in raised)


def test_events_that_are_not_for_triage_pass_by() -> None:
    shadow = ShadowRecorded(
        event_id=new_id(),
        occurred_at=AT,
        task="questions",
        sample_id="s",
        release="r",
        arm="challenger",
        rollout_id="r1",
    )
    triage = triager(audit_log())
    assert triage([shadow, answered("a", origin="ingest"), answered("b", status=500)]) == []
    assert triage([]) == []
    triage.accept(shadow)


def test_a_foreign_event_is_refused_before_anything_is_counted() -> None:
    triage = triager(audit_log())
    foreign = answered("x", task="mail")
    before = counted("unsure")
    with pytest.raises(RejectedEvent, match="mail"):
        triage([answered("a", 0.5), foreign])
    with pytest.raises(RejectedEvent, match="mail"):
        triage.accept(foreign)
    assert counted("unsure") == before
    assert len(triage([answered("a", 0.5)])) == 1
    assert counted("unsure") == before + 1


def test_a_database_that_is_away_is_for_the_caller_to_retry() -> None:
    audits = audit_log(good=GOOD)
    audits.broken = True
    triage = triager(audits)
    with pytest.raises(StorageError):
        triage([answered("a", release="good")])
    audits.broken = False
    assert len(triage([answered("a", release="good")])) == 1


def counted(decision: str) -> float:
    labels = {"task": "questions", "decision": decision}
    return REGISTRY.get_sample_value("flywheel_triage_decisions_total", labels) or 0.0
