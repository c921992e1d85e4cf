"""Whether a model that was brought in is served as transformers computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flywheel.contracts.chat import Chat
from flywheel.contracts.model_folder import ModelDescription, Prompt, read_description
from flywheel.contracts.witness import TEXTS, Witness
from flywheel.contracts.witness import TOLERANCE as ROUNDED
from flywheel.errors import ArtefactError
from flywheel.kinds import answers_of
from flywheel.serving.engine import Generated
from flywheel.turn.same_texts import Written, mean_apart, write

if TYPE_CHECKING:
    from flywheel.turn.measure import Answer

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


class Reference(Protocol):
    """What transformers says of a few texts, which a server is asked too."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts."""
        ...

    def problem(self, answers: Sequence[Answer]) -> str | None:
        """Why these answers to them are another model's, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Letters:
    """The labels' probabilities of a language model that answers with those."""

    witness: Witness

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts."""
        return self.witness.texts

    def problem(self, answers: Sequence[Answer]) -> str | None:
        """They must be as far apart as rounding moves them."""
        apart = self.witness.apart([one for one in answers if isinstance(one, dict)])
        if apart <= ROUNDED:
            return None
        return (
            f"the probabilities of {len(self.texts)} texts are {apart:.2f} apart on average, and "
            f"{ROUNDED} is what rounding does"
        )


@dataclass(frozen=True, slots=True)
class Texts:
    """What a language model writes that answers with text."""

    texts: tuple[str, ...]
    written: tuple[Written, ...]
    chat: Chat

    def problem(self, answers: Sequence[Answer]) -> str | None:
        """The two tokens where it parts from what transformers writes must be about as likely."""
        served = [one.text for one in answers if isinstance(one, Generated)]
        apart = mean_apart(self.written, served, self.chat)
        if apart is None or apart <= ROUNDED:
            return None
        pairs = zip(self.written, served, strict=True)
        own, other = max(pairs, key=lambda pair: pair[0].apart(pair[1], self.chat) or 0.0)
        return (
            f"it writes {other[:40]!r} where transformers writes {own.text[:40]!r}, whose tokens "
            f"are {apart:.2f} likelier on average over {len(served)} texts, and {ROUNDED} is what "
            "rounding does"
        )


def by_transformers(model: Path, bases: Path) -> Reference | None:
    """What transformers says, by eager attention, of a few texts asked of a language model; an
    adapter's base lies in ``bases``. None for models that are not compared (``compared``).

    Raises ArtefactError for a model that it cannot compute.
    """
    about = read_description(model)
    if about.kind != "llm" or stored_as(about) != "none":
        return None
    whole = model if about.base is None else bases / about.base.id
    prompt = about.prompt or Prompt()
    chat = Chat.of_folder(whole, prompt)
    try:
        network = _network(whole, None if about.base is None else model)
        if answers_of(about.output).scored:
            return Letters(Witness(texts=TEXTS, probabilities=_letters(network, chat, about)))
        most = prompt.max_answer_tokens
        written = tuple(write(network, chat, text, about.max_tokens, most) for text in TEXTS)
        return Texts(TEXTS, written, chat)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
        raise ArtefactError(f"{model} cannot be computed by transformers: {error}") from error


def stored_as(about: ModelDescription) -> str:
    """How the weights of a model, or of an adapter's base, are stored."""
    return about.method if about.base is None else about.base.method


def compared(about: ModelDescription, released: bool) -> str:
    """What of a model that is brought in is compared with transformers before it is registered, or
    why nothing is. ``released``: it comes as a release, not in the layout of Hugging Face."""
    if about.kind != "llm":
        if released:
            return "nothing: every file is the one that was released"
        return f"probabilities of {len(_TEXTS) + 1} texts"
    if (stored := stored_as(about)) != "none":
        return (
            f"nothing: its weights are stored as {stored}, which transformers would not multiply "
            "as an engine does; the held-out samples alone say how it answers"
        )
    what = "probabilities of" if answers_of(about.output).scored else "what it writes to"
    return f"{what} {len(TEXTS)} texts"


def check_served(reference: Reference, answers: Sequence[Answer], source: str) -> None:
    """Raise ArtefactError where what serves a model answers otherwise than transformers said."""
    problem = reference.problem(answers)
    if problem is not None:
        raise ArtefactError(
            f"{source} would be served otherwise than transformers computes it: {problem}. The "
            "engine computes another model: take a base of another architecture; or (vLLM) its "
            'numbers are too coarse: set serving.vllm.dtype = "float32"'
        )


def _network(whole: Path, adapter: Path | None) -> Any:
    """A language model, with an adapter on it if there is one."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    network: Any = AutoModelForCausalLM.from_pretrained(
        whole,
        dtype="auto",
        attn_implementation="eager",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if adapter is not None:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, str(adapter))
    return network.eval()


def _letters(network: Any, chat: Chat, about: ModelDescription) -> tuple[dict[str, float], ...]:
    """Label → probability for each of the texts, as calibrated as what serves it."""
    import torch

    letters = chat.trained_letters(about)
    rows = []
    for text in TEXTS:
        ids, _ = chat.cut(text, about.max_tokens)
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        scaled = logits[list(letters.values())] / about.temperature
        rows.append(dict(zip(letters, scaled.softmax(dim=0).tolist(), strict=True)))
    return tuple(rows)
