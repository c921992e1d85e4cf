"""Evidence on free text: an answer is right when it says the same, on both databases."""

from __future__ import annotations

import pytest
from audits import audits_of
from rollout_evidence import arms_of, pairs_of
from storage_events import TASK, label, settled, shadow, traffic

from storage.database import Database

TEXT = {"output": "On its WAY", "scores": {}, "confidence": 0.8}
CHAMPION = {"release": "r1", "arm": "champion", "rollout_id": "rollout"}


@pytest.mark.parametrize(
    ("truth", "right"), [("on  its way", True), ("On its WAY", True), ("on its way.", False)]
)
def test_an_arm_is_right_whatever_the_spelling(database: Database, truth: str, right: bool) -> None:
    with database.transaction() as tx:
        served = traffic("s", **(CHAMPION | TEXT))
        tx.label_intake.record_samples([served])
        tx.evidence_intake.record([served])
        tx.evidence_intake.record([shadow("s", **(TEXT | {"output": "Lost"}))])
        tx.evidence_intake.record([settled("s", truth)])
    with database.transaction(read_only=True) as tx:
        [pair] = pairs_of(tx.evidence, "rollout")
        champion, _ = arms_of(tx.evidence, "rollout")
        [audit] = audits_of(tx.audits, TASK, "r1")
    assert (pair.champion_correct, pair.challenger_correct) == (right, False)
    assert (champion.audited, champion.correct) == (1, int(right))
    assert audit.correct is right


def test_a_label_is_right_to_the_letter(database: Database) -> None:
    with database.transaction() as tx:
        served = traffic("s", output="a", **CHAMPION)
        tx.label_intake.record_samples([served])
        tx.evidence_intake.record([served])
        tx.evidence_intake.record([shadow("s", output="A", scores={"A": 1.0})])
        tx.evidence_intake.record([settled("s", "A")])
    with database.transaction(read_only=True) as tx:
        [pair] = pairs_of(tx.evidence, "rollout")
        [audit] = audits_of(tx.audits, TASK, "r1")
    assert (pair.champion_correct, pair.challenger_correct) == (False, True)
    assert not audit.correct


def test_a_source_is_corrected_only_by_what_says_otherwise(database: Database) -> None:
    long = "A very long answer. " * 400
    with database.transaction() as tx:
        samples = [traffic(f"s{n}", n, source="app", **TEXT) for n in range(3)]
        tx.label_intake.record_samples(samples)
        tx.label_intake.record_settlements(
            [settled("s0", "on its  way"), settled("s1", "Lost"), settled("s2", long)]
        )
        tx.label_intake.record_labels([label("s0", "ON ITS WAY", "user", 9)])
    with database.transaction(read_only=True) as tx:
        [history] = tx.overview.source_history(TASK)
        watermark = tx.labels.watermark(TASK)
        assert watermark is not None
        kept = {row.sample_id: row.label for row in tx.labels.settled(TASK, watermark)}
    assert (history.expert_labels, history.corrections) == (3, 2)
    assert kept == {"s0": "on its  way", "s1": "Lost", "s2": long}
