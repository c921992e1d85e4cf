"""Which events the configured tasks have a place for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from flywheel.contracts.answers import text_problem
from flywheel.contracts.events import Event, LabelRecorded, LabelSettled
from flywheel.errors import RejectedEvent


def configured(tasks: Mapping[str, Collection[str]]) -> Callable[[Event], None]:
    """A check against tasks and their labels (task → labels; none: the task has free text).

    The returned function raises RejectedEvent for a task that is not configured, a label that the
    task does not have, or a text that cannot be an answer.
    """

    def accept(event: Event) -> None:
        labels = tasks.get(event.task)
        if labels is None:
            known = ", ".join(sorted(tasks))
            raise RejectedEvent(f"task {event.task!r} is not configured (known: {known})")
        if isinstance(event, LabelRecorded | LabelSettled):
            value = event.value
            if value is None:
                return
            if labels and value not in labels:
                raise RejectedEvent(f"{value!r} is no label of task {event.task!r}")
            problem = None if labels else text_problem(value)
            if problem:
                raise RejectedEvent(f"the label of a sample of task {event.task!r}: {problem}")

    return accept
