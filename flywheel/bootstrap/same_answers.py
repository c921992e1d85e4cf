"""Whether a classifier that was brought in is served as transformers computes it."""

from __future__ import annotations

from pathlib import Path

from flywheel.contracts.model_folder import read_description
from flywheel.errors import ArtefactError

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
