"""Work that one process at a time may do: the others are told, or wait."""

from __future__ import annotations

import threading

from storage.database import Database


def test_one_has_it_and_others_are_told(database: Database) -> None:
    with database.alone("removing") as mine:
        assert mine
        with database.alone("removing") as again:
            assert not again
        with database.alone("something else") as other:
            assert other
    with database.alone("removing") as mine:
        assert mine, "whoever had it has given it back"


def test_who_waits_has_it_next_also_after_an_error(database: Database) -> None:
    got: list[str] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        with database.alone("removing", wait=True) as mine:
            got.append("second" if mine else "nobody")

    thread = threading.Thread(target=wait)
    try:
        with database.alone("removing"):
            thread.start()
            waiting.wait()
            got.append("first")
            raise InterruptedError
    except InterruptedError:
        pass
    thread.join()
    assert got == ["first", "second"]
