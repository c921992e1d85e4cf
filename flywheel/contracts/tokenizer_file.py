"""Writes the one file that makes a model's tokens, from a tokenizer as its own library reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.contracts.model_folder import write_json
from flywheel.contracts.text_tokens import TOKENIZER_FILE, TextTokens
from flywheel.errors import ArtefactError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A class that reads tokenizer.json as it stands; others build a tokenizer of their own from the
# vocabulary in it and the values beside it (transformers' BertTokenizer does).
_AS_IT_STANDS = "PreTrainedTokenizerFast"
_CONFIG_FILE = "tokenizer_config.json"
# Letters of several scripts and widths, case, accents, spaces, signs and numbers.
_PROBES = (
    "Hello World, how ARE you?",
    "  leading,\ttabs \n and   many spaces  ",
    "don't stop: e-mail me@example.org, 50 % of $1,234.56 (№ 5)!",
    "naïve Café ÅNGSTRÖM İstanbul Straße",
    "cafe\u0301 and \ufb01ne \u2460 \uff21\uff22",
    "Привет, мир! Γειά σου. שלום مرحبا नमस्ते สวัสดี",
    "日本語のテキスト 한국어 中文,没有空格",
    "emoji 👍🏽👩\u200d👩\u200d👧 and zero\u200bwidth \ufeff",
    "x" * 300,
    "a_b-c/d\\e `code` {json: [1, 2]} <tag> #hash ~ ^ | …—“quoted”",
    "",
    "0 1 22 333 4444 2026-11-29T12:00:00Z",
)
_WORDS = 200
_ADDED = 200


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder in the layout of Hugging Face, as transformers reads it.

    Raises ArtefactError for one that it does not read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ArtefactError(f"the tokenizer in {folder} cannot be read: {error}") from error


def one_tokenizer(tokenizer: Any, longest: int) -> Tokenizer:
    """A tokenizer whose file alone makes the token ids that ``tokenizer`` makes, ``longest`` of a
    text at most, cut at the side that it cuts.

    ``tokenizer`` is transformers'. Raises ArtefactError, with a text, where no file can say what it
    does.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ArtefactError(
            f"its tokenizer, a {type(tokenizer).__name__}, is not written as {TOKENIZER_FILE}: "
            "save the model with a fast tokenizer of transformers"
        )
    serialised = backend.to_str()
    _compare(tokenizer, serialised, longest)
    written = Tokenizer.from_str(serialised)
    written.no_padding()
    written.enable_truncation(longest, direction=tokenizer.truncation_side)
    return written


def write_tokenizer(tokenizer: Any, longest: int, folder: Path) -> None:
    """Write tokenizer.json, as ``one_tokenizer`` has it, and a tokenizer_config.json by which
    transformers reads it as it stands. Raises ArtefactError as that does."""
    one_tokenizer(tokenizer, longest).save(str(folder / TOKENIZER_FILE))
    config = {
        "tokenizer_class": _AS_IT_STANDS,
        "model_max_length": longest,
        "truncation_side": tokenizer.truncation_side,
        "padding_side": tokenizer.padding_side,
        "clean_up_tokenization_spaces": False,
        **{
            name: str(token)
            for name, token in tokenizer.special_tokens_map.items()
            if not isinstance(token, list | tuple | dict)
        },
    }
    write_json(folder / _CONFIG_FILE, config)


def _compare(tokenizer: Any, serialised: str, longest: int) -> None:
    """Ids by the library and by the file, whole and cut: equal, or ArtefactError."""
    from tokenizers import Tokenizer

    texts = list(_texts(tokenizer))
    texts.append(" ".join(texts * (1 + longest // sum(len(text.split()) for text in texts))))
    around = tokenizer.num_special_tokens_to_add()
    whole = 1 << 30
    for length in dict.fromkeys((whole, longest, around + 3)):
        by_file = Tokenizer.from_str(serialised)
        by_file.enable_truncation(length, direction=tokenizer.truncation_side)
        alone = TextTokens(by_file, length)(texts)
        for text, tokens in zip(texts, alone, strict=True):
            by_library = tokenizer(text, truncation=True, max_length=length)
            if list(by_library["input_ids"]) != tokens.ids:
                raise ArtefactError(
                    f"its tokenizer, a {type(tokenizer).__name__}, makes other tokens of "
                    f"{text[:60]!r} than its {TOKENIZER_FILE}, from which models are served: "
                    "save one that needs no more than that file"
                )
            if any(by_library.get("token_type_ids", ())):
                raise ArtefactError(
                    f"its tokenizer, a {type(tokenizer).__name__}, marks tokens of a single text "
                    "as those of a second one: classifiers of one text read type 0 alone"
                )


def _texts(tokenizer: Any) -> Iterator[str]:
    """Texts that tokenizers take apart in different ways, and this one's own words and marks."""
    yield from _PROBES
    added = sorted(tokenizer.get_added_vocab())[:_ADDED]
    marks = dict.fromkeys((*(str(token) for token in tokenizer.all_special_tokens), *added))
    for mark in marks:
        yield f"so {mark} it{mark}is {mark}{mark.lower()} {mark.upper()}"
    words = sorted(tokenizer.get_vocab())
    chosen = words[:: max(1, len(words) // _WORDS)]
    yield " ".join(chosen)
    yield " ".join(word.title() for word in chosen)
