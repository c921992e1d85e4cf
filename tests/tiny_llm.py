"""A causal language model of a few kilobytes with random weights (one token a byte, with a chat
template), and datasets that it can learn from."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_encoder import labelled

from flywheel.contracts.chat import Chat
from flywheel.contracts.model_folder import (
    WEIGHTS_FILE,
    ModelDescription,
    Prompt,
    digest_model_files,
    write_description,
)
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.kinds import Choice
from flywheel.serving.engine import Generated

LABELS = ("weather", "money", "food")
PROMPT = Prompt(
    system="Pick. A: weather B: money C: food",
    max_answer_tokens=1,
    answers=dict(zip(LABELS, "ABC", strict=True)),
)
TEXT_PROMPT = Prompt(system="Say it.", template="Q: {text}", max_answer_tokens=12)
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# Of architectures that need more than others do, as small as the rest.
_OWN: dict[str, dict[str, Any]] = {
    "Bloom": {"n_head": 4, "n_layer": 2},
    "Falcon": {"alibi": True, "multi_query": False, "new_decoder_architecture": False},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "Gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 1.0},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "Qwen3": {"head_dim": 16},
}


def make_llm(folder: Path, architecture: str = "Llama", *, seed: int = 7, **config: Any) -> Path:
    """Write a model of two layers with its tokenizer in the layout of Hugging Face."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
    fast.add_special_tokens({"additional_special_tokens": special})
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    told = {
        "vocab_size": len(vocabulary),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        # Embeddings as large as a trained model's, or no logit could ever be large.
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,  # its embedding stays zero
    }
    kind = getattr(transformers, f"{architecture}Config")
    made = kind(**{**told, **_OWN.get(architecture, {}), **config})
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    return folder


def make_writer(folder: Path) -> Path:
    """A release that answers with text, of random weights: it writes letters, whose tokens can be
    had from what it wrote."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    make_llm(folder, tie_word_embeddings=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kept = torch.zeros(len(tokenizer), 1)
    kept[[tokenizer.convert_tokens_to_ids(sign) for sign in string.ascii_letters]] = 1.0
    weights = load_file(folder / WEIGHTS_FILE)
    weights["lm_head.weight"] = weights["lm_head.weight"] * kept
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    about = ModelDescription(
        task="topics",
        labels=(),
        temperature=1.0,
        max_tokens=200,
        method="none",
        pooling="mean",
        base_model="tiny",
        dataset_version="d",
        files=digest_model_files(folder),
        kind="llm",
        output="text",
        prompt=TEXT_PROMPT,
    )
    write_description(folder, about)
    return folder


def make_dataset(folder: Path, samples: Sequence[LabelledSample] | None = None) -> Path:
    """A dataset version of ninety texts of three topics, or of ``samples``."""
    folder.mkdir(parents=True)
    given = labelled(90, holdout=15) if samples is None else samples
    build_dataset(
        given,
        DatasetSettings(),
        Choice(sorted({sample.label for sample in given})),
        task="topics",
        watermark="e",
        parent=None,
        folder=folder,
    )
    return folder


def written_by(network: Any, folder: Path, texts: Sequence[str]) -> list[Generated]:
    """What an engine would write with the tokenizer of ``folder``: transformers' own loop."""
    import torch
    from transformers import AutoTokenizer

    chat, tokenizer = Chat.of_folder(folder, TEXT_PROMPT), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = torch.tensor([chat.cut(text, 200)[0]])
        out = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TEXT_PROMPT.max_answer_tokens,
            do_sample=False,
        )[0, ids.shape[1] :]
        said = tokenizer.decode(out, skip_special_tokens=True)
        counts = {"tokens_in": ids.shape[1], "tokens_out": len(out)}
        found.append(Generated(text=said, confidence=0.5, **counts))
    return found


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of training.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]
