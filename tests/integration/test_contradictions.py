"""flywheel.toml changed while releases serve: refused with the way out, or gone on with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka_fixture import free_port
from release_records import release_record

from flywheel.cli import cli
from flywheel.contracts.ids import utc_now
from flywheel.errors import ConfigurationError
from flywheel.ops.config_check import check
from flywheel.ops.template import flywheel_toml
from flywheel.rollout import transitions
from flywheel.rollout.config import RolloutSettings
from flywheel.settings import FlywheelSettings, load_settings
from flywheel.turn.contradictions import begin_with, check_running, departed
from storage.workspace import open_database

TASK = "species"
ENCODER = {"labels": ["animal", "plant"], "output": "label", "kind": "encoder"}


class Workspace:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.write()
        with open_database(self.settings):
            pass

    def write(self, *labels: str, task: str = TASK, more: str = "", **changes: str) -> None:
        """flywheel.toml with these labels (default: animal, plant) and what else is told."""
        text = flywheel_toml(
            task, list(labels or ("animal", "plant")), "base", values={"kafka_port": self.port}
        )
        head = f"[tasks.{task}]\n"
        assert text.count(head) == 1
        text = text.replace(head, head + more)
        for old, new in changes.items():
            # A task's prices have a model, too, before its training has one.
            *_, place = re.finditer(rf"^#? ?{old} = .*$", text, flags=re.MULTILINE)
            text = text[: place.start()] + new + text[place.end() :]
        (self.folder / "flywheel.toml").write_text(text, "utf-8")

    @property
    def settings(self) -> FlywheelSettings:
        return load_settings(self.folder, {})

    def serve(self, release: str, served: dict[str, Any]) -> None:
        """The release becomes champion, or begins its rollout beside one."""
        record = release_record(release, TASK, recipe={"served": served})
        with open_database(self.settings) as database, database.transaction("controller") as tx:
            tx.releases.add(record)
            tx.challengers.enqueue(TASK, release, utc_now(), True)
            transitions.begin(tx, TASK, release, RolloutSettings(), utc_now(), "test", "because")

    def problem(self) -> str:
        """Why the worker, trainer and controller would not start; empty when they do."""
        with open_database(self.settings) as database:
            try:
                check_running(self.settings, database)
            except ConfigurationError as error:
                return str(error)
        return ""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.serve("species-r1", ENCODER)
    assert made.problem() == ""
    return made


@pytest.mark.parametrize(
    "labels",
    [("animal", "fungus"), ("plant", "fungus"), ("Animal", "plant"), ("animals", "plants")],
    ids=["replaced", "another", "case", "renamed"],
)
def test_a_label_that_the_champion_answers_is_not_taken_out(
    workspace: Workspace, labels: tuple[str, ...]
) -> None:
    workspace.write(*labels)
    gone = [label for label in ("animal", "plant") if label not in labels]
    said = workspace.problem()
    assert said.startswith("tasks.species.labels: species-r1, the champion, answers with ")
    for label in gone:
        assert repr(label) in said
    assert "put " in said
    assert "retired_labels" in said
    with pytest.raises(ConfigurationError, match=r"tasks\.species\.labels"):
        begin_with(workspace.settings)
    assert any("tasks.species.labels" in str(found) for found in check(workspace.folder))


def test_up_refuses_before_it_starts_anything(workspace: Workspace) -> None:
    workspace.write("animal", "fungus")
    done = CliRunner().invoke(cli, ["-w", str(workspace.folder), "up"])
    assert isinstance(done.exception, ConfigurationError)
    assert "'plant'" in str(done.exception)


def test_a_label_of_a_running_challenger_stays_as_well(workspace: Workspace) -> None:
    workspace.write("animal", "plant", "fungus")
    workspace.serve("species-r2", ENCODER | {"labels": ["animal", "plant", "fungus"]})
    assert workspace.problem() == "", "labels may be added"
    workspace.write("animal", "plant")
    assert "species-r2, the challenger, answers with 'fungus'" in workspace.problem()


@pytest.mark.parametrize(
    "labels",
    [("animal", "plant", "fungus"), ("plant", "animal"), ("fungus", "plant", "animal")],
    ids=["added", "reordered", "both"],
)
def test_labels_may_be_added_and_reordered(workspace: Workspace, labels: tuple[str, ...]) -> None:
    workspace.write(*labels)
    assert workspace.problem() == ""


def test_a_retired_label_is_gone_on_with(workspace: Workspace) -> None:
    workspace.write("animal", "fungus", more='retired_labels = ["plant"]\n')
    assert workspace.problem() == ""
    assert not any("labels" in str(found) for found in check(workspace.folder))


def test_the_kind_of_a_task_does_not_change_under_its_champion(workspace: Workspace) -> None:
    workspace.serve("species-r2", {"labels": [], "output": "text", "kind": "llm"})
    said = workspace.problem()
    assert said.startswith("tasks.species.kind: it is 'classification', but species-r2")
    assert "a task of its own" in said


def test_a_champion_that_the_engine_cannot_serve_is_said(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.serve("species-r1", ENCODER | {"kind": "llm"})
    assert workspace.problem().startswith("serving.engine: it is 'embedded', which cannot serve")


def test_another_model_or_base_takes_effect_with_the_next_release(workspace: Workspace) -> None:
    workspace.write(base_model='base_model = "another"')
    assert workspace.problem() == ""
    workspace.write(engine='engine = "vllm"', model='model = "llm"', variants='variants = ["none"]')
    assert workspace.settings.task(TASK).model == "llm"
    assert workspace.problem() == "", "vLLM serves an encoder's champion too"


def test_a_task_is_not_taken_out_during_its_rollout(workspace: Workspace) -> None:
    workspace.serve("species-r2", ENCODER)
    workspace.write(task="other")
    said = workspace.problem()
    assert said.startswith("tasks.species: there is no such task any more, but its rollout of")
    assert "species-r2 against species-r1 is warming" in said
    assert "flywheel rollout rollback species" in said


def test_a_task_that_is_taken_out_after_its_rollout_is_said_and_not_refused(
    workspace: Workspace,
) -> None:
    workspace.write(task="other")
    assert workspace.problem() == ""
    (said,) = begin_with(workspace.settings)
    assert "task species is in flywheel.toml no longer, though species-r1 serves it" in said
    with open_database(workspace.settings) as database, database.transaction() as tx:
        assert departed(workspace.settings, tx) == [said]


def test_a_release_of_before_says_nothing_and_is_not_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with open_database(workspace.settings) as database, database.transaction("test") as tx:
        tx.rollouts.set_champion(TASK, "species-of-long-ago")
    assert workspace.problem() == ""
