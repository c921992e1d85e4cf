"""Images from the gateway to a dataset that git and DVC keep: real agents, a real turn and DVC."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from audits import NoAudits
from gateway_harness import eventually, started_gateway
from images import data_url, picture
from new_database import new_database

from flywheel.contracts.codec import decode
from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.events import Event, TrafficRecorded
from flywheel.contracts.ids import utc_now
from flywheel.contracts.sample import images
from flywheel.datasets.export import export_dataset
from flywheel.datasets.input_lines import read_inputs
from flywheel.kinds.images import image_of
from flywheel.ops.template import flywheel_toml
from flywheel.ops.workspace import checkout_dataset, make_repository
from flywheel.processes.trainer import gather
from flywheel.retraining.run_pipeline import make_turn
from flywheel.retraining.trigger import Start
from flywheel.review.claim import claim_next
from flywheel.review.ports import Answer
from flywheel.review.submit import submit_answer
from flywheel.settings import FlywheelSettings, load_settings
from flywheel.triage.triager import Triager
from flywheel.turn.pipeline import WorkspacePipeline
from storage.database import Database
from storage.objects import open_artefacts
from streams.agents import labels, review

TASK = "questions"  # as the gateway of these tests has it
PICTURES = {
    "disc": picture("image/png", (16, 12), "teal"),
    "square": picture("image/jpeg", (16, 12), "tomato"),
}

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


class Loop:
    def __init__(self, folder: Path) -> None:
        (folder / "flywheel.toml").write_text(
            flywheel_toml(TASK, tuple(PICTURES), "", kind="image-classification"), "utf-8"
        )
        self.settings: FlywheelSettings = load_settings(folder, {})
        make_repository(self.settings)
        self.database: Database = new_database(self.settings.database)
        self.task = self.settings.task(TASK)

    def asked(self, folder: Path) -> list[Event]:
        """What the gateway records of both pictures."""
        store = open_artefacts(self.settings)
        with started_gateway(
            folder, [], kind="image-classification", keep_image=store.put_bytes
        ) as gate:
            for name, data in PICTURES.items():
                url = data_url(data, image_of(data).part.media_type)
                parts = [{"type": "image_url", "image_url": {"url": url}}]
                body = {"task": TASK, "messages": [{"role": "user", "content": parts}]}
                headers = {"x-flywheel-sample-id": name}
                assert gate.http.post("/v1/samples", json=body, headers=headers).status_code == 202
            eventually(lambda: len(gate.events(TrafficRecorded)) == len(PICTURES))
            return gate.events(TrafficRecorded)

    def triaged(self, traffic: list[Event]) -> None:
        triage = self.task.triage
        triager = Triager({TASK: (self.task.answers, triage)}, NoAudits(), salt="salt")
        labels.agent(self.database).handle(traffic)
        review.agent(self.database).handle(list(triager(traffic)))

    def answered(self) -> None:
        """An expert says what each sample is, which its id says as well."""
        settings = self.task.review
        with self.database.transaction("console") as tx:
            claimed = claim_next(
                tx, task=TASK, annotator="ada", limit=50, now=utc_now(), settings=settings
            )
            assert {item.sample_id for item in claimed.items} == set(PICTURES)
            for item in claimed.items:
                answer = Answer(
                    sample_id=item.sample_id,
                    annotator="ada",
                    value=item.sample_id,
                    answered_at=utc_now(),
                )
                assert submit_answer(tx, TASK, self.task.answers, settings, answer).settled
        rows = self.database.outbox_rows("console")
        said = [decode(record.value, dict(record.headers)) for _, record in rows.unsent(100)]
        labels.agent(self.database).handle(said)


def test_images_become_a_dataset_that_dvc_keeps_and_that_is_exported(tmp_path: Path) -> None:
    (workspace := tmp_path / "ws").mkdir()
    loop = Loop(workspace)
    (spilled := tmp_path / "gateway").mkdir()
    loop.triaged(loop.asked(spilled))
    loop.answered()
    turn = make_turn(
        TASK,
        Start(reason="a test"),
        WorkspacePipeline(loop.settings, loop.database, threading.Event()),
        None,  # type: ignore[arg-type]
        lambda: loop.database.transaction("trainer"),
    )
    assert (turn.state, turn.error, turn.release) == ("succeeded", None, None)
    assert turn.dataset_version is not None
    with loop.database.transaction(read_only=True) as tx:
        assert gather(tx, TASK).new.given == 0, "the labels are in it"

    # What DVC gives back, not what the turn left behind.
    checkout_dataset(loop.settings, TASK, turn.dataset_version, tmp_path / "out")
    lines = [line for part in ("train", "calibration", "holdout")
             for line in read_part(tmp_path / "out", part)]  # fmt: skip
    assert {line.label for line in lines} == set(PICTURES)
    for line in lines:
        (image,) = images(line.content)
        kept = next((tmp_path / "out" / "images").glob(f"{image.sha256}.*"))
        assert kept.read_bytes() == PICTURES[line.label]

    export_dataset(tmp_path / "out", loop.task.of_kind, tmp_path / "export")
    found: dict[str, bytes] = {}
    for file in sorted((tmp_path / "export").glob("*.jsonl")):
        if file.stat().st_size:
            kept_here: list[bytes] = []
            for row in read_inputs(file, loop.task.task_kind, keep=kept_here.append):
                found[row.label] = kept_here[-1]
    assert set(found) == set(PICTURES)
