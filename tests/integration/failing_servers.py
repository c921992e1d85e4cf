"""Model servers in little, which fail as real ones do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gateway_harness import LABELS


class ChampionAnswers(BaseHTTPRequestHandler):
    """A model server's protocol in little; what a request for r2 meets is ``challenged``."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["model"] == "r2":
            self.challenged()
            return
        body = json.dumps({"data": [{"probs": [0.1, 0.8, 0.1], "labels": LABELS}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def challenged(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass


class Hangs(ChampionAnswers):
    """A replica that hangs, altogether or at r2 alone, until it is ``well``."""

    well: threading.Event
    only_r2 = False
    asked: list[str]

    def do_GET(self) -> None:
        if not self.only_r2:
            self.well.wait(60)
        self.send_error(501)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(f"{asked['model']} {asked['input'][0]}")
        if asked["model"] == "r2" or not self.only_r2:
            self.well.wait(60)
        body = json.dumps({"data": [{"probs": [0.1, 0.8, 0.1], "labels": LABELS}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def hanging(*, only_r2: bool = False) -> Iterator[tuple[str, type[Hangs]]]:
    class One(Hangs):
        well = threading.Event()
        asked: list[str] = []  # noqa: RUF012 - one class a server

    One.only_r2 = only_r2
    with ThreadingHTTPServer(("127.0.0.1", 0), One) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", One
        finally:
            One.well.set()
            server.shutdown()
