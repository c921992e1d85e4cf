"""What a turn is made of: the task's settings, and what its request changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flywheel.compression.config import CompressionSettings
from flywheel.contracts.ids import new_id, utc_now
from flywheel.ops.template import flywheel_toml
from flywheel.retraining.ports import Turn, TurnRequest
from flywheel.settings import TaskSettings, load_settings
from flywheel.turn.params import turn_params


def task(folder: Path, **values: object) -> TaskSettings:
    text = flywheel_toml("t", ["a", "b"], "models/base", model="llm", values=values)
    (folder / "flywheel.toml").write_text(text, "utf-8")
    return load_settings(folder, {}).task("t")


def params(
    settings: TaskSettings, *, start_from: str | None = None, **overrides: object
) -> dict[str, Any]:
    turn = Turn(
        turn_id=new_id(),
        task="t",
        state="running",
        stage="build",
        reason="test",
        started_at=utc_now(),
    )
    request = TurnRequest(
        request_id=new_id(), task="t", by="me", why="test", at=utc_now(), overrides=overrides
    )
    return turn_params(
        settings,
        turn,
        request,
        "7",
        parent_dataset=None,
        champion=None,
        engine="vllm",
        start_from=start_from,
    )


def test_a_merging_turn_merges_every_variant_and_pins_none(tmp_path: Path) -> None:
    settings = task(tmp_path, variants=["w8a8", "none"], **{"compression.pin": "w8a8"})
    made = CompressionSettings(**params(settings, merge=True)["compression"])
    assert made.variants == ("merged-w8a8", "merged-none")
    assert [made.recipe(name).merge for name in made.variants] == [True, True]
    assert [made.recipe(name).quantise for name in made.variants] == ["w8a8", "none"]
    assert not made.pin


def test_a_merging_turn_trains_as_the_turn_before_it(tmp_path: Path) -> None:
    settings = task(tmp_path)
    before, merging = params(settings), params(settings, merge=True)
    for stage in ("dataset", "training", "lora", "prompt", "labels"):
        assert before[stage] == merging[stage]


def test_a_drill_trains_badly_on_purpose(tmp_path: Path) -> None:
    made = params(task(tmp_path), drill="shuffled-labels")
    assert made["dataset"]["shuffle_labels"]
    assert made["lora"]["epochs"] == made["training"]["epochs"] == 1


def test_training_goes_on_from_the_champion_but_a_drill_does_not(tmp_path: Path) -> None:
    assert started(task(tmp_path)) == "t-champion"
    assert started(task(tmp_path), drill="shuffled-labels") is None
    assert started(task(tmp_path, **{"lora.warm_start": False})) is None


def started(settings: TaskSettings, **overrides: object) -> object:
    return params(settings, start_from="t-champion", **overrides)["start_from"]
