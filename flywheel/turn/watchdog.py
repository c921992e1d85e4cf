"""Ends a stage whose trainer is gone, so that two never write the same files."""

from __future__ import annotations

import os
import threading
import time

VARIABLE = "FLYWHEEL_TRAINER_PID"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def follow_trainer() -> None:
    """Watch the process named by FLYWHEEL_TRAINER_PID from a thread; end at once when it ends.

    A trainer killed with -9 leaves DVC's child behind; the next trainer would run the same stage
    beside it.
    """
    pid = int(os.environ.get(VARIABLE, "0"))
    if not pid:
        return

    def watch() -> None:
        try:
            while _alive(pid):
                time.sleep(0.5)
        finally:
            # Also when it cannot be told whether the trainer lives: without this watch two might
            # write the same files.
            os._exit(75)

    threading.Thread(target=watch, name="follow-trainer", daemon=True).start()
