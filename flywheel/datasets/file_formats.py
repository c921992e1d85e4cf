"""What the files of annotation tools say: their shapes, and which of their labels hold.

A file's objects are looked at one by one; each says samples with their labels, or that there is
none to be had and why: rejected, skipped, withdrawn. Shapes are those that the tools write: doccano
1.8, Label Studio 1.23 (JSON, JSON_MIN), Prodigy's JSONL, OpenAI's chat files for fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flywheel.datasets import label_studio
from flywheel.datasets.label_fields import LeftOut, Said, Sample, Unusable, one_label, turned
from flywheel.kinds import Answers

Item = Mapping[str, Any]
Reader = Callable[[Item], list[Said]]


@dataclass(frozen=True)
class Format:
    """A shape of file. ``fits`` looks at one object of it; ``reader`` at all, and at what
    answers the task has, before it says how to read one."""

    name: str
    title: str
    fits: Callable[[Item], bool]
    reader: Callable[[Sequence[Item], Answers], Reader]


class RefusedShape(NamedTuple):
    """A shape that holds no labelled samples, and why."""

    fits: Callable[[Item], bool]
    why: str


def _plain(item: Item) -> list[Said]:
    if (reason := turned(item)) is not None:
        return [LeftOut(reason)]
    missing = [f'"{name}"' for name in ("text", "label") if name not in item]
    if missing:
        fields = ", ".join(list(item)[:10]) or "none"
        raise Unusable(f"{' and '.join(missing)} missing; it has the fields {fields}")
    return [_sample(item["text"], item["label"])]


def _sample(text: object, label: object) -> Said:
    if not isinstance(label, list):
        return Sample(text, label)
    value = one_label(label)
    return value if isinstance(value, LeftOut) else Sample(text, value)


def _prodigy(item: Item) -> list[Said]:
    answer = item.get("answer")
    if answer is None:
        raise Unusable('no "answer": whether the label was accepted is not said')
    if answer != "accept":
        return [LeftOut(f'"answer": "{answer}"')]
    if (reason := turned(item)) is not None:
        return [LeftOut(reason)]
    if "accept" in item:  # of a choice, what was chosen
        return [_sample(item.get("text"), item["accept"])]
    if "label" not in item:
        spans = " (it has spans, which label parts of a text)" if "spans" in item else ""
        raise Unusable(f'neither "label" nor a choice{spans}')
    return [_sample(item.get("text"), item["label"])]


def _doccano(items: Sequence[Item], _answers: Answers) -> Reader:
    # Where nobody approves, nothing is said by an approver that is missing.
    approving = any(item.get("annotation_approver") for item in items)

    def read(item: Item) -> list[Said]:
        if (reason := turned(item)) is not None:
            return [LeftOut(reason)]
        if approving and not item.get("annotation_approver"):
            return [LeftOut("approved by nobody")]
        given = next((item[name] for name in ("label", "labels", "cats") if name in item), None)
        if given is None:
            raise Unusable('no "label"')
        return [_sample(item.get("text", item.get("data")), given)]

    return read


def _chat(item: Item) -> list[Said]:
    if "preferred_output" in item:
        asked, answers = item.get("input"), item["preferred_output"]
        messages = asked.get("messages") if isinstance(asked, dict) else None
        both = isinstance(messages, list) and isinstance(answers, list)
        turns: Any = list(messages or ()) + list(answers) if both else None
    else:
        turns = item.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unusable('"messages" is no list of messages')
    if not turns or turns[-1].get("role") != "assistant":
        raise Unusable("the last message is not the assistant's: there is no answer to learn from")
    *before, answer = turns
    if answer.get("weight") == 0:
        return [LeftOut('"weight": 0 on the answer')]
    if answer.get("refusal"):
        return [LeftOut("the assistant refused")]
    if answer.get("tool_calls") or answer.get("function_call"):
        raise Unusable("the answer is a call of a tool, no text")
    asked = [turn for turn in before if turn.get("role") == "user"]
    if not asked:
        raise Unusable("there is no message of the user")
    return [Sample(_content(asked[-1]), _content(answer))]


def _content(message: Item) -> object:
    content = message.get("content")
    if not isinstance(content, list):
        return content
    words = [part.get("text") for part in content if isinstance(part, dict)]
    texts = [text for text in words if isinstance(text, str)]
    if len(texts) != len(content):
        raise Unusable("a message holds something that is no text")
    return "\n".join(texts)


def _each(read: Reader) -> Callable[[Sequence[Item], Answers], Reader]:
    return lambda _items, _answers: read


def _is_prodigy(item: Item) -> bool:
    if item.get("answer") in ("accept", "reject", "ignore"):
        return True
    return "_task_hash" in item or "_input_hash" in item


JSON_LINES = Format(
    "jsonl",
    'a JSON object a line, {"text": "…", "label": "…"}',
    lambda item: "text" in item and "label" in item,
    _each(_plain),
)
# Read by its columns; each row is then an object like one of JSON lines.
CSV = Format("csv", "CSV whose header names text and label", lambda _item: False, _each(_plain))
FORMATS: tuple[Format, ...] = (
    Format(
        "openai",
        "OpenAI's chat files for fine-tuning",
        lambda item: "messages" in item or "preferred_output" in item,
        _each(_chat),
    ),
    Format(
        "label-studio", "Label Studio's JSON or JSON_MIN", label_studio.fits, label_studio.reader
    ),
    Format("prodigy", "Prodigy's JSONL", _is_prodigy, _each(_prodigy)),
    Format(
        "doccano",
        "doccano's JSONL or JSON",
        lambda item: (
            ("text" in item or "data" in item)
            and any(isinstance(item.get(name), list) for name in ("label", "labels", "cats"))
        ),
        _doccano,
    ),
    JSON_LINES,
    CSV,
)
ACCEPTED = ", ".join(format_.title for format_ in (JSON_LINES, CSV, *FORMATS[:-2]))
OTHER_NAMES = {
    "label-studio-json": "label-studio",
    "label-studio-min": "label-studio",
    "openai-chat": "openai",
}
REFUSED: tuple[RefusedShape, ...] = (
    RefusedShape(
        lambda item: "custom_id" in item and "response" in item,
        "the output of an OpenAI batch: it holds answers without the questions they answer",
    ),
    RefusedShape(
        lambda item: "custom_id" in item and "body" in item,
        "the input of an OpenAI batch: it holds questions without answers",
    ),
    RefusedShape(
        lambda item: isinstance(item.get("conversations"), list),
        'a file of dialogues ("conversations")',
    ),
    RefusedShape(
        lambda item: "fields" in item and "responses" in item,
        "an export of Argilla's records",
    ),
    RefusedShape(
        lambda item: isinstance(item.get("entities"), list),
        "a file of labelled spans, which label parts of a text",
    ),
)


def format_named(name: str) -> Format:
    """The format of a name, of ``FORMATS`` or one that it goes by too. Raises KeyError."""
    return {format_.name: format_ for format_ in FORMATS}[OTHER_NAMES.get(name, name)]


def format_of(item: Item) -> Format | None:
    """The format that an object looks like, or None."""
    return next((format_ for format_ in FORMATS if format_.fits(item)), None)


def refusal(item: Item) -> str | None:
    """What an object is that no sample can be had from, where that is known."""
    return next((refused.why for refused in REFUSED if refused.fits(item)), None)
