"""A language model that is brought in is compared with what transformers computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from tiny_llm import LABELS, PROMPT, make_llm, make_writer, written_by

from flywheel.contracts.chat import Chat
from flywheel.contracts.model_folder import (
    ModelDescription,
    digest_model_files,
    write_description,
)
from flywheel.errors import ArtefactError
from flywheel.turn.same_answers import Letters, by_transformers, check_served, compared
from flywheel.turn.same_texts import Written


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
    assert isinstance(witness, Letters)
    assert witness.witness.apart(served) < 1e-4
    check_served(witness, served, "a.tar")
    turned = [
        dict(zip(LABELS, [*list(row.values())[1:], row[LABELS[0]]], strict=True)) for row in served
    ]
    with pytest.raises(ArtefactError, match=r"a\.tar would be served otherwise than transformers"):
        check_served(witness, turned, "a.tar")


def test_what_a_model_writes_must_be_what_transformers_writes(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_writer(tmp_path / "writer")
    reference = by_transformers(folder, tmp_path / "bases")
    assert reference is not None
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    served = written_by(network, folder, reference.texts)
    assert len({one.text for one in served}) > 1
    assert reference.problem(served) is None
    check_served(reference, written_by(network.bfloat16(), folder, reference.texts), "a.tar")
    # An engine that leaves something of the architecture out.
    network = network.float()
    network.model.layers = torch.nn.ModuleList([network.model.layers[0]])
    other = written_by(network, folder, reference.texts)
    with pytest.raises(ArtefactError, match=r"a\.tar would be served otherwise .*it writes '"):
        check_served(reference, other, "a.tar")
    # One that leaves an answer empty, and one that goes on where it should end.
    empty = [msgspec.structs.replace(one, text="") for one in served]
    with pytest.raises(ArtefactError, match="it writes ''"):
        check_served(reference, empty, "a.tar")


def test_an_answer_that_ends_must_end_when_served() -> None:
    chat = cast(Chat, SimpleNamespace(answer=lambda text: [ord(letter) for letter in text]))
    end = 0
    own = Written("ab", (97, 98, end), ({97: 0.9}, {98: 0.8, 99: 0.15}, {end: 0.7, 100: 0.2}), True)
    assert own.apart(" ab\n", chat) == 0.0
    assert own.apart("abd", chat) == pytest.approx(0.5)
    assert own.apart("ac", chat) == pytest.approx(0.65)
    assert own.apart("x", chat) == pytest.approx(0.9)
    assert own.apart("a", chat) == pytest.approx(0.8), "it ends where it should go on"
    cut = Written("ab", (97, 98), ({97: 0.9}, {98: 0.8}), False)
    assert cut.apart("ab and more", chat) == 0.0
    assert Written("a\ufffd", (97, 200), ({97: 1.0}, {200: 1.0}), False).apart("aé", chat) == 0.0
    assert Written("a", (7,), ({7: 1.0},), False).apart("b", chat) is None


@pytest.mark.parametrize(
    ("values", "released", "said"),
    [
        ({"method": "w8a8"}, True, "nothing: its weights are stored as w8a8"),
        ({"method": "w4a16", "output": "text"}, True, "nothing: its weights are stored as w4a16"),
        ({"kind": "encoder"}, True, "nothing: every file is the one that was released"),
    ],
)
def test_other_models_are_not_compared_and_say_why(
    tmp_path: Path, values: dict[str, object], released: bool, said: str
) -> None:
    about = described(tmp_path, **values)
    assert by_transformers(tmp_path, tmp_path / "bases") is None
    assert compared(about, released).startswith(said)


def test_what_is_compared_is_said(tmp_path: Path) -> None:
    about = described(tmp_path)
    assert compared(about, released=True) == "probabilities of 4 texts"
    written = msgspec.structs.replace(about, output="text")
    assert compared(written, released=True) == "what it writes to 4 texts"
    encoder = msgspec.structs.replace(about, kind="encoder")
    assert compared(encoder, released=False) == "probabilities of 3 texts"


def test_a_model_that_transformers_cannot_compute_is_refused(tmp_path: Path) -> None:
    about = described(tmp_path)
    letters = {label: 10_000 + n for n, label in enumerate(LABELS)}
    write_description(tmp_path, msgspec.structs.replace(about, letters=letters))
    with pytest.raises(ArtefactError, match="trained with"):
        by_transformers(tmp_path, tmp_path / "bases")
