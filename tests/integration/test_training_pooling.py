"""How a base pools its tokens is how it is trained and served, or it is refused by the part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
    WeightedLayerPooling,
)
from tiny_encoder import make_encoder

from flywheel.contracts.model_folder import (
    ModelDescription,
    digest_model_files,
    write_description,
)
from flywheel.contracts.text_tokens import read_tokens
from flywheel.errors import ConfigurationError
from flywheel.serving.runtime import load_classifier
from flywheel.training.base_encoder import load_base
from flywheel.training.encoder import EncoderClassifier, load_trained, save_model

LABELS = ("a", "b", "c")
TEXTS = ["rain", "the price of this bread and the loan near some cloud", "sun " * 40]
LONGEST = 24
MODES = ("cls", "mean", "max", "mean_sqrt_len_tokens", "lasttoken", "weightedmean")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def saved(encoder: Path, folder: Path, *modules: Any) -> Path:
    """A base as sentence-transformers saves it, with ``modules`` on its tokens."""
    first = Transformer(str(encoder))
    SentenceTransformer(modules=[first, *modules], device="cpu").save(str(folder))
    return folder


def features(model: EncoderClassifier, folder: Path) -> torch.Tensor:
    rows = []
    with torch.inference_mode():
        for made in read_tokens(folder, LONGEST)(TEXTS):
            ids = torch.tensor([made.ids])
            rows.append(model.eval().features(ids, torch.ones_like(ids))[0])
    return torch.stack(rows)


def encoded(folder: Path) -> torch.Tensor:
    sentences = SentenceTransformer(str(folder), device="cpu")
    sentences.max_seq_length = LONGEST
    return sentences.encode(TEXTS, convert_to_tensor=True)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_features_are_those_of_sentence_transformers(
    encoder: Path, tmp_path: Path, mode: str, normalise: bool
) -> None:
    more = [Dropout(0.1), Normalize()] if normalise else []
    base = saved(encoder, tmp_path / "base", Pooling(32, mode), *more)
    torch.manual_seed(0)
    model, _ = load_base(base, len(LABELS), LONGEST, tmp_path / "model")
    wanted = encoded(base)
    assert torch.allclose(features(model, tmp_path / "model"), wanted, atol=1e-5)
    # A padded batch pools the tokens alone.
    read = read_tokens(tmp_path / "model", LONGEST)(TEXTS)
    ids = torch.zeros((len(TEXTS), LONGEST), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, made in enumerate(read):
        ids[row, : len(made.ids)] = torch.tensor(made.ids)
        mask[row, : len(made.ids)] = 1
    with torch.inference_mode():
        assert torch.allclose(model.eval().features(ids, mask), wanted, atol=1e-5)
        logits = model(ids, mask)
    save_model(model, base, LABELS, tmp_path / "model")
    describe(tmp_path / "model", model)
    for row, given in zip(
        torch.softmax(logits, dim=-1).tolist(),
        load_classifier(tmp_path / "model", 1).predict(TEXTS),
        strict=True,
    ):
        assert list(given.values()) == pytest.approx(row, abs=1e-5)
    again, _ = load_trained(tmp_path / "model", LABELS)
    with torch.inference_mode():
        assert torch.allclose(again.eval()(ids, mask), logits, atol=1e-4)


def describe(folder: Path, model: EncoderClassifier) -> None:
    write_description(
        folder,
        ModelDescription(
            task="t",
            labels=LABELS,
            temperature=1.0,
            max_tokens=LONGEST,
            method="none",
            pooling=model.pooling,
            normalise=model.normalise,
            base_model="tiny",
            dataset_version="",
            files=digest_model_files(folder),
        ),
    )


def test_a_plain_bert_pools_the_mean(encoder: Path, tmp_path: Path) -> None:
    base = saved(encoder, tmp_path / "base", Pooling(32, "cls"))
    (base / "modules.json").unlink()
    model, _ = load_base(base, 3, LONGEST, tmp_path / "model")
    assert (model.pooling, model.normalise) == ("mean", False)
    assert torch.allclose(features(model, tmp_path / "model"), encoded(base), atol=1e-5)


@pytest.mark.parametrize(
    ("modules", "part"),
    [
        ([Pooling(32, ("cls", "mean"))], "Pooling by cls and mean at once"),
        ([Pooling(32, "mean"), Dense(32, 8)], "Dense"),
        ([Pooling(32, "mean"), Dense(32, 32), Normalize()], "Dense"),
        ([Pooling(32, "mean"), LayerNorm(32)], "LayerNorm"),
        ([WeightedLayerPooling(32, 2, 1), Pooling(32, "mean")], "WeightedLayerPooling"),
        ([], "no Pooling"),
    ],
)
def test_a_part_that_is_not_read_is_named(
    encoder: Path, tmp_path: Path, modules: list[Any], part: str
) -> None:
    base = saved(encoder, tmp_path / "base", *modules)
    with pytest.raises(ConfigurationError, match=f"a part that is not read here: {part}"):
        load_base(base, 3, LONGEST, tmp_path / "model")


@pytest.mark.parametrize(
    ("told", "part"),
    [
        ({"prompts": {"query": "ask: "}, "default_prompt_name": "query"}, "default_prompt_name"),
        ({"truncate_dim": 8}, "truncate_dim"),
    ],
)
def test_what_encode_does_beside_its_modules_is_named(
    encoder: Path, tmp_path: Path, told: dict[str, Any], part: str
) -> None:
    base = saved(encoder, tmp_path / "base", Pooling(32, "mean"))
    path = base / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    with pytest.raises(ConfigurationError, match=part):
        load_base(base, 3, LONGEST, tmp_path / "model")
