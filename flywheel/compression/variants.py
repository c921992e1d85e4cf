"""Makes one variant of a trained encoder by its recipe: distil, then prune, then quantise."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from flywheel.compression.config import Recipe
from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.model_folder import (
    CONFIG_FILE,
    RELEASE_FILE,
    TOKENIZER_FILES,
    TRAINING_REPORT,
    WEIGHTS_FILE,
    Method,
    Predictor,
    digest_model_files,
    read_description,
    write_description,
)
from flywheel.errors import ArtefactError, ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from flywheel.compression.prune import Moments

# Texts whose activations decide static scales: a few hundred are as good as thousands.
CALIBRATION_TEXTS = 256
# A trained model that only has to get used to INT8 needs smaller steps than an untrained one.
_QAT_PACE = 0.3
_LAYERS = "layers:"
_METHODS: dict[str, Method] = {
    "none": "none",
    "int8-dynamic": "int8-dynamic",
    "int8-static": "int8-static",
    "int8-qat": "int8-qat",
}

Undo = Callable[[], None]
Change = Callable[[Any], Undo]
"""Alters a torch module before it is trained; what it returns is called before it is saved."""
Load = Callable[[Path, int], Predictor]
"""Opens a model folder, on so many threads, as the engine that will serve it does."""


class VariantReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a variant was made. ``steps`` are what was done before quantisation and ``notes`` what
    else a person should know, in words; ``bytes`` are those of every file that decides answers."""

    name: str
    method: Method
    steps: tuple[str, ...]
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()


class FineTune(Protocol):
    """Training that goes on from a model folder, as the training stage does it."""

    def __call__(
        self,
        model: Path,
        dataset: Path,
        folder: Path,
        *,
        epochs: int,
        change: Change | None = None,
        soft_targets: Sequence[Mapping[str, float]] | None = None,
        learning_rate_factor: float = 1.0,
    ) -> None:
        """Train ``model`` for ``epochs`` on a dataset's training part and write it to ``folder``.

        ``model`` may be an encoder without a head, which then gets one. ``soft_targets`` are a
        teacher's probabilities for each line of the training part.
        """
        ...


class Observe(Protocol):
    """What enters the dense layers of a model, as the training stage computes it."""

    def __call__(
        self, model: Path, texts: Sequence[str], visit: Callable[[str, Tensor], None]
    ) -> None:
        """Run the FP32 model on ``texts``; ``visit`` gets a layer's name and (tokens, width)."""
        ...


@dataclass(frozen=True)
class Tools:
    """What compression needs of other stages; bootstrap hands it in."""

    load: Load
    fine_tune: FineTune
    observe: Observe
    threads: int = 1


def make_variant(
    name: str,
    recipe: Recipe,
    trained: Path,
    dataset: Path,
    folder: Path,
    *,
    tools: Tools,
    teacher: Predictor | None = None,
) -> VariantReport:
    """Write the variant ``name`` of the encoder in ``trained`` to ``folder``, not yet calibrated.

    ``teacher`` is what a distilled student learns from: the trained model when None. The folder
    was opened once, as it will be served, when this returns.
    Raises ArtefactError for a damaged model or dataset, ConfigurationError for a recipe that is
    none of an encoder's, and what training raises.
    """
    started = time.perf_counter()
    _check(name, recipe)
    method = _METHODS[recipe.quantise]
    read_description(trained)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELEASE_FILE).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".variant-", dir=folder.parent) as scratch:
        work = _Work(recipe, trained, dataset, Path(scratch), tools)
        if recipe.distil_to:
            work.distil(teacher)
        if recipe.prune_heads or recipe.prune_ffn:
            work.prune()
        work.quantise(method, folder)
    if (trained / TRAINING_REPORT).is_file():
        shutil.copyfile(trained / TRAINING_REPORT, folder / TRAINING_REPORT)
    tools.load(folder, tools.threads)
    return VariantReport(
        name=name,
        method=method,
        steps=tuple(work.steps),
        bytes=read_description(folder).size_bytes,
        seconds=time.perf_counter() - started,
        notes=tuple(work.notes),
    )


def _check(name: str, recipe: Recipe) -> None:
    key = f"compression.recipes.{name}"
    if recipe.quantise not in _METHODS:
        raise ConfigurationError(
            f"{key}.quantise",
            f"{recipe.quantise!r} is for language models",
            f"an encoder takes {', '.join(_METHODS)}",
        )
    if recipe.merge:
        raise ConfigurationError(f"{key}.merge", "an encoder has no adapter to merge")
    if recipe.distil_to.startswith(_LAYERS) and not _layer_count(recipe.distil_to):
        raise ConfigurationError(f"{key}.distil_to", f"{recipe.distil_to!r} says no number > 0")


def _layer_count(distil_to: str) -> int:
    count = distil_to.removeprefix(_LAYERS)
    return int(count) if count.isdigit() else 0


@dataclass
class _Work:
    """A variant on its way: ``model`` is the FP32 model so far."""

    recipe: Recipe
    model: Path
    dataset: Path
    scratch: Path
    tools: Tools
    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # What the model that is made smaller said of each text of the training part.
    told: Sequence[Mapping[str, float]] | None = None

    def distil(self, teacher: Predictor | None) -> None:
        """A smaller student learns the teacher's probabilities beside the labels."""
        self.told = self._ask(teacher)
        if self.recipe.distil_to.startswith(_LAYERS):
            student, words = self._fewer_layers()
        else:
            student = Path(self.recipe.distil_to).expanduser()
            words = f"distilled to {student.name}"
        self._train(student, "distilled")
        self.steps.append(f"{words}, trained for {self._epochs} on the teacher's probabilities")

    def _fewer_layers(self) -> tuple[Path, str]:
        from flywheel.compression.prune import keep_layers

        state, config = _read(self.model)
        had, count = int(config["num_hidden_layers"]), _layer_count(self.recipe.distil_to)
        if count >= had:
            raise ConfigurationError(
                "distil_to", f"{self.recipe.distil_to!r} drops no layer: there are {had}"
            )
        student = self.scratch / "student"
        _write(student, self.model, keep_layers(state, config, count), config)
        return student, f"{count} of {had} layers kept"

    def prune(self) -> None:
        """The heads and channels with the smallest weights go; what is left is trained again."""
        from flywheel.compression.prune import prune_ffn, prune_heads

        state, config = _read(self.model)
        recipe, before, seen = self.recipe, dict(config), self._moments()
        if recipe.prune_heads:
            state = prune_heads(state, config, recipe.prune_heads, seen)
            left, had = config["num_attention_heads"], before["num_attention_heads"]
            self.steps.append(f"{left} of {had} attention heads a layer kept")
            self.notes.append("attention heads were removed: only the embedded engine serves it")
        if recipe.prune_ffn:
            state = prune_ffn(state, config, recipe.prune_ffn, seen)
            left, had = config["intermediate_size"], before["intermediate_size"]
            self.steps.append(f"{left} of {had} FFN channels a layer kept")
        if recipe.epochs and self.told is None:
            self.told = self._ask(None)
        pruned = self.scratch / "pruned"
        _write(pruned, self.model, state, config)
        self.model = pruned
        if recipe.epochs:
            self._train(pruned, "healed")
            self.steps.append(f"fine-tuned for {self._epochs}")

    def _moments(self) -> dict[str, Moments]:
        from flywheel.compression.prune import Moments

        seen: dict[str, Moments] = {}

        def count(layer: str, inputs: Tensor) -> None:
            if layer.endswith("output.dense"):
                seen.setdefault(layer, Moments.empty(inputs.shape[1])).add(inputs)

        self.tools.observe(self.model, self._texts(), count)
        return seen

    def _texts(self) -> list[str]:
        """Texts whose activations are looked at."""
        lines = read_part(self.dataset, "train")[:CALIBRATION_TEXTS]
        if not lines:
            raise ArtefactError(f"{self.dataset} has no texts to look at activations of")
        return [line.text for line in lines]

    def quantise(self, method: Method, folder: Path) -> None:
        """Write the model to ``folder`` in the form that is served."""
        from flywheel.compression.int8 import quantisation_config, quantise_weights

        if method == "int8-qat":
            from flywheel.compression.fake_quantise import compute_as_int8

            self._train(self.model, "qat", change=compute_as_int8, learning_rate_factor=_QAT_PACE)
            self.steps.append(f"trained for {self._epochs} as if INT8")
        state, config = _read(self.model)
        if method != "none":
            scales = self._input_scales() if method == "int8-static" else None
            state = quantise_weights(state, scales)
            config["quantization_config"] = quantisation_config(static=method == "int8-static")
        _write(folder, self.model, state, config, method=method, steps=tuple(self.steps))

    def _input_scales(self) -> dict[str, float]:
        from flywheel.compression.observe import Histogram, least_error_scale

        texts = self._texts()
        seen: dict[str, Histogram] = {}
        self.tools.observe(
            self.model,
            texts,
            lambda layer, inputs: seen.setdefault(layer, Histogram()).add(inputs),
        )
        self.notes.append(
            f"activation scales of least squared error on {len(texts)} texts of the training part"
        )
        return {layer: least_error_scale(histogram) for layer, histogram in seen.items()}

    @property
    def _epochs(self) -> str:
        count = max(1, self.recipe.epochs)
        return f"{count} epoch{'s' if count > 1 else ''} or more"

    def _ask(self, teacher: Predictor | None) -> Sequence[Mapping[str, float]]:
        teacher = teacher or self.tools.load(self.model, self.tools.threads)
        return teacher.predict([line.text for line in read_part(self.dataset, "train")])

    def _train(self, model: Path, name: str, **given: Any) -> None:
        folder = self.scratch / name
        self.tools.fine_tune(
            model,
            self.dataset,
            folder,
            epochs=self.recipe.epochs,
            soft_targets=self.told,
            **given,
        )
        self.model = folder


def _read(model: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors.torch import load_file

    return load_file(model / WEIGHTS_FILE), json.loads((model / CONFIG_FILE).read_text("utf-8"))


def _write(
    folder: Path,
    source: Path,
    state: dict[str, Tensor],
    config: dict[str, Any],
    *,
    method: Method = "none",
    steps: tuple[str, ...] = (),
) -> None:
    """A model folder with the tokenizer and description of ``source`` and weights of its own."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    about = read_description(source)
    write_description(
        folder,
        msgspec.structs.replace(
            about,
            method=method,
            steps=(*about.steps, *steps),
            temperature=1.0,
            files=digest_model_files(folder),
        ),
    )
