"""`python gateway_server.py PORT MODEL_URL STATE`: a gateway before one model server.

The record of every request is on disk before its answer leaves; the broker's part is a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from adapters_server import split
from bench_gateway import FilePublisher
from servers import MODEL

from flywheel.demo.data import LABELS
from flywheel.gateway.app import create_app
from flywheel.gateway.capture import Capture
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.spill import SpillLog
from flywheel.gateway.splits import Splits
from flywheel.monitoring.http_server import HttpServer


def main() -> None:
    """Serve until SIGTERM."""
    port, url, state = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    splits = Splits()
    splits.update(split([MODEL]))
    splits.mark_caught_up()
    app = create_app(
        tasks={"t": tuple(LABELS)},
        splits=splits,
        servers=ModelServers([url], 60.0),
        capture=Capture(SpillLog(state / "spill"), FilePublisher(state / "published")),
    )
    HttpServer(app, "127.0.0.1", port).run()


if __name__ == "__main__":
    main()
