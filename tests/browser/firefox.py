"""Firefox by Marionette, the protocol that it has built in: WebDriver's commands over a socket."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from driven import Refused, Window, free_port, run_until_left

_COMMANDS = {
    "url": "Navigate",
    "back": "Back",
    "window/rect": "SetWindowRect",
    "execute/sync": "ExecuteScript",
    "element": "FindElement",
    "actions": "PerformActions",
    "click": "ElementClick",
    "value": "ElementSendKeys",
}


def missing() -> list[str]:
    """What of it this machine lacks."""
    return [] if shutil.which("firefox-esr") else ["firefox-esr"]


class Firefox:
    """Opens browsers."""

    @contextmanager
    def window(self, *, keeps: bool = True) -> Iterator[Window]:
        """A browser with a profile of its own, which keeps data of sites or refuses to."""
        with ExitStack() as stack:
            profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            port = free_port()
            prefs = {"marionette.port": port, "network.cookie.cookieBehavior": 0 if keeps else 2}
            Path(profile, "user.js").write_text(
                "".join(
                    f"user_pref({json.dumps(name)}, {value});\n" for name, value in prefs.items()
                )
            )
            command = ["firefox-esr", "--marionette", "--headless", "--profile", profile]
            env = os.environ | {"HOME": profile, "LANG": "C.UTF-8"}
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            run_until_left(stack, [*command, "--no-remote"], env=env, **quiet)
            marionette = stack.enter_context(_Marionette(port))
            marionette.send("WebDriver:NewSession", {})
            yield Window(marionette.ask)
            marionette.send("Marionette:Quit", {"flags": ["eForceQuit"]})


class _Marionette:
    """Messages are JSON after their length: [0, number, name, body], [1, number, error, value]."""

    def __init__(self, port: int) -> None:
        self._number = 0
        deadline = time.monotonic() + 30
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "Firefox does not listen"
                time.sleep(0.1)
        self._stream = self._socket.makefile("rb")
        self._read()  # its greeting

    def __enter__(self) -> _Marionette:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, command: str, body: dict[str, Any]) -> Any:
        _, _, element = command.partition("element/")
        if element:
            name, _, command = element.partition("/")
            body = {"id": name, **body}
        answer = self.send(f"WebDriver:{_COMMANDS[command]}", body)
        return answer.get("value", answer)

    def send(self, name: str, body: dict[str, Any]) -> Any:
        self._number += 1
        message = json.dumps([0, self._number, name, body]).encode()
        self._socket.sendall(f"{len(message)}:".encode() + message)
        _, _, error, value = self._read()
        if error:
            raise Refused(f"{name}: {error['message']}")
        return value

    def _read(self) -> Any:
        length = b""
        while (byte := self._stream.read(1)) != b":":
            length += byte
        return json.loads(self._stream.read(int(length)))


@contextmanager
def started() -> Iterator[Firefox]:
    """What opens browsers: there is no driver to start."""
    yield Firefox()
