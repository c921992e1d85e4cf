"""What the demo is asked to do, and how fast: two cores do everything here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Engine = Literal["embedded", "vllm"]
Model = Literal["encoder", "llm"]


@dataclass(frozen=True)
class Pace:
    """Requests and answers a second in each phase."""

    labelling: float = 18.0
    training: float = 4.0
    comparing: float = 28.0
    answers: float = 7.0
    answers_comparing: float = 6.0


# vLLM on two cores: an encoder answers about 100 texts a second when nothing else runs.
VLLM_PACE = Pace(labelling=14.0, training=2.0, comparing=12.0, answers=7.0, answers_comparing=6.0)
# A language model with an adapter answers about five with AVX2 alone, sixteen with VNNI; in a
# rollout every text is asked twice.
LLM_PACE = Pace(labelling=6.0, training=0.5, comparing=4.0, answers=5.0, answers_comparing=3.0)


@dataclass(frozen=True)
class Plan:
    """What the demo is asked to do. ``turns`` counts retrained releases after the first one."""

    workspace: Path
    turns: int = 2
    drill: bool = True
    expert: str = "simulated"
    engine: Engine = "embedded"
    model: Model = "encoder"
    budget: int = 540
    # Of the budget, kept for the drill's rollout: a few dozen labels show the harm.
    drill_budget: int = 60
    # Labels given in one rollout at most; below what would start the next turn by itself.
    rollout_budget: int = 150
    seed_size: int = 60
    holdout_size: int = 1000
    pace: Pace = Pace()
    # How long one turn, or one rollout, may take.
    patience: float = 900.0
    # How long a rollout may go on once the simulated expert has no label left to give.
    spent_seconds: float = 20.0
    # Keys of flywheel.toml that differ from the demo's own.
    values: Mapping[str, object] = field(default_factory=dict)


def make_plan(
    workspace: Path,
    *,
    engine: str | None,
    model: str,
    turns: int | None,
    drill: bool | None,
    expert: str,
    holdout: int | None,
    values: Mapping[str, object],
) -> Plan:
    """The plan for an engine and a kind of model; None is what suits them."""
    if model == "llm":
        return Plan(
            workspace=workspace,
            turns=1 if turns is None else turns,
            drill=bool(drill),
            expert=expert,
            engine="vllm",
            model="llm",
            holdout_size=holdout or 150,
            pace=LLM_PACE,
            patience=2400.0,
            spent_seconds=120.0,
            values={**_ONE_SERVER, **_LLM, **values},
        )
    if engine == "vllm":
        return Plan(
            workspace=workspace,
            turns=1 if turns is None else turns,
            drill=drill is not False,
            expert=expert,
            engine="vllm",
            holdout_size=holdout or 1000,
            pace=VLLM_PACE,
            patience=1800.0,
            spent_seconds=40.0,
            values={**_ONE_SERVER, **values},
        )
    return Plan(
        workspace=workspace,
        turns=2 if turns is None else turns,
        drill=drill is not False,
        expert=expert,
        holdout_size=holdout or 1000,
        values=values,
    )


# Each server runs a vLLM process of its own for every release, of gigabytes and all cores: one
# replica is what two cores carry. A process is up in a minute when training runs beside it.
_ONE_SERVER: Mapping[str, object] = {
    "engine": "vllm",
    "serving_ports": [8101],
    "latency_margin": 6.0,
    "warm_seconds": 600.0,
}
_LLM: Mapping[str, object] = {
    "variants": ["w8a8"],
    # Adapters on one base share one vLLM process: one variant is what this machine carries. Ten of
    # 150 held-out samples that it breaks (a seed's first adapter may lose so many) would refuse it.
    "compression.pin": "w8a8",
    "compression.max_accuracy_loss": 0.1,
    "prompt.system": "What does the question ask for?",
}
