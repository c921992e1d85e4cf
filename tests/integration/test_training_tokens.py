"""One tokenizer: what an encoder is trained on, served with and imported with, text by text."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_encoder import make_encoder
from tokenizer_table import BERT_MARKS, KINDS, ROBERTA_MARKS, WORDS, write_tokenizer_of
from transformers import AutoTokenizer

from flywheel.contracts.text_tokens import TextTokens, read_tokens
from flywheel.contracts.tokenizer_file import read_tokenizer, write_tokenizer
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.training.base_encoder import load_base

# What no tokenizer.json can say is refused: every other kind is read.
REFUSED = {"bert, marks in texts are letters"}
READ = sorted(set(KINDS) - REFUSED)
LIMITS = (8, 13, 30)
PIECES = (
    *WORDS,
    *BERT_MARKS.values(),
    *ROBERTA_MARKS.values(),
    *("TICKET", "ticket", "<url>", "<|user|>", " ", "  ", "\t", "\n", "ÅÉ", "Σ", "日本", "👍", "x"),
)
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40).map("".join)


def of_kind(kind: str, folder: Path) -> Path:
    """The folder of a base model with a tokenizer of that kind."""
    make_encoder(folder, vocabulary=512)
    write_tokenizer_of(kind, folder)
    return folder


@cache
def read_both(kind: str, limit: int) -> tuple[Any, TextTokens]:
    """The tokenizer as transformers reads the folder, and as models of it are served."""
    folder = Path(mkdtemp())
    write_tokenizer_of(kind, folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = read_tokenizer(folder)
    write_tokenizer(tokenizer, limit, folder)
    served = read_tokens(folder, limit)
    shutil.rmtree(folder)
    return tokenizer, served


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(READ), limit=st.sampled_from(LIMITS), text=texts)
def test_served_ids_are_those_of_transformers(kind: str, limit: int, text: str) -> None:
    tokenizer, served = read_both(kind, limit)
    [tokens] = served([text])
    whole = tokenizer(text, truncation=False)["input_ids"]
    assert tokens.ids == list(tokenizer(text, truncation=True, max_length=limit)["input_ids"])
    assert tokens.cut == len(whole) - len(tokens.ids)


@pytest.mark.parametrize("kind", ["bert, left", "bert, cased in its file alone", "t5", "roberta"])
def test_training_reads_what_sentence_transformers_reads(kind: str, tmp_path: Path) -> None:
    base = of_kind(kind, tmp_path / "base")
    load_base(base, 3, 12, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(base)
    long = "Hello World, how ARE you? rain Rain sun Café naive token hello world" * 3
    for text in ("Hello", long):
        wanted = tokenizer(text, truncation=True, max_length=12)["input_ids"]
        assert read_tokens(tmp_path / "model", 12)([text])[0].ids == wanted
        again = AutoTokenizer.from_pretrained(tmp_path / "model")
        assert again(text, truncation=True, max_length=12)["input_ids"] == wanted


def test_sentence_transformers_may_lower_the_case(tmp_path: Path) -> None:
    base = of_kind("bert, cased", tmp_path / "base")
    about = {"max_seq_length": 20, "do_lower_case": True}
    (base / "sentence_bert_config.json").write_text(json.dumps(about))
    load_base(base, 3, 20, tmp_path / "model")
    upper, lower = read_tokens(tmp_path / "model", 20)(["Hello World", "hello world"])
    assert upper == lower


def test_a_text_loses_the_side_that_its_tokenizer_cuts(tmp_path: Path) -> None:
    words = "rain sun hello world how are you"
    kept = {}
    for kind in ("bert", "bert, left"):
        base = of_kind(kind, tmp_path / kind)
        load_base(base, 3, 8, tmp_path / f"{kind}-model")
        tokens = read_tokens(tmp_path / f"{kind}-model", 8)
        kept[kind] = tokens([words])[0]
        [whole] = read_tokens(tmp_path / f"{kind}-model", 64)([words])
        assert kept[kind].cut == len(whole.ids) - 8 == 1
        middle = whole.ids[1:-1]
        assert kept[kind].ids[1:-1] == (middle[1:] if "left" in kind else middle[:-1])


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_tokenizer_that_no_file_holds_is_refused(kind: str, tmp_path: Path) -> None:
    base = of_kind(kind, tmp_path / "base")
    with pytest.raises(ConfigurationError, match=r"training\.base_model: .*makes other tokens of"):
        load_base(base, 3, 12, tmp_path / "model")


def test_a_tokenizer_in_python_is_refused(tmp_path: Path) -> None:
    class Split:
        """What transformers calls a slow tokenizer."""

    with pytest.raises(ArtefactError, match=r"a Split, is not written as tokenizer\.json"):
        write_tokenizer(Split(), 12, tmp_path)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    write_tokenizer_of("roberta", base)
    with pytest.raises(ConfigurationError, match=r"has ids up to 3\d\d, its model 101 embeddings"):
        load_base(base, 3, 12, tmp_path / "model")
