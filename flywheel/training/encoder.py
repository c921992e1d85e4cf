"""A sentence encoder with a linear head on its pooled tokens, and its layout on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from flywheel.contracts.model_folder import (
    CONFIG_FILE,
    RELEASE_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    Pooling,
    digest,
    read_description,
)
from flywheel.errors import ArtefactError, ConfigurationError

_KEY = "training.base_model"


class EncoderClassifier(nn.Module):
    """Pooled token states → logits, one linear layer."""

    def __init__(self, encoder: Any, labels: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.bert: Any = encoder
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(int(encoder.config.hidden_size), labels)

    def token_parameters(self) -> list[nn.Parameter]:
        """The embedding tables: half of a small encoder, and rarely worth training."""
        return list(self.bert.embeddings.parameters())

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(texts, tokens) → (texts, width)."""
        states = self.bert(input_ids=ids, attention_mask=mask)
        if self.pooling == "cls":
            pooled: Tensor = states.pooler_output
            return pooled
        kept = mask[..., None].to(states.last_hidden_state.dtype)
        mean: Tensor = (states.last_hidden_state * kept).sum(dim=1) / kept.sum(dim=1)
        return mean

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (texts, labels)."""
        logits: Tensor = self.classifier(self.dropout(self.features(ids, mask)))
        return logits


def load_base(folder: Path, labels: int, max_tokens: int) -> tuple[EncoderClassifier, Any, str]:
    """A classifier with a new head on the encoder in ``folder``, its tokenizer, and its name.

    sentence-transformers reads the folder, so the pooling is the one the encoder was trained with.
    Raises ConfigurationError when the folder holds no encoder of the BERT family.
    """
    from sentence_transformers import SentenceTransformer

    if not (folder / CONFIG_FILE).is_file():
        raise ConfigurationError(_KEY, f"{folder} holds no model", "it has no config.json")
    try:
        sentences = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(_KEY, f"{folder} cannot be loaded: {error}") from error
    encoder = sentences[0].auto_model
    if encoder.config.model_type != "bert":
        raise ConfigurationError(
            _KEY,
            f"{folder} is of type {encoder.config.model_type!r}",
            "use an encoder of the BERT family (MiniLM, BGE, E5, GTE and others are)",
        )
    mode = getattr(sentences[1], "pooling_mode", "mean") if len(sentences) > 1 else "mean"
    pooling: Pooling = "cls" if "cls" in str(mode) else "mean"
    if max_tokens > encoder.config.max_position_embeddings:
        raise ConfigurationError(
            "training.max_tokens",
            f"{max_tokens} is more than the {encoder.config.max_position_embeddings} that "
            f"{folder.name} can read",
        )
    weights = next(iter(sorted(folder.glob("*.safetensors"))), folder / CONFIG_FILE)
    where = folder.resolve()
    name = f"{where.parent.name}/{where.name}@{digest(weights).sha256[:12]}"
    model = EncoderClassifier(
        encoder.to(torch.float32), labels, pooling, float(encoder.config.hidden_dropout_prob)
    )
    return model, sentences.tokenizer, name


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
    """Start from the weights of an earlier FP32 model of the same labels.

    Raises ArtefactError when they don't fit.
    """
    from safetensors.torch import load_file

    if read_description(parent).labels != tuple(labels):
        raise ArtefactError(f"{parent} knows other labels: train without it")
    try:
        state = {k: v.to(torch.float32) for k, v in load_file(parent / WEIGHTS_FILE).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ArtefactError(f"{parent} does not fit {_KEY}: {error}") from error
    if unexpected or any(not name.startswith("bert.pooler") for name in missing):
        raise ArtefactError(f"{parent} does not fit {_KEY}, or is a compressed model")


def load_trained(folder: Path, labels: Sequence[str] | None) -> tuple[EncoderClassifier, Any, str]:
    """The FP32 model in a folder, its tokenizer, and the name of its base model.

    It may have fewer attention heads than Hugging Face's layout allows (``head_size`` in
    config.json). Raises ArtefactError when it is damaged, compressed, or of other labels.
    """
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel

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
        encoder, len(about.labels), about.pooling, float(config.hidden_dropout_prob)
    )
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except RuntimeError as error:
        raise ArtefactError(f"{folder} holds no usable encoder: {error}") from error
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True), about.base_model


def _fewer_heads(attention: Any, heads: int, size: int) -> None:
    """Replace the projections of one layer by ones of ``heads`` heads."""
    width = attention.output.dense.out_features
    for name in ("query", "key", "value"):
        setattr(attention.self, name, nn.Linear(width, heads * size))
    attention.output.dense = nn.Linear(heads * size, width)
    attention.self.num_attention_heads, attention.self.all_head_size = heads, heads * size


def save_model(
    model: EncoderClassifier, tokenizer: Any, base: Path, labels: Sequence[str], folder: Path
) -> None:
    """Write the model in the layout of a Hugging Face ``BertForSequenceClassification``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELEASE_FILE).unlink(missing_ok=True)
    state = {
        name: tensor.detach().contiguous()
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
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    if not (folder / "tokenizer.json").is_file():
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
