"""WebKitGTK by the W3C WebDriver protocol: its driver and its browser are Debian packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from driven import Refused, Window, free_port, run_until_left

_BROWSER = Path("/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser")


def missing() -> list[str]:
    """What of it this machine lacks."""
    lacking = [name for name in ("WebKitWebDriver", "Xvfb") if shutil.which(name) is None]
    return lacking if _BROWSER.exists() else [*lacking, str(_BROWSER)]


class WebKit:
    """A driver that opens browsers."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    @contextmanager
    def window(self, *, keeps: bool = True) -> Iterator[Window]:
        """A browser with a profile of its own, which keeps data of sites or refuses to."""
        refusing = [] if keeps else ["--enable-html5-local-storage=false"]
        wanted = {"binary": str(_BROWSER), "args": ["--automation", *refusing]}
        capabilities = {"alwaysMatch": {"webkitgtk:browserOptions": wanted}}
        session = self._ask("/session", {"capabilities": capabilities})["sessionId"]
        try:
            yield Window(lambda command, body: self._ask(f"/session/{session}/{command}", body))
        finally:
            self._http.delete(f"/session/{session}")

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=body)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise Refused(f"{path}: {value}")
        return value


@contextmanager
def started() -> Iterator[WebKit]:
    """A driver on a free port, on a screen that nobody sees, without a locale."""
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        env = os.environ | {
            "DISPLAY": _screen(stack),
            "HOME": home,
            "XDG_RUNTIME_DIR": home,
            "LANG": "C.UTF-8",
            "GSETTINGS_BACKEND": "memory",
            "NO_AT_BRIDGE": "1",
            "WEBKIT_DISABLE_COMPOSITING_MODE": "1",
        }
        port = free_port()
        run_until_left(stack, ["WebKitWebDriver", "--host=127.0.0.1", f"--port={port}"], env=env)
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
        for _ in range(400):
            try:
                http.get("/status")
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        yield WebKit(http)


def _screen(stack: ExitStack) -> str:
    read, write = os.pipe()
    size = ["-screen", "0", "1280x900x24", "-nolisten", "tcp"]
    command = ["Xvfb", "-displayfd", str(write), *size]
    run_until_left(stack, command, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as told:
        return f":{told.readline().strip()}"
