"""Label Studio's exports: tasks with their annotations (JSON), or a flat object each (JSON_MIN)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flywheel.datasets.label_fields import LeftOut, Said, Sample, Unusable, one_label, turned
from flywheel.errors import RejectedEvent
from flywheel.kinds import Answers

Item = Mapping[str, Any]
# What JSON_MIN has of an annotation, beside the task's data and its answers.
_ABOUT = frozenset(
    {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
)


def fits(item: Item) -> bool:
    """Whether an object is a task of either export."""
    return _is_task(item) or "annotation_id" in item or {"annotator", "lead_time"} <= item.keys()


def reader(items: Sequence[Item], answers: Answers) -> Callable[[Item], list[Said]]:
    """How to read one of these tasks: by the question whose answers are the task's.

    Raises RejectedEvent when several questions, or several texts, could be meant.
    """
    tasks = [item for item in items if _is_task(item)]
    if tasks:
        return _Tasks(tasks, answers).read
    return _Flat(items, answers).read


def _is_task(item: Item) -> bool:
    annotated = isinstance(item.get("annotations", item.get("completions")), list)
    return annotated and isinstance(item.get("data"), dict)


class _Tasks:
    def __init__(self, tasks: Sequence[Item], answers: Answers) -> None:
        self._kind, self._values = answers.label_studio
        self._text = _text_field([task["data"] for task in tasks])
        said: dict[str, list[str]] = {}
        for task in tasks:
            for annotation in _annotations(task):
                for result in _results(annotation):
                    if result.get("type") == self._kind:
                        said.setdefault(str(result.get("from_name")), []).extend(
                            _words(result.get("value"), self._values)
                        )
        self._question = _question(said, answers.labels)

    def read(self, item: Item) -> list[Said]:
        if not _is_task(item):
            raise Unusable('no task: "data" and "annotations" are missing')
        annotations = _annotations(item)
        if not annotations:
            return [LeftOut("no annotation")]
        text = item["data"].get(self._text)
        standing = [one for one in annotations if _withdrawn(one) is None]
        truths = [one for one in standing if one.get("ground_truth")]
        words: list[Said] = []
        for annotation in annotations:
            reason = _withdrawn(annotation)
            if reason is None and truths and annotation not in truths:
                reason = "another annotation is the ground truth"
            words.append(LeftOut(reason) if reason else self._said(text, annotation))
        return words

    def _said(self, text: object, annotation: Item) -> Said:
        chosen = [
            word
            for result in _results(annotation)
            if result.get("type") == self._kind and result.get("from_name") == self._question
            for word in _words(result.get("value"), self._values)
        ]
        label = one_label(chosen)
        return label if isinstance(label, LeftOut) else Sample(text, label)


class _Flat:
    def __init__(self, items: Sequence[Item], answers: Answers) -> None:
        fitting = [item for item in items if fits(item)]
        self._text = _text_field(fitting, answers.labels) if fitting else "text"
        said: dict[str, list[str]] = {}
        for item in fitting:
            for name, value in item.items():
                if name not in _ABOUT and name != self._text:
                    said.setdefault(name, []).extend(_words(value, "choices"))
        self._question = _question(
            {name: words for name, words in said.items() if words}, answers.labels
        )

    def read(self, item: Item) -> list[Said]:
        if not fits(item):
            raise Unusable('neither "data" with "annotations" nor an "annotation_id"')
        if (reason := turned(item)) is not None:
            return [LeftOut(reason)]
        label = one_label(_words(item.get(self._question), "choices"))
        return [label if isinstance(label, LeftOut) else Sample(item.get(self._text), label)]


def _annotations(task: Item) -> list[Item]:
    annotations = task.get("annotations", task.get("completions"))
    return [one for one in annotations or () if isinstance(one, dict)]


def _results(annotation: Item) -> list[Item]:
    return [one for one in annotation.get("result") or () if isinstance(one, dict)]


def _withdrawn(annotation: Item) -> str | None:
    """Why an annotation does not count, or None."""
    if (reason := turned(annotation)) is not None:
        return reason
    reviews = [one for one in annotation.get("reviews") or () if isinstance(one, dict)]
    if reviews and reviews[-1].get("accepted") is False:
        return "rejected by a reviewer"
    return None


def _words(value: object, key: str) -> list[str]:
    if isinstance(value, dict):
        value = value.get(key)
    if isinstance(value, str):
        return [value]
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _text_field(data: Sequence[Item], labels: Sequence[str] = ()) -> str:
    """The field that holds the text: ``text``, or the only one that holds words."""
    if any("text" in one for one in data):
        return "text"
    names: Iterable[str] = dict.fromkeys(
        name
        for one in data
        for name, value in one.items()
        if name not in _ABOUT and isinstance(value, str) and value not in labels
    )
    fields = list(names)
    if len(fields) != 1:
        raise RejectedEvent(
            f"which field holds the text is not plain ({', '.join(fields) or 'none has words'}): "
            'name it "text"'
        )
    return fields[0]


def _question(said: Mapping[str, Sequence[str]], labels: Sequence[str]) -> str:
    """The one question that was answered with labels of the task."""
    fitting = [name for name, words in said.items() if set(words) & set(labels)] or list(said)
    if len(fitting) > 1:
        raise RejectedEvent(
            f"several questions could be meant: {', '.join(sorted(fitting))}; "
            "export the one that the task asks"
        )
    return fitting[0] if fitting else ""
