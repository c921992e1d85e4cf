"""A task that is answered with free text, and three samples that wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from release_records import release_record

from flywheel.contracts.events import LabelSettled, ReviewRequested, TrafficRecorded
from flywheel.contracts.ids import new_id
from flywheel.contracts.release import Release
from flywheel.evaluation.metrics import measure
from flywheel.kinds import FreeText
from flywheel.kinds.predictions import Prediction
from flywheel.settings import FlywheelSettings, TaskSettings
from storage.database import Database

TEXT_TASK = "replies"
AT = datetime(2026, 1, 1, tzinfo=UTC)
SAMPLES = (
    ("first", "Where is my parcel?", "It is\non its way.", 0.91),
    ("second", "I was charged twice", "We are sorry.", 0.42),
    ("third", "Do you sell <b>lamps</b>?", "", 0.2),
)


def text_settings(workspace: Path, **more: object) -> FlywheelSettings:
    task = TaskSettings.model_validate(
        {
            "kind": "generation",
            "model": "llm",
            "title": "Reply to a customer",
            "training": {"base_model": "base"},
            "review": {"guideline": "One friendly sentence."},
        }
    )
    return FlywheelSettings(
        workspace=workspace, tasks={TEXT_TASK: task}, serving={"engine": "vllm"}, **more
    )


def release() -> Release:
    answers = [("Hello there", "HELLO  there", 0.9), ("On its way", "Lost", 0.4)]
    predictions = [
        Prediction(sample_id=f"h{n}", label=label, prediction=said, scores={}, reported=sure)
        for n, (label, said, sure) in enumerate(answers)
    ]
    metrics = measure(predictions, FreeText(), 0.95)
    return release_record(
        "replies-1",
        TEXT_TASK,
        dataset_version="d-1",
        created_at=AT,
        accuracy=metrics["accuracy"],
        accuracy_low=metrics["accuracy_low"],
        accuracy_high=metrics["accuracy_high"],
        size_bytes=1_000_000,
        expert_labels=40,
        gate_reason="first release",
        metrics=metrics,
    )


def texts(database: Database) -> None:
    with database.transaction() as tx:
        tx.intake.open(
            [
                ReviewRequested(
                    event_id=new_id(),
                    occurred_at=AT + timedelta(minutes=n),
                    task=TEXT_TASK,
                    sample_id=name,
                    content=text,
                    reason="random audit",
                    priority=90 - n,
                    inclusion_probability=0.05,
                    audit=True,
                    release="replies-1",
                    prediction=prediction,
                    confidence=confidence,
                )
                for n, (name, text, prediction, confidence) in enumerate(SAMPLES)
            ]
        )
        tx.releases.add(release())
        traffic = TrafficRecorded(
            event_id=new_id(),
            occurred_at=AT,
            task=TEXT_TASK,
            sample_id="earlier",
            content="Hello?",
            release="replies-1",
            output="HELLO  there",
            confidence=0.8,
        )
        tx.label_intake.record_samples([traffic])
        tx.label_intake.record_settlements(
            [
                LabelSettled(
                    event_id=new_id(),
                    occurred_at=AT,
                    task=TEXT_TASK,
                    sample_id="earlier",
                    value="Hello there",
                    annotators=("ada",),
                    agreement=1.0,
                    inclusion_probability=1.0,
                    audit=False,
                )
            ]
        )
