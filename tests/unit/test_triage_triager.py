"""The triager over batches: policies by release, history of sources, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from prometheus_client import REGISTRY
from triage_samples import AT, LABELS, answered, audited

from flywheel.contracts.events import LabelRecorded, ShadowRecorded
from flywheel.contracts.ids import new_id
from flywheel.contracts.stores import AuditedPrediction
from flywheel.errors import RejectedEvent, StorageError
from flywheel.triage.config import ExpertRule, TriageSettings
from flywheel.triage.triager import Triager

QUIET = TriageSettings(audit_rate=1e-9, uncertain_share=1.0)


class Audits:
    """An audit log kept in memory, which can be taken away."""

    def __init__(self, **by_release: list[AuditedPrediction]) -> None:
        self.by_release = by_release
        self.reads = 0
        self.broken = False

    def audits(self, task: str, release: str) -> list[AuditedPrediction]:
        self.reads += 1
        if self.broken:
            raise StorageError("the database is locked")
        return self.by_release.get(release, [])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def triager(audits: Audits, settings: TriageSettings = QUIET, **more: object) -> Triager:
    return Triager({"questions": (LABELS, settings)}, audits, **more)  # type: ignore[arg-type]


GOOD = audited([0.5 + i / 200 for i in range(100)], [False] * 100)


def test_each_release_is_judged_by_its_own_audits() -> None:
    triage = triager(Audits(good=GOOD))
    made = triage([answered("a", release="good"), answered("b", release="new")])
    assert [event.sample_id for event in made] == ["a"]
    assert isinstance(made[0], LabelRecorded)
    assert made[0].annotator == "good"


def test_a_policy_is_kept_for_a_while_then_certified_again() -> None:
    audits, clock = Audits(good=GOOD), Clock()
    triage = triager(audits, policy_interval=5.0, clock=clock)
    assert triage([answered("a", release="good"), answered("b", release="good")])
    clock.now = 4.9
    assert triage([answered("c", release="good")])
    assert audits.reads == 1
    bad = audited([0.9 + i * 1e-4 for i in range(60)], [i % 2 == 0 for i in range(60)])
    audits.by_release["good"] = GOOD + bad
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
        )
        for i in range(100)
    ]
    rule = ExpertRule(name="where", pattern="^where", label="LOC")
    settings = QUIET.model_copy(update={"rules": (rule,)})
    event = answered("a", release="good", text="what is Rome")
    assert triager(Audits(good=easy))([event])
    assert triager(Audits(good=easy), settings)([event]) == []


def test_history_of_sources_is_read_once_a_batch_and_may_fail() -> None:
    asked: list[list[str]] = []

    def features(sources: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        asked.append(list(sources))
        return {"app": {"expert_labels": 20.0, "corrections": 20.0}}

    def broken(_sources: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        raise StorageError("no feature store")

    batch = [answered(f"s{i}", 0.5, source="app" if i % 2 else "web") for i in range(10)]
    with_history = triager(Audits(), features=features)(batch)
    assert asked == [["app", "web"]]
    without = triager(Audits(), features=broken)(batch)
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
    triage = triager(Audits())
    assert triage([shadow, answered("a", origin="ingest"), answered("b", status=500)]) == []
    assert triage([]) == []
    triage.accept(shadow)


def test_a_foreign_event_is_refused_before_anything_is_counted() -> None:
    triage = triager(Audits())
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
    audits = Audits(good=GOOD)
    audits.broken = True
    triage = triager(audits)
    with pytest.raises(StorageError):
        triage([answered("a", release="good")])
    audits.broken = False
    assert len(triage([answered("a", release="good")])) == 1


def counted(decision: str) -> float:
    labels = {"task": "questions", "decision": decision}
    return REGISTRY.get_sample_value("flywheel_triage_decisions_total", labels) or 0.0
