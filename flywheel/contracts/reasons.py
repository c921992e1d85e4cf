"""Why a sample is sent to an expert: as operators read it, and as the expert may."""

from __future__ import annotations

from collections.abc import Mapping

RANDOM_AUDIT = "random audit"
NO_MODEL = "no model answers this task"
_RULE = "rule: "
_UNSURE = "unsure"


def by_rule(name: str) -> str:
    """The reason of a rule: the name that an expert gave it."""
    return _RULE + name


def unsure_between(probabilities: Mapping[str, float], confidence: float) -> str:
    """The reason of an unsure answer: the labels it wavered between, likeliest first; a text has
    none, and then how sure the release was of it."""
    wavers = " or ".join(f"{label} {p:.2f}" for label, p in probabilities.items())
    return f"{_UNSURE}: " + (wavers or f"confidence {confidence:.2f}")


def before_answering(reason: str, *, audit: bool) -> str:
    """What an expert may read of a reason before they answer: nothing of what the model said.

    Whatever is not known to say nothing of it is taken to do so. Queues hold reasons of earlier
    versions, and an event's reason is free text.
    """
    if audit:
        return RANDOM_AUDIT
    return reason if reason.startswith((_RULE, NO_MODEL)) else "the model was unsure"
