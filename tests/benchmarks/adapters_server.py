"""The product's model server with vLLM over given folders, without Kafka or a workspace.

    python adapters_server.py PORT NAME=FOLDER [NAME=FOLDER …]

The first release is the champion; a line `NAME` or `NAME NAME` on standard input is a new split,
champion first. Bases of adapters lie where models.py keeps them.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from models import bases
from servers import VLLM_THREADS

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.monitoring.http_server import HttpServer
from flywheel.serving.app import create_app
from flywheel.serving.config import VllmSettings
from flywheel.serving.releases import ReleaseSet
from flywheel.serving.vllm.engine import VllmEngine


def split(names: list[str]) -> RolloutChanged:
    """Champion and, if there is one, challenger."""
    return RolloutChanged(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="t",
        rollout_id="r",
        state="serving",
        split=TrafficSplit(
            task="t", champion=names[0], challenger=names[1] if len(names) > 1 else None
        ),
        decided_by="benchmark",
        reason="",
    )


def main() -> None:
    """Serve until SIGTERM."""
    port, *named = sys.argv[1:]
    folders = {name: Path(folder) for name, _, folder in (item.partition("=") for item in named)}
    with tempfile.TemporaryDirectory() as cache:
        settings = VllmSettings(threads=VLLM_THREADS)
        engine = VllmEngine(settings, cache=Path(cache) / "vllm", bases=bases())
        releases = ReleaseSet(lambda release: engine.load(release, folders[release]))
        releases.update(split([next(iter(folders))]))

        def follow() -> None:
            for line in sys.stdin:
                releases.update(split(line.split()))

        threading.Thread(target=follow, daemon=True).start()
        releases.start()
        HttpServer(create_app(releases=releases), "127.0.0.1", int(port)).run()
        engine.close()
        releases.stop()


if __name__ == "__main__":
    main()
