"""Texts as token ids. One file of a model folder decides them, for training, both engines and
whoever imports a model: its tokenizer.json, with the side that a long text loses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flywheel.errors import ArtefactError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

TOKENIZER_FILE = "tokenizer.json"


class Tokens(NamedTuple):
    """The tokens of a text that a model reads, special ones included, and how many more the text
    has."""

    ids: list[int]
    cut: int


class TextTokens:
    """Makes token ids of texts, ``longest`` of a text at most. Safe to call from several threads.

    ``longest`` counts the special tokens around a text; ``largest_id`` is the largest id there is.
    """

    def __init__(self, tokenizer: Tokenizer, longest: int) -> None:
        side = (tokenizer.truncation or {}).get("direction", "right")
        tokenizer.no_padding()
        tokenizer.enable_truncation(longest, direction=str(side).lower())
        self.longest = longest
        self.largest_id = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        self._tokenizer = tokenizer
        self._around = tokenizer.num_special_tokens_to_add(is_pair=False)

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text, in the order of ``texts``."""
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        return [Tokens(item.ids, self._cut(item)) for item in encoded]

    def _cut(self, item: Encoding) -> int:
        return sum(len(rest.ids) - self._around for rest in item.overflowing)


def read_tokens(folder: Path, longest: int) -> TextTokens:
    """What makes the tokens of the model in ``folder``.

    Raises ArtefactError, naming the file, for one that is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise ArtefactError(f"{folder} has no {TOKENIZER_FILE}")
    try:
        return TextTokens(Tokenizer.from_file(str(path)), longest)
    except Exception as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
