"""The steps of an encoder's recipe, in the order they are taken: distil, prune, quantise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flywheel.compression.config import Recipe
from flywheel.compression.ports import Tools
from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.model_folder import (
    CONFIG_FILE,
    TOKENIZER_FILES,
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

LAYERS = "layers:"
# Texts whose activations decide static scales: a few hundred are as good as thousands.
CALIBRATION_TEXTS = 256
# A trained model that only has to get used to INT8 needs smaller steps than an untrained one.
_QAT_PACE = 0.3


def layer_count(distil_to: str) -> int:
    """How many layers ``layers:N`` keeps; 0 when N is no number."""
    count = distil_to.removeprefix(LAYERS)
    return int(count) if count.isdigit() else 0


@dataclass
class EncoderWork:
    """A variant on its way: ``model`` is the FP32 model so far."""

    recipe: Recipe
    model: Path
    dataset: Path
    scratch: Path
    tools: Tools
    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # What the model that is made smaller said of each text of the training part.
    soft_targets: Sequence[Mapping[str, float]] | None = None

    def distil(self, teacher: Predictor | None) -> None:
        """A smaller student learns the teacher's probabilities beside the labels."""
        self.soft_targets = self._ask(teacher)
        if self.recipe.distil_to.startswith(LAYERS):
            student, words = self._fewer_layers()
        else:
            student = Path(self.recipe.distil_to).expanduser()
            words = f"distilled to {student.name}"
        self._train(student, "distilled")
        self.steps.append(f"{words}, trained for {self._epochs} on the teacher's probabilities")

    def _fewer_layers(self) -> tuple[Path, str]:
        from flywheel.compression.prune import keep_layers

        state, config = read_model(self.model)
        had, count = int(config["num_hidden_layers"]), layer_count(self.recipe.distil_to)
        if count >= had:
            raise ConfigurationError(
                "distil_to", f"{self.recipe.distil_to!r} drops no layer: there are {had}"
            )
        student = self.scratch / "student"
        write_model(student, self.model, keep_layers(state, config, count), config)
        return student, f"{count} of {had} layers kept"

    def prune(self) -> None:
        """The heads and channels with the smallest weights go; what is left is trained again."""
        from flywheel.compression.prune import prune_ffn, prune_heads

        state, config = read_model(self.model)
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
        if recipe.epochs and self.soft_targets is None:
            self.soft_targets = self._ask(None)
        pruned = self.scratch / "pruned"
        write_model(pruned, self.model, state, config)
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
        state, config = read_model(self.model)
        if method != "none":
            scales = self._input_scales() if method == "int8-static" else None
            state = quantise_weights(state, scales)
            config["quantization_config"] = quantisation_config(static=method == "int8-static")
        write_model(folder, self.model, state, config, method=method, steps=tuple(self.steps))

    def _input_scales(self) -> dict[str, float]:
        from flywheel.compression.observe import PERCENTILE, Histogram, percentile_scale

        texts = self._texts()
        seen: dict[str, Histogram] = {}
        self.tools.observe(
            self.model,
            texts,
            lambda layer, inputs: seen.setdefault(layer, Histogram()).add(inputs),
        )
        self.notes.append(
            f"input scales hold {PERCENTILE} % of what {len(texts)} texts of the training part made"
        )
        return {layer: percentile_scale(histogram) for layer, histogram in seen.items()}

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
            soft_targets=self.soft_targets,
            **given,
        )
        self.model = folder


def read_model(model: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a model folder, and its config.json."""
    from safetensors.torch import load_file

    return load_file(model / WEIGHTS_FILE), json.loads((model / CONFIG_FILE).read_text("utf-8"))


def write_model(
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
