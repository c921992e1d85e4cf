"""The embedded engine's classifier behind mosec, to compare the servers alone.

    python peer_mosec.py FOLDER PORT

Needs mosec in its environment, beside what the project has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import mosec  # type: ignore[import-not-found]

from flywheel.serving.runtime import load_classifier


class Worker(mosec.Worker):  # type: ignore[misc]
    """One model, whose process mosec starts; it must be importable there."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = load_classifier(Path(os.environ["BENCH_FOLDER"]), 1)

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = self.classifier.predict([str(item["input"]) for item in data])
        return [{"data": [_answer(scores)]} for scores in found]


def _answer(scores: dict[str, float]) -> dict[str, Any]:
    label = max(scores, key=scores.__getitem__)
    return {"label": label, "probs": list(scores.values()), "labels": list(scores)}


if __name__ == "__main__":
    folder, port = sys.argv[1:]
    os.environ["BENCH_FOLDER"] = folder
    sys.argv = ["mosec", "--port", port, "--address", "127.0.0.1", "--capacity", "256"]
    server = mosec.Server()
    runtime = mosec.Runtime(Worker, num=1, max_batch_size=16, max_wait_time=2)
    server.register_runtime({"/classify": [runtime]})
    server.run()
