"""A failed turn's reason is the last error of its stage, on the page and on the command line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataset_workspace import make
from new_database import new_database
from streams_harness import traffic

from flywheel.cli.status_words import status_text
from flywheel.contracts.events import LabelRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import PipelineError, StageKilled
from flywheel.ops.standing import standing
from flywheel.ops.workspace import make_repository
from flywheel.processes.leasing import Leases
from flywheel.processes.trainer import OWNER, Trainer
from flywheel.settings import FlywheelSettings, load_settings
from flywheel.turn.reproduce import reproduce
from flywheel.turn.stage_failure import failure, memory_kills
from storage.database import Database

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

_PIPELINE = """
stages:
  build:
    foreach: {mail: {n: 0}}
    do:
      cmd: %s
      outs: [data/mail]
"""
_STAGE = """
import os, signal, sys
from flywheel.turn.stage_failure import reported
from flywheel.errors import ConfigurationError
class Odd(Exception):
    pass
with reported():
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("failing") / "ws")


def failed(root: Path, command: str) -> PipelineError:
    (root / "dvc.yaml").write_text(_PIPELINE % command)
    with pytest.raises(PipelineError) as caught:
        reproduce(root, "build@mail")
    return caught.value


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("raise ConfigurationError('tasks.mail.labels', 'wrong', 'say b')", "wrong — say b"),
        ("raise KeyError('dataset')", r"^KeyError: 'dataset' \(stage.py, line 8\)$"),
        ("raise Odd", r"^Odd \(stage.py, line 8\)$"),
        ("raise ValueError('first\\n  second')", "^ValueError: first second"),
        ("open('/none/such')", "^FileNotFoundError: .*'/none/such'"),
        ("import nothing_of_the_kind", "^ModuleNotFoundError: No module named"),
        ("sys.exit('there is no room')", "^SystemExit: there is no room"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (2**28,) * 2); b'x' * 2**32",
         "^MemoryError"),
        ("raise RuntimeError('x' * 10**6)", "^RuntimeError: x{1000}"),
    ],
)  # fmt: skip
def test_what_ends_a_stage_is_the_reason(root: Path, line: str, reason: str) -> None:
    (root / "stage.py").write_text(f"{_STAGE}    {line}\n")
    error = failed(root, "python stage.py")
    assert not isinstance(error, StageKilled)
    with pytest.raises(PipelineError, match=reason):
        raise error
    assert len(str(error)) < 2200


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL.*memory"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "ended by SIGTERM$"),
        ("os.abort()", r"ended by SIGABRT: Fatal Python error: Aborted, at File .*stage.py"),
        ("import ctypes; ctypes.string_at(0)", "ended by SIGSEGV: Fatal Python error: Segm.* at F"),
    ],
)
@pytest.mark.parametrize("command", ["python stage.py", "python stage.py; exit $?"])
def test_a_signal_that_ends_a_stage_is_named(
    root: Path, line: str, reason: str, command: str
) -> None:
    """A shell becomes its only command, and waits for one of several."""
    (root / "stage.py").write_text(f"{_STAGE}    {line}\n")
    error = failed(root, command)
    assert isinstance(error, StageKilled)
    with pytest.raises(PipelineError, match=reason):
        raise error


def test_what_never_was_a_stage_is_said_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last run's reason does not stay; the shell of a service's user may run nothing."""
    assert "was not found" in str(failed(root, "no-such-command"))
    assert "exited with 3, and left no reason" in str(failed(root, "exit 3"))
    monkeypatch.setenv("SHELL", "/bin/false")
    assert "exited with 3" in str(failed(root, "exit 3"))


def test_a_stage_that_the_kernel_ended_for_memory_says_so(tmp_path: Path) -> None:
    said = "failed to run: flywheel stage train mail, exited with 137"
    assert "ran out of memory" in str(failure(said, "", 1))
    assert "ran out of memory" not in str(failure(said, "", 0))
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 5\noom_kill 7\noom_kill_other 9\n")
    assert memory_kills(counters) == 7
    assert memory_kills(tmp_path / "none") == 0


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[tuple[FlywheelSettings, Database, Trainer]]:
    folder = tmp_path / "ws"
    folder.mkdir()
    (folder / "flywheel.toml").write_text(
        '[tasks.mail]\nlabels = ["a", "b"]\n[tasks.mail.training]\nbase_model = "base"\n'
    )
    settings = load_settings(folder, {})
    make_repository(settings)
    database = new_database(settings.database)
    events = traffic(3, task="mail")
    with database.transaction("test") as tx:
        tx.label_intake.record_samples(events)
        tx.label_intake.record_labels(
            [
                LabelRecorded(
                    event_id=new_id(),
                    occurred_at=utc_now(),
                    task="mail",
                    sample_id=event.sample_id,
                    value="c",
                    source="seed",
                    annotator="ann",
                )
                for event in events
            ]
        )
    leases = Leases(database, OWNER, "one", seconds=600.0)
    yield settings, database, Trainer(settings, database, threading.Event(), leases)
    database.dispose()


def turn(database: Database, trainer: Trainer) -> str:
    from flywheel.retraining.ports import TurnRequest

    with database.transaction("test") as tx:
        tx.turns.request(
            TurnRequest(request_id=new_id(), task="mail", by="ada", why="now", at=utc_now())
        )
    trainer.step()
    with database.transaction(read_only=True) as tx:
        (made, *_) = tx.turns.history("mail")
    assert made.state == "failed"
    return made.error or ""


def test_the_stages_error_is_the_turns(
    trainer: tuple[FlywheelSettings, Database, Trainer],
) -> None:
    settings, database, stepped = trainer
    said = turn(database, stepped)
    assert said.startswith("tasks.mail.labels: settled labels are not among them: 'c' (3 samples)")
    assert said[:200] in status_text(standing(settings))


def test_an_error_that_nobody_foresaw_is_a_failed_turn(
    trainer: tuple[FlywheelSettings, Database, Trainer],
) -> None:
    """A file where a folder should be, of the trainer's own work: it would raise at every start."""
    settings, database, stepped = trainer
    (settings.workspace / "params.tmp").mkdir()
    assert "IsADirectoryError" in turn(database, stepped)
