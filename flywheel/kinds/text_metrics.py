"""How close free text comes to the right one: chrF over the corpus, and F1 over its words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from flywheel.contracts.answers import normalised
from flywheel.kinds.predictions import Prediction


def measure_text(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """``chrf`` (0 to 100, sacrebleu's chrF2 of the texts as they are), ``chrf_signature``, which
    says how to compute it again, and ``token_f1`` (0 to 1, of normalised words)."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    score = 0.0
    if predictions:
        answers = [p.prediction for p in predictions]
        score = float(chrf.corpus_score(answers, [[p.label for p in predictions]]).score)
    total = sum(token_f1(p.prediction, p.label) for p in predictions)
    return {
        "output": "text",
        "chrf": score,
        "chrf_signature": str(chrf.get_signature()) if predictions else "",
        "token_f1": total / len(predictions) if predictions else 0.0,
    }


def token_f1(answer: str, truth: str) -> float:
    """F1 over words, however often each occurs (as SQuAD measures it, Rajpurkar et al. 2016, but
    with articles and punctuation left in)."""
    said, wanted = normalised(answer).split(), normalised(truth).split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))
