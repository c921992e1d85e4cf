"""What model servers are asked for each kind of task, and how their answers are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from flywheel.contracts.bounds import Count, Score


class Prediction(msgspec.Struct, frozen=True):
    """What a release said of one text: a label with ``scores``, or free text without.

    ``confidence`` is the largest score, or what the server reported of the text. ``finish`` is
    OpenAI's reason for the end of the answer; ``model_seconds`` the time of the call that answered,
    ``attempts`` how many calls it took. ``tokens_cut`` tokens of the text were not read.
    """

    output: str
    scores: dict[str, float]
    confidence: float
    tokens_in: int
    tokens_out: int
    model_seconds: float
    finish: str = "stop"
    attempts: int = 1
    tokens_cut: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model server. ``read`` takes the body of a 200 and the seconds it took, and
    raises ValueError or MsgspecError for one that is no answer."""

    path: str
    body: Callable[[str, str], bytes]
    read: Callable[[bytes, float], Prediction]


class _Usage(msgspec.Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class _Classification(msgspec.Struct):
    probs: list[Score]
    labels: list[str]
    tokens_cut: Count = 0


class _Classified(msgspec.Struct):
    data: list[_Classification]
    usage: _Usage | None = None


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message
    confidence: Score
    finish_reason: str | None = None
    tokens_cut: Count = 0


class _Generated(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_encode = msgspec.json.Encoder().encode
_classified = msgspec.json.Decoder(_Classified)
_generated = msgspec.json.Decoder(_Generated)


def _classify_body(release: str, text: str) -> bytes:
    return _encode({"model": release, "input": [text]})


def _read_classified(content: bytes, seconds: float) -> Prediction:
    answer = _classified.decode(content)
    if not answer.data:
        raise ValueError("there is no data in it")
    first = answer.data[0]
    scores = dict(zip(first.labels, first.probs, strict=True))
    label = max(scores, key=scores.__getitem__)
    tokens = answer.usage.prompt_tokens if answer.usage else 0
    return Prediction(label, scores, scores[label], tokens, 0, seconds, tokens_cut=first.tokens_cut)


def _generate_body(release: str, text: str) -> bytes:
    # The text alone: the release's prompt, and how long its answers are, are the server's to add.
    return _encode({"model": release, "messages": [{"role": "user", "content": text}]})


def _read_generated(content: bytes, seconds: float) -> Prediction:
    answer = _generated.decode(content)
    if not answer.choices:
        raise ValueError("there is no choice in it")
    first, usage = answer.choices[0], answer.usage or _Usage()
    return Prediction(
        output=first.message.content,
        scores={},
        confidence=min(1.0, first.confidence),
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens,
        model_seconds=seconds,
        finish=first.finish_reason or "stop",
        tokens_cut=first.tokens_cut,
    )


CLASSIFY = Call("/classify", _classify_body, _read_classified)
GENERATE = Call("/v1/chat/completions", _generate_body, _read_generated)
