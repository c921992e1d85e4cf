"""`flywheel releases` and the registry's API on workspaces whose releases were made for real."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from registry_files import make_release, safetensors
from registry_workspace import TASK, Workspace

from flywheel.cli import cli, main
from flywheel.console.app import create_app
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.release import Release
from flywheel.processes.console import assets_folder
from flywheel.retention.config import RetentionSettings
from flywheel.rollout.commands import ask
from flywheel.rollout.ports import Command, Rollout
from flywheel.upkeep.pruning import prune_task
from storage.objects import open_artefacts

CONFIG = """\
[tasks.topics]
title = "Topics"
labels = ["weather", "money"]
[tasks.topics.training]
base_model = "encoder"
[tasks.topics.rollout]
auto_promote = false
"""


class Served(Workspace):
    """A workspace where r1 served, and r2 does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CONFIG)
        self.one, self.two = self.add("one"), self.add("two", fill=1)

    def add(self, name: str, **given: Any) -> Release:
        release = make_release(self.settings.state, name=name, created_at=utc_now(), **given)
        with self.database.transaction("test") as tx:
            tx.releases.add(release)
            tx.challengers.enqueue(TASK, release.release, release.created_at, True)
        self.control(2)
        with self.database.transaction("cli") as tx:
            running = tx.rollouts.active(TASK)
            if running is not None:
                assert not ask(tx, promotion(running))
        self.control()
        return release

    @property
    def champion(self) -> str | None:
        with self.database.transaction(read_only=True) as tx:
            return tx.rollouts.champion(TASK)

    def command(self, *arguments: str) -> str:
        done = CliRunner().invoke(
            cli, ["-w", str(self.settings.workspace), *arguments], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return done.output

    def refusal(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["-w", str(self.settings.workspace), *arguments])
        assert ended.value.code == 1
        return capsys.readouterr().err


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "workspace")
    assert made.champion == made.two.release
    yield made
    made.close()


WHO = ("--by", "ada", "--why", "it was better")


def test_the_list_has_every_status(served: Served) -> None:
    head, one, two = served.command("releases", "list").splitlines()
    assert head.split() == ["release", "registered", "status", "data", "accuracy", "size"]
    assert one.startswith(f"{served.one.release}  ")
    assert "  retired  " in one
    assert two.startswith(f"{served.two.release}  ")
    assert "  champion  " in two
    rows = json.loads(served.command("releases", "list", "--json"))
    assert [(row["release"], row["status"]) for row in rows] == [
        (served.one.release, "retired"),
        (served.two.release, "champion"),
    ]


def test_show_has_record_and_history(served: Served) -> None:
    shown = json.loads(served.command("releases", "show", served.one.release, "--json"))
    assert shown["recipe"]["parts"]["deployment"] == "embedded"
    assert [row["status"] for row in shown["history"]] == ["registered", "champion", "retired"]


def test_show_lays_a_release_out(served: Served) -> None:
    shown = served.command("releases", "show", served.two.release, "--utc")
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == served.two.release
    assert "status champion" in lines
    assert f"registered {served.two.created_at:%Y-%m-%d %H:%M:%S} UTC" in lines
    assert f"why {served.two.gate_reason}" in lines
    assert f"dataset {served.two.dataset_version}" in lines
    assert "parts.deployment embedded" in lines
    assert lines[-1].endswith("UTC champion 100% ada promoted: proven")
    assert "{" not in shown


def test_short_ids_do_wherever_a_release_is_named(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = served.one.release, served.two.release
    for short in (one[:-4], one.rpartition("-")[2][:6], one[-6:]):
        found = json.loads(served.command("releases", "show", short, "--json"))
        assert found["release"] == one
        assert f"{one} is exactly" in served.command("releases", "verify", short)
    said = served.refusal(capsys, "releases", "show", "topics-")
    assert f"short for 2 releases ({one}, {two}): add letters" in said
    assert served.command("releases", "diff", one[-5:], two[-5:]).startswith(f"{one} → {two}\n")
    assert "was registered without a comparison" in served.refusal(
        capsys, "compress", "compare", "topics", two[-6:]
    )


def test_a_moment_has_a_zone_or_is_local(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        for given, shown in (
            ("2020-01-01T03:12", "2020-01-01 03:12:00 IST"),
            ("2020-01-01T03:12+01:00", "2020-01-01 07:42:00 IST"),
            ("2020-01-01T02:12Z", "2020-01-01 07:42:00 IST"),
        ):
            said = served.command("releases", "served-at", given)
            assert said == f"nothing served topics at {shown}\n"
        said = served.command("releases", "served-at", "2020-01-01", "--utc")
        assert said == "nothing served topics at 2019-12-31 18:30:00 UTC\n"
        found = json.loads(served.command("releases", "served-at", "2020-01-01", "--json"))
        assert datetime.fromisoformat(found["at"]) == datetime(2019, 12, 31, 18, 30, tzinfo=UTC)
        listed = served.command("releases", "list").splitlines()[1]
        assert " IST  " in listed
        assert " UTC  " in served.command("releases", "list", "--utc").splitlines()[1]
    finally:
        monkeypatch.undo()
        time.tzset()
    for wrong in ("yesterday", "9999-12-31T23:59-12:00", "0001-01-01T00:00+14:00"):
        with pytest.raises(SystemExit) as ended:
            main(["-w", str(served.settings.workspace), "releases", "served-at", wrong])
        assert ended.value.code == 2
        assert "is no time" in capsys.readouterr().err


def test_diff_in_words_and_for_programs(served: Served) -> None:
    words = served.command("releases", "diff", served.one.release, served.two.release)
    assert words.startswith(f"{served.one.release} → {served.two.release}\n")
    assert "metric     accuracy: 0.000 (0.000–1.000)" in words
    given = ("releases", "diff", served.one.release, served.two.release, "--json")
    assert json.loads(served.command(*given))["size_bytes"][0] > 0


def test_served_at_is_one_call(served: Served) -> None:
    now = f"{utc_now() + timedelta(seconds=2):%Y-%m-%dT%H:%M:%S}"
    words = served.command("releases", "served-at", now)
    assert words.startswith(f"{served.two.release}  champion since")
    assert "by ada: promoted: proven" in words
    assert "serving    embedded: none, temperature 1.5" in words
    assert "data       d-0123456789ab" in words
    found = json.loads(served.command("releases", "served-at", now, "--json"))
    assert (found["release"], found["engine"]) == (served.two.release, "embedded")


def test_a_former_champion_is_restored_in_one_call(served: Served) -> None:
    said = served.command("releases", "restore", served.one.release, *WHO, "--no-wait")
    assert f"{served.one.release} is exactly what was released" in said
    served.control(2)
    assert served.champion == served.one.release
    shown = json.loads(served.command("releases", "show", served.one.release, "--json"))
    assert [row["status"] for row in shown["history"]][-1] == "champion"
    last = shown["history"][-1]
    assert last["by"] == "ada"
    assert "it was better" in last["reason"]


def damage(served: Served, release: Release) -> None:
    weights = served.folder(release.release) / "model.safetensors"
    weights.write_bytes(safetensors({"w": [2, 2]}, fill=7))


def test_a_restore_that_nobody_carries_out_is_withdrawn(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.cli.releases.TAKEN_UP_SECONDS", 0.2)
    said = served.refusal(capsys, "releases", "restore", served.one.release, *WHO)
    assert "nobody carried it out within 0.2 s, so it was withdrawn" in said
    served.control(2)
    assert served.champion == served.two.release


def test_what_was_changed_is_not_restored(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(served, served.one)
    for arguments in (
        ("verify", served.one.release),
        ("restore", served.one.release, *WHO),
        ("export", served.one.release, "out.tar"),
    ):
        assert "its SHA-256 differs" in served.refusal(capsys, "releases", *arguments)
    served.control(2)
    assert served.champion == served.two.release


def test_what_cannot_be_restored_is_said_at_once(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    said = served.refusal(capsys, "releases", "restore", served.two.release, *WHO)
    assert "is the champion already" in said
    said = served.refusal(capsys, "releases", "restore", "topics-0123456789ab", *WHO)
    assert "no release" in said
    assert "files" in served.command("releases", "verify", served.one.release)


def test_out_of_one_workspace_and_into_the_next(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.tar"
    served.command("releases", "export", served.one.release, str(file))
    assert "exists already" in served.refusal(
        capsys, "releases", "export", served.one.release, str(file)
    )
    there = Workspace(tmp_path / "there", CONFIG)
    done = CliRunner().invoke(
        cli,
        ["-w", str(tmp_path / "there"), "releases", "import", str(file), *WHO, "--no-wait"],
    )
    assert done.exit_code == 0, done.output
    assert "is staged" in done.output
    with there.database.transaction(read_only=True) as tx:
        request = tx.turns.take_request(TASK)
    assert request is not None
    assert request.overrides["import"] == {"source": "out.tar", "release": served.one.release}
    there.close()


def test_a_base_model_is_put_where_training_finds_it(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny-encoder"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (folder / "model.safetensors").write_bytes(safetensors({"w": [1]}))
    (folder / "tokenizer.json").write_text("{}")
    said = served.command("releases", "import", str(folder))
    assert 'base_model = "models/bases/tiny-encoder"' in said
    assert (served.settings.workspace / "models/bases/tiny-encoder/config.json").is_file()
    (folder / "extra.pkl").write_bytes(b"x")
    assert "may run code" in served.refusal(capsys, "releases", "import", str(folder), *WHO)
    assert "no file and no folder" in served.refusal(capsys, "releases", "import", "gone", *WHO)
    assert "no package" in served.refusal(capsys, "releases", "import", "package:absent-0", *WHO)


def promotion(running: Rollout) -> Command:
    return Command(
        command_id=new_id(),
        task=TASK,
        kind="promote",
        by="ada",
        why="proven",
        at=utc_now(),
        rollout_id=running.rollout_id,
        revision=running.revision,
    )


class Console:
    """The console over HTTP, in this process."""

    def __init__(self, served: Served) -> None:
        self.app: FastAPI = create_app(
            served.settings,
            lambda: served.database.transaction("console"),
            assets_folder(),
            artefacts=open_artefacts(served.settings),
        )

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                return await http.request(method, path, **given)

        return asyncio.run(send())


def test_the_api_tells_history_differences_and_what_served(served: Served) -> None:
    console = Console(served)
    one = console.ask("GET", f"/api/releases/topics/{served.one.release}").json()
    assert [row["status"] for row in one["history"]] == ["registered", "champion", "retired"]
    ids = {"a": served.one.release, "b": served.two.release}
    found = console.ask("GET", "/api/releases/topics/diff", params=ids).json()
    assert found["a"] == served.one.release
    now = {"at": (utc_now() + timedelta(seconds=2)).isoformat()}
    told = console.ask("GET", "/api/releases/topics/served-at", params=now).json()
    assert (told["release"], told["engine"]) == (served.two.release, "embedded")
    page = console.ask("GET", f"/releases/topics/{served.one.release}").text
    assert "Status history" in page
    assert f"{served.two.release} took over: promoted: proven" in page
    before = console.ask("GET", "/api/releases/topics/served-at", params={"at": "2020-01-01"})
    assert before.json()["release"] is None


def test_the_console_verifies_before_it_asks_for_a_restore(served: Served) -> None:
    console = Console(served)
    asked = {"kind": "restore", "by": "ada", "why": "x", "release": served.one.release}
    assert console.ask("POST", "/api/rollouts/topics/commands", json=asked).status_code == 202
    served.control(2)
    assert served.champion == served.one.release
    damage(served, served.two)
    asked["release"] = served.two.release
    refused = console.ask("POST", "/api/rollouts/topics/commands", json=asked)
    assert refused.status_code == 409
    assert "is not what was released" in refused.json()["detail"]


def test_the_console_says_of_a_pruned_release_that_it_is_gone(served: Served) -> None:
    kept = RetentionSettings(releases=30)
    later = utc_now() + timedelta(days=90)
    served.add("three", fill=2)
    went, _ = prune_task(served.settings, served.database, TASK, kept, later)
    assert went == [served.one.release, served.two.release]
    console = Console(served)
    asked = {"kind": "restore", "by": "ada", "why": "x", "release": served.one.release}
    refused = console.ask("POST", "/api/rollouts/topics/commands", json=asked)
    assert refused.status_code == 409
    assert "was pruned on" in refused.json()["detail"]
    assert console.ask("GET", f"/releases/topics/{served.one.release}").status_code == 200
