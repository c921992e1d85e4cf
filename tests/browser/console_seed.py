"""Fills a database through its repositories as the agents, the trainer and the controller would."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from console_releases import released, rolled_out, set_champion, turns
from console_world import LABELS, TASK, World, answered, release_id
from new_database import new_database

from flywheel.contracts.events import (
    LabelRecorded,
    LabelSettled,
    ReviewRequested,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.ids import new_id
from flywheel.review.ports import Answer
from flywheel.rollout.ports import Transition
from flywheel.settings import FlywheelSettings, TaskSettings
from storage.database import Database

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


def seed(database: Database, now: datetime | None = None, *, running_turn: bool = False) -> World:
    """Three turns of the wheel: one promoted, one broken and rolled back, one on its way."""
    world = World(database, now or datetime.now(UTC))
    first, second = release_id(1), release_id(2)
    broken, third = release_id(3), release_id(4)
    _seed_labels(world, 60)
    released(world, 1, None)
    set_champion(world, first, 58)
    _traffic(world, 58, 44, 240, first, quality=0.79)
    released(world, 2, 1)
    rolled_out(
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
    set_champion(world, second, 30)
    _traffic(world, 30, 22, 150, second, quality=0.88)
    released(world, 3, 2)
    rolled_out(
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
    released(world, 4, 2)
    rolled_out(
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
    turns(world, running_turn)
    return world


def champion_alone(database: Database) -> None:
    """A champion that has served all traffic so far; nothing was ever rolled out beside it."""
    world = World(database, datetime.now(UTC))
    released(world, 1, None)
    set_champion(world, release_id(1), 58)
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
        output, scores = answered(rnd, truth, better if by_challenger else quality)
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
            other, other_scores = answered(rnd, truth, quality if by_challenger else better)
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
        tx.evidence_intake.record(traffic)
        tx.evidence_intake.record(shadows)
        tx.evidence_intake.record(settled)
        tx.intake.open(reviews)
        by_sample = {event.sample_id: event for event in settled}
        for answer in answers:
            tx.desk.answer(TASK, answer, by_sample[answer.sample_id])


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


def opened(url: str, fill: Callable[[Database], object] | None = None) -> Database:
    """A migrated database, filled."""
    database = new_database(url)
    if fill is not None:
        fill(database)
    return database
