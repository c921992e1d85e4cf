"""Threads that end say so in health, and begin again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from flywheel.monitoring import threads
from flywheel.monitoring.health import run_checks
from flywheel.monitoring.threads import LastingThread, watch_threads


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "_ended", {})
    hook = threading.excepthook
    yield
    threading.excepthook = hook


def health() -> tuple[int, dict[str, str]]:
    status, body = run_checks({"own": lambda: None})
    return status, json.loads(body)["checks"]


@pytest.mark.parametrize("error", [ValueError("year 9999"), KeyError("x"), MemoryError()], ids=repr)
def test_what_ends_a_thread_is_said_and_it_begins_again(error: Exception) -> None:
    began = [threading.Event(), threading.Event()]
    times = iter((0, 1))
    stop = threading.Event()
    now = [0.0]

    def work() -> None:
        turn = next(times)
        began[turn].set()
        if turn == 0:
            raise error
        stop.wait(30)

    thread = LastingThread("features", work, first_pause=0.01, clock=lambda: now[0])
    thread.start()
    assert began[0].wait(10)
    assert began[1].wait(10)
    status, checks = health()
    assert status == 503
    assert checks["own"] == "ok"
    assert checks["threads"] == f"features: {type(error).__name__}: {error}"
    now[0] = 60.0
    assert health() == (200, {"own": "ok"})
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_thread_that_is_told_to_end_does_not_begin_again() -> None:
    failed = threading.Event()

    def work() -> None:
        failed.set()
        raise OSError("gone")

    thread = LastingThread("capture", work, first_pause=3600)
    thread.start()
    assert failed.wait(10)
    thread.join(10)
    assert not thread.is_alive()
    assert health() == (200, {"own": "ok"})


def test_a_thread_whose_work_is_done_has_not_failed() -> None:
    thread = LastingThread("await-splits", lambda: None)
    thread.start()
    thread.join(10)
    assert health() == (200, {"own": "ok"})


def test_a_thread_of_a_library_that_ends_is_said_for_good() -> None:
    seen: list[threading.ExceptHookArgs] = []
    threading.excepthook = seen.append
    watch_threads()

    def die() -> None:
        raise RuntimeError("sender died")

    thread = threading.Thread(target=die, name="kafka-sender")
    thread.start()
    thread.join()
    status, checks = health()
    assert status == 503
    assert checks["threads"] == "kafka-sender ended: RuntimeError: sender died"
    assert len(seen) == 1
