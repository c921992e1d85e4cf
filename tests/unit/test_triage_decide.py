"""What becomes of one answer: audit, review, label or nothing."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from triage_samples import LABELS, answered

from flywheel.contracts.events import LabelRecorded, ReviewRequested
from flywheel.contracts.ids import derived_id, new_id
from flywheel.errors import RejectedEvent
from flywheel.kinds import Choice
from flywheel.triage.config import ExpertRule, TriageSettings
from flywheel.triage.decide import (
    Decision,
    TaskTriage,
    decide,
    reject_unusable,
    review_chance,
    triaged,
)
from flywheel.triage.policy import AutoLabelPolicy

NOTHING_CERTIFIED = AutoLabelPolicy()
CERTIFIED = AutoLabelPolicy(threshold=0.8, bound=0.04, reason="error at most 4.0%")


def task(**settings: Any) -> TaskTriage:
    return TaskTriage.of(
        Choice(LABELS), TriageSettings(**({"audit_rate": 1e-9} | settings)), "salt"
    )


def kinds(decisions: list[Decision]) -> dict[str, int]:
    found: dict[str, int] = {}
    for decision in decisions:
        found[decision.kind] = found.get(decision.kind, 0) + 1
    return found


def test_audits_are_drawn_uniformly_whatever_the_release_said() -> None:
    many = [answered(f"s{i}", 0.99 if i % 2 else 0.4) for i in range(4000)]
    audits = [
        d for e in many if (d := decide(e, task(audit_rate=0.1), CERTIFIED, {})).kind == "audit"
    ]
    assert len(audits) == pytest.approx(400, abs=80)
    sure = sum(
        isinstance(d.event, ReviewRequested) and (d.event.confidence or 0) > 0.9 for d in audits
    )
    assert sure == pytest.approx(len(audits) / 2, abs=50)
    first = audits[0].event
    assert isinstance(first, ReviewRequested)
    assert first.audit
    assert first.inclusion_probability == 0.1
    assert first.reason == "random audit"
    priorities = {d.event.priority for d in audits if isinstance(d.event, ReviewRequested)}
    assert len(priorities) == 1, "audits must be labelled in no order that depends on the answer"


def test_a_reviewer_hears_what_the_release_did_not_read() -> None:
    event = msgspec.structs.replace(answered("s1", 0.4), tokens_cut=17)
    decision = decide(event, task(audit_rate=1.0), NOTHING_CERTIFIED, {})
    assert isinstance(decision.event, ReviewRequested)
    assert decision.event.tokens_cut == 17


def test_while_a_rollout_runs_more_is_audited_and_sooner() -> None:
    calm = task(audit_rate=0.05, rollout_audit_rate=1.0)
    event = answered("s", rollout_id="r1", arm="challenger")
    decision = decide(event, calm, CERTIFIED, {})
    assert isinstance(decision.event, ReviewRequested)
    assert decision.event.inclusion_probability == 1.0
    assert decision.event.rollout_id == "r1"
    usual = decide(answered("s"), task(audit_rate=1.0), CERTIFIED, {}).event
    assert isinstance(usual, ReviewRequested)
    assert decision.event.priority > usual.priority


def test_a_higher_rate_keeps_every_audit_of_a_lower_one() -> None:
    events = [answered(f"s{i}") for i in range(2000)]

    def drawn(rate: float) -> set[str]:
        settings = task(audit_rate=rate)
        return {e.sample_id for e in events if decide(e, settings, CERTIFIED, {}).kind == "audit"}

    assert drawn(0.05) < drawn(0.2) < drawn(0.5)


def test_rules_outrank_the_model_and_review_outranks_labels() -> None:
    rules = (
        ExpertRule(name="has a number", pattern=r"\d", label="NUM"),
        ExpertRule(name="legal", pattern="(?i)lawsuit", priority=85),
        ExpertRule(name="press", pattern="(?i)journalist", priority=99),
    )
    ruled = task(rules=rules)
    both = decide(answered("a", content="7 lawsuits, a journalist asks"), ruled, CERTIFIED, {})
    assert both.kind == "review_rule"
    assert isinstance(both.event, ReviewRequested)
    assert (both.event.reason, both.event.priority) == ("rule: press", 99)
    assert both.event.inclusion_probability == 1.0
    assert not both.event.audit
    labelled = decide(answered("b", content="who is 7"), ruled, CERTIFIED, {})
    assert isinstance(labelled.event, LabelRecorded)
    assert (labelled.event.value, labelled.event.source) == ("NUM", "rule")
    assert (labelled.event.annotator, labelled.event.confidence) == ("has a number", None)
    audited = decide(
        answered("c", content="lawsuit"), task(rules=rules, audit_rate=1.0), CERTIFIED, {}
    )
    assert audited.kind == "audit", "audits stay a uniform sample, rules or not"


def test_an_unsure_answer_goes_to_review_with_what_it_wavers_between() -> None:
    event = answered("s", 0.41, scores={"LOC": 0.41, "NUM": 0.38, "HUM": 0.21})
    decision = decide(event, task(uncertain_share=1.0), NOTHING_CERTIFIED, {})
    assert decision.kind == "unsure"
    assert isinstance(decision.event, ReviewRequested)
    assert decision.event.reason == "unsure: LOC 0.41 or NUM 0.38"
    assert 20 <= decision.event.priority <= 70
    assert decision.event.inclusion_probability == pytest.approx(1.0)
    assert not decision.event.audit


def test_the_temperature_of_the_audits_decides_what_is_unsure() -> None:
    event, picky = answered("s", 0.8), task(uncertain_share=1.0)
    assert decide(event, picky, NOTHING_CERTIFIED, {}).kind == "none"
    overconfident = AutoLabelPolicy(temperature=3.0)
    assert decide(event, picky, overconfident, {}).kind == "unsure"


def test_the_budget_of_unsure_samples_is_kept_and_spent_on_the_least_sure() -> None:
    scores = [0.34 + 0.36 * i / 3000 for i in range(3000)]
    events = [answered(f"s{i}", c) for i, c in enumerate(scores)]
    decided = [decide(e, task(uncertain_share=0.3), NOTHING_CERTIFIED, {}) for e in events]
    chosen = [d.kind == "unsure" for d in decided]
    assert sum(chosen) / len(chosen) == pytest.approx(0.3, abs=0.05)
    assert sum(chosen[:1000]) > sum(chosen[-1000:]) > 0
    estimate = sum(
        1 / d.event.inclusion_probability for d in decided if isinstance(d.event, ReviewRequested)
    )
    assert estimate == pytest.approx(3000, rel=0.1), "recorded chances weigh back to the whole"


# A share below 1e-307 is no share that anyone sets, and too small to be split further.
@given(st.floats(0, 1), st.floats(0, 1, allow_subnormal=False))
def test_a_review_chance_is_a_chance_and_none_is_left_out(score: float, share: float) -> None:
    chance = review_chance(score, share)
    assert -1e-12 <= chance <= 1 + 1e-12
    assert review_chance(0.5, share) == pytest.approx(share)
    if share > 0:
        assert chance > 0


def test_a_source_that_was_often_corrected_is_asked_about_more() -> None:
    events = [answered(f"s{i}", 0.6) for i in range(2000)]
    history = {"expert_labels": 50.0, "corrections": 40.0}
    plain = kinds([decide(e, task(), NOTHING_CERTIFIED, {}) for e in events])
    known = kinds([decide(e, task(), NOTHING_CERTIFIED, history) for e in events])
    assert known["unsure"] > 1.2 * plain["unsure"]


def test_only_a_certified_policy_labels() -> None:
    assert decide(answered("s", 0.95), task(), NOTHING_CERTIFIED, {}).kind == "none"
    decision = decide(answered("s", 0.95), task(audit_rate=0.01), CERTIFIED, {})
    assert isinstance(decision.event, LabelRecorded)
    assert (decision.event.source, decision.event.value) == ("auto", "LOC")
    assert decision.event.annotator == decision.event.release == "questions-abc"
    assert decision.event.confidence == 0.95
    assert decision.event.inclusion_probability == pytest.approx(0.99)
    assert decision.event.reason == "error at most 4.0%"
    assert decide(answered("s", 0.8), task(), CERTIFIED, {}).kind == "none", "strictly above"


def test_deciding_again_makes_the_same_events_with_ids_in_time_order() -> None:
    settings = task(audit_rate=0.2)
    events = [answered(f"s{i}", 0.3 + 0.7 * i / 500) for i in range(500)]
    first = [decide(e, settings, CERTIFIED, {}).event for e in events]
    again = [
        decide(msgspec.structs.replace(e), settings, CERTIFIED, {}).event for e in reversed(events)
    ]
    assert first == again[::-1]
    made = [e for e in first if e is not None]
    assert len({e.event_id for e in made}) == len(made)
    for source, event in zip(events, first, strict=True):
        if event is not None:
            assert UUID(event.event_id).version == 7
            assert event.occurred_at == source.occurred_at


def test_a_change_of_policy_between_deliveries_cannot_double_an_event() -> None:
    event = answered("s", 0.9)
    label = decide(event, task(), CERTIFIED, {}).event
    review = decide(event, task(audit_rate=1.0), CERTIFIED, {}).event
    other = decide(event, task(rules=(ExpertRule(name="x", pattern="where"),)), CERTIFIED, {}).event
    assert label is not None
    assert review is not None
    assert other is not None
    assert label.event_id != review.event_id
    assert review.event_id == other.event_id, "one review a sample, whatever the reason"


def test_derived_ids_sort_with_new_ones() -> None:
    from flywheel.contracts.ids import utc_now

    source = new_id()
    derived = derived_id(source, "label", utc_now())
    assert derived[:10] == source[:10]
    assert derived == derived_id(source, "label", utc_now()) or derived[:8] == source[:8]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"origin": "ingest"}, False),
        ({"status": 503, "error": "no model"}, False),
        ({"scores": {}}, False),
    ],
)
def test_what_is_triaged(change: dict[str, Any], expected: bool) -> None:
    assert triaged(answered("s", **change)) is expected


def test_foreign_events_are_refused_with_what_to_do() -> None:
    tasks = {"questions": task()}
    reject_unusable(answered("s"), tasks)
    with pytest.raises(RejectedEvent, match=r"no task 'mail'.*questions"):
        reject_unusable(answered("s", task="mail"), tasks)
    with pytest.raises(RejectedEvent, match="SPAM"):
        reject_unusable(answered("s", scores={"SPAM": 1.0}, output="SPAM"), tasks)
