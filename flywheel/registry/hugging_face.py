"""Folders in the layout of Hugging Face: what they hold, and what may be taken from them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from flywheel.contracts.base_folder import base_file_names
from flywheel.contracts.encoder_config import longest_text, unread_part
from flywheel.contracts.model_folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    digest,
    digest_model_files,
    write_description,
)
from flywheel.contracts.tokenizer_file import read_tokenizer, write_tokenizer
from flywheel.errors import ArtefactError
from flywheel.registry.classifier_weights import write_weights
from flywheel.registry.formats import (
    check_code,
    check_file,
    check_name,
    check_safetensors,
    read_json,
)

# An encoder with a head of the task's labels, which can be a release; or a model to train from.
Holds = Literal["classifier", "encoder", "llm"]

HEAD = "BertForSequenceClassification"
_POOLER = "bert.pooler.dense.weight"
_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
_CLASSIFIER = "classifier.weight"
# Beside the weights and the tokenizer: how sentence-transformers pools.
_SENTENCE_FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "vocab.txt",
)
_IGNORED = (".md", ".txt", ".gitattributes", ".gitignore", ".png")


class FolderContents(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder holds, and the files that would be taken from it, by their path in it."""

    holds: Holds
    architecture: str
    files: tuple[str, ...]


def look(folder: Path, *, strict: bool = True) -> FolderContents:
    """What a folder holds. ``strict``: any file that could run code is refused; otherwise such
    files are left where they are (an installed package has code beside its model).

    Raises ArtefactError, saying what is wrong, for anything that is not taken.
    """
    config = _config(folder)
    check_code(folder)
    if strict:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.suffix.lower() not in _IGNORED and file.name[0] != ".":
                check_name(str(file.relative_to(folder)))
    architecture = str(next(iter(config.get("architectures") or ()), "none"))
    names = base_file_names(folder)
    if architecture == HEAD:
        holds: Holds = "classifier"
    elif architecture.endswith("ForCausalLM"):
        holds = "llm"
    elif config.get("model_type") == "bert" and architecture in ("BertModel", "none"):
        holds, names = "encoder", (*names, *_sentence_files(folder))
    else:
        raise ArtefactError(
            f"{folder} holds a {architecture} of type {config.get('model_type')!r}: a {HEAD} can "
            "become a release; a BertModel or a ForCausalLM a base to train from"
        )
    if holds != "llm" and "tokenizer.json" not in names:
        raise ArtefactError(
            f"{folder} has no tokenizer.json: save it with a fast tokenizer of transformers"
        )
    for name in names:
        check_file(folder / name)
    return FolderContents(holds=holds, architecture=architecture, files=tuple(dict.fromkeys(names)))


def make_model(
    folder: Path, task: str, labels: Sequence[str], target: Path, *, source: str
) -> ModelDescription:
    """Copy a classifier to the empty folder ``target`` and describe it, uncalibrated.

    Weights in several files become one. Raises ArtefactError when its labels are not the task's,
    when its weights are not those of a BERT with a pooler and a head, or when its configuration or
    its tokenizer asks for what is not read here.
    """
    config = _config(folder)
    unread = unread_part(config)
    if unread is not None:
        raise ArtefactError(f"{source} is not read here: {unread}")
    own = _labels(config, folder)
    if set(own) != set(labels):
        raise ArtefactError(
            f"{source} answers {', '.join(own)}; the labels of {task} are {', '.join(labels)}: "
            "set id2label in its config.json to the task's labels, if they mean the same"
        )
    if config.get("quantization_config"):
        raise ArtefactError(f"{source} is quantised: import the model it was made from")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise ArtefactError(f"{source} is made for {config['problem_type']}, not for one label")
    write_weights(folder, target / WEIGHTS_FILE)
    _check_weights(check_safetensors(target / WEIGHTS_FILE), len(own), source)
    shutil.copyfile(folder / CONFIG_FILE, target / CONFIG_FILE)
    longest = longest_text(folder)
    write_tokenizer(read_tokenizer(folder), longest, target)
    weights = digest(target / WEIGHTS_FILE)
    description = ModelDescription(
        task=task,
        labels=own,
        temperature=1.0,
        max_tokens=longest,
        method="none",
        pooling="cls",
        base_model=f"{source}@{weights.sha256[:12]}",
        dataset_version="",
        files=digest_model_files(target),
    )
    write_description(target, description)
    return description


def install(folder: Path, contents: FolderContents, target: Path) -> None:
    """Copy a model to train from to ``target``, in one step; one that is there must be equal.

    Raises ArtefactError when another model is there.
    """
    if target.exists():
        other = [n for n in contents.files if not _same(folder / n, target / n)]
        if other:
            raise ArtefactError(f"{target} holds another model ({other[0]} differs): choose a name")
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for name in contents.files:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, part / name)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG_FILE).is_file():
        raise ArtefactError(f"{folder} holds no model: it has no {CONFIG_FILE}")
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict):
        raise ArtefactError(f"{folder / CONFIG_FILE} is no object")
    return config


def _sentence_files(folder: Path) -> list[str]:
    """The files of sentence-transformers that say how tokens are pooled."""
    names = [name for name in _SENTENCE_FILES if (folder / name).is_file()]
    modules = read_json(folder / "modules.json") if "modules.json" in names else []
    for module in modules:
        kind, path = str(module.get("type", "")), str(module.get("path", ""))
        if not kind.startswith("sentence_transformers."):
            raise ArtefactError(f"{folder}/modules.json asks for {kind!r}: code that is not run")
        if path and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", path):
            raise ArtefactError(f"{folder}/modules.json names the folder {path!r}")
        if path and (folder / path / CONFIG_FILE).is_file():
            names.append(f"{path}/{CONFIG_FILE}")
    return names


def _labels(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    named = config.get("id2label")
    try:
        rows = sorted((int(index), str(label)) for index, label in dict(named or {}).items())
    except (TypeError, ValueError) as error:
        raise ArtefactError(f"{folder / CONFIG_FILE}: id2label cannot be read: {error}") from error
    if [index for index, _ in rows] != list(range(len(rows))) or not rows:
        raise ArtefactError(f"{folder / CONFIG_FILE} has no id2label that counts up from 0")
    return tuple(label for _, label in rows)


def _check_weights(header: dict[str, Any], labels: int, source: str) -> None:
    for name in (_EMBEDDINGS, _CLASSIFIER, _POOLER):
        if name not in header:
            raise ArtefactError(f"{source} has no {name}: it is no complete {HEAD}")
    if header[_CLASSIFIER]["shape"][0] != labels:
        raise ArtefactError(
            f"{source} has a head of {header[_CLASSIFIER]['shape'][0]} outputs for {labels} labels"
        )


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and digest(one) == digest(other)
