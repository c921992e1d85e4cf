"""What the latency evidence says of arms of which one is a LoRA adapter."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from release_records import release_record
from rollout_memory import START, MemoryDatabase, arm, pairs

from flywheel.contracts.model_folder import MERGED
from flywheel.contracts.release import Release
from flywheel.rollout.analysis.adapter import adapter_note, served_as
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.ports import Rollout
from flywheel.rollout.view import rollout_view


def row(name: str, p95: float | None, *, method: str = "w8a8", merged: bool = False) -> Any:
    speed = None if p95 is None else {"p95_ms": p95, "p50_ms": p95 / 2}
    return {"name": name, "method": method, "steps": [MERGED] if merged else [], "speed": speed}


def release(name: str, chosen: str | None, *rows: Any, lora: bool = True) -> Release:
    return release_record(
        name,
        "t",
        metrics={"comparison": {"chosen": chosen, "rows": list(rows)}} if chosen else {},
        recipe={"lora": {"rank": 8}} if lora else {},
    )


ADAPTER = release("adapter", "w8a8", row("none", 90.0, method="none"), row("w8a8", 40.0))
MERGED_ONE = release("merged", "merged-w8a8", row("merged-w8a8", 25.0, merged=True))
BOTH = release(
    "both",
    "w8a8",
    row("none", 90.0, method="none"),
    row("w8a8", 39.0),
    row("merged-w8a8", 30.0, merged=True),
)


def test_how_a_release_is_served() -> None:
    assert served_as(ADAPTER) == "adapter"
    assert served_as(MERGED_ONE) == "complete"
    assert served_as(release("encoder", "int8", row("int8", 5.0), lora=False)) == "complete"
    assert served_as(release("old", None)) is None
    assert served_as(None) is None


@pytest.mark.parametrize(
    ("champion", "challenger"),
    [(ADAPTER, BOTH), (MERGED_ONE, MERGED_ONE), (None, ADAPTER), (release("old", None), ADAPTER)],
)
def test_arms_that_are_served_alike_or_unknown_need_no_note(
    champion: Release | None, challenger: Release
) -> None:
    assert adapter_note(champion, challenger) == ""


def test_the_price_is_that_of_the_same_weights_in_the_releases_own_table() -> None:
    note = adapter_note(MERGED_ONE, BOTH)
    assert note.startswith("the challenger is served as a LoRA adapter beside its base")
    assert "1.30 times as long as an adapter" in note
    assert "w8a8 39 ms against merged-w8a8 30 ms" in note
    assert "tasks.NAME.compression.variants" in note
    back = adapter_note(BOTH, MERGED_ONE)
    assert back.startswith("the champion is served as a LoRA adapter")
    assert "1.30 times" in back
    assert "compression.variants" not in back


@pytest.mark.parametrize("p95", [None, 0.0])
def test_a_price_that_nobody_measured_is_not_made_up(p95: float | None) -> None:
    unmeasured = release("u", "w8a8", row("w8a8", 40.0), row("m", p95, merged=True))
    assert "by how much was not measured" in adapter_note(MERGED_ONE, ADAPTER)
    assert "by how much was not measured" in adapter_note(
        release("m", "m", row("m", None, merged=True)), unmeasured
    )


def test_people_read_it_beside_the_latency_of_a_rollout() -> None:
    database = MemoryDatabase()
    database.state.registry = {"merged": MERGED_ONE, "both": BOTH}
    database.state.arms = (arm(200), arm(200))
    database.state.pairs = pairs([0] * 50)
    rollout = Rollout(
        rollout_id="r", task="t", champion="merged", challenger="both", state="canary", step=0,
        share=0.5, steps=(0.5,), started_at=START, step_started_at=START,
    )  # fmt: skip
    now = START + timedelta(minutes=1)
    with database.transaction() as tx:
        noted = rollout_view(tx, rollout, RolloutSettings(), now)
    database.state.registry = {}
    with database.transaction() as tx:
        plain = rollout_view(tx, rollout, RolloutSettings(), now)
    changed = [a.name for a, b in zip(noted.checks, plain.checks, strict=True) if a != b]
    assert changed == ["latency", "latency"]
    for check, before in zip(noted.checks, plain.checks, strict=True):
        if check.name == "latency":
            assert check.words.startswith(before.words)
            assert "1.30 times" in check.words
            assert check.outcome == before.outcome
