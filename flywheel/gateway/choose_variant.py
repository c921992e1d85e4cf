"""Which release answers a request: a pure, sticky function of the split and the unit."""

from __future__ import annotations

from typing import NamedTuple

from flywheel.contracts.events import Arm
from flywheel.contracts.ids import unit_fraction
from flywheel.contracts.split import TrafficSplit


class Variant(NamedTuple):
    """The release that answers, and its arm (None outside a rollout)."""

    release: str
    arm: Arm | None


def unit_of(split: TrafficSplit, user: str, sample_id: str) -> str:
    """What the lot is drawn by: the user, or the request where a person chose that."""
    return sample_id if split.assign_by == "request" else user


def choose_variant(split: TrafficSplit, unit: str) -> Variant:
    """The release that answers ``unit``, which is ``unit_of`` the request, under ``split``.

    A unit's fraction is fixed for a rollout, so a rising share only ever moves units from the
    champion to the challenger, and never back.
    """
    if split.challenger is None:
        return Variant(split.champion, None)
    rollout = split.rollout_id or split.challenger
    if unit_fraction(rollout, unit) < split.challenger_share:
        return Variant(split.challenger, "challenger")
    return Variant(split.champion, "champion")


def choose_shadow(split: TrafficSplit, answered: Variant, sample_id: str) -> Variant | None:
    """The arm that scores a copy of this request unseen, or None.

    Sampling is independent of assignment, so the shadowed requests are a fair sample of both arms.
    """
    if split.challenger is None or split.rollout_id is None or answered.arm is None:
        return None
    if unit_fraction("shadow", split.rollout_id, sample_id) >= split.shadow_share:
        return None
    if answered.arm == "challenger":
        return Variant(split.champion, "champion")
    return Variant(split.challenger, "challenger")
