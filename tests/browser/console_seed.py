"""Fills a database through its repositories as the agents, the trainer and the controller would."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from new_database import new_database

from flywheel.compression.compare import Comparison, Evidence, Speed, compare
from flywheel.contracts.events import (
    DatasetVersioned,
    LabelRecorded,
    LabelSettled,
    ReviewRequested,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.ids import new_id
from flywheel.contracts.release import Override, Release
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice
from flywheel.kinds.predictions import Prediction
from flywheel.retraining.ports import Turn
from flywheel.review.ports import Answer
from flywheel.rollout.ports import Rollout, Transition
from flywheel.settings import FlywheelSettings, TaskSettings
from storage.database import Database

TASK = "questions"
LABELS = ("abbreviation", "description", "entity", "human", "location", "number")
TITLES = {
    "abbreviation": "Abbreviation",
    "description": "Description or definition",
    "entity": "Thing, animal, language …",
    "human": "Person or group",
    "location": "Place",
    "number": "Number, date or amount",
}
_TEXTS = {
    "abbreviation": ["What does {} stand for ?", "What is the full form of {} ?"],
    "description": ["What is {} ?", "Why do people collect {} ?", "How does {} work ?"],
    "entity": ["What kind of animal is {} ?", "What language is spoken by {} ?"],
    "human": ["Who invented {} ?", "Who was the first to describe {} ?"],
    "location": ["Where is {} found ?", "What city is known for {} ?"],
    "number": ["How many {} are there ?", "When was {} first made ?", "How far away is {} ?"],
}
_THINGS = (
    "the printing press", "NAFTA", "a barometer", "the Danube", "penicillin", "origami",
    "the suspension bridge", "SOS", "a peregrine falcon", "the aqueduct", "amber", "the abacus",
    "Esperanto", "the metronome", "vulcanised rubber", "a solar eclipse", "the Rosetta Stone",
)  # fmt: skip


def console_settings(
    workspace: Path, *, lease_seconds: float = 300.0, **more: object
) -> FlywheelSettings:
    """Settings of a workspace with one task."""
    task = TaskSettings.model_validate(
        {
            "title": "Question type",
            "labels": LABELS,
            "label_titles": TITLES,
            "training": {"base_model": "encoder"},
            "review": {
                "guideline": "Choose what the answer would be, not what the question mentions.\n\n"
                "“What is NAFTA?” asks for a description; “What does NAFTA stand for?” for an "
                "abbreviation. A date, a distance or a price is a number.",
                "lease_seconds": lease_seconds,
            },
            "retraining": {"min_new_labels": 150},
        }
    )
    return FlywheelSettings(workspace=workspace, tasks={TASK: task}, **more)


@dataclass
class World:
    """The story that is told, and where its clock stands."""

    database: Database
    now: datetime
    random: random.Random = field(default_factory=lambda: random.Random(7))
    number: int = 0
    batch: list[object] = field(default_factory=list)

    def ago(self, minutes: float) -> datetime:
        return self.now - timedelta(minutes=minutes)


def seed(database: Database, now: datetime | None = None, *, running_turn: bool = False) -> World:
    """Three turns of the wheel: one promoted, one broken and rolled back, one on its way."""
    world = World(database, now or datetime.now(UTC))
    first, second = release_id(1), release_id(2)
    broken, third = release_id(3), release_id(4)
    _seed_labels(world, 60)
    _release(world, 1, None)
    _champion(world, first, 58)
    _traffic(world, 58, 44, 240, first, quality=0.79)
    _release(world, 2, 1)
    _rollout(
        world,
        "first",
        first,
        second,
        44,
        30,
        [("warming", 0, 44), ("shadow", 0, 43.6), ("canary", 0.05, 41), ("canary", 0.25, 38),
         ("canary", 0.5, 34), ("promoted", 0, 30)],
        "accuracy is proven within 5.0 points of the champion's: +7.1 points on 96 samples",
    )  # fmt: skip
    _traffic(world, 44, 30, 320, first, challenger=second, share=0.3, rollout="first",
             quality=0.79, better=0.88)  # fmt: skip
    _champion(world, second, 30)
    _traffic(world, 30, 22, 150, second, quality=0.88)
    _release(world, 3, 2)
    _rollout(
        world,
        "broken",
        second,
        broken,
        22,
        18,
        [("warming", 0, 22), ("shadow", 0, 21.7), ("canary", 0.05, 20), ("rolled_back", 0, 18)],
        "accuracy is proven worse than the champion's: −41.2 points on 34 audited samples",
    )
    _traffic(world, 22, 18, 190, second, challenger=broken, share=0.05, rollout="broken",
             quality=0.88, better=0.3)  # fmt: skip
    _traffic(world, 18, 12, 120, second, quality=0.88)
    _release(world, 4, 2)
    _rollout(
        world,
        "third",
        second,
        third,
        12,
        None,
        [("warming", 0, 12), ("shadow", 0, 11.7), ("canary", 0.05, 9), ("canary", 0.25, 5)],
        "",
    )
    _traffic(world, 12, 0.05, 420, second, challenger=third, share=0.25, rollout="third",
             quality=0.88, better=0.92)  # fmt: skip
    _turns(world, running_turn)
    return world


def champion_alone(database: Database) -> None:
    """A champion that has served all traffic so far; nothing was ever rolled out beside it."""
    world = World(database, datetime.now(UTC))
    _release(world, 1, None)
    _champion(world, release_id(1), 58)
    _traffic(world, 58, 1, 400, release_id(1), quality=0.79)


def pause(database: Database) -> None:
    """A person has held the running rollout for two minutes."""
    at = datetime.now(UTC) - timedelta(minutes=2)
    with database.transaction() as tx:
        held = msgspec.structs.replace(
            tx.rollouts.active(TASK),
            state="paused",
            resume_to="canary",
            step_started_at=at,
            reason="held by ada: the data centre moves",
        )
        change = Transition(
            rollout_id=held.rollout_id,
            at=at,
            state="paused",
            share=held.share,
            decided_by="ada",
            reason=held.reason,
        )
        tx.rollouts.save(held, change)


def release_id(number: int) -> str:
    return f"{TASK}-{random.Random(number).getrandbits(48):012x}"


def _champion(world: World, release: str, minutes: float) -> None:
    with world.database.transaction() as tx:
        tx.rollouts.set_champion(TASK, release, world.ago(minutes))


def _seed_labels(world: World, count: int) -> None:
    at = world.ago(61)
    with world.database.transaction() as tx:
        tx.label_intake.record_labels(
            [
                LabelRecorded(
                    event_id=new_id(),
                    occurred_at=at,
                    task=TASK,
                    sample_id=f"seed-{index:03d}",
                    value=LABELS[index % len(LABELS)],
                    source="seed",
                    annotator="seed",
                )
                for index in range(count)
            ]
        )


_ROWS = {
    1: (60, 0.792, 0.755, 0.826, 60, 0, None, True),
    2: (46, 0.871, 0.839, 0.898, 212, 95, 0.021, True),
    3: (24, 0.402, 0.359, 0.446, 371, 168, 0.024, False),
    4: (14, 0.913, 0.885, 0.936, 371, 168, 0.024, True),
}


def _release(world: World, number: int, parent: int | None) -> None:
    """A dataset of what is settled so far, and the release that was trained on it."""
    minutes, accuracy, low, high, expert, auto, error, passed = _ROWS[number]
    version = f"v-{random.Random(100 + number).getrandbits(40):010x}"
    commit = f"{random.Random(200 + number).getrandbits(160):040x}"
    override = Override(by="ada", why="fire drill: must be rolled back")
    with world.database.transaction() as tx:
        tx.datasets.add(
            DatasetVersioned(
                event_id=new_id(),
                occurred_at=world.ago(minutes + 1),
                task=TASK,
                version=version,
                parent=None,
                git_commit=commit,
                dvc_hash=f"{random.Random(300 + number).getrandbits(128):032x}",
                watermark=tx.labels.watermark(TASK) or "0",
                expert_labels=expert,
                auto_labels=auto,
                seed_labels=40,
                holdout_labels=500,
            )
        )
        tx.releases.add(
            Release(
                release=release_id(number),
                task=TASK,
                dataset_version=version,
                parent=release_id(parent) if parent else None,
                created_at=world.ago(minutes),
                git_commit=commit,
                accuracy=accuracy,
                accuracy_low=low,
                accuracy_high=high,
                size_bytes=23_412_096 + number * 51_200,
                expert_labels=expert,
                auto_labels=auto,
                seed_labels=40,
                auto_label_error=error,
                gate_passed=passed,
                gate_reason=f"accuracy {accuracy:.1%} is "
                + ("not worse than the champion’s by more than 2 points" if passed else "worse"),
                override=None if passed else override,
                metrics=_metrics(accuracy),
                recipe={"epochs": 4, "learning_rate": 1e-4, "method": "int8-dynamic"},
            )
        )


def _metrics(accuracy: float) -> dict[str, object]:
    """As evaluation writes them."""
    rnd = random.Random(accuracy)
    predictions = []
    for index in range(500):
        truth = LABELS[index % len(LABELS)]
        output, scores = _answer(rnd, truth, accuracy)
        predictions.append(
            Prediction(sample_id=str(index), label=truth, prediction=output, scores=scores)
        )
    return {
        **measure(predictions, Choice(LABELS), 0.95),
        "latency_p50_ms": 8.4,
        "latency_p95_ms": 14.9,
        "comparison": msgspec.to_builtins(_comparison(predictions)),
    }


def _comparison(predictions: Sequence[Prediction]) -> Comparison:
    """As compression writes it: one variant is no worse, one is, one could not be made."""
    right = tuple(one.correct for one in predictions)
    rows = [
        Evidence(
            name=name,
            method=name,
            bytes=size,
            right=tuple(ok and index >= lost for index, ok in enumerate(right)),
            speed=Speed(
                p50_ms=cost * 1.4,
                p95_ms=cost * 2.2,
                per_second=1000 / cost,
                in_flight=16,
                cost_ms=cost,
                memory_bytes=size * 3 + 300_000_000,
            ),
        )
        for name, size, cost, lost in (
            ("none", 90_868_000, 6.2, 0),
            ("int8-dynamic", 23_463_000, 2.4, 1),
            ("int8-static", 23_463_000, 2.1, 60),
        )
    ]
    rows.append(Evidence(name="w8a8", method="w8a8", failure="the embedded engine cannot serve it"))
    return compare(rows, margin=0.02, max_loss=0.03, engine="embedded")


def _rollout(
    world: World,
    name: str,
    champion: str,
    challenger: str,
    begun: float,
    ended: float | None,
    changes: Sequence[tuple[str, float, float]],
    reason: str,
) -> None:
    with world.database.transaction() as tx:
        step = -1
        for revision, (state, share, minutes) in enumerate(changes):
            step += state == "canary"
            last = ended is not None and (state, share, minutes) == changes[-1]
            why = {
                "warming": "loading on 2 model servers",
                "shadow": "answers on every model server",
                "canary": f"step {step + 1}: no loss of accuracy is proven; errors and latency "
                "within their margins",
            }.get(state, reason)
            tx.rollouts.save(
                Rollout(
                    rollout_id=name,
                    task=TASK,
                    champion=champion,
                    challenger=challenger,
                    state=state,
                    step=step,
                    share=share,
                    started_at=world.ago(begun),
                    step_started_at=world.ago(minutes),
                    ended_at=world.ago(ended) if last and ended is not None else None,
                    reason=why,
                    steps=(0.05, 0.25, 0.5),
                    revision=revision,
                ),
                Transition(
                    rollout_id=name,
                    at=world.ago(minutes),
                    state=state,
                    share=share,
                    decided_by="controller",
                    reason=why,
                ),
            )


def _traffic(
    world: World,
    begin: float,
    end: float,
    count: int,
    champion: str,
    *,
    quality: float,
    challenger: str | None = None,
    share: float = 0.0,
    rollout: str | None = None,
    better: float = 0.0,
) -> None:
    """``count`` requests between two moments (minutes ago), labelled and queued as triage would."""
    rnd = world.random
    traffic, shadows, labels, settled, reviews = [], [], [], [], []
    answers: list[Answer] = []
    for index in range(count):
        world.number += 1
        at = world.ago(begin + (end - begin) * (index + rnd.random()) / count)
        truth = rnd.choice(LABELS)
        sample = f"s-{world.number:05d}"
        text = rnd.choice(_TEXTS[truth]).format(rnd.choice(_THINGS))
        by_challenger = challenger is not None and rnd.random() < share
        release = challenger if by_challenger and challenger else champion
        output, scores = _answer(rnd, truth, better if by_challenger else quality)
        live = TrafficRecorded(
            event_id=new_id(),
            occurred_at=at,
            task=TASK,
            sample_id=sample,
            content=text,
            source=f"app-{index % 3}",
            unit=f"user-{world.number}",
            release=release,
            arm=("challenger" if by_challenger else "champion") if rollout else None,
            rollout_id=rollout,
            output=output,
            scores=scores,
            confidence=max(scores.values()),
            latency_ms=rnd.lognormvariate(2.2, 0.25),
        )
        traffic.append(live)
        if rollout and challenger:
            other, other_scores = _answer(rnd, truth, quality if by_challenger else better)
            shadows.append(
                ShadowRecorded(
                    event_id=new_id(),
                    occurred_at=at,
                    task=TASK,
                    sample_id=sample,
                    release=champion if by_challenger else challenger,
                    arm="champion" if by_challenger else "challenger",
                    rollout_id=rollout,
                    output=other,
                    scores=other_scores,
                    confidence=max(other_scores.values()),
                    latency_ms=rnd.lognormvariate(2.2, 0.25),
                )
            )
        audit = rnd.random() < (0.25 if rollout else 0.12)
        if audit or (live.confidence or 0) < 0.62:
            recent = (world.now - at) < timedelta(minutes=2.5)
            reviews.append(_review(live, audit))
            if not recent:
                answers.append(
                    Answer(
                        sample_id=sample,
                        annotator="ada",
                        value=truth,
                        answered_at=at + timedelta(seconds=40),
                        seconds=4.0,
                    )
                )
                settled.append(_settle(live, truth, audit))
        elif rnd.random() < 0.45:
            labels.append(_auto(live, output))
    with world.database.transaction() as tx:
        tx.label_intake.record_samples(traffic)
        tx.label_intake.record_labels(labels)
        tx.label_intake.record_settlements(settled)
        tx.evidence_intake.record_traffic(traffic)
        tx.evidence_intake.record_shadow(shadows)
        tx.evidence_intake.record_labels(settled)
        tx.intake.open(reviews)
        by_sample = {event.sample_id: event for event in settled}
        for answer in answers:
            tx.desk.answer(TASK, answer, by_sample[answer.sample_id])


def _answer(rnd: random.Random, truth: str, quality: float) -> tuple[str, dict[str, float]]:
    right = rnd.random() < quality
    output = truth if right else rnd.choice([label for label in LABELS if label != truth])
    top = rnd.betavariate(9, 1.2) if right else rnd.betavariate(3, 3)
    top = max(top, 0.3)
    rest = [rnd.random() for _ in LABELS[1:]]
    others = iter((1 - top) * part / sum(rest) for part in rest)
    return output, {label: top if label == output else next(others) for label in LABELS}


def _review(live: TrafficRecorded, audit: bool) -> ReviewRequested:
    confidence = live.confidence or 0.0
    return ReviewRequested(
        event_id=new_id(),
        occurred_at=live.occurred_at,
        task=TASK,
        sample_id=live.sample_id,
        content=live.text,
        reason="drawn uniformly at random, whatever the model said"
        if audit
        else f"uncertain: confidence {confidence:.2f} is below 0.62",
        priority=75.0 if audit else round(60 * (1 - confidence) + 20),
        inclusion_probability=0.25 if audit else 0.5,
        audit=audit,
        release=live.release,
        prediction=live.output,
        scores=live.scores,
        confidence=live.confidence,
        rollout_id=live.rollout_id,
        source=live.source,
    )


def _settle(live: TrafficRecorded, truth: str, audit: bool) -> LabelSettled:
    return LabelSettled(
        event_id=new_id(),
        occurred_at=live.occurred_at + timedelta(seconds=41),
        task=TASK,
        sample_id=live.sample_id,
        value=truth,
        annotators=("ada",),
        agreement=1.0,
        inclusion_probability=0.25 if audit else 0.5,
        audit=audit,
    )


def _auto(live: TrafficRecorded, output: str) -> LabelRecorded:
    return LabelRecorded(
        event_id=new_id(),
        occurred_at=live.occurred_at,
        task=TASK,
        sample_id=live.sample_id,
        value=output,
        source="auto",
        annotator="triage",
        confidence=live.confidence,
        release=live.release,
    )


def _turns(world: World, running: bool) -> None:
    with world.database.transaction() as tx:
        for number, minutes in ((1, 62), (2, 49), (4, 17)):
            tx.turns.save(
                Turn(
                    turn_id=f"turn-{number}",
                    task=TASK,
                    state="succeeded",
                    stage="register",
                    reason="152 new expert labels",
                    started_at=world.ago(minutes),
                    ended_at=world.ago(minutes - 2.2),
                    release=release_id(number),
                    seconds={"build": 2.1, "train": 81.4, "compress": 9.7, "evaluate": 21.3},
                )
            )
        if running:
            tx.turns.save(
                Turn(
                    turn_id="turn-5",
                    task=TASK,
                    state="running",
                    stage="compress",
                    reason="161 new expert labels",
                    started_at=world.ago(1.4),
                    seconds={"build": 2.2, "train": 77.0},
                )
            )


def opened(url: str, fill: Callable[[Database], object] | None = None) -> Database:
    """A migrated database, filled."""
    database = new_database(url)
    if fill is not None:
        fill(database)
    return database
