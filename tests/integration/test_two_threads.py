"""Torch on two threads, as production runs it: it learns and answers what it does on one.

The rest of the tests have OMP_NUM_THREADS=1 and recipes of one thread, for workers share the cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from streams_harness import ROOT
from tiny_encoder import TOPICS, labelled, make_encoder
from vllm_models import bert_release

from flywheel.contracts.model_folder import Method
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.kinds import Choice

LABELS = tuple(TOPICS)
METHODS: tuple[Method, ...] = ("none", "int8-dynamic")
TEXTS = [f"What is number {n}? {'very ' * (n % 9)}far" for n in range(64)]
# What came of one thread and of two, by what was done.
CODE = """
import json, sys
from pathlib import Path
import torch
from flywheel.serving.runtime import load_classifier
from flywheel.training.config import TrainingSettings
from flywheel.training.train import train
root, (methods, labels, texts) = Path(sys.argv[1]), json.load(sys.stdin)
found = {name: [] for name in (*methods, "losses")}
for threads in (1, 2):
    for method in methods:
        answers = load_classifier(root / method, threads).predict(texts)
        assert torch.get_num_threads() == threads
        found[method].append([p for row in answers for p in row.values()])
    recipe = TrainingSettings(
        base_model=str(root / "base"), threads=threads, epochs=2, min_steps=10, max_tokens=32
    )
    found["losses"].append(train(root / "data", recipe, labels, root / f"{threads}").losses)
    assert torch.get_num_threads() == threads
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    root = tmp_path_factory.mktemp("threads")
    make_encoder(root / "base")
    build_dataset(
        labelled(60, holdout=12),
        DatasetSettings(),
        Choice(LABELS),
        task="topics",
        watermark="e000059",
        parent=None,
        folder=root / "data",
    )
    for method in METHODS:
        bert_release(root / method, method)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(root)],
        input=json.dumps([METHODS, LABELS, TEXTS]),
        env={name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
        # As production has it before torch is loaded: no thread spins while it waits.
        | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, list[list[float]]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("method", METHODS)
def test_a_release_answers_alike(found: dict[str, list[list[float]]], method: str) -> None:
    one, two = found[method]
    assert len(one) == len(TEXTS) * 3
    assert two == pytest.approx(one, abs=1e-4)


def test_training_takes_the_same_steps(found: dict[str, list[list[float]]]) -> None:
    one, two = found["losses"]
    assert len(one) > 1
    assert two == pytest.approx(one, rel=1e-3)
