"""Which events the configured tasks have a place for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flywheel.contracts.events import Event, LabelRecorded, LabelSettled
from flywheel.errors import RejectedEvent
from flywheel.kinds import Answers


def configured(tasks: Mapping[str, Answers]) -> Callable[[Event], None]:
    """A check against tasks and the answers that each can have.

    The returned function raises RejectedEvent for a task that is not configured, a label that the
    task does not have, or a text that cannot be an answer.
    """

    def accept(event: Event) -> None:
        answers = tasks.get(event.task)
        if answers is None:
            known = ", ".join(sorted(tasks))
            raise RejectedEvent(f"task {event.task!r} is not configured (known: {known})")
        if isinstance(event, LabelRecorded | LabelSettled):
            value = event.value
            if value is None:
                return
            if not answers.knows(value):
                raise RejectedEvent(f"{value!r} is no label of task {event.task!r}")
            problem = answers.problem(value)
            if problem:
                raise RejectedEvent(f"the label of a sample of task {event.task!r}: {problem}")

    return accept
