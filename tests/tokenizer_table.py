"""Tiny tokenizers of the kinds that people's encoders have, each as the folder of a BERT."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

WORDS = (
    *("hello", "Hello", "world", "World", "how", "are", "ARE", "you", "rain", "Rain", "sun"),
    *("cafe", "café", "Café", "naive", "1", "2", ",", "?", "!", ".", "token"),
)
_PIECES = [c for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHI" for c in (letter, f"##{letter}")]
BERT_MARKS = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_MARKS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
Made = tuple[Tokenizer, dict[str, Any]]


def _template(tokenizer: Tokenizer, marks: Mapping[str, str]) -> None:
    first, last = marks["cls"], marks["sep"]
    ids = [(mark, tokenizer.token_to_id(mark)) for mark in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B {last}", special_tokens=ids
    )


def _told(kind: str, marks: Mapping[str, str], **more: Any) -> dict[str, Any]:
    named = {f"{name}_token": mark for name, mark in marks.items()}
    return {"tokenizer_class": kind, "model_max_length": 32, **named, **more}


def word_piece(*, lowercase: bool, **more: Any) -> Made:
    """BERT's, with words of both cases in its vocabulary."""
    names = dict.fromkeys((*BERT_MARKS.values(), *WORDS, *_PIECES))
    tokenizer = Tokenizer(
        models.WordPiece({word: at for at, word in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(BERT_MARKS.values()))
    _template(tokenizer, BERT_MARKS)
    return tokenizer, _told("BertTokenizer", BERT_MARKS, **more)


def byte_pairs(**more: Any) -> Made:
    """RoBERTa's: pairs of bytes, with the space before a word in it."""
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=list(ROBERTA_MARKS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 9, trainer)
    _template(tokenizer, ROBERTA_MARKS)
    return tokenizer, _told("RobertaTokenizer", ROBERTA_MARKS, **more)


def unigram(kind: str = "XLMRobertaTokenizer", **more: Any) -> Made:
    """XLM-R's and sentencepiece's: likeliest pieces, ``▁`` for a space."""
    pieces = [*ROBERTA_MARKS.values(), "▁", *(f"▁{word}" for word in WORDS), *_PIECES[::2]]
    scored = [(piece, -float(at)) for at, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(ROBERTA_MARKS.values()))
    _template(tokenizer, ROBERTA_MARKS)
    return tokenizer, _told(kind, ROBERTA_MARKS, **more)


def whole_words(**more: Any) -> Made:
    """A word, an id."""
    names = dict.fromkeys((*BERT_MARKS.values(), *WORDS))
    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(BERT_MARKS.values()))
    _template(tokenizer, BERT_MARKS)
    return tokenizer, _told("PreTrainedTokenizerFast", BERT_MARKS, **more)


def _with_added(made: Made) -> Made:
    tokenizer, told = made
    tokenizer.add_tokens([AddedToken("TICKET", normalized=True), AddedToken("<url>", lstrip=True)])
    tokenizer.add_special_tokens([AddedToken("<|user|>", rstrip=True)])
    return tokenizer, told


def _with_own_limits(made: Made) -> Made:
    made[0].enable_truncation(7, direction="left")
    made[0].enable_padding(length=12, direction="left")
    return made


def _without_padding(made: Made) -> Made:
    tokenizer, told = made
    return tokenizer, {key: value for key, value in told.items() if key != "pad_token"}


def _without_marks(made: Made) -> Made:
    tokenizer, told = made
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return tokenizer, told


KINDS: Mapping[str, Callable[[], Made]] = {
    "bert": lambda: word_piece(lowercase=True, do_lower_case=True),
    "bert, cased": lambda: word_piece(lowercase=False, do_lower_case=False),
    "bert, cased in its file alone": lambda: word_piece(lowercase=False),
    "bert, lower case in its file alone": lambda: word_piece(lowercase=True, do_lower_case=False),
    "bert, accents kept": lambda: word_piece(lowercase=True, strip_accents=False),
    "bert, left": lambda: word_piece(lowercase=True, truncation_side="left"),
    "bert, marks in texts are letters": lambda: word_piece(
        lowercase=True, split_special_tokens=True
    ),
    "bert, by its file": lambda: word_piece(
        lowercase=False, tokenizer_class="PreTrainedTokenizerFast"
    ),
    "bert, of no class": lambda: word_piece(lowercase=False, tokenizer_class=None),
    "bert, added tokens": lambda: _with_added(word_piece(lowercase=True)),
    "bert, cuts and pads in its file": lambda: _with_own_limits(word_piece(lowercase=True)),
    "bert, no padding token": lambda: _without_padding(word_piece(lowercase=True)),
    "roberta": byte_pairs,
    "roberta, left": lambda: byte_pairs(truncation_side="left"),
    "roberta, space before": lambda: byte_pairs(add_prefix_space=True),
    "xlm-r": unigram,
    "xlm-r, left": lambda: unigram(truncation_side="left"),
    "xlm-r, by its file": lambda: unigram("PreTrainedTokenizerFast"),
    "albert": lambda: unigram("AlbertTokenizer"),
    "t5": lambda: unigram("T5Tokenizer"),
    "mpnet": lambda: word_piece(lowercase=True, tokenizer_class="MPNetTokenizer"),
    "distilbert": lambda: word_piece(lowercase=False, tokenizer_class="DistilBertTokenizer"),
    "electra": lambda: word_piece(lowercase=True, tokenizer_class="ElectraTokenizer"),
    "whole words": whole_words,
    "whole words, no marks": lambda: _without_marks(whole_words()),
}


def write_tokenizer_of(kind: str, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a kind to ``folder``."""
    tokenizer, told = KINDS[kind]()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
