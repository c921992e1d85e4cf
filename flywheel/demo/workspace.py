"""The demo's workspace: its flywheel.toml and its two files of labelled questions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flywheel.contracts.layout import Layout
from flywheel.demo.data import LABELS, TASK, DemoData, Question
from flywheel.demo.plan import Plan
from flywheel.errors import WorkspaceError

GUIDELINE = "What does the question ask for? Choose the class of its answer, not of its words."

# A demo lasts minutes, not days: more is audited and fewer labels make a turn.
VALUES: Mapping[str, object] = {
    "guideline": GUIDELINE,
    "audit_rate": 0.3,
    "rollout_audit_rate": 0.5,
    "uncertain_share": 0.5,
    # Its expert errs in 3 % of answers, which count against the model: a stricter bound would
    # need more audits than a demo has.
    "auto_label_error": 0.15,
    "min_audits": 30,
    "min_new_labels": 180,
    "auto_labels_per_expert": 0.4,
    "steps": [0.1, 0.5],
    "min_requests": 20,
    # One training run on a few hundred labels differs from the next by more than a point.
    "max_regression": 0.04,
    # INT8 changes about one answer in a hundred of a model that saw a few hundred labels: a
    # thousand held-out samples do not prove that as a loss below one in a hundred.
    "compression.margin": 0.03,
    "min_labels": 40,
    "accuracy_margin": 0.08,
    # Two cores answer, train and judge at once here: a p95 means little at these rates.
    "latency_margin": 3.0,
    "max_minutes": 30,
}


def flywheel(workspace: Path, *arguments: str) -> str:
    """Run a `flywheel` command in the workspace, as a user would; its standard output.

    Raises WorkspaceError with what the command said when it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "flywheel", "-w", str(workspace), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise WorkspaceError(f"`flywheel {' '.join(arguments)}` failed: {said}")
    return done.stdout


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Labelled samples in the format that `flywheel ingest` reads."""
    with path.open("w", encoding="utf-8") as lines:
        for question in questions:
            lines.write(json.dumps({"text": question.text, "label": question.label}) + "\n")


def make_workspace(plan: Plan, data: DemoData) -> None:
    """`flywheel init` with the demo's configuration; one that is there already is kept."""
    workspace = plan.workspace
    workspace.mkdir(parents=True, exist_ok=True)
    write_questions(workspace / "seed.jsonl", data.seed)
    write_questions(workspace / "holdout.jsonl", data.holdout)
    base = data.encoder
    if plan.model == "llm":
        from flywheel.demo.llm_base import prepare_base

        base = prepare_base(Layout(workspace).base_models / "smollm2-135m-instruct")
    arguments = [
        "--task",
        TASK,
        "--title",
        "What does the question ask for?",
        "--base-model",
        str(base),
        "--model",
        plan.model,
    ]
    for label, title in LABELS.items():
        arguments += ["--label", f"{label}={title}"]
    for key, value in {**VALUES, **plan.values}.items():
        arguments += ["--set", f"{key}={json.dumps(value)}"]
    flywheel(workspace, "init", *arguments)
