"""A dataset of texts is written as files that bring in the same samples."""

from __future__ import annotations

from pathlib import Path

from test_generation_datasets import SAMPLES, build

from flywheel.contracts.dataset_folder import PARTS, read_part
from flywheel.datasets.export import export_dataset
from flywheel.datasets.labelled_file import read_labelled
from flywheel.kinds import FreeText
from flywheel.kinds import of as kind_of


def test_every_part_reads_as_it_was(tmp_path: Path) -> None:
    build(SAMPLES, tmp_path / "data")
    export_dataset(tmp_path / "data", kind_of("generation"), tmp_path / "out")
    for part in PARTS:
        read = read_labelled(tmp_path / "out" / f"{part}.jsonl", FreeText())
        lines = read_part(tmp_path / "data", part)
        assert [(row.text, row.label) for row in read] == [(one.text, one.label) for one in lines]
