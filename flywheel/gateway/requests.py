"""The bodies that clients send and get, checked in one step by msgspec."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from flywheel.contracts.bounds import id_problem
from flywheel.contracts.events import FeedbackSource
from flywheel.contracts.model_server import Prediction
from flywheel.contracts.sample import Content, as_text, content_problem
from flywheel.errors import RequestError, TooLarge
from flywheel.kinds import Answers

# Whatever an earlier turn holds (images, refusals, calls of tools): only what is read is looked at.
_Content = Annotated[
    Any,
    msgspec.Meta(
        description="A text, or a list of parts that are texts.",
        extra_json_schema={"type": ["string", "array", "null"]},
    ),
]


class Message(msgspec.Struct):
    """One chat message. Which of them a task takes is its kind's to say."""

    role: str
    content: _Content = None


class ChatRequest(msgspec.Struct):
    """OpenAI's chat completion request, as far as a task has a use for it.

    Every other field that asks for something is refused: see ``gateway.parameters``.
    """

    model: str
    messages: list[Message]
    user: str | None = None
    stream: bool | None = False
    n: int | None = 1


class ClassifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of /v1/classify."""

    task: str
    text: str
    user: str | None = None


class SampleRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of /v1/samples: an input that no model answers, for people to label. ``messages``
    are those of a chat request."""

    task: str
    messages: list[Message]
    user: str | None = None


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of /v1/feedback: what a user, or the course of things, says was right.

    ``label`` is one of the task's labels; where it has none, it is the right text.
    """

    sample_id: str
    task: str
    label: str
    source: FeedbackSource = "user"
    annotator: str = ""


class AnswerOptions(NamedTuple):
    """What a chat request wants beside the answer: the best labels' log-probabilities, how many
    (None: not even the answer's own), and the usage at the end of a stream."""

    top_logprobs: int | None = None
    stream_usage: bool = False


PLAIN = AnswerOptions()


class ClassifyResponse(msgspec.Struct):
    """The answer of /v1/classify. ``tokens_cut`` tokens of the text were not read: it is longer
    than the release reads."""

    sample_id: str
    label: str
    scores: dict[str, float]
    confidence: float
    release: str
    arm: str | None
    tokens_cut: int = 0


Body = TypeVar("Body", ChatRequest, ClassifyRequest, FeedbackRequest, SampleRequest)
_decoders: dict[type, msgspec.json.Decoder[object]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (ChatRequest, ClassifyRequest, FeedbackRequest, SampleRequest)
}
MAX_ID_CHARS = 128
# What stands before the sample's id in the id of a chat completion.
CHAT_PREFIX = "chatcmpl-"
# What OpenAI says for a token that is very unlikely; JSON has no minus infinity.
_NEVER = -9999.0


def parse(kind: type[Body], body: bytes) -> Body:
    """The request in ``body``; null is as left out. Raises RequestError saying where it is
    wrong."""
    try:
        value = _decoders[kind].decode(body)
    except msgspec.ValidationError as error:
        value = _parsed_without_nulls(kind, body)
        if value is None:
            raise RequestError(f"the body is not as expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    assert isinstance(value, kind)  # noqa: S101 - for the type checker; the decoder guarantees it
    return value


def _parsed_without_nulls(kind: type[Body], body: bytes) -> Body | None:
    try:
        return msgspec.convert(without_nulls(msgspec.json.decode(body)), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def without_nulls(value: Any) -> Any:
    """The same JSON with no field that is null."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return value


def check_content(content: Content, max_chars: int) -> None:
    """Raises RequestError for an input that no model should be asked about."""
    if (length := len(as_text(content))) > max_chars:
        raise TooLarge(f"the text has {length} characters; at most {max_chars} are accepted")
    problem = content_problem(content)
    if problem is not None:
        raise RequestError(problem)


def check_id(name: str, value: str) -> None:
    """Raises RequestError for an identifier that is empty, too long or not printable."""
    if not 1 <= len(value) <= MAX_ID_CHARS or not value.isprintable():
        raise RequestError(f"{name} must be 1 to {MAX_ID_CHARS} printable characters")
    problem = id_problem(value)
    if problem is not None:
        raise RequestError(f"{name}: {problem}")


def chat_response(
    answers: Answers,
    sample_id: str,
    release: str,
    prediction: Prediction,
    wanted: AnswerOptions = PLAIN,
) -> dict[str, object]:
    """OpenAI's chat completion with the label, or the text, as its content.

    A generated text has the server's ``confidence`` beside it. A choice says ``tokens_cut`` where
    not all of the text was read.
    """
    choice: dict[str, object] = {
        "index": 0,
        "message": {"role": "assistant", "content": prediction.output},
        "finish_reason": prediction.finish,
    }
    if not answers.scored:
        choice["confidence"] = prediction.confidence
    elif wanted.top_logprobs is not None:
        choice["logprobs"] = _logprobs(prediction, wanted.top_logprobs)
    choice |= _cut(prediction)
    return {
        "id": f"{CHAT_PREFIX}{sample_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": release,
        "choices": [choice],
        "usage": _usage(answers, prediction),
    }


def chat_chunks(
    answers: Answers,
    sample_id: str,
    release: str,
    prediction: Prediction,
    wanted: AnswerOptions = PLAIN,
) -> bytes:
    """The same as server-sent events, for clients that ask for a stream."""
    base: dict[str, object] = {
        "id": f"{CHAT_PREFIX}{sample_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": release,
    }
    answer: dict[str, object] = {
        "index": 0,
        "delta": {"role": "assistant", "content": prediction.output},
        "finish_reason": None,
    }
    if answers.scored and wanted.top_logprobs is not None:
        answer["logprobs"] = _logprobs(prediction, wanted.top_logprobs)
    end = {"index": 0, "delta": {}, "finish_reason": prediction.finish, **_cut(prediction)}
    chunks = [{**base, "choices": [choice]} for choice in (answer, end)]
    if wanted.stream_usage:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**base, "choices": [], "usage": _usage(answers, prediction)})
    lines = [msgspec.json.encode(chunk) for chunk in chunks]
    return b"".join(b"data: " + line + b"\n\n" for line in [*lines, b"[DONE]"])


def _usage(answers: Answers, prediction: Prediction) -> dict[str, int]:
    """Tokens as the model server counted them; a label counts as one, as in its
    log-probabilities."""
    tokens_out = 1 if answers.scored else prediction.tokens_out
    return {
        "prompt_tokens": prediction.tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": prediction.tokens_in + tokens_out,
    }


def _cut(prediction: Prediction) -> dict[str, int]:
    return {"tokens_cut": prediction.tokens_cut} if prediction.tokens_cut else {}


def _logprobs(prediction: Prediction, top: int) -> dict[str, object]:
    """OpenAI's log-probabilities, where a label is one token: from its calibrated score."""
    ranked = sorted(prediction.scores.items(), key=lambda item: -item[1])
    own = _logprob(prediction.output, prediction.scores[prediction.output])
    own["top_logprobs"] = [_logprob(label, score) for label, score in ranked[:top]]
    return {"content": [own], "refusal": None}


def _logprob(label: str, score: float) -> dict[str, object]:
    logprob = math.log(score) if score > 0 else _NEVER
    return {"token": label, "logprob": logprob, "bytes": list(label.encode())}
