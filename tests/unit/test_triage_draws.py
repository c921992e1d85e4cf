"""Draws: no client can choose what is audited, and tasks draw by themselves."""

from __future__ import annotations

import math
import re
from pathlib import Path

from triage_samples import LABELS, answered

from flywheel.contracts.ids import unit_fraction
from flywheel.kinds import Choice
from flywheel.triage.audit import drawn_for_audit
from flywheel.triage.config import TriageSettings
from flywheel.triage.decide import TaskTriage, decide, review_chance
from flywheel.triage.policy import AutoLabelPolicy

RATE = 0.1
SALTS = ("one secret", "another", "a third")
NOTHING_CERTIFIED = AutoLabelPolicy()


def drawn(ids: list[str], salt: str, task: str = "questions") -> set[str]:
    events = [answered(sample_id, task=task) for sample_id in ids]
    return {event.sample_id for event in events if drawn_for_audit(event, RATE, salt)}


def chosen(count: int, wanted: bool, *parts: str, last: bool = False) -> list[str]:
    """Ids that a hash of what clients know would (not) have drawn."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        name = f"id-{number}"
        key = (*parts, name) if last else (name, *parts)
        if (unit_fraction(*key) < RATE) is wanted:
            found.append(name)
        number += 1
    return found


def test_ids_chosen_by_any_hash_that_clients_know_are_drawn_like_others() -> None:
    for wanted in (True, False):
        for ids in (
            chosen(1000, wanted, "audit"),
            chosen(1000, wanted, "audit", "questions", last=True),
        ):
            for salt in SALTS:
                assert 60 <= len(drawn(ids, salt)) <= 140, "1,000 at a rate of 0.1"


def test_no_client_can_see_to_it_that_its_unsure_samples_are_not_asked_about() -> None:
    ids = [f"id-{n}" for n in range(9000) if unit_fraction(f"id-{n}", "unsure") > 0.9]
    for salt in SALTS:
        task = TaskTriage.of(
            Choice(LABELS), TriageSettings(audit_rate=1e-9, uncertain_share=0.5), salt
        )
        kinds = [decide(answered(one, 0.4), task, NOTHING_CERTIFIED, {}).kind for one in ids]
        assert kinds.count("unsure") > 0.3 * len(ids)


def test_tasks_do_not_draw_the_same_samples() -> None:
    ids = [f"id-{n}" for n in range(5000)]
    both = drawn(ids, "salt", "topic") & drawn(ids, "salt", "urgency")
    assert len(both) < 100, "about 50, if the two have nothing to do with each other"


def test_whoever_knows_the_salt_draws_alike_and_nobody_is_told_it() -> None:
    ids = [f"id-{n}" for n in range(500)]
    assert drawn(ids, "salt") == drawn(ids, "salt") != drawn(ids, "other salt")
    assert "the secret" not in repr(TaskTriage.of(Choice(LABELS), TriageSettings(), "the secret"))


def test_the_how_to_says_how_many_requests_it_takes_until_something_waits() -> None:
    how_to = Path(__file__).parents[2] / "docs" / "your-own-task.md"
    section = how_to.read_text("utf-8").partition("until something waits\n")[2]
    section = section.partition("\n## ")[0]
    rows = re.findall(
        r"^\| (\d+) %(?: \(`(\w+)`\))? \| (\d+) requests \| (\d+) \| (\d+) \|$", section, re.M
    )
    assert len(rows) == 4
    settings = TriageSettings()
    named = {}
    for percent, key, one_in, most, nearly_all in rows:
        share = int(percent) / 100
        assert int(one_in) == round(1 / share)
        assert int(most) == math.ceil(math.log(0.05) / math.log(1 - share))
        assert int(nearly_all) == math.ceil(math.log(0.01) / math.log(1 - share))
        named[key] = share
    assert named["audit_rate"] == settings.audit_rate
    assert named["rollout_audit_rate"] == settings.rollout_audit_rate
    assert f"`uncertain_below` ({settings.uncertain_below})" in section
    assert f"`uncertain_share`: with {settings.uncertain_share} about" in section
    assert round(review_chance(0.0, settings.uncertain_share), 3) == 0.1
    assert round(review_chance(1.0, settings.uncertain_share), 3) == 0.9
