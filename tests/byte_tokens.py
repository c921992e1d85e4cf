"""Tokenizers of the kinds that have a token for each byte beside those of letters: tiny, of random
merges, and built as those of Llama 2, Mistral and Gemma are."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

# How each ends a chat, and where its tokenizer puts the mark of a space.
KINDS = ("llama", "mistral", "gemma")
_TEMPLATES = {
    # Nothing stands after it: the letter follows the bracket.
    "llama": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
        " {{ m['content'] }} {% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
    ),
    # The brackets are special tokens: what follows begins a piece of its own.
    "mistral": (
        "{{ bos_token }}{% for m in messages %}<inst> {{ m['content'] }}</inst>{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'] }}<end>\n"
        "{% endfor %}{% if add_generation_prompt %}<start>model\n{% endif %}"
    ),
}
_SPECIAL = ("<unk>", "<s>", "</s>", "<inst>", "</inst>", "<start>", "<end>")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SIGNS = [*(chr(code) for code in range(33, 127)), "▁", "\n"]
_MARKED = [f"▁{letter}" for letter in string.ascii_letters + string.digits]
_PIECES = [*_SPECIAL, *_BYTES, *_SIGNS, *_MARKED]


def token_of(piece: str) -> int:
    """The id of a piece: of "A" after others, of "▁A" at the beginning or after a space."""
    return _PIECES.index(piece)


def write_byte_tokenizer(folder: Path, kind: str) -> int:
    """Write a tokenizer of ``kind`` with its chat template; the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: index for index, piece in enumerate(_PIECES)}
    merges = [("▁", piece[1:]) for piece in _MARKED]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    spaces: Any = normalizers.Replace(" ", "▁")
    if kind == "llama":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    elif kind == "mistral":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": _TEMPLATES[kind],
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return len(vocabulary)
