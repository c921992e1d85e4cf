"""A sentence encoder with a linear head on its pooled tokens, and its layout on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from flywheel.contracts.model_folder import (
    CONFIG_FILE,
    RELEASE_FILE,
    WEIGHTS_FILE,
    Pooling,
    read_description,
)
from flywheel.contracts.pooling import pooled, unit_length
from flywheel.contracts.text_tokens import TextTokens
from flywheel.contracts.witness import TEXTS, Witness
from flywheel.errors import ArtefactError

BASE_KEY = "training.base_model"
_HEAD = "classifier.weight"
# About the length of MiniLM's features before they are normalised. Two seeds on six classes: 60
# labels taught 0.74 (0.69 without normalising, 0.58 at three times this length), 300 taught 0.89
# (0.88, 0.84).
REACH = 6.0


class EncoderClassifier(nn.Module):
    """Pooled token states → logits, one linear layer.

    Where features are brought to length 1, the head is trained on them times ``reach``, so that its
    learning rate means what it means otherwise. A saved head reads the features as they are.
    """

    def __init__(
        self, encoder: Any, labels: int, pooling: Pooling, dropout: float, *, normalise: bool
    ) -> None:
        super().__init__()
        self.bert: Any = encoder
        self.pooling, self.normalise = pooling, normalise
        width = int(encoder.config.hidden_size)
        self.reach = REACH if normalise else 1.0
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, labels)

    def token_parameters(self) -> list[nn.Parameter]:
        """The embedding tables: half of a small encoder, and rarely worth training."""
        return list(self.bert.embeddings.parameters())

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(texts, tokens) → (texts, width): what sentence-transformers' ``encode`` gives."""
        states = self.bert(input_ids=ids, attention_mask=mask)
        if self.pooling == "cls":
            by_pooler: Tensor = states.pooler_output
            return by_pooler
        vectors = pooled(states.last_hidden_state, self.pooling, mask)
        return unit_length(vectors) if self.normalise else vectors

    def witness(self, tokens: TextTokens, labels: Sequence[str]) -> Witness:
        """What it answers to texts that nobody sent, for whoever serves it to compare with."""
        self.eval()
        answers = []
        for made in tokens(TEXTS):
            ids = torch.tensor([made.ids])
            with torch.inference_mode():
                [row] = self(ids, torch.ones_like(ids)).softmax(dim=-1).tolist()
            answers.append(dict(zip(labels, row, strict=True)))
        return Witness(texts=TEXTS, probabilities=tuple(answers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (texts, labels)."""
        logits: Tensor = self.classifier(self.dropout(self.features(ids, mask) * self.reach))
        return logits


def load_trained(folder: Path, labels: Sequence[str] | None) -> tuple[EncoderClassifier, str]:
    """The FP32 model in a folder, and the name of its base model.

    It may have fewer attention heads than Hugging Face's layout allows (``head_size`` in
    config.json). Raises ArtefactError when it is damaged, compressed, or of other labels.
    """
    from transformers import BertConfig, BertModel

    about = read_description(folder)
    if labels is not None and about.labels != tuple(labels):
        raise ArtefactError(f"{folder} knows other labels than the dataset")
    raw = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    if about.method != "none" or raw.get("model_type") != "bert":
        raise ArtefactError(f"{folder} is no FP32 encoder of the BERT family: it can't be trained")
    heads, size = int(raw["num_attention_heads"]), raw.pop("head_size", None)
    if size is not None:
        raw["num_attention_heads"] = int(raw["hidden_size"]) // int(size)
    config = BertConfig.from_dict(raw)
    encoder = BertModel(config, add_pooling_layer=about.pooling == "cls")
    if size is not None:
        for layer in encoder.encoder.layer:
            _fewer_heads(layer.attention, heads, int(size))
    model = EncoderClassifier(
        encoder,
        len(about.labels),
        about.pooling,
        float(config.hidden_dropout_prob),
        normalise=about.normalise,
    )
    try:
        model.load_state_dict(_state(folder, model.reach))
    except RuntimeError as error:
        raise ArtefactError(f"{folder} holds no usable encoder: {error}") from error
    return model, about.base_model


def _state(folder: Path, reach: float) -> dict[str, Tensor]:
    """The weights of a model folder, its head as it is trained."""
    from safetensors.torch import load_file

    state = {
        name: value.to(torch.float32) for name, value in load_file(folder / WEIGHTS_FILE).items()
    }
    if _HEAD in state:
        state[_HEAD] = state[_HEAD] / reach
    return state


def head_from_centroids(model: EncoderClassifier, features: Tensor, targets: Tensor) -> None:
    """Start the head at the direction of each label's mean, so few labels go further.

    ``features`` (samples, width) come from the untouched encoder; the rows of the head become unit
    vectors from the mean of all to the mean of the label, or stay near zero for an unseen label.
    """
    unit = nnf.normalize(features, dim=-1)
    overall = unit.mean(dim=0)
    with torch.no_grad():
        model.classifier.weight.mul_(0.01)
        model.classifier.bias.zero_()
        for label in range(model.classifier.out_features):
            chosen = unit[targets == label]
            if len(chosen):
                model.classifier.weight[label] = nnf.normalize(chosen.mean(dim=0) - overall, dim=0)


def continue_from(model: EncoderClassifier, parent: Path, labels: Sequence[str]) -> None:
    """Start from the weights of an earlier FP32 model of the same labels and the same pooling.

    Raises ArtefactError when they don't fit.
    """
    about = read_description(parent)
    if about.labels != tuple(labels):
        raise ArtefactError(f"{parent} knows other labels: train without it")
    if (about.pooling, about.normalise) != (model.pooling, model.normalise):
        raise ArtefactError(f"{parent} pools in another way: train without it")
    try:
        missing, unexpected = model.load_state_dict(_state(parent, model.reach), strict=False)
    except RuntimeError as error:
        raise ArtefactError(f"{parent} does not fit {BASE_KEY}: {error}") from error
    if unexpected or any(not name.startswith("bert.pooler") for name in missing):
        raise ArtefactError(f"{parent} does not fit {BASE_KEY}, or is a compressed model")


def _fewer_heads(attention: Any, heads: int, size: int) -> None:
    """Replace the projections of one layer by ones of ``heads`` heads."""
    width = attention.output.dense.out_features
    for name in ("query", "key", "value"):
        setattr(attention.self, name, nn.Linear(width, heads * size))
    attention.output.dense = nn.Linear(heads * size, width)
    attention.self.num_attention_heads, attention.self.all_head_size = heads, heads * size


def save_model(model: EncoderClassifier, base: Path, labels: Sequence[str], folder: Path) -> None:
    """Write the model in the layout of a Hugging Face ``BertForSequenceClassification``, beside
    the tokenizer that is there already."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELEASE_FILE).unlink(missing_ok=True)
    state = {
        name: (tensor.detach() * model.reach if name == _HEAD else tensor.detach()).contiguous()
        for name, tensor in model.state_dict().items()
        if "position_ids" not in name
        and (model.pooling == "cls" or not name.startswith("bert.pooler"))
    }
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.loads((base / CONFIG_FILE).read_text("utf-8"))
    for stale in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
        config.pop(stale, None)
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "dtype": "float32",
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "num_labels": len(labels),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
