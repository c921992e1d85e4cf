"""A dataset on disk: three JSON-lines files and a manifest, as every stage reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from flywheel.contracts.events import LabelSource
from flywheel.contracts.sample import Content, ImagePart, MediaType, Messages
from flywheel.errors import ArtefactError

Part = Literal["train", "calibration", "holdout"]
PARTS: tuple[Part, ...] = ("train", "calibration", "holdout")
MANIFEST_FILE = "manifest.json"
_EXTENSIONS: Mapping[MediaType, str] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
}


class DatasetLine(msgspec.Struct, frozen=True, kw_only=True):
    """One labelled input. ``weight`` multiplies its loss in training.

    ``text`` is what a model of texts reads; ``messages`` the input itself, where it is more.
    """

    sample_id: str
    text: str
    label: str
    source: LabelSource
    weight: float = 1.0
    messages: Messages | msgspec.UnsetType = msgspec.UNSET

    @property
    def content(self) -> Content:
        """The input as it was sent."""
        return self.text if self.messages is msgspec.UNSET else self.messages


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset version holds and where it came from.

    ``version`` is ``d-`` and 12 hexadecimal digits of the content hash; ``watermark`` the newest
    label event it may contain; ``files`` the SHA-256 of each part and image; ``counts`` labels by
    part, then by source; ``label_counts`` by part, then by label (free texts together as ``text``,
    where ``labels`` is empty); ``left_out`` reason → samples. ``weight_rule`` says how lines of
    training got their weights; None when each counts fully.
    """

    version: str
    task: str
    labels: tuple[str, ...]
    watermark: str
    parent: str | None
    split_rule: str
    files: dict[str, str]
    counts: dict[str, dict[str, int]]
    label_counts: dict[str, dict[str, int]]
    left_out: dict[str, int]
    labels_shuffled_with: int | None = None
    weight_rule: str | None = None

    def count(self, part: Part, source: LabelSource | None = None) -> int:
        """Samples in a part, of one source or of all."""
        counts = self.counts.get(part, {})
        return sum(counts.values()) if source is None else counts.get(source, 0)

    @property
    def expert_labels(self) -> int:
        """Labels of experts that training and calibration use."""
        return self._learnt_from("expert")

    @property
    def seed_labels(self) -> int:
        """Labels that were there to begin with, of those that training and calibration use."""
        return self._learnt_from("seed")

    @property
    def auto_labels(self) -> int:
        """Automatic labels that training uses."""
        return self.count("train", "auto")

    def _learnt_from(self, source: LabelSource) -> int:
        return self.count("train", source) + self.count("calibration", source)


def image_path(image: ImagePart) -> str:
    """Where an image lies within a dataset's folder."""
    return f"images/{image.sha256}.{_EXTENSIONS[image.media_type]}"


def encode_lines(lines: Sequence[DatasetLine]) -> bytes:
    """JSON lines, one per sample."""
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def read_part(folder: Path, part: Part) -> list[DatasetLine]:
    """The lines of one part. Raises ArtefactError when the file is missing or damaged."""
    path = folder / f"{part}.jsonl"
    try:
        return msgspec.json.Decoder(DatasetLine).decode_lines(path.read_bytes())
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing: build the dataset first") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} is damaged: {error}") from error


def read_manifest(folder: Path, *, check: bool = True) -> Manifest:
    """The manifest of a dataset folder, with the hash of each part verified when ``check``.

    Raises ArtefactError when a file is missing, damaged or not the one the manifest names.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        for name, expected in manifest.files.items() if check else ():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
                raise ArtefactError(f"{folder / name} is not the file {path} names")
    except FileNotFoundError as error:
        raise ArtefactError(f"{error.filename} is missing: build the dataset first") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} is damaged: {error}") from error
    return manifest
