"""Triage of generated text: what its confidence alone decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from audits import NoAudits

from flywheel.contracts.answers import LONGEST_TEXT
from flywheel.contracts.events import LabelRecorded, ReviewRequested, TrafficRecorded
from flywheel.contracts.ids import new_id
from flywheel.contracts.stores import AuditedPrediction
from flywheel.errors import RejectedEvent
from flywheel.kinds import Choice, FreeText
from flywheel.kinds.predictions import is_right
from flywheel.triage.config import ExpertRule, TriageSettings
from flywheel.triage.decide import TaskTriage, decide, triaged
from flywheel.triage.policy import AutoLabelPolicy, certify
from flywheel.triage.triager import Triager

AT = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING_CERTIFIED = AutoLabelPolicy()
CERTIFIED = AutoLabelPolicy(threshold=0.8, bound=0.04, reason="error at most 4.0%")


def task(**settings: Any) -> TaskTriage:
    return TaskTriage.of(FreeText(), TriageSettings(**({"audit_rate": 1e-9} | settings)), "salt")


def generated(sample_id: str, confidence: float = 0.9, **more: Any) -> TrafficRecorded:
    fields: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": AT,
        "task": "replies",
        "sample_id": sample_id,
        "content": f"where is {sample_id}",
        "release": "replies-abc",
        "output": f"{sample_id} is here",
        "confidence": confidence,
    }
    return TrafficRecorded(**(fields | more))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"output": ""}, True),
        ({"output": None}, False),
        ({"confidence": None}, False),
        ({"origin": "ingest"}, False),
        ({"status": 503, "output": None, "confidence": None}, False),
    ],
)
def test_what_is_triaged(change: dict[str, Any], expected: bool) -> None:
    event = generated("s", **change)
    assert triaged(event, task()) is expected
    labelled = TaskTriage.of(Choice(("a", "b")), TriageSettings(), "salt")
    assert not triaged(event, labelled), "a label without scores is no answer to triage"


def test_a_text_below_the_confidence_is_reviewed_the_less_sure_the_sooner() -> None:
    events = [generated(f"s{i}", 0.05 + 0.9 * i / 2000) for i in range(2000)]
    decided = [decide(e, task(uncertain_share=0.5), NOTHING_CERTIFIED, {}) for e in events]
    chosen = [d.event for d in decided if isinstance(d.event, ReviewRequested)]
    assert {d.kind for d in decided} == {"unsure", "none"}
    assert all((event.confidence or 0) < 0.7 for event in chosen)
    unsure = sum((event.confidence or 0) < 0.7 for event in events)
    assert len(chosen) / unsure == pytest.approx(0.5, abs=0.05)
    assert chosen[0].priority > chosen[-1].priority
    first = chosen[0]
    assert first.reason == f"unsure: confidence {first.confidence:.2f}"
    assert (first.prediction, first.scores) == (f"{first.sample_id} is here", {})


def test_rules_send_to_an_expert_or_give_their_text() -> None:
    rules = (
        ExpertRule(name="legal", pattern="lawsuit"),
        ExpertRule(name="greeting", pattern="^hello$", label="Hello! How can we help?"),
    )
    ruled = task(rules=rules)
    review = decide(generated("a", content="a lawsuit"), ruled, CERTIFIED, {})
    assert review.kind == "review_rule"
    label = decide(generated("b", content="hello"), ruled, CERTIFIED, {})
    assert isinstance(label.event, LabelRecorded)
    assert (label.event.value, label.event.source) == ("Hello! How can we help?", "rule")


@pytest.mark.parametrize("label", ["", " \n", "x" * (LONGEST_TEXT + 1)])
def test_a_rule_gives_no_text_that_cannot_be_one(label: str) -> None:
    with pytest.raises(ValueError, match="label of rule 'r'"):
        ExpertRule(name="r", pattern="x", label=label)


def test_only_a_certified_confidence_labels() -> None:
    assert decide(generated("s", 0.95), task(), NOTHING_CERTIFIED, {}).kind == "none"
    decision = decide(generated("s", 0.95), task(), CERTIFIED, {})
    assert isinstance(decision.event, LabelRecorded)
    assert (decision.event.source, decision.event.value) == ("auto", "s is here")
    assert decide(generated("s", 0.8), task(), CERTIFIED, {}).kind == "none", "strictly above"
    for useless in ("", "  ", "x" * (LONGEST_TEXT + 1)):
        assert decide(generated("s", 0.95, output=useless), task(), CERTIFIED, {}).kind == "none"


def audit(number: int, said: str, truth: str, confidence: float) -> AuditedPrediction:
    return AuditedPrediction(
        sample_id=f"a{number}",
        text=f"question {number}",
        prediction=said,
        label=truth,
        confidence=confidence,
        scores={},
        inclusion_probability=0.05,
        labelled_at=AT + timedelta(seconds=number),
        correct=is_right(said, truth, {}),
    )


def test_a_text_that_says_the_same_counts_as_right_for_the_certificate() -> None:
    settings = TriageSettings(auto_label_error=0.1)
    same = [audit(n, f"Answer  {n}", f"ANSWER {n}", 0.5 + n / 200) for n in range(80)]
    policy = certify(same, settings)
    assert (policy.errors, policy.temperature) == (0, 1.0)
    assert policy.accepts(0.9)
    others = [audit(n, f"answer {n}", f"another {n}", 0.5 + n / 200) for n in range(80)]
    assert not certify(others, settings).accepts(0.99)


def test_scores_are_foreign_to_a_task_of_free_text() -> None:
    triager = Triager(
        {"replies": (FreeText(), TriageSettings(audit_rate=1.0))}, NoAudits(), salt="salt"
    )
    triager.accept(generated("s"))
    [made] = triager([generated("s")])
    assert isinstance(made, ReviewRequested)
    assert made.audit
    with pytest.raises(RejectedEvent, match="no labels of task 'replies'"):
        triager.accept(generated("s", scores={"A": 1.0}))
