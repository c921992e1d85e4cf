"""The embedded engine's classifier behind LitServe, to compare the servers alone.

    python peer_litserve.py FOLDER PORT

Needs litserve in its environment, beside what the project has.
"""

# No annotations as text: LitServe hands them to FastAPI outside this module.
import sys
from pathlib import Path
from typing import Any

import litserve  # type: ignore[import-not-found]

from flywheel.serving.runtime import load_classifier


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One model, whose process LitServe starts; it must be importable there."""

    def setup(self, device: str) -> None:
        self.classifier = load_classifier(Path(sys.argv[1]), 1)

    def decode_request(self, request: dict) -> str:  # type: ignore[type-arg]
        return str(request["input"])

    def batch(self, inputs: list[str]) -> list[str]:
        return list(inputs)

    def predict(self, texts: list[str]) -> list[dict[str, float]]:
        return self.classifier.predict(texts)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, Any]:
        label = max(output, key=output.__getitem__)
        return {"data": [{"label": label, "probs": list(output.values()), "labels": list(output)}]}


if __name__ == "__main__":
    api = Api(api_path="/classify", max_batch_size=16, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="warning"
    )
