"""A language model that is brought in is compared with what transformers computes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tiny_llm import LABELS, PROMPT, make_llm

from flywheel.contracts.chat import Chat
from flywheel.contracts.model_folder import (
    ModelDescription,
    digest_model_files,
    write_description,
)
from flywheel.errors import ArtefactError
from flywheel.turn.same_answers import by_transformers, check_served


def described(folder: Path, **values: object) -> ModelDescription:
    make_llm(folder)
    fields: dict[str, object] = {
        "task": "topics",
        "labels": LABELS,
        "temperature": 2.0,
        "max_tokens": 200,
        "method": "none",
        "pooling": "mean",
        "base_model": "tiny",
        "dataset_version": "d",
        "files": digest_model_files(folder),
        "kind": "llm",
        "prompt": PROMPT,
        "letters": Chat.of_folder(folder, PROMPT).letters(LABELS),
    }
    about = ModelDescription(**(fields | values))  # type: ignore[arg-type]
    write_description(folder, about)
    return about


def test_what_serves_it_must_answer_as_transformers_does(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    about = described(tmp_path)
    witness = by_transformers(tmp_path, tmp_path / "bases")
    assert witness is not None
    network = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    chat = Chat.of_folder(tmp_path, PROMPT)
    served = []
    for text in witness.texts:
        ids, _ = chat.cut(text, 200)
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([ids])).logits[0, -1]
        rows = (logits[list(about.letters.values())] / 2.0).softmax(0).tolist()
        served.append(dict(zip(LABELS, rows, strict=True)))
    assert witness.apart(served) < 1e-4
    check_served(witness, served, "a.tar")
    turned = [
        dict(zip(LABELS, [*list(row.values())[1:], row[LABELS[0]]], strict=True)) for row in served
    ]
    with pytest.raises(ArtefactError, match=r"a\.tar would be served otherwise than transformers"):
        check_served(witness, turned, "a.tar")


@pytest.mark.parametrize("values", [{"output": "text"}, {"method": "w8a8"}, {"kind": "encoder"}])
def test_other_models_are_not_compared(tmp_path: Path, values: dict[str, object]) -> None:
    described(tmp_path, **values)
    assert by_transformers(tmp_path, tmp_path / "bases") is None


def test_a_model_that_transformers_cannot_compute_is_refused(tmp_path: Path) -> None:
    about = described(tmp_path)
    letters = {label: 10_000 + n for n, label in enumerate(LABELS)}
    write_description(tmp_path, msgspec.structs.replace(about, letters=letters))
    with pytest.raises(ArtefactError, match="trained with"):
        by_transformers(tmp_path, tmp_path / "bases")
