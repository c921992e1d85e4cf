"""vLLM's API server, such that none of its processes outlives the model server that started it.

Runs in vLLM's own environment: ``python -m flywheel.serving.vllm.launch FD ARGUMENTS``. ``FD`` is
the reading end of a pipe that the model server holds open: however that one ends, the pipe closes.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading

# Tells the processes that vLLM starts which of them is the API server.
SERVER = "FLYWHEEL_VLLM_SERVER"
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Become the API server."""
    pipe = int(sys.argv[1])
    os.environ[SERVER] = str(os.getpid())
    threading.Thread(target=_await_end, args=(pipe,), name="owner", daemon=True).start()
    module = "vllm.entrypoints.openai.api_server"
    sys.argv = [module, *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _await_end(pipe: int) -> None:
    """The model server started this process as the leader of a group: end that group with it."""
    try:
        os.read(pipe, 1)
    finally:
        os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
