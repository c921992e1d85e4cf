"""How long a session of the console lasts: from its last use, until somebody signs out."""

from __future__ import annotations

from pathlib import Path

import pytest
from console_client import KEY, PAGE, Client, console
from console_seed import TASK

from flywheel.console.access import RENEWED_SECONDS, SESSION_SECONDS, Keyring


def test_a_session_ends_with_its_time_and_with_its_key() -> None:
    keys = Keyring([KEY, "another-long-key-too"])
    token = keys.open_session(KEY, now=1000.0)
    assert keys.session(token, now=1000.0 + SESSION_SECONDS - 1)
    assert not keys.session(token, now=1000.0 + SESSION_SECONDS + 1)
    assert not Keyring(["another-long-key-too"]).session(token, now=1000.0)
    assert not Keyring([]).session(token, now=1000.0)


def test_a_session_ends_with_signing_out_for_every_console(tmp_path: Path) -> None:
    with console(tmp_path, KEY, host="flywheel.example") as client:
        client.post("/login", data={"key": KEY, "next": "/"})
        stolen = {"Cookie": client.cookie} | PAGE
        with console(tmp_path, KEY, host="flywheel.example") as replica:
            assert replica.get("/", headers=stolen).status_code == 200
            client.post("/login", data={"key": KEY, "next": "/"})
            kept = {"Cookie": client.cookie} | PAGE
            assert kept != stolen
            assert replica.post("/logout", headers=stolen).status_code == 303
            assert replica.get("/", headers=stolen).status_code == 303
            assert replica.get("/", headers=kept).status_code == 200
        assert (
            Client(client.app, "http://flywheel.example")
            .get("/", headers=stolen)
            .headers["location"]
            .startswith("/login")
        )
    with console(tmp_path, KEY, host="flywheel.example") as restarted:
        assert restarted.get("/", headers=stolen).status_code == 303


def test_a_session_lasts_from_its_last_use() -> None:
    keys = Keyring([KEY])
    token, now = keys.open_session(KEY, now=0.0), 0.0
    opened = keys.session(token, now)
    assert opened is not None
    assert opened.renewed is None, "it is as fresh as can be"
    for _ in range(100):
        now += SESSION_SECONDS - 1
        session = keys.session(token, now)
        assert session is not None
        assert session.id == opened.id, "one session, however often it is renewed"
        assert session.renewed is not None
        token = session.renewed
    assert keys.session(token, now + SESSION_SECONDS + 1) is None
    assert keys.session(token, now + RENEWED_SECONDS - 1).renewed is None


def test_a_browser_that_is_used_keeps_its_session_and_loses_it_by_signing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000.0]
    monkeypatch.setattr("flywheel.console.access.time.time", lambda: clock[0])
    with console(tmp_path, KEY, host="flywheel.example") as client:
        client.post("/login", data={"key": KEY, "next": "/"})
        copies = [client.cookie]
        for _ in range(4):
            clock[0] += SESSION_SECONDS * 0.75
            answer = client.get(f"/api/review/{TASK}/depth")
            assert answer.status_code == 200
            assert "HttpOnly" in answer.headers["set-cookie"]
            copies.append(client.cookie)
        assert "set-cookie" not in client.get("/", headers=PAGE).headers
        client.post("/logout")
        for copy in copies:
            assert client.get("/", headers={"Cookie": copy} | PAGE).status_code == 303


def test_two_consoles_on_one_host_do_not_sign_each_other_out(tmp_path: Path) -> None:
    with console(tmp_path, KEY, host="flywheel.example:8300") as first:
        first.post("/login", data={"key": KEY, "next": "/"})
        (tmp_path / "other").mkdir()
        with console(
            tmp_path / "other", "another-long-key", host="flywheel.example:8301"
        ) as second:
            second.share_cookies(first)
            second.post("/login", data={"key": "another-long-key", "next": "/"})
            for client in (first, second):
                assert client.get("/", headers=PAGE).status_code == 200
            second.post("/logout")
            assert second.get("/", headers=PAGE).status_code == 303
            assert first.get("/", headers=PAGE).status_code == 200
