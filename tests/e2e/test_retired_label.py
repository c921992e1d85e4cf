"""A label is taken out while the champion has it: real turns, to a release that knows it no more.

A tiny encoder; everything else is what production runs, stage by stage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from registry_workspace import TASK, Workspace
from tiny_encoder import make_encoder

from flywheel.contracts.dataset_folder import read_manifest, read_part
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.layout import PREDICTIONS_FILE
from flywheel.contracts.model_folder import read_description
from flywheel.errors import ConfigurationError
from flywheel.evaluation.answered import read_predictions
from flywheel.ops.workspace import make_repository
from flywheel.registry.release_folder import SERVED
from flywheel.retraining.ports import Turn, TurnRequest
from flywheel.rollout.ports import Command, Rollout
from flywheel.serving.runtime import load_classifier
from flywheel.turn.contradictions import check_running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning"),
]

CONFIG = """\
[tasks.topics]
title = "Topics"
{labels}
[tasks.topics.training]
base_model = "encoder"
learning_rate = 3e-3
head_learning_rate_factor = 3.0
epochs = 6
min_steps = 60
threads = 1
max_tokens = 32
train_embeddings = true
[tasks.topics.compression]
variants = ["int8-dynamic"]
measure_seconds = 0.0
[tasks.topics.gate]
max_regression = 0.1
"""
ALL = 'labels = ["weather", "money", "food"]'
LESS = 'labels = ["weather", "money"]'
RETIRED = f'{LESS}\nretired_labels = ["food"]'


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[[str], Workspace]:
    make_encoder(tmp_path / "encoder")

    def configured(labels: str) -> Workspace:
        (tmp_path / "flywheel.toml").write_text(CONFIG.format(labels=labels), "utf-8")
        return Workspace(tmp_path)

    return configured


def retrained(workspace: Workspace) -> Turn:
    """A turn that somebody asked for, made by the trainer as at its start."""
    check_running(workspace.settings, workspace.database)
    request_id = new_id()
    with workspace.database.transaction("cli") as tx:
        tx.turns.request(
            TurnRequest(request_id=request_id, task=TASK, by="ada", why="labels", at=utc_now())
        )
    workspace.trainer().step()
    with workspace.database.transaction(read_only=True) as tx:
        (turn, *_) = tx.turns.history(TASK)
    assert turn.turn_id == request_id
    assert turn.state == "succeeded", turn.error
    return turn


def running(workspace: Workspace) -> Rollout | None:
    with workspace.database.transaction(read_only=True) as tx:
        return tx.rollouts.active(TASK)


def champion(workspace: Workspace) -> str | None:
    with workspace.database.transaction(read_only=True) as tx:
        return tx.rollouts.champion(TASK)


def test_a_retired_label_leaves_with_the_next_release(
    workspace: Callable[[str], Workspace],
) -> None:
    here = workspace(ALL)
    make_repository(here.settings)
    here.hold_out(60)
    here.hold_out(240, seed=6, split="train")
    first = retrained(here)
    here.control(3)
    assert first.release is not None
    assert champion(here) == first.release
    here.close()

    here = workspace(LESS)
    with pytest.raises(ConfigurationError, match=r"answers with 'food'.*retired_labels"):
        check_running(here.settings, here.database)
    here.close()

    here = workspace(RETIRED)
    second = retrained(here)
    assert second.release not in (None, first.release)
    assert second.release is not None
    data = here.settings.workspace / "data" / TASK
    assert read_manifest(data).left_out["label retired"] == 100
    assert {line.label for line in read_part(data, "holdout")} == {"weather", "money"}
    folder = here.folder(second.release)
    assert set(read_description(folder).labels) == {"weather", "money"}
    assert set(load_classifier(folder, 1).predict(["rain"])[0]) == {"weather", "money"}
    assert len(read_predictions(folder / PREDICTIONS_FILE)) == 40
    with here.database.transaction(read_only=True) as tx:
        record = tx.releases.get(second.release)
    assert record is not None
    assert record.gate_passed
    assert "first" not in record.gate_reason, "it was compared with the champion"
    assert record.recipe[SERVED]["labels"] == ["weather", "money"]

    here.control(3)
    rollout = running(here)
    assert rollout is not None
    assert (rollout.challenger, rollout.champion) == (second.release, first.release)
    assert rollout.state == "canary"
    check_running(here.settings, here.database)
    promote = Command(
        command_id=new_id(),
        task=TASK,
        kind="promote",
        by="ada",
        why="the label is gone",
        at=utc_now(),
        rollout_id=rollout.rollout_id,
        revision=rollout.revision,
    )
    with here.database.transaction("cli") as tx:
        tx.commands.add(promote)
    here.control(1)
    assert champion(here) == second.release
    here.close()

    # Nobody answers with it any longer: what is left out of training stays named.
    here = workspace(RETIRED)
    check_running(here.settings, here.database)
    here.close()

    # It goes back: the model is the first one again, which is said.
    here = workspace(ALL)
    third = retrained(here)
    assert third.release is None
    assert f"{first.release} is registered here already" in (third.error or "")
    here.control(1)
    assert running(here) is None
    here.close()
