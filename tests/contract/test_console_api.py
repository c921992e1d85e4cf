"""The console's API on both databases: asked whatever it allows, no error of the server's."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from api_sweep import sweep
from postgres_server import PostgresServer, database_of

from flywheel.console.app import create_app
from flywheel.monitoring.http_server import HttpServer
from storage.objects import open_artefacts

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("browser", "integration")]
from console_places import vendored_assets
from console_seed import TASK, console_settings, opened, release_id, seed
from gateway_harness import client, running

KEY = "a-key-that-is-long"
STORY = "the_story"


@pytest.fixture(scope="module")
def sqlite_story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("story") / "flywheel.db"
    opened(f"sqlite:///{path}", seed).dispose()
    return path


@pytest.fixture
def sqlite(sqlite_story: Path, tmp_path: Path) -> str:
    shutil.copy(sqlite_story, tmp_path)
    return f"sqlite:///{tmp_path / sqlite_story.name}"


@pytest.fixture(scope="module")
def postgresql_story(postgres: PostgresServer) -> Iterator[None]:
    with database_of(postgres, STORY) as url:
        opened(url, seed).dispose()
        yield


@pytest.fixture
def postgresql(postgres: PostgresServer, postgresql_story: None) -> Iterator[str]:
    with database_of(postgres, "a_copy", of=STORY) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def http(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client, with a key, of a console with a story in its database: told once, copied for every
    test."""
    database = opened(request.getfixturevalue(request.param))
    settings = console_settings(tmp_path, console={"api_keys": (KEY,)})
    app = create_app(
        settings,
        partial(database.transaction, "console"),
        vendored_assets(),
        artefacts=open_artefacts(settings),
        reading=partial(database.transaction, "console", read_only=True),
    )
    try:
        with running(HttpServer(app, "127.0.0.1", 0)) as served, client(served) as http:
            http.headers["Authorization"] = f"Bearer {KEY}"
            yield http
    finally:
        database.dispose()


def test_the_api_is_as_it_describes_itself(http: httpx.Client) -> None:
    document = http.get("/api/openapi.json").json()
    for methods in document["paths"].values():
        for operation in methods.values():
            for one in operation.get("parameters", []):
                if one["name"] == "task":
                    one["schema"] = {"enum": [TASK, "nonsense"]}
    headers = {"Authorization": f"Bearer {KEY}"}
    asked = sweep(str(http.base_url), document, headers, examples=12)
    assert "POST /api/review/{task}/{sample_id}/answer" in asked


def test_every_answer_is_described_by_a_schema_with_its_fields(http: httpx.Client) -> None:
    document = http.get("/api/openapi.json").json()
    schemas = document["components"]["schemas"]
    described = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith(("/api/review", "/api/rollouts", "/api/releases")):
                continue
            (good,) = (words for status, words in operation["responses"].items() if status < "300")
            name = good["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert schemas[name]["properties"], (method, path)
            described[path.partition("{task}")[2], method] = name
    assert described["/next", "get"] == "Hand"
    assert described["/commands", "post"] == "Command"
    assert described["/served-at", "get"] == "Served"
    page = http.get("/docs").text
    for name in {*described.values(), "QueuedSample", "ArmView"}:
        assert f'id="schema-{name}"' in page
        assert schemas[name]["description"]


@pytest.mark.parametrize("odd", [r"\u0000", r"\ud800", "\x7f", r"\uffff", "x" * 200_000])
def test_odd_text_breaks_nothing(http: httpx.Client, odd: str) -> None:
    commands = f"/api/rollouts/{TASK}/commands"
    review = f"/api/review/{TASK}"
    bodies = [
        (commands, '{"kind": "start", "by": "a%s", "why": "b", "release": "r"}'),
        (commands, '{"kind": "start", "by": "a", "why": "b%s", "release": "r"}'),
        (commands, '{"kind": "start", "by": "a", "why": "b", "release": "r%s"}'),
        (commands, '{"kind": "restore", "by": "a", "why": "b", "release": "r%s"}'),
        (commands, '{"kind": "pause", "by": "a%s", "why": "b%s"}'),
        (commands, '{"kind": "pause", "by": "a", "why": "b", "x%s": 1}'),
        (f"{review}/s/answer", '{"annotator": "a%s", "value": "HUM"}'),
        (f"{review}/s/answer", '{"annotator": "a", "value": "HUM%s"}'),
        (f"{review}/s/skip", '{"annotator": "a%s"}'),
        (f"{review}/undo", '{"annotator": "a", "%s": "%s"}'),
    ]
    for path, body in bodies:
        content = body.replace("%s", odd).encode()
        answer = http.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (path, body, answer.text)
        answer.json()
    for path in (f"{review}/%s/answer", f"{review}/%s/skip"):
        for name in ("%00", "%ED%A0%80", "%FF", "..%2F..%2F", "a" * 9000):
            answer = http.post(path.replace("%s", name), json={"annotator": "a", "value": "HUM"})
            assert answer.status_code < 500
    releases = f"/api/releases/{TASK}"
    for path in (
        *(f"{releases}/{name}" for name in ("%ED%A0%80", "%2e%2e", "%FF")),
        f"{releases}/diff?a={release_id(1)}&b=%ED%A0%80",
        f"/api/rollouts/{TASK}/%FF",
    ):
        assert http.get(path).status_code < 500
