"""`python embedded_server.py FOLDER PORT`: the embedded engine with one model, named bench."""

from __future__ import annotations

import sys
from pathlib import Path

from servers import MODEL

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.monitoring.http_server import HttpServer
from flywheel.serving.app import create_app
from flywheel.serving.releases import ReleaseSet
from flywheel.serving.runtime import load_classifier


def main() -> None:
    """Serve until SIGTERM."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    releases = ReleaseSet(lambda _release: load_classifier(folder, 1))
    releases.update(
        RolloutChanged(
            event_id=new_id(),
            occurred_at=utc_now(),
            task="t",
            rollout_id="r",
            state="serving",
            split=TrafficSplit(task="t", champion=MODEL),
            decided_by="benchmark",
            reason="",
        )
    )
    releases.start()
    HttpServer(create_app(releases=releases), "127.0.0.1", port).run()
    releases.stop()


if __name__ == "__main__":
    main()
