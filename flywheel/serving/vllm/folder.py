"""What vLLM loads: a release folder checked, and an encoder's rewritten the way vLLM reads it."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.contracts.encoder_config import unread_part
from flywheel.contracts.model_folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    BASE_FILE,
    CONFIG_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    ModelDescription,
    read_base,
    read_description,
)
from flywheel.errors import ArtefactError
from flywheel.serving.vllm.plugin import MEAN_BERT, POOLED_BERT

if TYPE_CHECKING:
    from torch import Tensor

_WORDS = "bert.embeddings.word_embeddings.weight"
_HEAD = ("classifier.weight", "classifier.bias")
_TOKENIZER_CONFIG, _MODEL_MAX_LENGTH = "tokenizer_config.json", "model_max_length"
# Where model families say how much they read.
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    _MODEL_MAX_LENGTH,
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_FORMATS = ("int-quantized", "pack-quantized")
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class Checked:
    """A release folder whose files are those that were released; ``base`` is an adapter's."""

    folder: Path
    about: ModelDescription
    base: Path | None

    @property
    def model(self) -> Path:
        """The folder with the weights that vLLM is started with."""
        return self.base or self.folder


def check_release(folder: Path, bases: Path, max_rank: int = 512) -> Checked:
    """Verify a release, and the base of an adapter, before anything is started for it.

    Raises ArtefactError, naming the file, when one is missing, truncated or changed since the
    release was made, when it has no tokenizer, or when vLLM could not run it.
    """
    about = read_description(folder)
    base = None
    if about.base is not None:
        base = bases / about.base.id
        if not (base / BASE_FILE).is_file():
            raise ArtefactError(
                f"{folder} is an adapter of base {about.base.id} ({about.base.name}), "
                f"which is not at {base}"
            )
        read_base(base)
        _check_rank(folder, max_rank)
    model = base or folder
    config = read_config(model)
    if not (model / "tokenizer.json").is_file():
        raise ArtefactError(f"{model / 'tokenizer.json'} is missing: the model cannot be asked")
    _check_quantisation(model, config)
    for path in weights_files(model):
        weights_header(path)
    if about.kind == "encoder" and config.get("model_type") != "bert":
        raise ArtefactError(
            f"{folder}: model_type {config.get('model_type')!r} is not supported; "
            "encoders are of the BERT family"
        )
    if about.kind == "encoder":
        unread = unread_part(config)
        if unread is not None:
            raise ArtefactError(f"{folder} is not read here: {unread}")
        _check_heads(folder, config)
    if about.kind == "llm" and about.prompt is None:
        raise ArtefactError(f"{folder}: release.json has no prompt, which a language model needs")
    return Checked(folder, about, base)


def _check_rank(folder: Path, max_rank: int) -> None:
    adapter = _read_json(folder / ADAPTER_CONFIG_FILE)
    rank = adapter.get("r")
    if adapter.get("peft_type") != "LORA" or not isinstance(rank, int):
        raise ArtefactError(f"{folder / ADAPTER_CONFIG_FILE} is not that of a LoRA adapter")
    if rank > max_rank:
        raise ArtefactError(
            f"{folder} is an adapter of rank {rank}; the server is started for {max_rank} "
            "(serving.vllm.max_rank)"
        )
    weights_header(folder / ADAPTER_FILE)


def _check_heads(folder: Path, config: Mapping[str, Any]) -> None:
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(width, int):
        raise ArtefactError(f"{folder / CONFIG_FILE} lacks num_attention_heads or hidden_size")
    if heads * int(config.get("head_size") or width // heads) != width:
        raise ArtefactError(
            f"{folder}: attention heads were removed, which vLLM's BERT does not know; "
            "the embedded engine serves this model"
        )


def read_config(model: Path) -> dict[str, Any]:
    """config.json. Raises ArtefactError when it cannot be read."""
    return _read_json(model / CONFIG_FILE)


def longest_input(model: Path) -> int | None:
    """How many tokens vLLM lets a model read: the least of what config.json and, for a language
    model, its tokenizer's configuration say. None where nothing does.

    It refuses to start for more. An encoder's tokenizer is not shown to it (``prepare_encoder``).
    """
    config = read_config(model)
    limits = [config.get(key) for key in _LENGTHS]
    tokenizer = model / _TOKENIZER_CONFIG
    if config.get("model_type") != "bert" and tokenizer.is_file():
        limits.append(_read_json(tokenizer).get(_MODEL_MAX_LENGTH))
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and limit > 0]
    return min(known, default=None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing") from None
    except ValueError as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ArtefactError(f"{path} holds no object")
    return config


def _check_quantisation(model: Path, config: Mapping[str, Any]) -> None:
    quantisation = config.get("quantization_config")
    if quantisation is None:
        return
    method, form = quantisation.get("quant_method"), quantisation.get("format")
    if method != "compressed-tensors" or form not in _FORMATS:
        raise ArtefactError(
            f"{model / CONFIG_FILE}: quantisation {method!r} in format {form!r} is not known; "
            f"compressed-tensors in {' or '.join(_FORMATS)} is"
        )


def weights_files(model: Path) -> list[Path]:
    """The safetensors files of a model. Raises ArtefactError when there is none."""
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise ArtefactError(f"{model / WEIGHTS_FILE} is missing")
    return files


def weights_header(path: Path) -> dict[str, dict[str, Any]]:
    """Name, type and shape of every tensor. Raises ArtefactError for a damaged file."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((item["data_offsets"][1] for item in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path} is no safetensors file: {error}") from error
    if path.stat().st_size != 8 + length + end:
        raise ArtefactError(f"{path} is truncated: it has {path.stat().st_size} bytes")
    return dict(header)


def weights_bytes(model: Path, float_bytes: int) -> int:
    """What a model's weights take in memory when its floats are held in ``float_bytes`` each."""
    total = 0
    for path in weights_files(model):
        for item in weights_header(path).values():
            count = 1
            for side in item["shape"]:
                count *= side
            floats = item["dtype"] in {"F32", "F16", "BF16"}
            total += count * (float_bytes if floats else _BYTES.get(item["dtype"], 4))
    return total


def prepare_encoder(checked: Checked, folder: Path) -> Path:
    """Write the encoder as vLLM loads it to ``folder``, all or nothing, and return that.

    Token embeddings are written out, since no other engine knows them in INT8. Logits are divided
    by the release's temperature in the head, since vLLM answers with probabilities. A model without
    BERT's pooler names our model class, and how it pools. The tokenizer's own limit is left out:
    tokens come from us, cut as in training, and vLLM would start for no more than it.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_weights(checked, partial / WEIGHTS_FILE)
        (partial / CONFIG_FILE).write_text(json.dumps(_config(checked), indent=2) + "\n")
        for name in TOKENIZER_FILES:
            if (checked.folder / name).is_file():
                shutil.copyfile(checked.folder / name, partial / name)
        _lift_limit(partial / _TOKENIZER_CONFIG)
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def _lift_limit(tokenizer: Path) -> None:
    if tokenizer.is_file():
        config = _read_json(tokenizer)
        config.pop(_MODEL_MAX_LENGTH, None)
        tokenizer.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _config(checked: Checked) -> dict[str, Any]:
    config = read_config(checked.folder)
    labels = checked.about.labels
    config["architectures"] = [_architecture(checked.about)]
    config["flywheel_pooling"] = checked.about.pooling
    config["flywheel_normalise"] = checked.about.normalise
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    config["num_labels"] = len(labels)
    config["problem_type"] = "single_label_classification"
    return config


def _architecture(about: ModelDescription) -> str:
    if about.pooling == "cls":
        return "BertForSequenceClassification"
    return MEAN_BERT if about.pooling == "mean" and not about.normalise else POOLED_BERT


def _write_weights(checked: Checked, path: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    source = checked.folder / WEIGHTS_FILE
    try:
        weights: dict[str, Tensor] = load_file(source)
        scale = weights.pop(f"{_WORDS}_scale", None)
        if scale is not None:
            weights[_WORDS] = weights[_WORDS].to(torch.float32) * scale
        _share_input_scales(weights)
        for name in _HEAD:
            weights[name] = weights[name].to(torch.float32) / checked.about.temperature
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ArtefactError(f"{source} holds no usable classifier: {error}") from error
    outputs = weights[_HEAD[0]].shape[0]
    if outputs != len(checked.about.labels):
        raise ArtefactError(
            f"{source} tells {outputs} labels apart; the release has {len(checked.about.labels)}"
        )
    save_file(weights, path, metadata={"format": "pt"})


def _share_input_scales(weights: dict[str, Tensor]) -> None:
    """Queries, keys and values are one product of one input: one scale, the largest, is theirs."""
    import torch

    suffix = ".query.input_scale"
    for prefix in [name.removesuffix(suffix) for name in weights if name.endswith(suffix)]:
        names = [f"{prefix}.{part}.input_scale" for part in ("query", "key", "value")]
        largest = torch.stack([weights[name].reshape(1) for name in names]).max().reshape(1)
        weights.update({name: largest.clone() for name in names})
