"""Whether a model that was brought in is served as transformers computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flywheel.contracts.model_folder import ModelDescription, read_description
from flywheel.contracts.witness import TEXTS, Witness
from flywheel.contracts.witness import TOLERANCE as ROUNDED
from flywheel.errors import ArtefactError
from flywheel.kinds import answers_of

_TEXTS = (
    "A short text.",
    "How much does it cost to send a parcel of 2 kg to Łódź, and how long does it take?",
)
# The largest difference of a probability that sums in another order make.
TOLERANCE = 1e-3


def check_same_answers(folder: Path, model: Path, source: str) -> None:
    """Compare the probabilities of the classifier in ``folder``, by transformers, with those of
    ``model``, which was made of it, by the embedded engine: on short texts and one that is cut.

    Raises ArtefactError where they differ, or where one of the two cannot compute it.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from flywheel.contracts.tokenizer_file import read_tokenizer
    from flywheel.serving.runtime import load_classifier

    about = read_description(model)
    texts = [*_TEXTS, f"{' '.join(_TEXTS)} " * (about.max_tokens // 16 + 1)]
    served = load_classifier(model, 1).predict(texts)
    tokenizer = read_tokenizer(folder)
    try:
        network = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        ).eval()
        for text, answer in zip(texts, served, strict=True):
            ids = tokenizer(text, truncation=True, max_length=about.max_tokens, return_tensors="pt")
            with torch.inference_mode():
                rows = torch.softmax(network(**ids).logits, dim=-1)
            wanted = dict(zip(about.labels, rows[0].tolist(), strict=True))
            off = max(abs(wanted[label] - answer[label]) for label in about.labels)
            if not off <= TOLERANCE:
                raise ArtefactError(
                    f"{source} would be served otherwise than transformers computes it: "
                    f"probabilities of {text[:40]!r} differ by {off:.2g}"
                )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
        raise ArtefactError(f"{source} cannot be computed by transformers: {error}") from error


def by_transformers(model: Path, bases: Path) -> Witness | None:
    """What transformers says, by eager attention, of a few texts asked of a language model that
    answers with labels; an adapter's base lies in ``bases``. None for other models, and for those
    with quantised weights, which it would not multiply as an engine does.

    Raises ArtefactError for a model that it cannot compute.
    """
    about = read_description(model)
    stored = about.method if about.base is None else about.base.method
    if about.kind != "llm" or not answers_of(about.output).scored or stored != "none":
        return None
    try:
        return Witness(texts=TEXTS, probabilities=tuple(_letters(model, bases, about)))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
        raise ArtefactError(f"{model} cannot be computed by transformers: {error}") from error


def check_served(witness: Witness, answers: Sequence[Mapping[str, float]], source: str) -> None:
    """Raise ArtefactError where what serves a model answers otherwise than transformers said."""
    apart = witness.apart(answers)
    if not apart <= ROUNDED:
        raise ArtefactError(
            f"{source} would be served otherwise than transformers computes it: the probabilities "
            f"of {len(witness.texts)} texts are {apart:.2f} apart on average, and {ROUNDED} is "
            "what rounding does. The engine computes another model, or (vLLM) serving.vllm.dtype "
            "is too coarse for it"
        )


def _letters(model: Path, bases: Path, about: ModelDescription) -> list[dict[str, float]]:
    """Label → probability for each of the texts, as calibrated as what serves it."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from flywheel.contracts.chat import Chat
    from flywheel.contracts.model_folder import Prompt

    whole = model if about.base is None else bases / about.base.id
    chat = Chat.of_folder(whole, about.prompt or Prompt())
    letters = chat.trained_letters(about)
    logging.disable_progress_bar()
    network: Any = AutoModelForCausalLM.from_pretrained(
        whole,
        dtype="auto",
        attn_implementation="eager",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if about.base is not None:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, str(model))
    network.eval()
    found = []
    for text in TEXTS:
        ids, _ = chat.cut(text, about.max_tokens)
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        rows = logits[list(letters.values())] / about.temperature
        found.append(dict(zip(letters, rows.softmax(dim=0).tolist(), strict=True)))
    return found
