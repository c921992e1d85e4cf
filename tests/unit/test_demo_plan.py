"""What the demo configures for each engine and kind of model is a valid workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.demo.data import LABELS, TASK
from flywheel.demo.plan import Plan, make_plan
from flywheel.demo.workspace import VALUES
from flywheel.ops.template import flywheel_toml
from flywheel.settings import FlywheelSettings, load_settings


def plan(workspace: Path, engine: str | None, model: str, **values: object) -> Plan:
    return make_plan(
        workspace,
        engine=engine,
        model=model,
        turns=None,
        drill=True,
        expert="simulated",
        holdout=None,
        values=values,
    )


def settings(made: Plan) -> FlywheelSettings:
    text = flywheel_toml(
        TASK,
        list(LABELS),
        "models/base",
        label_titles=LABELS,
        model=made.model,
        values={**VALUES, **made.values},
    )
    (made.workspace / "flywheel.toml").write_text(text, "utf-8")
    return load_settings(made.workspace, {})


@pytest.mark.parametrize(
    ("engine", "model", "served_by"),
    [
        (None, "encoder", "embedded"),
        ("embedded", "encoder", "embedded"),
        ("vllm", "encoder", "vllm"),
        (None, "llm", "vllm"),
    ],
)
def test_each_way_is_a_valid_workspace(
    tmp_path: Path, engine: str | None, model: str, served_by: str
) -> None:
    found = settings(plan(tmp_path, engine, model))
    assert found.serving.engine == served_by
    assert found.task(TASK).model == model
    assert found.task(TASK).labels == tuple(LABELS)


def test_a_language_model_is_told_every_label_and_answers_with_one_letter(tmp_path: Path) -> None:
    prompt = settings(plan(tmp_path, None, "llm")).task(TASK).release_prompt
    assert prompt is not None
    assert set(prompt.answers) == set(LABELS)
    assert len(set(prompt.answers.values())) == len(LABELS)
    for label, letter in prompt.answers.items():
        assert len(letter) == 1
        assert f"{letter}: {LABELS[label]}" in prompt.system
    assert prompt.max_answer_tokens == 1


def test_given_values_win_over_the_plans_own(tmp_path: Path) -> None:
    made = plan(tmp_path, "vllm", "encoder", serving_ports=[9001, 9002], **{"vllm.threads": 1})
    found = settings(made)
    assert found.serving.ports == (9001, 9002)
    assert found.serving.vllm.threads == 1
