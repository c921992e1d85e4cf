"""What an expert may read of why a sample is theirs, before they have answered it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from triage_samples import LABELS, answered

from flywheel.contracts.events import ReviewRequested
from flywheel.contracts.reasons import before_answering
from flywheel.kinds import Choice, FreeText
from flywheel.triage.config import ExpertRule, TriageSettings
from flywheel.triage.decide import TaskTriage, decide
from flywheel.triage.policy import AutoLabelPolicy, certify

SETTINGS = TriageSettings(
    uncertain_below=1.0,
    uncertain_share=1.0,
    rules=(ExpertRule(name="press", pattern="journalist", priority=99),),
)


def requests() -> Iterator[ReviewRequested]:
    """Every kind of request that triage makes, of answers of every confidence."""
    policy: AutoLabelPolicy = certify([], SETTINGS)
    for answers in (Choice(LABELS), FreeText()):
        task = TaskTriage.of(answers, SETTINGS, "salt")
        for index in range(400):
            text = "a journalist asks" if index % 7 == 0 else f"text {index}"
            event = answered(f"s{index}", 0.3 + 0.7 * index / 400, content=text)
            if not answers.scored:
                event = answered(f"t{index}", 0.1 + index / 500, content=text, scores={})
            made = decide(event, task, policy, {}).event
            if isinstance(made, ReviewRequested):
                yield made


def test_no_reason_of_triage_names_an_answer_or_how_sure_the_model_was() -> None:
    made = list(requests())
    assert {one.reason.split(":")[0] for one in made} == {"random audit", "rule", "unsure"}
    for one in made:
        shown = before_answering(one.reason, audit=one.audit)
        assert not [label for label in (*LABELS, one.prediction or "") if label in shown], one
        assert not any(letter.isdigit() for letter in shown), one
    shown = {before_answering(one.reason, audit=one.audit) for one in made}
    assert shown == {"random audit", "rule: press", "the model was unsure"}


@pytest.mark.parametrize("audit", [False, True])
@pytest.mark.parametrize(
    "reason",
    [
        "unsure: LOC 0.41 or NUM 0.38",
        "uncertain: confidence 0.41 is below 0.62",
        "LOC was the answer",
        "random audit of LOC",
        "",
    ],
)
def test_a_reason_that_is_not_known_is_not_shown(reason: str, audit: bool) -> None:
    shown = before_answering(reason, audit=audit)
    assert shown == ("random audit" if audit else "the model was unsure")
