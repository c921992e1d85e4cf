"""What a client may ask of a task that generates text. What is not passed on is refused.

A release answers in one way: its prompt, its longest answer and greedy decoding are part of what
was trained, evaluated and compared. An answer made otherwise would be no evidence about it. So
fields that would change the answer are refused; those that ask for what is done anyway are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flywheel.errors import RequestError
from flywheel.gateway.requests import ChatRequest

# Fields with an effect of their own, or of none on an answer (the client's bookkeeping).
_TAKEN = frozenset({"model", "messages", "user", "stream"})
_WITHOUT_EFFECT = frozenset({"seed", "metadata", "store", "service_tier"})
# Fields that may say what is so anyway; null is always that.
_AS_IT_IS: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "temperature": (0,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_WHY: Mapping[str, str] = {
    "n": "a task has one answer",
    "temperature": "a release answers with what is most likely (temperature 0)",
    "max_tokens": "tasks.NAME.prompt.max_answer_tokens sets it for every answer of a release",
    "max_completion_tokens": "tasks.NAME.prompt.max_answer_tokens sets it for every answer of a "
    "release",
}


def check_generation(request: ChatRequest, body: bytes) -> None:
    """Raises RequestError, naming the field, where a request asks for what would not be done."""
    others = [message.role for message in request.messages if message.role != "user"]
    if others:
        raise RequestError(
            f"messages: there is one with role {others[0]!r}; a release has instructions of its "
            "own and answers one message of the user, so send that alone"
        )
    if len(request.messages) > 1:
        raise RequestError(
            "messages: there are several of the user; a release answers one, so send that alone"
        )
    try:
        fields: dict[str, Any] = msgspec.json.decode(body)
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    for name, value in fields.items():
        if name in _TAKEN or name in _WITHOUT_EFFECT or value is None:
            continue
        if value not in _AS_IT_IS.get(name, ()):
            why = _WHY.get(name, "no release answers differently for it")
            raise RequestError(f"{name}: not supported by a task that generates text: {why}")
