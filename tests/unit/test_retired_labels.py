"""A label that is taken out while releases still answer with it: kept, never asked, not trained."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from memory_audits import MemoryAuditLog
from triage_samples import answered, audit_events, audited

from flywheel.contracts.configuration import Contradiction
from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.events import LabelSettled
from flywheel.contracts.ids import new_id
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ConfigurationError, RejectedEvent
from flywheel.kinds import Choice
from flywheel.task_settings import TaskSettings
from flywheel.triage.config import TriageSettings
from flywheel.triage.triager import Triager
from streams.agents.acceptance import configured

LEFT = ("NUM", "HUM")  # of NUM, LOC and HUM
NEVER = TriageSettings(audit_rate=1e-9, uncertain_share=1e-9)


def triager(*retired: str) -> Triager:
    # Certified: whatever it is this sure of becomes a label by itself.
    audits = MemoryAuditLog(*audit_events("questions-abc", audited([0.5] * 100, [False] * 100)))
    return Triager(
        {"questions": (Choice(LEFT), NEVER)}, audits, salt="salt", retired={"questions": retired}
    )


def test_answers_with_it_are_no_dead_letters_and_no_labels() -> None:
    triage = triager("LOC")
    said = [answered(f"s{n}") for n in range(6)]
    for event in said:
        triage.accept(event)
    assert triage(said) == [], "LOC, of which nobody is asked any more, becomes no label"
    number = answered("n", output="NUM", scores={"NUM": 0.9, "LOC": 0.05, "HUM": 0.05})
    (label,) = triage([number])
    assert label.value == "NUM"  # type: ignore[union-attr]


def test_without_naming_it_they_are_rejected() -> None:
    with pytest.raises(RejectedEvent, match="LOC"):
        triager().accept(answered("s"))


def test_what_experts_had_settled_is_still_taken() -> None:
    settled = LabelSettled(
        event_id=new_id(), occurred_at=datetime(2026, 1, 1, tzinfo=UTC), task="questions",
        sample_id="s", value="LOC", annotators=("ada",), agreement=1.0,
        inclusion_probability=1.0, audit=False,
    )  # fmt: skip
    configured({"questions": Choice((*LEFT, "LOC"))})(settled)
    with pytest.raises(RejectedEvent):
        configured({"questions": Choice(LEFT)})(settled)


def samples() -> list[LabelledSample]:
    return [
        LabelledSample(
            sample_id=f"s{n}", content=f"text {n}", label=("NUM", "HUM", "LOC")[n % 3],
            source="expert", annotators=("ada",), split="holdout" if n < 9 else None,
            inclusion_probability=1.0, audit=False, settled_at=datetime(2026, 1, 1, tzinfo=UTC),
            event_id=f"e{n}",
        )
        for n in range(60)
    ]  # fmt: skip


def build(folder: Path, *retired: str):  # type: ignore[no-untyped-def]
    return build_dataset(
        samples(), DatasetSettings(), Choice(LEFT), task="questions", watermark="e99", parent=None,
        folder=folder, retired=retired,
    )  # fmt: skip


def test_samples_that_have_it_are_left_out_of_a_dataset_and_counted(tmp_path: Path) -> None:
    manifest = build(tmp_path, "LOC")
    assert manifest.left_out["label retired"] == 20
    for part in ("train", "calibration", "holdout"):
        assert {line.label for line in read_part(tmp_path, part)} <= set(LEFT)


def test_a_label_that_is_only_missing_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'LOC' \(20 samples\).*add the labels back.*"
                       r"tasks\.questions\.retired_labels"):  # fmt: skip
        build(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"labels": ("a", "b"), "retired_labels": ("b",)}, "labels does too"),
        (
            {"kind": "generation", "model": "llm", "retired_labels": ("b",)},
            "there are no labels",
        ),
    ],
)
def test_a_label_is_in_use_or_retired(values: dict[str, object], said: str) -> None:
    with pytest.raises((Contradiction, ValueError), match=said):
        TaskSettings(training={"base_model": "base"}, **values)  # type: ignore[arg-type]
