"""The model servers' protocol, shaped like vLLM's: requests as they are written, answers as they
are read, and what a refusal means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from flywheel.contracts.bounds import Count, Score
from flywheel.errors import ReleaseNotLoaded, RequestError, Unavailable

CLASSIFY_PATH = "/classify"
CHAT_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
# What a release is asked to see whether it answers.
PROBE = "Does this release answer?"


class ModelRefused(RequestError):
    """The model server says that the request itself is wrong; asking again would not help."""


class Unreachable(Unavailable):
    """The request did not get through to any model server."""


class FailsAtText(Unavailable):
    """Model servers fail at this very text; asking again would not help."""


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
    """One request to a model server about one text. ``read`` takes the body of a 200 and the
    seconds it took, and raises ``NO_ANSWER`` for one that is no answer."""

    path: str
    body: Callable[[str, str], bytes]
    read: Callable[[bytes, float], Prediction]


# What reading a body raises that is no answer of a model server.
NO_ANSWER = (msgspec.MsgspecError, ValueError, RecursionError)


class _Usage(msgspec.Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class _Classification(msgspec.Struct):
    probs: list[Score]
    labels: list[str]
    index: Count = 0
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


class ServedModel(msgspec.Struct, frozen=True):
    """A release that a server has ready."""

    id: str
    kind: str = ""


class AbsentModel(msgspec.Struct, frozen=True):
    """A release that a server does not serve: ``reason`` says why it could not be loaded, None
    while it loads; by its ``status`` one that is merely unloaded is known."""

    id: str
    reason: str | None = None
    status: str = ""


class Models(msgspec.Struct, frozen=True):
    """What a server lists."""

    data: list[ServedModel]
    unavailable: list[AbsentModel] = []

    def served(self, release: str) -> ServedModel | None:
        """The release, if it is ready."""
        return next((model for model in self.data if model.id == release), None)

    def on_demand(self, release: str) -> bool:
        """Whether it is loaded as soon as somebody asks for it: there was no room for all."""
        return any(one.id == release and one.status == "unloaded" for one in self.unavailable)

    def why_absent(self, release: str) -> str:
        """What the server itself says of a release that is not ready."""
        for model in self.unavailable:
            if model.id == release and model.reason:
                return f"could not load it: {model.reason}"
            if model.id == release:
                return "is still loading it"
        return "has not loaded it"


_encode = msgspec.json.Encoder().encode
_classified = msgspec.json.Decoder(_Classified)
_generated = msgspec.json.Decoder(_Generated)
read_models = msgspec.json.Decoder(Models).decode


def classify_body(release: str, texts: Sequence[str]) -> bytes:
    """A request for the probabilities of every label for each of the texts."""
    return _encode({"model": release, "input": texts})


def _classify_one(release: str, text: str) -> bytes:
    return _encode({"model": release, "input": [text]})


def read_scores(content: bytes) -> list[dict[str, float]]:
    """Label → probability for each text, in the order of the request's."""
    rows = sorted(_classified.decode(content).data, key=lambda row: row.index)
    return [dict(zip(row.labels, row.probs, strict=True)) for row in rows]


def _read_classified(content: bytes, seconds: float) -> Prediction:
    answer = _classified.decode(content)
    if not answer.data:
        raise ValueError("there is no data in it")
    first = answer.data[0]
    by_label = dict(zip(first.labels, first.probs, strict=True))
    if not by_label:
        raise ValueError("it is without a label")
    label = max(by_label, key=by_label.__getitem__)
    tokens = answer.usage.prompt_tokens if answer.usage else 0
    return Prediction(
        label, by_label, by_label[label], tokens, 0, seconds, tokens_cut=first.tokens_cut
    )


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


CLASSIFY = Call(CLASSIFY_PATH, _classify_one, _read_classified)
GENERATE = Call(CHAT_PATH, _generate_body, _read_generated)

# busy: another moment will do. not-loaded: it cannot load the release, somebody must do something.
# absent: it has not got the release (yet), and is well otherwise. away: a proxy's word for a server
# that is not there. fails: at this very text. broken: a proxy's word for a server that may as well
# have ended, or hung, with this request. refused: the request itself is wrong.
Meaning = Literal["busy", "not-loaded", "absent", "away", "fails", "broken", "refused"]


class Look(NamedTuple):
    """What one server says of a release: why it does not answer for it, empty when it does.
    ``late``: it has the release, and is too busy to answer in time."""

    problem: str = ""
    late: bool = False


class Refusal(NamedTuple):
    """An answer other than 200: what it means, its detail, and in how many seconds the server said
    that it is worth asking again (None: it did not)."""

    status: int
    meaning: Meaning
    detail: str
    retry_after: float | None

    def said(self, url: str) -> str:
        """It in words."""
        return f"{url} answered {self.status}" + (f": {self.detail}" if self.detail else "")


def read_refusal(status: int, content: bytes, retry_after: str) -> Refusal:
    """What an answer other than 200 means, by its body and its Retry-After (may be empty)."""
    own, code = True, ""
    try:
        problem = msgspec.json.decode(content)
        detail, code = str(problem.get("detail", "")), problem.get("code", "")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        own, detail = False, content[:200].decode(errors="replace")
    seconds = float(retry_after) if retry_after.isdigit() else None
    return Refusal(status, _meaning(status, code, own=own), detail, seconds)


def _meaning(status: int, code: object, *, own: bool) -> Meaning:
    if status == 429:
        return "busy"
    if status == 503 and code == ReleaseNotLoaded.code:
        return "not-loaded"
    if status == 503 and not own:
        return "away"
    if status in (404, 503):
        return "absent"
    if status == 500:
        return "fails"
    return "broken" if status > 500 else "refused"
