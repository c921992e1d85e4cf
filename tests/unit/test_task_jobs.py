"""Jobs of tasks: what is slow or fails in one delays none of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flywheel.errors import ConfigurationError, StorageError
from flywheel.processes.task_jobs import TaskJobs


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_task_that_hangs_delays_no_other_and_is_not_begun_twice() -> None:
    jobs = TaskJobs("task", 3)
    go, done = threading.Event(), []
    assert jobs.begin("slow", lambda: go.wait(30))
    assert jobs.busy("slow")
    assert not jobs.begin("slow", lambda: done.append("twice"))
    for number in range(5):
        assert jobs.begin("other", lambda number=number: done.append(number))  # type: ignore[misc]
        until(lambda: not jobs.busy("other"))
    assert done == [0, 1, 2, 3, 4]
    go.set()
    until(lambda: not jobs.busy("slow"))
    assert jobs.begin("slow", lambda: done.append("again"))
    until(lambda: done[-1] == "again")
    jobs.stop()


def test_one_that_fails_is_tried_again_after_a_pause_and_said() -> None:
    jobs = TaskJobs("task", 2, pause=0.0)

    def fail(error: Exception) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    for error in (
        StorageError("locked"),
        ConfigurationError("tasks.a.rollout", "wrong"),
        ZeroDivisionError("nobody foresaw it"),
    ):
        assert jobs.problem() is None
        for _ in range(3):
            until(lambda error=error: jobs.begin("a", fail(error)))  # type: ignore[misc]
            until(lambda: not jobs.busy("a"))
        assert jobs.begin("b", lambda: None), "the other goes on"
        problem = jobs.problem()
        assert problem is not None
        assert problem.startswith("a: ")
        assert str(error) in problem
        until(lambda: jobs.begin("a", lambda: None))
        until(lambda: not jobs.busy("a"))
    slow = TaskJobs("task", 1, pause=60.0)
    slow.begin("a", fail(StorageError("locked")))
    until(lambda: not slow.busy("a"))
    assert not slow.begin("a", lambda: None), "not in a tight loop"
    slow.stop()
    jobs.stop()
