"""A release: weights and everything else that decides what it answers."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Literal

import msgspec

from flywheel.contracts.artefacts import AddressText
from flywheel.contracts.bounds import ReleaseId, Text

ReleaseStatus = Literal["registered", "canary", "champion", "retired", "rolled_back"]


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """Who put a release past the gate, and why."""

    by: Text
    why: Text


class KeptRelease(msgspec.Struct, frozen=True, kw_only=True):
    """Where a release's folder is kept, and the base of an adapter."""

    release: ReleaseId
    address: AddressText
    base_address: AddressText | None = None


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One registered release and its lineage.

    ``release`` is the id (see ``release_id``), the served model name and the cache namespace.
    ``address`` is that of the folder which an engine serves, ``base_address`` that of an adapter's
    base; of a release made by an earlier version they are None, and it lies in the workspace that
    made it. ``metrics`` is evaluation's metrics.json; ``recipe`` what training and compression were
    told; accuracies are in [0, 1]. There is none that neither passed the gate nor was put past it:
    making one raises ValueError.
    """

    release: str
    task: str
    dataset_version: str
    parent: str | None
    created_at: datetime
    git_commit: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    size_bytes: int
    expert_labels: int
    auto_labels: int
    auto_label_error: float | None
    gate_passed: bool
    gate_reason: str
    override: Override | None = None
    metrics: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    # Of a release made by an earlier version, the experts' labels include them.
    seed_labels: int = 0
    address: AddressText | None = None
    base_address: AddressText | None = None

    def __post_init__(self) -> None:
        if not self.gate_passed and self.override is None:
            raise ValueError(
                f"{self.release} did not pass the gate and nobody put it past: {self.gate_reason}"
            )

    @property
    def kept(self) -> KeptRelease | None:
        """Where it is kept, or None where nothing says so."""
        if self.address is None:
            return None
        return KeptRelease(
            release=self.release, address=self.address, base_address=self.base_address
        )


def registered_already(release: Release) -> str:
    """Why a release begins no rollout by itself, and how it is made to."""
    return (
        f"{release.release} is registered here already, since {release.created_at:%Y-%m-%d}: "
        "`flywheel releases restore` makes a former champion serve again, `flywheel rollout start` "
        "tries a release once more"
    )


def release_id(task: str, parts: dict[str, str]) -> str:
    """``<task>-<12 hex>``: a SHA-256 over every part that decides the answers, so never reused.

    ``parts`` maps a part's name (weights, tokenizer, calibration, dataset, feature_view,
    quantisation, prompt, deployment) to its content hash or value.
    """
    canonical = msgspec.json.encode(dict(sorted(parts.items())))
    return f"{task}-{hashlib.sha256(canonical).hexdigest()[:12]}"
