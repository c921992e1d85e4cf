"""The first quarter of an hour as documents and the empty console say it, command by command."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka_fixture import free_port
from named_commands import DOCUMENTS, ROOT, in_document
from tiny_encoder import labelled, make_encoder

from flywheel.ops.orphans import members
from flywheel.ops.supervisor import check_ports, programs
from flywheel.settings import load_settings

LABELS = {"billing": "money", "outage": "weather", "other": "food"}
HOW_TO = ROOT / "docs" / "your-own-task.md"
# What needs a rollout that runs, a letter that is dead, rows in the archive or a dataset before the
# one that is used, is parsed elsewhere and not run here.
NOT_HERE = (
    "archive query",
    "datasets prune",
    "rollout rollback",
    "dead-letters replay",
    "releases restore",
    "retrain",
    # What runs until it is stopped: `up` has started one of each, and more of each are started in
    # tests/faults/test_two_of_each.py.
    "up",
    "down",
    "gateway",
    "console",
    "worker",
    "trainer",
    "controller",
    "serve",
)


class Newcomer:
    """Types what is written, with names of files, ports and ids put in."""

    def __init__(self, home: Path, base: Path) -> None:
        self.home = home
        self.base = str(base)
        self.names: dict[str, str] = {}
        self.started: list[subprocess.Popen[bytes]] = []
        ports = ("kafka", "gateway", "console", "worker", "trainer", "controller")
        self.ports = {name: free_port() for name in ports}
        self.sets = [f"{name}_port={port}" for name, port in self.ports.items()]
        self.sets.append(f"serving_ports=[{free_port()}]")

    def run(self, words: Sequence[str], folder: Path | None = None) -> str:
        """A `flywheel` command, which must succeed."""
        assert words[0] == "flywheel"
        done = subprocess.run(
            [sys.executable, "-m", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder or self.home,
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        started = subprocess.Popen([sys.executable, "-m", *words], cwd=self.home)
        self.started.append(started)
        return started

    def curl(self, words: Sequence[str]) -> httpx.Response:
        """What curl would send: a body goes as a form unless a header says otherwise."""
        url, headers, body = "", {"Content-Type": "application/x-www-form-urlencoded"}, None
        rest = iter(words[1:])
        for word in rest:
            if word == "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            elif word == "-d":
                body = next(rest)
            else:
                url = word.replace(":8080", f":{self.ports['gateway']}")
        method = "GET" if body is None else "POST"
        return httpx.request(method, url, headers=headers, content=body, timeout=60)

    def filled(self, text: str) -> list[str]:
        """The words of a command with placeholders replaced."""
        words = [word for word in shlex.split(text, comments=True) if word != "&"]
        words = [self.names.get(word, word) for word in words]
        if "--base-model" in words:
            words[words.index("--base-model") + 1] = self.base
        return words

    def status(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(
            self.run(["flywheel", "-w", "support", "status", "--json"])
        )
        return read


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    someone = Newcomer(tmp_path, make_encoder(tmp_path / "encoder"))
    for name, count, seed in (("holdout", 60, 1), ("seed", 30, 2)):
        samples = labelled(count, seed=seed)
        back = {topic: label for label, topic in LABELS.items()}
        lines = [json.dumps({"text": s.text, "label": back[s.label]}) for s in samples]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    written = re.findall(r"cat > (\w+\.csv) <<'END'\n(.*?)\n *END\n", HOW_TO.read_text(), re.DOTALL)
    assert len(written) == 2
    for name, rows in written:
        (tmp_path / name).write_text(textwrap.dedent(rows) + "\n", "utf-8")
    try:
        yield someone
    finally:
        if (tmp_path / "support").exists():
            someone.run(["flywheel", "-w", "support", "down"])
        for process in someone.started:
            process.wait()


def commands(path: Path, program: str) -> list[str]:
    """Of a document's code blocks."""
    return [
        named.text
        for named in in_document(path)
        if named.complete and named.text.startswith(f"{program} ")
    ]


def page_commands(page: str) -> list[str]:
    found = re.findall(r"<code>(flywheel [^<]+)</code>", page)
    return [html.unescape(command) for command in found]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_newcomer_meets_no_error(newcomer: Newcomer) -> None:
    how_to = commands(HOW_TO, "flywheel")
    init = next(command for command in how_to if " init " in command)
    sets = [word for value in newcomer.sets for word in ("--set", value)]
    newcomer.run([*newcomer.filled(init), *sets])
    started = newcomer.up(newcomer.filled(next(c for c in how_to if c.endswith(" up &"))))
    newcomer.run(["flywheel", "-w", "support", "status", "--wait", "300"])
    follow_the_empty_console(newcomer)
    for ingest in [command for command in how_to if " ingest " in command]:
        newcomer.run(newcomer.filled(ingest))
    champion = first_release(newcomer)
    answer = follow_curl(newcomer)
    assert answer in LABELS
    newcomer.names |= {"TASK": "tickets", "RELEASE": champion, "A": champion, "B": champion}
    follow_the_other_documents(newcomer)
    settings = load_settings(newcomer.home / "support", {})
    stopped = newcomer.run(["flywheel", "-w", "support", "down"])
    assert started.wait() == 0
    assert all(program.name in stopped for program in programs(settings))
    assert members(settings) == []
    check_ports(settings)


def follow_the_empty_console(newcomer: Newcomer) -> None:
    """Its commands are typed in the workspace, where the files lie as well."""
    workspace = newcomer.home / "support"
    for name in ("holdout.jsonl", "seed.jsonl", "holdout.csv", "seed.csv"):
        shutil.copyfile(newcomer.home / name, workspace / name)
    page = httpx.get(f"http://127.0.0.1:{newcomer.ports['console']}/", follow_redirects=True)
    named = page_commands(page.text)
    assert len(named) == 2
    for command in named:
        newcomer.run(newcomer.filled(command), workspace)


def first_release(newcomer: Newcomer) -> str:
    deadline = time.monotonic() + 900
    while True:
        task = newcomer.status()["tasks"]["tickets"]
        if task["champion"] is not None:
            return str(task["champion"])
        assert not task["failures"], task["failures"]
        assert time.monotonic() < deadline, task
        time.sleep(1.0)


def follow_curl(newcomer: Newcomer) -> str:
    """Every request that a document shows of this task is answered; the label that it was answered
    with. Those of kinds without models are sent in test_image_gateway."""
    document = [command for path in DOCUMENTS for command in commands(path, "curl")]
    document = [command for command in document if '"tickets"' in command]
    assert len(document) >= 4
    classify = next(command for command in document if "/v1/classify" in command)
    deadline = time.monotonic() + 120
    while (answer := newcomer.curl(newcomer.filled(classify))).status_code != 200:
        assert time.monotonic() < deadline, answer.text  # its servers are loading the release
        time.sleep(0.5)
    for command in document:
        words = newcomer.filled(command)
        # The id of a sample that was answered stands where the how-to leaves it out.
        words = [word.replace("…", answer.json()["sample_id"]) for word in words]
        done = newcomer.curl(words)
        assert done.is_success, f"{command}\n{done.status_code} {done.text}"
    return str(answer.json()["label"])


def follow_the_other_documents(newcomer: Newcomer) -> None:
    """What on-call, run-it and the README name, in the workspace that is there now."""
    workspace = newcomer.home / "support"
    versions = newcomer.run(["flywheel", "datasets", "list"], workspace)
    version = re.search(r"\bd-[0-9a-f]+", versions)
    assert version is not None
    newcomer.names |= {"d-1a2b3c…": version.group()}
    done: set[tuple[str, ...]] = set()
    for path in (ROOT / "docs" / "on-call.md", ROOT / "docs" / "run-it.md", ROOT / "README.md"):
        for named in in_document(path):
            words = newcomer.filled(named.text)
            if words[1:2] == ["-w"]:
                words = [words[0], *words[3:]]
            name = " ".join(words[1:])
            kept = words[0] == "flywheel" and not name.startswith((*NOT_HERE, "init"))
            if kept and "import" not in words and tuple(words) not in done:
                newcomer.run(words, workspace)
                done.add(tuple(words))
    assert len(done) > 12
