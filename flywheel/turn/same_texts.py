"""Whether a language model that answers with text is served as transformers computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.contracts.chat import Chat

# Another network writes something else within a few words.
MOST_TOKENS = 16
# Of each token so many are kept: one that is not among them is as good as impossible.
_KEPT = 50


@dataclass(frozen=True, slots=True)
class Written:
    """What transformers writes after a question, each time the likeliest token.

    ``steps`` has, for each of ``tokens``, the likeliest ones with their probabilities. ``ended``:
    the last of them ends the answer; else it goes on after ``text``.
    """

    text: str
    tokens: tuple[int, ...]
    steps: tuple[dict[int, float], ...]
    ended: bool

    def apart(self, served: str, chat: Chat) -> float | None:
        """How much likelier, by transformers, its own token is than the served one, where the two
        answers part (0: they don't). None where the tokens of an answer can't be had from its text.
        """
        own, served = self.text.strip(), served.strip()
        # A character of several tokens may be cut in two.
        if served == own or (not self.ended and served.startswith(own.rstrip("\ufffd"))):
            return 0.0
        said = self.tokens[:-1] if self.ended else self.tokens
        if tuple(chat.answer(self.text)) != said:
            return None
        given = chat.answer(served)
        for at, (token, likely) in enumerate(zip(self.tokens, self.steps, strict=True)):
            if at >= len(given):
                end = self.tokens[-1] if self.ended else None
                return likely[token] - (likely.get(end, 0.0) if end is not None else 0.0)
            if given[at] != token:
                return likely[token] - likely.get(given[at], 0.0)
        return 0.0


def write(network: Any, chat: Chat, text: str, room: int, most: int) -> Written:
    """Let ``network``, of transformers, answer ``text`` in at most ``most`` tokens."""
    import torch

    ids, _ = chat.cut(text, room)
    ends = chat.ends(network.generation_config.eos_token_id)
    tokens: list[int] = []
    steps: list[dict[int, float]] = []
    with torch.inference_mode():
        while len(tokens) < min(most, MOST_TOKENS) and not (tokens and tokens[-1] in ends):
            # Without a cache: a few tokens, by the plainest way there is.
            asked = torch.tensor([ids + tokens])
            logits = network(input_ids=asked, use_cache=False).logits[0, -1]
            chances = logits.float().softmax(dim=0)
            best = chances.topk(min(_KEPT, len(chances)))
            steps.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            tokens.append(best.indices[0].item())
    ended = bool(tokens) and tokens[-1] in ends
    said = tokens[:-1] if ended else tokens
    return Written(chat.text(said), tuple(tokens), tuple(steps), ended)


def mean_apart(written: Sequence[Written], served: Sequence[str], chat: Chat) -> float | None:
    """``Written.apart`` as the mean over those that can be told; None where none can."""
    pairs = zip(written, served, strict=True)
    known = [apart for own, other in pairs if (apart := own.apart(other, chat)) is not None]
    return sum(known) / len(known) if known else None
