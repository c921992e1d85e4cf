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
from tiny_llm import LABELS, make_dataset, make_llm, make_writer, written_by

from flywheel.compression.config import Recipe
from flywheel.compression.llm import make_llm_variant
from flywheel.contracts.chat import Chat
from flywheel.contracts.dataset_folder import read_manifest
from flywheel.contracts.ids import utc_now
from flywheel.contracts.layout import BASES, RELEASES
from flywheel.contracts.model_folder import read_description
from flywheel.contracts.release import Release
from flywheel.errors import ArtefactError
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice, FreeText
from flywheel.registry.archive import export_release
from flywheel.registry.release_folder import assemble, verify_release
from flywheel.serving.engine import Generated
from flywheel.turn.importer import WorkspaceImporter
from flywheel.turn.same_answers import by_transformers, check_served
from flywheel.turn.staging import request_import, stage_archive

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
        self._prompt, self._room = about.prompt, about.max_tokens
        self._model: Any = PeftModel.from_pretrained(base, str(folder)).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    def answers(self, texts: Sequence[str]) -> list[dict[str, float]]:  # type: ignore[override]
        import torch

        chat = Chat(self._tokenizer, self._prompt)
        # release.json has its answers in the order of the alphabet.
        letters = [self._tokenizer.encode(self._prompt.answers[one])[0] for one in LABELS]
        found = []
        for text in texts:
            ids, _ = chat.cut(text, self._room)
            with torch.inference_mode():
                logits = self._model(input_ids=torch.tensor([ids])).logits[0, -1, letters]
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


def released(trained: Path, tmp_path: Path) -> tuple[Workspace, Release]:
    """A workspace with the adapter as a release, and that."""
    here = Workspace(tmp_path / "here", CONFIG)
    shutil.copytree(trained / BASES, here.settings.state / BASES)
    release = assemble(
        trained / "model",
        metrics=measure([], Choice(LABELS), 0.95),
        manifest=read_manifest(trained / "data"),
        to_root=here.settings.state / RELEASES,
        created_at=utc_now(),
        git_commit="abc",
        parent=None,
        gate_passed=True,
        gate_reason="first release",
        parts={"deployment": "vllm"},
    )
    export_release(here.folder(release.release), here.settings.state / BASES, tmp_path / "a.tar")
    return here, release


def test_a_lora_release_travels_with_its_base(trained: Path, tmp_path: Path) -> None:
    here, release = released(trained, tmp_path)
    there = Workspace(tmp_path / "there", CONFIG)
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


class Another(Adapted):
    """An engine that computes another network: what an architecture adds is left out."""

    def answers(self, texts: Sequence[str]) -> list[dict[str, float]]:  # type: ignore[override]
        turned = LABELS[1:] + LABELS[:1]
        return [dict(zip(turned, found.values(), strict=True)) for found in super().answers(texts)]


class Rounded(Adapted):
    """One that computes with fewer digits."""

    def answers(self, texts: Sequence[str]) -> list[dict[str, float]]:  # type: ignore[override]
        self._model = self._model.bfloat16()
        return super().answers(texts)


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize(("engine", "refused"), [(Another, True), (Rounded, False)])
def test_what_serves_a_language_model_is_compared_with_transformers(
    trained: Path, tmp_path: Path, engine: type[Adapted], refused: bool, merged: bool
) -> None:
    model = trained / "model"
    if merged:
        model = tmp_path / "merged"
        recipe = Recipe(merge=True, quantise="none")
        make_llm_variant(
            "m", recipe, trained / "model", trained / "data", model, bases=trained / BASES
        )
    witness = by_transformers(model, trained / BASES)
    assert witness is not None
    served = engine(trained / "model", trained / BASES).answers(witness.texts)
    if not refused:
        check_served(witness, served, "a.tar")
        return
    with pytest.raises(ArtefactError, match=r"a.tar would be served otherwise.*0\.\d\d apart"):
        check_served(witness, served, "a.tar")


def test_an_adapter_that_an_engine_computes_otherwise_is_not_brought_in(
    trained: Path, tmp_path: Path
) -> None:
    here, _ = released(trained, tmp_path)
    here.close()
    there = Workspace(tmp_path / "there", CONFIG)
    there.hold_out(30)
    request_id, staged = stage_archive(there.settings, TASK, tmp_path / "a.tar")
    request_import(there.database, TASK, request_id, staged, by="ada", why="x", override=True)

    @contextmanager
    def otherwise(folder: Path, bases: Path, labels: bool) -> Iterator[Adapted]:
        yield Another(folder, bases)

    turn = there.turn(WorkspaceImporter(there.settings, there.database, otherwise))
    assert (turn.state, turn.release) == ("failed", None)
    assert "a.tar would be served otherwise than transformers computes it" in (turn.error or "")
    there.close()


WRITES = """\
[serving]
engine = "vllm"
[tasks.topics]
kind = "generation"
model = "llm"
title = "Topics"
[tasks.topics.training]
base_model = "tiny"
"""


class Writing(Loaded):
    """A model that writes, in this process; only ``layers`` of its are computed, as by an engine
    that doesn't know its architecture."""

    def __init__(self, folder: Path, layers: int) -> None:
        from transformers import AutoModelForCausalLM

        self._folder = folder
        self._network: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._network.model.layers = self._network.model.layers[:layers]

    def answers(self, texts: Sequence[str]) -> list[Generated]:  # type: ignore[override]
        return written_by(self._network, self._folder, texts)


@pytest.mark.parametrize(("layers", "refused"), [(2, False), (1, True)])
def test_a_model_that_writes_is_brought_in_as_transformers_computes_it(
    tmp_path: Path, layers: int, refused: bool
) -> None:
    here = Workspace(tmp_path / "here", WRITES)
    release = assemble(
        make_writer(tmp_path / "writer"),
        metrics=measure([], FreeText(), 0.95),
        manifest=read_manifest(make_dataset(tmp_path / "data")),
        to_root=here.settings.state / RELEASES,
        created_at=utc_now(),
        git_commit="abc",
        parent=None,
        gate_passed=True,
        gate_reason="first release",
        parts={"deployment": "vllm"},
    )
    export_release(here.folder(release.release), here.settings.state / BASES, tmp_path / "a.tar")
    here.close()
    there = Workspace(tmp_path / "there", WRITES)
    request_id, staged = stage_archive(there.settings, TASK, tmp_path / "a.tar")
    request_import(there.database, TASK, request_id, staged, by="ada", why="x", override=True)

    @contextmanager
    def serve(folder: Path, bases: Path, labels: bool) -> Iterator[Writing]:
        assert not labels
        yield Writing(folder, layers)

    turn = there.turn(WorkspaceImporter(there.settings, there.database, serve))
    if refused:
        assert (turn.state, turn.release) == ("failed", None)
        assert "a.tar would be served otherwise than transformers" in (turn.error or "")
    else:
        assert turn.release == release.release, turn.error
        with there.database.transaction(read_only=True) as tx:
            record = tx.releases.get(release.release)
        assert record is not None
        said = record.recipe["imported"]["compared_with_transformers"]
        assert said == "what it writes to 4 texts"
    there.close()
