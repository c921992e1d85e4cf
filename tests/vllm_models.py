"""Tiny models that vLLM serves on a CPU: a BERT classifier, and a Llama with adapters."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from byte_tokens import token_of, write_byte_tokenizer

from flywheel.contracts.model_folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    BASE_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    BaseDescription,
    BaseReference,
    Method,
    ModelDescription,
    Pooling,
    Prompt,
    digest_model_files,
    write_description,
    write_json,
)
from flywheel.errors import ConfigurationError
from flywheel.serving.config import VllmSettings

LABELS = ("NUM", "HUM", "LOC")
PROMPT = Prompt(
    system="Which class?", template="Q: {text}", answers={"NUM": "A", "HUM": "B", "LOC": "C"}
)
_WIDTH, _HEADS = 64, 2
_TARGETS = ("q_proj", "v_proj")


def require_vllm() -> None:
    """Skip where vLLM is not installed, unless FLYWHEEL_REQUIRE_VLLM says that it must be."""
    from flywheel.serving.vllm.machine import find_installation

    _require(lambda: find_installation(VllmSettings(), os.environ), "FLYWHEEL_REQUIRE_VLLM")


def require_compressor() -> None:
    """The same for llm-compressor and FLYWHEEL_REQUIRE_LLM_COMPRESSOR."""
    from flywheel.compression.llm_quantize import find_compressor

    _require(lambda: find_compressor(os.environ), "FLYWHEEL_REQUIRE_LLM_COMPRESSOR")


def _require(find: Callable[[], object], variable: str) -> None:
    try:
        find()
    except ConfigurationError as error:
        if os.environ.get(variable) == "1":
            pytest.fail(f"{variable}=1, but {error}")
        pytest.skip(str(error))


def living_group(leader: int) -> list[str]:
    """The processes of a group that still run; one that only waits to be reaped does not."""
    import psutil

    found = []
    for process in psutil.process_iter(["name", "status"]):
        try:
            if os.getpgid(process.pid) == leader and process.info["status"] != "zombie":
                found.append(f"{process.pid} {process.info['name']}")
        except ProcessLookupError:
            continue
    return found


def bert_release(
    folder: Path,
    method: Method = "none",
    pooling: Pooling = "mean",
    *,
    normalise: bool = False,
) -> Path:
    """A release folder as training and compression write it: a BERT of random weights."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    sentence = "what is number how far planet and very why where road lead who wrote"
    words = ["[PAD]", "[UNK]", *sentence.split(), *"0123456789"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    # A trained release says how much it reads, which is less than it has positions for.
    about_tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32}
    about_tokens |= {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about_tokens))
    config = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "vocab_size": len(words),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    weights = _bert_weights(len(words), pooling)
    if method != "none":
        from flywheel.compression.int8 import is_dense, quantisation_config, quantise_weights

        scales = None
        if method == "int8-static":
            dense = [name.removesuffix(".weight") for name in weights if is_dense(name)]
            scales = {name: 0.03 + 0.001 * index for index, name in enumerate(dense)}
        weights = quantise_weights(weights, scales)
        config["quantization_config"] = quantisation_config(static=scales is not None)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    save_file(weights, folder / WEIGHTS_FILE)
    about = ModelDescription(
        task="t",
        labels=LABELS,
        temperature=1.5,
        max_tokens=32,
        method=method,
        pooling=pooling,
        normalise=normalise,
        base_model="random",
        dataset_version="none",
        files=digest_model_files(folder),
    )
    write_description(folder, about)
    return folder


def _bert_weights(words: int, pooling: Pooling) -> dict[str, object]:
    import torch

    random = torch.Generator().manual_seed(7)
    weights: dict[str, object] = {}

    def dense(name: str, outputs: int, inputs: int) -> None:
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, generator=random) * 0.2
        weights[f"{name}.bias"] = torch.randn(outputs, generator=random) * 0.1

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.ones(_WIDTH), torch.zeros(_WIDTH)

    for table, rows in (("word", words), ("token_type", 2), ("position", 64)):
        name = f"bert.embeddings.{table}_embeddings.weight"
        weights[name] = torch.randn(rows, _WIDTH, generator=random)
    norm("bert.embeddings.LayerNorm")
    for layer in ("bert.encoder.layer.0", "bert.encoder.layer.1"):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{layer}.attention.{part}", _WIDTH, _WIDTH)
        dense(f"{layer}.intermediate.dense", 2 * _WIDTH, _WIDTH)
        dense(f"{layer}.output.dense", _WIDTH, 2 * _WIDTH)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    if pooling == "cls":
        dense("bert.pooler.dense", _WIDTH, _WIDTH)
    dense("classifier", len(LABELS), _WIDTH)
    return weights


def llama_base(bases: Path) -> BaseReference:
    """A Llama of random weights, with a tokenizer as Llama 2 has one, put among the bases."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = bases / "new"
    folder.mkdir(parents=True)
    vocabulary = write_byte_tokenizer(folder, "llama")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    # Bytes that are no character are read otherwise by each who makes text of them: as a trained
    # model it writes none.
    with torch.no_grad():
        model.lm_head.weight[token_of("<0x00>") : token_of("<0xFF>") + 1] = 0.0
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    about = BaseDescription(name="tiny-llama", method="none", files=digest_model_files(folder))
    write_json(folder / BASE_FILE, about)
    folder.rename(bases / about.reference.id)
    return about.reference


def lora_release(
    folder: Path,
    base: BaseReference,
    seed: int,
    *,
    labels: Sequence[str] = LABELS,
    rank: int = 8,
    letters: bool = True,
) -> Path:
    """A release that is an adapter of random weights; without labels it generates text. Without
    ``letters`` it is as those were that did not keep the tokens of theirs."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(2):
        for target in _TARGETS:
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            for part, shape in (("lora_A", (rank, _WIDTH)), ("lora_B", (_WIDTH, rank))):
                weights[f"{name}.{part}.weight"] = torch.randn(*shape, generator=random) * 0.3
    save_file(weights, folder / ADAPTER_FILE)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16}
    config |= {"target_modules": list(_TARGETS), "base_model_name_or_path": base.name}
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(config))
    prompt = PROMPT if labels else Prompt(system="Say something.", max_answer_tokens=8)
    about = ModelDescription(
        task="t",
        labels=tuple(labels),
        temperature=1.5 if labels else 1.0,
        max_tokens=256,
        method=base.method,
        pooling="mean",
        base_model=base.name,
        dataset_version="none",
        files=digest_model_files(folder),
        kind="llm",
        output="label" if labels else "text",
        prompt=prompt,
        letters={label: token_of(PROMPT.answers[label]) for label in labels} if letters else {},
        base=base,
    )
    write_description(folder, about)
    return folder


def letter_probabilities(bases: Path, release: Path, text: str) -> dict[str, float]:
    """What transformers and peft's arithmetic say that a label release must answer."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from flywheel.contracts.model_folder import read_description

    about = read_description(release)
    assert about.base is not None
    assert about.prompt is not None
    folder = bases / about.base.id
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapter = load_file(release / ADAPTER_FILE)
    for layer, block in enumerate(model.model.layers):
        for target in _TARGETS:
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            update = adapter[f"{name}.lora_B.weight"] @ adapter[f"{name}.lora_A.weight"]
            getattr(block.self_attn, target).weight.data += update * (16 / 8)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        about.prompt.messages(text), add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(asked, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = model(ids).logits[0, -1]
    # What was made before they were kept was trained with letters as they stand alone.
    tokens = [about.letters.get(one, token_of(f"▁{about.prompt.answers[one]}")) for one in LABELS]
    chosen = torch.softmax(logits[tokens] / about.temperature, dim=0).tolist()
    return dict(zip(LABELS, chosen, strict=True))
