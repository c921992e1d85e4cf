"""Which of OpenAI's parameters a task takes. What has no effect on its answers is refused by name.

A release answers in one way: its prompt, its longest answer and greedy decoding are part of what
was trained, evaluated and compared. An answer made otherwise would be no evidence about it. So
fields that would change the answer are refused; those that ask for what is done anyway are not,
and null is the same as leaving a field out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flywheel.errors import RequestError
from flywheel.gateway.requests import AnswerOptions, without_nulls
from flywheel.kinds import Answers

MOST_TOP_LOGPROBS = 20
# Fields with an effect of their own.
_TAKEN = frozenset({"model", "messages", "user", "stream"})
# Fields that no answer depends on: the client's bookkeeping, hints on how to be fast, and what only
# tools would need.
WITHOUT_EFFECT = frozenset(
    {
        "seed",
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "parallel_tool_calls",
        "prediction",
    }
)
# Fields that may say what is so anyway.
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
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}
_LIKELIEST = "a release answers with what is most likely (temperature 0), as it was evaluated"
_LENGTH = "tasks.NAME.prompt.max_answer_tokens sets it for every answer of a release"
_NO_TOOLS = "a release calls no tools"
_TEXT_ALONE = "a release answers with text alone"
_WHY: Mapping[str, str] = {
    "n": "a task has one answer",
    "temperature": _LIKELIEST,
    "top_p": _LIKELIEST,
    "presence_penalty": _LIKELIEST,
    "frequency_penalty": _LIKELIEST,
    "logit_bias": _LIKELIEST,
    "max_tokens": _LENGTH,
    "max_completion_tokens": _LENGTH,
    "logprobs": "log-probabilities are those of labels; a text has its confidence beside it",
    "top_logprobs": "log-probabilities are those of labels; a text has its confidence beside it",
    "stop": "a release ends its answers as it learnt to",
    "tools": _NO_TOOLS,
    "tool_choice": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "function_call": _NO_TOOLS,
    "web_search_options": "a release searches nothing",
    "response_format": "an answer is the label, or the text, as it is, and no JSON around it",
    "modalities": _TEXT_ALONE,
    "audio": _TEXT_ALONE,
    "reasoning_effort": "a release does not reason before it answers",
    "verbosity": "a release's answers are as long as it learnt to make them",
    "moderation": "nothing here moderates",
}
_UNKNOWN = "it is no parameter that is known here"
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})
_LONGEST = frozenset({"max_tokens", "max_completion_tokens"})


def check_parameters(answers: Answers, body: bytes) -> AnswerOptions:
    """What is wanted beside the answer.

    Raises RequestError, naming the field, where a request asks a task with such ``answers`` for
    what would not be done. A label counts as one token: any longest answer has room for it.
    """
    fields = _said(body)
    usage = _wants_usage(fields.pop("stream_options", {}))
    top = _scored(fields) if answers.scored else None
    for name, value in fields.items():
        _refuse_unless_so(name, value, answers.of_task)
    return AnswerOptions(top, usage)


def _scored(fields: dict[str, Any]) -> int | None:
    """How many log-probabilities are wanted (None: none); takes out the fields that only answers
    with scores have a use for."""
    wanted, most = fields.pop("logprobs", False), fields.pop("top_logprobs", None)
    if not isinstance(wanted, bool):
        raise RequestError("logprobs: must be true or false", param="logprobs")
    if most is not None and not wanted:
        raise RequestError("top_logprobs: needs logprobs to be true", param="top_logprobs")
    if most is not None and not (_whole(most) and 0 <= most <= MOST_TOP_LOGPROBS):
        raise RequestError(
            f"top_logprobs: must be a whole number from 0 to {MOST_TOP_LOGPROBS}",
            param="top_logprobs",
        )
    for name in sorted(_LONGEST & fields.keys()):
        value = fields.pop(name)
        if not (_whole(value) and value >= 1):
            raise RequestError(f"{name}: must be a whole number from 1 on", param=name)
    return (most or 0) if wanted else None


def _said(body: bytes) -> dict[str, Any]:
    """The fields that say something and are not taken as they come."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(body)
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # Fields that a request only carries are looked at here for the first time.
        raise RequestError(f"the body is not valid JSON: {error}") from None
    return {
        name: without_nulls(value)
        for name, value in fields.items()
        if value is not None and name not in _TAKEN and name not in WITHOUT_EFFECT
    }


def _wants_usage(options: object) -> bool:
    """Whether a stream is to end with its usage; an answer in one piece always has it."""
    if not isinstance(options, dict):
        raise RequestError("stream_options: must be an object", param="stream_options")
    for name, value in options.items():
        if name not in _STREAM_OPTIONS:
            raise RequestError(
                f"stream_options: {name} is none of {', '.join(sorted(_STREAM_OPTIONS))}",
                param="stream_options",
            )
        if not isinstance(value, bool):
            raise RequestError(
                f"stream_options: {name} must be true or false", param="stream_options"
            )
    if options.get("include_obfuscation"):
        raise RequestError(
            "stream_options: include_obfuscation is not supported: an answer comes in one piece, "
            "whose length says nothing of single tokens",
            param="stream_options",
        )
    return bool(options.get("include_usage"))


def _refuse_unless_so(name: str, value: object, task: str) -> None:
    if value not in _AS_IT_IS.get(name, ()):
        why = _WHY.get(name, _UNKNOWN)
        raise RequestError(f"{name}: not supported by {task}: {why}", param=name)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
