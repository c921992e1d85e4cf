"""How unsure a release was of one answer: confidence, margin, entropy and one score of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signals:
    """All in [0, 1]. ``entropy`` is divided by its maximum; ``score`` is 1 at a coin toss.

    ``ranked`` holds labels and calibrated probabilities, largest first; nothing for free text.
    """

    confidence: float
    margin: float
    entropy: float
    score: float
    ranked: tuple[tuple[str, float], ...]


def signals(scores: Mapping[str, float], temperature: float = 1.0) -> Signals:
    """The signals of one answer after recalibration; ``scores`` needs at least one label.

    The score is the mean of least confidence, small margin and entropy, each from 0 (certain) to
    1 (all labels alike): they rank samples alike with two labels and disagree usefully with more.
    """
    calibrated = recalibrated(scores, temperature)
    ranked = tuple(sorted(calibrated.items(), key=lambda item: (-item[1], item[0])))
    confidence = ranked[0][1]
    if len(ranked) == 1:
        return Signals(confidence, 1.0, 0.0, 0.0, ranked)
    margin = confidence - ranked[1][1]
    entropy = -sum(p * math.log(p) for _, p in ranked if p > 0.0) / math.log(len(ranked))
    least = (1.0 - confidence) / (1.0 - 1.0 / len(ranked))
    score = min(1.0, max(0.0, (least + (1.0 - margin) + entropy) / 3.0))
    return Signals(confidence, margin, min(1.0, entropy), score, ranked)


def text_signals(confidence: float) -> Signals:
    """The signals of a generated text, of which nothing but its confidence is known."""
    sure = min(1.0, max(0.0, confidence))
    return Signals(sure, sure, 1.0 - sure, 1.0 - sure, ())


def least_score(labels: int, confidence: float) -> float:
    """About the lowest score among answers below a confidence: all the rest on one other label."""
    rest = dict.fromkeys((str(index) for index in range(labels - 1)), 0.0)
    return signals({**rest, "0": 1.0 - confidence, "top": confidence}).score


def recalibrated(scores: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Probabilities at a temperature: p^(1/T), normalised (Guo et al. 2017, arXiv 1706.04599)."""
    powered = {
        label: max(0.0, p) ** (1.0 / temperature) if temperature != 1.0 else max(0.0, p)
        for label, p in scores.items()
    }
    total = sum(powered.values())
    if total <= 0.0:
        return dict.fromkeys(scores, 1.0 / len(scores))
    return {label: p / total for label, p in powered.items()}
