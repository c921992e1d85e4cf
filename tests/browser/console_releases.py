"""Releases, rollouts and turns of the console's tests, as trainer and controller write them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
from console_world import LABELS, TASK, World, answered, release_id
from release_records import release_record

from flywheel.compression.compare import Comparison, Evidence, Speed, compare
from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.ids import new_id
from flywheel.contracts.release import Override
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice
from flywheel.kinds.predictions import Prediction
from flywheel.retraining.ports import Turn
from flywheel.rollout.ports import Rollout, Transition


def set_champion(world: World, release: str, minutes: float) -> None:
    with world.database.transaction() as tx:
        tx.rollouts.set_champion(TASK, release, world.ago(minutes))


_ROWS = {
    1: (60, 0.792, 0.755, 0.826, 60, 0, None, True),
    2: (46, 0.871, 0.839, 0.898, 212, 95, 0.021, True),
    3: (24, 0.402, 0.359, 0.446, 371, 168, 0.024, False),
    4: (14, 0.913, 0.885, 0.936, 371, 168, 0.024, True),
}


def released(world: World, number: int, parent: int | None) -> None:
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
            release_record(
                release_id(number),
                TASK,
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
        output, scores = answered(rnd, truth, accuracy)
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


def rolled_out(
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


def turns(world: World, running: bool) -> None:
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
