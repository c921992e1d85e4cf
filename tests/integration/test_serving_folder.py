"""`flywheel serve --folder`: one model folder served without Kafka or a workspace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from vllm_models import LABELS, bert_release

from flywheel.contracts.model_folder import RELEASE_FILE, WEIGHTS_FILE

COMMAND = [sys.executable, "-m", "flywheel", "serve"]


def refused(folder: Path, *options: str) -> str:
    """What is said when the folder cannot be served."""
    found = subprocess.run(
        [*COMMAND, "--folder", str(folder), *options], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert found.stdout == "", "it never said that it is ready"
    return found.stderr


def test_a_folder_is_served_until_told_to_end(tmp_path: Path) -> None:
    folder = bert_release(tmp_path / "release", "int8-dynamic")
    command = [*COMMAND, "--folder", str(folder), "--name", "v1", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["model"] == "v1"
        assert ready["pid"] == process.pid
        with httpx.Client(base_url=ready["url"], timeout=30, trust_env=False) as http:
            [model] = http.get("/v1/models").json()["data"]
            assert (model["id"], model["kind"]) == ("v1", "classifier")
            assert model["labels"] == list(LABELS)
            body = {"model": "v1", "input": ["How far is planet 7?"]}
            assert http.post("/classify", json=body).json()["data"][0]["label"] in LABELS
            assert http.get("/healthz").status_code == 200
        process.terminate()
        assert process.wait(30) == 0


def test_what_cannot_be_served_ends_with_the_reason(tmp_path: Path) -> None:
    assert "is no model" in refused(tmp_path)
    folder = bert_release(tmp_path / "release")
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-1])
    assert "were released" in refused(folder)


def test_vllm_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_VLLM_PYTHON", str(tmp_path / "nowhere"))
    said = refused(bert_release(tmp_path / "release"), "--engine", "vllm")
    assert "make vllm" in said


def test_a_language_model_is_not_for_the_embedded_engine(tmp_path: Path) -> None:
    folder = bert_release(tmp_path / "release")
    about = json.loads((folder / RELEASE_FILE).read_text())
    (folder / RELEASE_FILE).write_text(json.dumps(about | {"kind": "llm"}))
    assert 'serving.engine = "vllm"' in refused(folder)
