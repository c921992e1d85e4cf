"""What a kind of task is, and a task as it says of itself what it is asked and may answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from flywheel.contracts.label_names import labels_problem
from flywheel.contracts.model_folder import ModelKind, Output
from flywheel.kinds.answers import Answers
from flywheel.kinds.choice import Choice
from flywheel.kinds.free_text import FreeText
from flywheel.kinds.reading import FromLine, Read, ToLine, last_of_user, text_in_line, text_to_line

FileReader = Literal["texts", "lines"]
# Keys of a task that are about its model.
MODEL_KEYS = frozenset({"model", "training", "lora", "prompt", "compression", "gate", "rollout"})
# What a task is that does not say it.
USUAL = "classification"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of task.

    ``has_labels``: its answers are labels, which flywheel.toml lists. ``models`` are those that it
    can have; of some kinds there is none yet.

    ``read`` takes the input from the messages of a chat request (``largest_body`` bounds that in
    bytes where it is more than a text needs), ``from_line`` from a ``line`` of a file, which
    ``to_line`` writes; ``reader`` says what files it may come in: "texts" of every format, or
    "lines" alone. ``no_classify`` says why POST /v1/classify is not for it (empty: it is),
    ``listed`` what GET /v1/models says of it beside its labels. ``input_part`` names the template
    that shows an input to experts. ``ignored`` are keys of a task that would have no effect, each
    with a reason, by model.
    """

    name: str
    has_labels: bool
    models: tuple[ModelKind, ...] = ("encoder", "llm")
    read: Read = last_of_user
    from_line: FromLine = text_in_line
    to_line: ToLine = text_to_line
    line: str = '{"text": "…", "label": "…"}'
    reader: FileReader = "texts"
    input_part: str = "text"
    no_classify: str = ""
    largest_body: int = 0
    ignored: Mapping[ModelKind, Mapping[str, str]] = field(default_factory=dict)
    listed: Mapping[str, str] = field(default_factory=dict)

    def answers(self, labels: Sequence[str]) -> Answers:
        """The answers of a task with these labels."""
        return Choice(labels) if self.has_labels else FreeText()

    @property
    def output(self) -> Output:
        """What its releases answer with."""
        return self.answers(()).output

    def keys(self, labels: Sequence[str], titles: Mapping[str, str]) -> dict[str, object]:
        """The keys of [tasks.NAME] by which a new flywheel.toml says what the task is."""
        said: dict[str, object] = {} if self.name == USUAL else {"kind": self.name}
        if self.has_labels:
            said |= {"labels": list(labels), "label_titles": dict(titles)}
        return said

    @property
    def without_keys(self) -> frozenset[str]:
        """Keys that such a task has no use for, and a new flywheel.toml leaves out."""
        ignored = frozenset() if self.has_labels else frozenset({"labels", "label_titles"})
        return ignored if self.models else ignored | MODEL_KEYS

    def labels_problem(self, labels: Sequence[str]) -> str | None:
        """Why these cannot be the labels of a task of this kind, or None."""
        if self.has_labels:
            return labels_problem(labels)
        return f"labels has no meaning where kind is {self.name}: leave it out" if labels else None

    def model_problem(self, model: ModelKind) -> str | None:
        """Why a task of this kind cannot have such a model, or None."""
        if not self.models or model in self.models:
            return None
        named = " or ".join(f'model = "{one}"' for one in self.models)
        return f'kind = "{self.name}" needs {named}'

    @property
    def note(self) -> str:
        """What is to be known of every task of this kind; empty: nothing."""
        if self.models:
            return ""
        return (
            "no model reads such inputs yet: people and rules label every sample, and none is "
            "answered (POST /v1/samples takes them)"
        )


class TaskKind(NamedTuple):
    """A task as to what it is: its kind, and the answers that it takes."""

    kind: Kind
    answers: Answers

    @classmethod
    def of(cls, kind: Kind, labels: Sequence[str]) -> TaskKind:
        """A task of this kind with these labels."""
        return cls(kind, kind.answers(labels))
