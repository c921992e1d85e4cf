"""The bodies that clients send and get, checked in one step by msgspec."""

from __future__ import annotations

import math
import time
from typing import Literal, TypeVar

import msgspec

from flywheel.contracts.bounds import id_problem
from flywheel.contracts.invisible import is_blank
from flywheel.errors import RequestError, TooLarge
from flywheel.gateway.calls import Prediction


class TextPart(msgspec.Struct):
    """One part of a message's content; parts that are no text are refused."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct):
    """One chat message. Only the last one of the user is classified; a task that generates takes
    no others."""

    role: str
    content: str | list[TextPart] | None = None


class ChatRequest(msgspec.Struct):
    """OpenAI's chat completion request, as far as a task has a use for it.

    Every other field that asks for something is refused: see ``gateway.parameters``.
    """

    model: str
    messages: list[Message]
    user: str | None = None
    stream: bool | None = False
    n: int | None = 1

    @property
    def text(self) -> str:
        """The last user message as text. Raises RequestError when there is none."""
        for message in reversed(self.messages):
            if message.role == "user" and message.content is not None:
                content = message.content
                if isinstance(content, str):
                    return content
                return "\n".join(part.text for part in content)
        raise RequestError("messages: there is no message with role 'user' and a text")


class ClassifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of /v1/classify."""

    task: str
    text: str
    user: str | None = None


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of /v1/feedback: what a user, or the course of things, says was right.

    ``label`` is one of the task's labels; where the task generates text, it is the right text.
    """

    sample_id: str
    task: str
    label: str
    source: Literal["user", "outcome"] = "user"
    annotator: str = ""


class ClassifyResponse(msgspec.Struct):
    """The answer of /v1/classify."""

    sample_id: str
    label: str
    scores: dict[str, float]
    confidence: float
    release: str
    arm: str | None


Body = TypeVar("Body", ChatRequest, ClassifyRequest, FeedbackRequest)
_decoders: dict[type, msgspec.json.Decoder[object]] = {
    kind: msgspec.json.Decoder(kind) for kind in (ChatRequest, ClassifyRequest, FeedbackRequest)
}
MAX_ID_CHARS = 128
# What OpenAI says for a token that is very unlikely; JSON has no minus infinity.
_NEVER = -9999.0


def parse(kind: type[Body], body: bytes) -> Body:
    """The request in ``body``. Raises RequestError saying where it is wrong."""
    try:
        value = _decoders[kind].decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body is not as expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    assert isinstance(value, kind)  # noqa: S101 - for the type checker; the decoder guarantees it
    return value


def check_text(text: str, max_chars: int) -> None:
    """Raises RequestError for a text that no model should be asked about."""
    if is_blank(text):
        raise RequestError("the text is empty")
    if len(text) > max_chars:
        raise TooLarge(f"the text has {len(text)} characters; at most {max_chars} are accepted")


def check_id(name: str, value: str) -> None:
    """Raises RequestError for an identifier that is empty, too long or not printable."""
    if not 1 <= len(value) <= MAX_ID_CHARS or not value.isprintable():
        raise RequestError(f"{name} must be 1 to {MAX_ID_CHARS} printable characters")
    problem = id_problem(value)
    if problem is not None:
        raise RequestError(f"{name}: {problem}")


def chat_response(
    sample_id: str, release: str, prediction: Prediction, top_logprobs: int | None = None
) -> dict[str, object]:
    """OpenAI's chat completion with the label, or the text, as its content.

    A generated text has the server's ``confidence`` beside it, and always its usage. A label has
    ``logprobs`` if ``top_logprobs`` is a number.
    """
    choice: dict[str, object] = {
        "index": 0,
        "message": {"role": "assistant", "content": prediction.output},
        "finish_reason": prediction.finish,
    }
    if not prediction.scores:
        choice["confidence"] = prediction.confidence
    elif top_logprobs is not None:
        choice["logprobs"] = _logprobs(prediction, top_logprobs)
    response: dict[str, object] = {
        "id": f"chatcmpl-{sample_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": release,
        "choices": [choice],
    }
    if prediction.tokens_in or not prediction.scores:
        response["usage"] = {
            "prompt_tokens": prediction.tokens_in,
            "completion_tokens": prediction.tokens_out,
            "total_tokens": prediction.tokens_in + prediction.tokens_out,
        }
    return response


def chat_chunks(
    sample_id: str, release: str, prediction: Prediction, top_logprobs: int | None = None
) -> bytes:
    """The same as server-sent events, for clients that ask for a stream."""
    base = {
        "id": f"chatcmpl-{sample_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": release,
    }
    answer: dict[str, object] = {
        "index": 0,
        "delta": {"role": "assistant", "content": prediction.output},
        "finish_reason": None,
    }
    if prediction.scores and top_logprobs is not None:
        answer["logprobs"] = _logprobs(prediction, top_logprobs)
    end = {"index": 0, "delta": {}, "finish_reason": prediction.finish}
    lines = [msgspec.json.encode({**base, "choices": [choice]}) for choice in (answer, end)]
    return b"".join(b"data: " + line + b"\n\n" for line in [*lines, b"[DONE]"])


def _logprobs(prediction: Prediction, top: int) -> dict[str, object]:
    """OpenAI's log-probabilities, where a label is one token: from its calibrated score."""
    ranked = sorted(prediction.scores.items(), key=lambda item: -item[1])
    own = _logprob(prediction.output, prediction.scores[prediction.output])
    own["top_logprobs"] = [_logprob(label, score) for label, score in ranked[:top]]
    return {"content": [own], "refusal": None}


def _logprob(label: str, score: float) -> dict[str, object]:
    logprob = math.log(score) if score > 0 else _NEVER
    return {"token": label, "logprob": logprob, "bytes": list(label.encode())}
