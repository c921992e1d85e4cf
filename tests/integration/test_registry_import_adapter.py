"""A LoRA release travels with its base: the same id, the same base, the same answers elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from llm_training_process import run
from registry_workspace import TASK, Loaded, Workspace
from tiny_encoder import labelled
from tiny_llm import LABELS, make_dataset, make_llm

from flywheel.bootstrap.importer import WorkspaceImporter
from flywheel.bootstrap.registry import request_import, stage_archive
from flywheel.contracts.dataset_folder import read_manifest
from flywheel.contracts.ids import utc_now
from flywheel.contracts.model_folder import read_description
from flywheel.evaluation.metrics import measure
from flywheel.registry.archive import export_release
from flywheel.registry.release_folder import BASES, RELEASES, assemble, verify_release

CONFIG = """\
[serving]
engine = "vllm"
[tasks.topics]
model = "llm"
title = "Topics"
labels = ["weather", "money", "food"]
[tasks.topics.training]
base_model = "tiny"
"""


class Adapted(Loaded):
    """An adapter on its base, answering in this process as an engine does: one letter a label."""

    def __init__(self, folder: Path, bases: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        about = read_description(folder)
        assert about.base is not None
        assert about.prompt is not None
        base = AutoModelForCausalLM.from_pretrained(bases / about.base.id)
        self._prompt = about.prompt
        self._model: Any = PeftModel.from_pretrained(base, str(folder)).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    def answers(self, texts: Sequence[str]) -> list[dict[str, float]]:  # type: ignore[override]
        import torch

        letters = [self._tokenizer.encode(a)[0] for a in self._prompt.answers.values()]
        found = []
        for text in texts:
            asked = self._tokenizer.apply_chat_template(
                self._prompt.messages(text), add_generation_prompt=True, tokenize=False
            )
            with torch.inference_mode():
                ids = self._tokenizer(asked, return_tensors="pt")["input_ids"]
                logits = self._model(input_ids=ids).logits[0, -1, letters]
            found.append(dict(zip(LABELS, torch.softmax(logits, -1).tolist(), strict=True)))
        return found


@contextmanager
def serve(folder: Path, bases: Path, labels: bool) -> Iterator[Adapted]:
    assert labels
    yield Adapted(folder, bases)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapter")
    make_llm(root / "tiny")
    assert run(make_dataset(root / "data"), root / "tiny", root / "model", root / BASES) == 0
    return root


def test_a_lora_release_travels_with_its_base(trained: Path, tmp_path: Path) -> None:
    here, there = (Workspace(tmp_path / name, CONFIG) for name in ("here", "there"))
    shutil.copytree(trained / BASES, here.settings.state / BASES)
    release = assemble(
        trained / "model",
        metrics=measure([], LABELS, 0.95),
        manifest=read_manifest(trained / "data"),
        to_root=here.settings.state / RELEASES,
        created_at=utc_now(),
        git_commit="abc",
        parent=None,
        gate_passed=True,
        gate_reason="first release",
        parts={"deployment": "vllm"},
    )
    export_release(Path(release.path), here.settings.state / BASES, tmp_path / "a.tar")
    there.hold_out(30)
    request_id, staged = stage_archive(there.settings, TASK, tmp_path / "a.tar")
    request_import(there.database, TASK, request_id, staged, by="ada", why="x", override=True)
    turn = there.turn(WorkspaceImporter(there.settings, there.database, serve))
    assert turn.release == release.release, turn.error
    description = verify_release(there.settings.state, release.release)
    assert description.base is not None
    assert [p.name for p in (there.settings.state / BASES).iterdir()] == [description.base.id]
    texts = [sample.text for sample in labelled(10, seed=4)]
    folders = [of.settings.state for of in (here, there)]
    one, two = (Adapted(f / RELEASES / release.release, f / BASES).answers(texts) for f in folders)
    assert one == two
    here.close()
    there.close()
