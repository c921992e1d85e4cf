"""Why a stage failed: what it says itself before it ends, or what its end says of it.

DVC runs stages by a shell and knows their exit status alone. The trainer names a file, the stage
leaves its last error there, and what no process can say of itself is read from the status.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flywheel.errors import FlywheelError, PipelineError, StageKilled

VARIABLE = "FLYWHEEL_STAGE_FAILURE"
_LONGEST = 2000
_COMMAND_NOT_FOUND = 127
_STATUS = re.compile(r"exited with (-?\d+)")


@contextmanager
def reported() -> Iterator[None]:
    """Leave the error that ends this block in the file that the trainer named, if it did; of a
    crash in compiled code the place in ours."""
    name = os.environ.get(VARIABLE)
    if not name:
        yield
        return
    with open(name, "w", encoding="utf-8") as file:
        faulthandler.enable(file)
        try:
            yield
        except BaseException as error:
            file.write(described(error))
            raise
        finally:
            faulthandler.disable()


def described(error: BaseException) -> str:
    """An error in one line: our own by their words, any other with its kind and place as well."""
    if isinstance(error, FlywheelError):
        return str(error)[:_LONGEST]
    said = " ".join(str(error).split())[:_LONGEST]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if said else ''}{said}{place}"


def failure(dvc_said: str, left: str, memory_kills: int) -> PipelineError:
    """What a stage's failure is: ``left`` is what it said itself, ``memory_kills`` how many
    processes the kernel ended meanwhile because memory was out."""
    match = _STATUS.search(dvc_said)
    if match is None:
        return PipelineError(left or dvc_said)
    status = int(match[1])
    # A shell that did not become the stage itself says by 128 + n that a signal ended it.
    number = -status if status < 0 else status - 128
    with suppress(ValueError):
        name = signal.Signals(number).name
        return StageKilled(f"it was ended by {name}{_why(name, left, memory_kills)}")
    if left:
        return PipelineError(left)
    if status == _COMMAND_NOT_FOUND:
        return PipelineError(f"its command was not found ({dvc_said}): is flywheel installed?")
    return PipelineError(f"{dvc_said}, and left no reason: the trainer's log has what it printed")


def _why(name: str, left: str, memory_kills: int) -> str:
    if left:
        return f": {_crash(left)}"
    if name != "SIGKILL":
        return ""
    if memory_kills:
        return ": the machine, or this container, ran out of memory"
    return ", which a person sends, or the machine when it runs out of memory"


def _crash(left: str) -> str:
    """The kind and the innermost place of what `faulthandler` writes."""
    lines = left.splitlines()
    place = next((line.strip() for line in lines if line.strip().startswith("File ")), "")
    return f"{lines[0]}{', at ' if place else ''}{place}"


def memory_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has ended because memory was out; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in counters.read_text("ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
