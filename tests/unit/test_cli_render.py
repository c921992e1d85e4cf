"""What commands print: whole when piped, wrapped in a terminal, and ids as short as they may be."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flywheel.cli.ids import full_id
from flywheel.cli.render import moment, show_facts, show_table
from flywheel.errors import Conflict, NotFound

ROOT = Path(__file__).parents[2]
IDS = ["tickets-0123456789ab", "tickets-01ffffffffff", "urgency-0123456789ab", "d-77"]


def test_a_piped_table_is_whole_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    long = "why " * 100
    show_table(["id", "n", "why"], [["[a]", "1", long.strip()], ["漢", "200", "a\nb"]], right=["n"])
    assert capsys.readouterr().out.splitlines() == [
        "id     n  why",
        f"[a]    1  {long.strip()}",
        "漢   200  a; b",
    ]


def test_an_empty_list_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["id"], [], empty="no dead letters")
    show_facts({"here": "one\ntwo", "not": ""})
    assert capsys.readouterr().out == "no dead letters\nhere  one\n      two\n"


def test_a_terminal_wraps_what_does_not_fit_and_cuts_nothing_off() -> None:
    code = (
        "from flywheel.cli.render import show_table\n"
        "show_table(['id', 'why'], [['tickets-0123456789ab', 'word ' * 60 + 'end']], bold=[0])"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "110", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "tickets-0123456789ab" in said
    assert said.count("word") == 60
    assert "end" in said
    assert "─" in said


def test_a_short_id_is_one_that_no_other_has() -> None:
    def found(given: str) -> str:
        return full_id(given, IDS, "release", "flywheel releases list")

    assert found("tickets-0123456789ab") == IDS[0]
    assert found("tickets-012") == IDS[0]
    assert found("01f") == IDS[1]
    assert found("urgency-") == IDS[2]
    assert found("77") == "d-77"
    for unknown in ("", "x", "tickets-2"):
        with pytest.raises(NotFound, match="see `flywheel releases list`"):
            found(unknown)
    with pytest.raises(Conflict, match=f"{IDS[0]}, {IDS[1]}"):
        found("tickets-01")


def test_an_id_that_begins_another_is_itself() -> None:
    assert full_id("d-1", ["d-12", "d-1"], "dataset", "flywheel datasets list") == "d-1"


def test_a_moment_has_its_zone() -> None:
    at = datetime(2026, 11, 29, 3, 12, tzinfo=UTC)
    assert moment(at, utc=True) == "2026-11-29 03:12:00 UTC"
    assert moment(None) == "–"
