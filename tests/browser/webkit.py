"""WebKitGTK by the W3C WebDriver protocol: its driver and its browser are Debian packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

_BROWSER = Path("/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# As WebDriver calls keys that are no characters.
ENTER = "\ue007"


def missing() -> list[str]:
    """What of it this machine lacks."""
    lacking = [name for name in ("WebKitWebDriver", "Xvfb") if shutil.which(name) is None]
    return lacking if _BROWSER.exists() else [*lacking, str(_BROWSER)]


class Refused(Exception):
    """The driver could not do what was asked."""


class Window:
    """One browser with one page."""

    def __init__(self, http: httpx.Client, session: str) -> None:
        self._http = http
        self._path = f"/session/{session}"

    def open(self, url: str) -> None:
        self._post("url", url=url)

    def back(self) -> None:
        self._post("back")

    def resize(self, width: int, height: int) -> None:
        self._post("window/rect", width=width, height=height)

    def run(self, script: str) -> Any:
        """What a function of this body returns."""
        return self._post("execute/sync", script=script, args=[])

    def until(self, script: str, *, seconds: float = 20.0) -> Any:
        """Waits until an expression is true, and returns its value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(Refused):  # a page that is not whole yet
                if found := self.run(f"return {script}"):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}")

    def click(self, selector: str) -> None:
        self.until(f"document.querySelector({selector!r})")
        self._post(f"element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._post(f"element/{self._find(selector)}/value", text=text)

    def press(self, *keys: str) -> None:
        """Presses keys wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def close(self) -> None:
        self._http.delete(self._path)

    def _find(self, selector: str) -> str:
        found = self._post("element", using="css selector", value=selector)
        return str(found[_ELEMENT])

    def _post(self, command: str, **body: Any) -> Any:
        answer = self._http.post(f"{self._path}/{command}", json=body)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise Refused(f"{command}: {value}")
        return value


class WebKit:
    """A driver that opens browsers."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    @contextmanager
    def window(self, *options: str) -> Iterator[Window]:
        """A browser with a profile of its own; ``options`` are MiniBrowser's."""
        wanted = {"binary": str(_BROWSER), "args": ["--automation", *options]}
        answer = self._http.post(
            "/session",
            json={"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": wanted}}},
        )
        assert answer.status_code == 200, answer.text
        window = Window(self._http, answer.json()["value"]["sessionId"])
        try:
            yield window
        finally:
            window.close()


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
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        _process(stack, ["WebKitWebDriver", "--host=127.0.0.1", f"--port={port}"], env=env)
        http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        stack.enter_context(http)
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
    _process(stack, command, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as told:
        return f":{told.readline().strip()}"


def _process(stack: ExitStack, command: list[str], **options: Any) -> None:
    process = stack.enter_context(subprocess.Popen(command, **options))
    stack.callback(process.terminate)
