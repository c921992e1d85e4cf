"""Who gets into the console, and what other sites cannot make it do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from console_client import KEY, PAGE, Client, console
from console_places import vendored_assets
from console_seed import LABELS, TASK, console_settings, release_id
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import example, given
from hypothesis import strategies as st
from new_database import new_database

from flywheel.console.access import Keyring, safe_target
from flywheel.console.app import MAX_BODY_BYTES, create_app
from flywheel.console.assets import locate
from flywheel.errors import ArtefactError
from storage.objects import open_artefacts

WATCHING = "a-key-for-metrics"


def all_routes(app: FastAPI) -> list[tuple[str, set[str]]]:
    """(path, methods) of every route, those of included routers too."""
    found = [(context.path, context.methods) for context in iter_route_contexts(app.routes)]
    return [(path, set(methods)) for path, methods in found if methods]


def test_without_keys_only_this_machine_by_its_own_names_is_answered(tmp_path: Path) -> None:
    with console(tmp_path) as client:
        assert client.get("/", headers=PAGE).status_code == 200
        rebound = client.get("/", headers={"Host": "evil.example"})
        assert rebound.status_code == 403
        assert rebound.headers["content-type"] == "application/problem+json"
        assert "FLYWHEEL_CONSOLE_API_KEYS" in rebound.json()["detail"]


def test_with_keys_everything_but_health_and_assets_asks_for_one(tmp_path: Path) -> None:
    with console(tmp_path, KEY, host="flywheel.example") as client:
        refused = client.get(f"/api/rollouts/{TASK}")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        page = client.get(f"/rollout/{TASK}?rollout=broken", headers=PAGE)
        assert page.status_code == 303
        assert page.headers["location"] == f"/login?next=%2Frollout%2F{TASK}%3Frollout%3Dbroken"
        for path in ("/healthz", "/assets/uplot.js", "/static/console.css", "/login"):
            assert client.get(path).status_code == 200
        allowed = {"Authorization": f"Bearer {KEY}"}
        assert client.get(f"/api/rollouts/{TASK}", headers=allowed).status_code == 200
        wrong = {"Authorization": "Bearer another"}
        assert client.get(f"/api/rollouts/{TASK}", headers=wrong).status_code == 401


def test_a_key_opens_a_session_that_scripts_and_other_sites_cannot_use(tmp_path: Path) -> None:
    with console(tmp_path, KEY, host="flywheel.example") as client:
        assert client.post("/login", data={"key": "no", "next": "/"}).status_code == 401
        answer = client.post("/login", data={"key": KEY, "next": f"/releases/{TASK}"})
        assert answer.headers["location"] == f"/releases/{TASK}"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert client.get(f"/releases/{TASK}", headers=PAGE).status_code == 200
        client.post("/logout")
        assert client.get(f"/releases/{TASK}", headers=PAGE).status_code == 303


def test_no_body_is_read_beyond_what_an_answer_can_need(tmp_path: Path) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(200):
            read += 10_000
            yield b"k" * 10_000

    with console(tmp_path, KEY, host="flywheel.example") as client:
        for path, headers, status in (
            ("/login", {}, 413),
            (f"/api/review/{TASK}/undo", {"Authorization": f"Bearer {KEY}"}, 413),
            (f"/api/review/{TASK}/undo", {}, 401),
        ):
            read = 0
            sent = {"Content-Type": "application/json"} | headers
            assert client.post(path, content=endless(), headers=sent).status_code == status
            assert read <= MAX_BODY_BYTES + 10_000


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "text/plain"},
    ],
)
def test_another_site_cannot_send_commands(tmp_path: Path, headers: dict[str, str]) -> None:
    body = '{"kind": "promote", "by": "mallory", "why": "because"}'
    with console(tmp_path) as client:
        headers = {"Content-Type": "application/json"} | headers
        answer = client.post(f"/api/rollouts/{TASK}/commands", content=body, headers=headers)
        assert answer.status_code == 403
        assert client.get(f"/api/rollouts/{TASK}").json()["pending"] == []


def test_every_answer_carries_the_security_headers(tmp_path: Path) -> None:
    with console(tmp_path) as client:
        for path in ("/", "/nowhere", "/static/console.css", f"/api/releases/{TASK}"):
            headers = client.get(path).headers
            assert "script-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"


def test_people_get_pages_and_programs_problems(tmp_path: Path) -> None:
    with console(tmp_path) as client:
        page = client.get("/review/nonsense", headers=PAGE)
        assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "no task &#39;nonsense&#39;" in page.text
        found = client.get("/api/overview/nonsense", headers=PAGE)
        assert found.json()["code"] == "not-found"


def test_the_registry_answers_with_lineage_and_what_served_when(tmp_path: Path) -> None:
    with console(tmp_path) as client:
        releases = client.get(f"/api/releases/{TASK}").json()["releases"]
        assert [one["release"] for one in releases] == [release_id(n) for n in (4, 3, 2, 1)]
        found = client.get(f"/api/releases/{TASK}/{release_id(4)}").json()
        assert [one["release"] for one in found["ancestors"]] == [release_id(2), release_id(1)]
        assert found["dataset"]["expert_labels"] == 371
        assert found["dataset"]["seed_labels"] == 40
        for page in (f"/releases/{TASK}", f"/releases/{TASK}/{release_id(4)}"):
            assert "40 seed" in client.get(page, headers=PAGE).text, "no expert gave these"
        assert client.get(f"/api/releases/{TASK}/other").status_code == 404
        served = f"/api/releases/{TASK}/served-at"
        assert client.get(served, params={"at": "2000-01-01T00:00:00Z"}).json()["release"] is None
        later = client.get(served, params={"at": "2100-01-01T00:00:00"}).json()
        assert later["release"] == release_id(2)
        assert client.get(served, params={"at": "noon"}).status_code == 422


def test_the_overview_counts_what_the_database_holds(tmp_path: Path) -> None:
    with console(tmp_path) as client:
        read = client.get(f"/api/overview/{TASK}").json()
        review = client.get(f"/api/review/{TASK}/depth").json()
        rollout = client.get(f"/api/rollouts/{TASK}").json()
        client.get(f"/review/{TASK}").raise_for_status()
    assert read["champion"] == rollout["champion"] == release_id(2)
    assert read["queue"]["open"] == review["open"] > 0
    assert read["rollout"]["share"] == rollout["split"]["challenger_share"] == 0.25
    assert (
        sum(read["auto"][key] for key in ("auto", "expert", "other", "none"))
        == (read["traffic"]["requests"])
    )
    assert read["auto"]["bound"] <= read["auto"]["limit"]
    assert [one["release"] for one in read["releases"]][-1] == release_id(4)


def test_labels_and_texts_cannot_become_markup(tmp_path: Path) -> None:
    settings = console_settings(tmp_path)
    evil = "<script>alert(1)</script>"
    task = settings.tasks[TASK].model_copy(update={"labels": (*LABELS, evil), "title": evil})
    database = new_database(f"sqlite:///{tmp_path / 'other.db'}")
    app = create_app(
        settings.model_copy(update={"tasks": {TASK: task}}),
        database.transaction,
        vendored_assets(),
        artefacts=open_artefacts(settings),
    )
    client = Client(app, "http://localhost")
    for path in ("/", f"/review/{TASK}", f"/releases/{TASK}"):
        page = client.get(path)
        assert page.status_code == 200
        assert evil not in page.text
    database.dispose()


def test_a_missing_chart_library_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="make install"):
        locate(tmp_path)


@given(
    st.one_of(
        st.text(max_size=60),
        st.from_regex(r"[0-9]{1,6000}\.[a-z]*\.[0-9a-f]*", fullmatch=True),
        st.from_regex(r"[²³٠-٩]{1,20}\..*", fullmatch=True),
    )
)
@example("9" * 5000 + ".nonce.signature")
@example("²" * 10 + ".nonce.signature")
def test_no_other_text_is_a_session(token: str) -> None:
    assert not Keyring([KEY]).session(token)


def test_wrong_keys_are_slowed_down_and_the_right_one_gets_in(tmp_path: Path) -> None:
    with console(tmp_path, KEY, host="flywheel.example") as client:
        right = {"Authorization": f"Bearer {KEY}"}
        assert client.get(f"/api/releases/{TASK}", headers=right).status_code == 200
        answers = [client.post("/login", data={"key": f"guess-{n}"}) for n in range(12)]
        assert {one.status_code for one in answers[:5]} == {401}
        slowed = answers[-1]
        assert slowed.status_code == 429
        assert int(slowed.headers["retry-after"]) >= 1
        assert "too many wrong keys" in slowed.text
        guess = {"Authorization": "Bearer a-guess"}
        assert client.get(f"/api/releases/{TASK}", headers=guess).status_code == 429
        # What worked from this address before goes on working.
        assert client.get(f"/api/releases/{TASK}", headers=right).status_code == 200
        elsewhere = Client(client.app, "http://flywheel.example", peer="10.0.0.7")
        assert elsewhere.post("/login", data={"key": KEY, "next": "/"}).status_code == 303


def test_metrics_have_a_key_of_their_own(tmp_path: Path) -> None:
    watching = {"Authorization": f"Bearer {WATCHING}"}
    holding = {"Authorization": f"Bearer {KEY}"}
    with console(tmp_path, KEY, host="flywheel.example", metrics=WATCHING) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=watching).status_code == 200
        assert client.get("/metrics", headers=holding).status_code == 200
        assert client.get(f"/api/releases/{TASK}", headers=watching).status_code == 401
    with console(tmp_path, metrics=WATCHING) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=watching).status_code == 200
        assert client.get(f"/api/releases/{TASK}").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"/releases/{TASK}?at=0001-01-01T00:00:00%2B23:59",
        f"/releases/{TASK}?at=9999-12-31T23:59:59-23:59",
        f"/api/releases/{TASK}/served-at?at=0001-01-01T00:00:00%2B23:59",
        f"/api/releases/{TASK}/served-at?at=9999-12-31T23:59:59-23:59",
        f"/releases/{TASK}/%00",
        f"/api/releases/{TASK}/%00",
        f"/api/releases/{TASK}/diff?a=%00&b=%00",
        f"/api/rollouts/{TASK}/%00",
        f"/api/review/{TASK}/next?annotator=a%00b",
        "/static/%00",
        "/assets/%00",
        f"/rollout/{TASK}?rollout=%00",
        f"/releases/{TASK}?at=%ff",
        "/static/" + "a" * 5000,
    ],
)
def test_what_cannot_be_asked_is_said_and_breaks_nothing(tmp_path: Path, path: str) -> None:
    with console(tmp_path) as client:
        for headers in ({}, PAGE):
            assert client.get(path, headers=headers).status_code in (200, 400, 404, 422)


def test_the_apis_are_described_with_their_errors_and_shown(tmp_path: Path) -> None:
    with console(tmp_path) as client:
        document = client.get("/api/openapi.json").json()
        routes = {
            f"{method} {path.replace(':path', '')}"
            for path, methods in all_routes(client.app)
            for method in methods - {"HEAD"}
            if path.startswith("/api/") or "GET" not in methods
        } | {"GET /healthz", "GET /metrics"}
        described = {
            f"{method.upper()} {path}"
            for path, methods in document["paths"].items()
            for method in methods
        }
        assert described == routes - {"GET /api/openapi.json"}
        for methods in document["paths"].values():
            for operation in methods.values():
                for status, answer in operation["responses"].items():
                    if status >= "400" and "application/problem+json" in answer["content"]:
                        schema = answer["content"]["application/problem+json"]["schema"]
                        assert schema == {"$ref": "#/components/schemas/Problem"}
        page = client.get("/docs")
        assert "/api/review/{task}/next" in page.text
        assert "<script" not in page.text
        assert client.get("/docs/style.css").status_code == 200
    with console(tmp_path, KEY) as client:
        assert client.get("/docs").status_code == 401


def test_a_cookie_of_digits_is_no_session(tmp_path: Path) -> None:
    with console(tmp_path, KEY, host="flywheel.example") as client:
        cookie = {"Cookie": "flywheel_session=" + "9" * 5000 + ".a.b"}
        assert client.get("/api/releases/questions", headers=cookie).status_code == 401
        odd = client.get("/?task=\xff", headers=PAGE)
        assert odd.status_code == 303


def test_a_host_or_an_origin_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with console(tmp_path) as client:
        assert client.get("/", headers={"Host": "[::1"}).status_code == 403
        answer = client.post(f"/api/review/{TASK}/undo", headers={"Origin": "http://[::1"}, json={})
        assert answer.status_code == 403


@given(st.one_of(st.text(max_size=40), st.from_regex(r"[/\\]{1,3}evil\.example.*", fullmatch=True)))
def test_signing_in_never_leads_to_another_site(target: str) -> None:
    found = safe_target(target)
    assert found.startswith("/")
    assert not found.startswith(("//", "/\\"))
