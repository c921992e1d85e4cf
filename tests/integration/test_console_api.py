"""The console's API, asked whatever its description allows: no error of the server's."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
from api_sweep import sweep
from gateway_harness import client, running

from flywheel.console.app import create_app
from flywheel.monitoring.http_server import HttpServer

sys.path.append(str(Path(__file__).parents[1] / "browser"))
from console_places import vendored_assets
from console_seed import TASK, console_settings, opened, seed

KEY = "a-key-that-is-long"


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["without keys", "with a key"])
def test_the_api_is_as_it_describes_itself(tmp_path: Path, keys: tuple[str, ...]) -> None:
    database = opened(f"sqlite:///{tmp_path / 'flywheel.db'}", seed)
    app = create_app(
        console_settings(tmp_path, console={"api_keys": keys}),
        partial(database.transaction, "console"),
        vendored_assets(),
        reading=partial(database.transaction, "console", read_only=True),
    )
    headers = {"Authorization": f"Bearer {KEY}"} if keys else {}
    try:
        with running(HttpServer(app, "127.0.0.1", 0)) as url, client(url) as http:
            document = http.get("/api/openapi.json", headers=headers).json()
            for methods in document["paths"].values():
                for operation in methods.values():
                    for one in operation.get("parameters", []):
                        if one["name"] == "task":
                            one["schema"] = {"enum": [TASK, "nonsense"]}
            asked = sweep(url, document, headers, examples=15)
            assert "POST /api/review/{task}/{sample_id}/answer" in asked
    finally:
        database.dispose()
