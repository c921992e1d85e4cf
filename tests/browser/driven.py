"""A page in a browser that is driven by W3C WebDriver's commands, whatever carries them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# As WebDriver calls keys that are no characters.
ENTER = "\ue007"


class Refused(Exception):
    """The driver could not do what was asked."""


class Window:
    """One browser with one page; ``ask`` sends a command of WebDriver's, by its HTTP path."""

    def __init__(self, ask: Callable[[str, dict[str, Any]], Any]) -> None:
        self._ask = ask

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

    def _find(self, selector: str) -> str:
        found = self._post("element", using="css selector", value=selector)
        return str(found[_ELEMENT])

    def _post(self, command: str, **body: Any) -> Any:
        return self._ask(command, body)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def run_until_left(stack: ExitStack, command: list[str], **options: Any) -> None:
    """A process that ends with ``stack``."""
    process = stack.enter_context(subprocess.Popen(command, **options))
    stack.callback(process.terminate)
