"""The loop as a drawing: where its nodes and edges lie, and what each of them says now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flywheel.console.words import count, duration, percent, share, short

WIDTH, HEIGHT = 150, 74  # of a node
# Left edge and top of each node, in the drawing's own units.
PLACES = {
    "gateway": (0, 62),
    "kafka": (194, 62),
    "triage": (388, 62),
    "auto": (602, 16),
    "review": (602, 108),
    "labels": (816, 62),
    "dataset": (816, 232),
    "train": (602, 232),
    "registry": (388, 232),
    "rollout": (194, 232),
}


@dataclass(frozen=True, slots=True)
class Node:
    """One stage of the loop: its name, its number, a note under it, and a page that explains it."""

    key: str
    name: str
    count: str
    note: str
    href: str
    busy: bool = False
    alert: bool = False

    @property
    def x(self) -> int:
        """Left edge."""
        return PLACES[self.key][0]

    @property
    def y(self) -> int:
        """Top."""
        return PLACES[self.key][1]


@dataclass(frozen=True, slots=True)
class Edge:
    """A path from one node to the next; ``flows`` while something passes along it."""

    path: str
    kind: str = ""
    flows: bool = False


def nodes(read: dict[str, Any]) -> list[Node]:
    """The nodes in the order a sample meets them."""
    return [*_labelling(read), *_training(read)]


def _labelling(read: dict[str, Any]) -> list[Node]:
    traffic, queue, auto, labels = read["traffic"], read["queue"], read["auto"], read["labels"]
    queued = queue["open"] + queue["claimed"] + queue["submitted"]
    return [
        Node(
            "gateway",
            "Gateway",
            count(traffic["requests"]),
            f"{traffic['per_second']:.1f} requests/s",
            "#traffic",
            alert=traffic["failed"] > 0,
        ),
        Node("kafka", "Kafka", count(auto["samples"]), "samples in the log", "#traffic"),
        Node(
            "triage",
            "Triage",
            count(auto["auto"] + queued + queue["settled"]),
            "samples routed",
            "#coverage",
        ),
        Node(
            "auto",
            "Auto-label",
            count(auto["auto"]),
            f"error ≤ {percent(auto['bound'])}" if auto["open"] else "closed: no bound yet",
            "#coverage",
        ),
        Node(
            "review",
            "Review",
            count(queue["open"]),
            f"waiting {duration(queue['oldest_seconds'])}" if queue["open"] else "nothing waits",
            f"/review/{read['task']}",
            busy=queue["claimed"] > 0,
        ),
        Node(
            "labels",
            "Labels",
            count(labels["total"]),
            f"{count(labels['expert'])} by experts",
            "#coverage",
        ),
    ]


def _training(read: dict[str, Any]) -> list[Node]:
    data, turn, rollout = read["dataset"], read["turn"], read["rollout"]
    running = turn is not None and turn["state"] == "running"
    newest = read["releases"][-1] if read["releases"] else None
    took = "no turn yet"
    if turn:
        took = duration(turn["elapsed"]) if running else f"last turn {duration(turn['elapsed'])}"
    releases = f"/releases/{read['task']}"
    return [
        Node(
            "dataset",
            "Dataset",
            count(data["versions"]) if data["versions"] else "None",
            f"{count(data['new_labels'])} of {count(data['labels_needed'])} new labels",
            releases,
            busy=running and turn["stage"] == "build",
        ),
        Node(
            "train",
            "Train",
            turn["stage"].capitalize() if running else "Idle",
            took,
            releases,
            busy=running and turn["stage"] != "build",
            alert=turn is not None and turn["state"] == "failed",
        ),
        Node(
            "registry",
            "Registry",
            count(len(read["releases"])),
            f"newest {short(newest['release'])}" if newest else "no release yet",
            releases,
        ),
        Node(
            "rollout",
            "Rollout",
            share(rollout["share"]) if rollout else "Steady" if read["champion"] else "None",
            _serving(read),
            f"/rollout/{read['task']}",
            busy=rollout is not None,
            alert=read["unanswered"] is not None,
        ),
    ]


def _serving(read: dict[str, Any]) -> str:
    if read["unanswered"]:
        return f"{short(read['champion'])} answers nobody"
    if read["rollout"]:
        return str(read["rollout"]["state"]).replace("_", " ")
    return f"serves {short(read['champion'])}"


def edges(read: dict[str, Any]) -> list[Edge]:
    """The paths between the nodes."""
    traffic = read["traffic"]["per_second"] > 0
    running = read["turn"] is not None and read["turn"]["state"] == "running"
    rollout = read["rollout"] is not None
    queued = read["queue"]["open"] + read["queue"]["claimed"] > 0
    auto = traffic and read["auto"]["open"]
    return [
        Edge(_right("gateway", "kafka"), flows=traffic),
        Edge(_right("kafka", "triage"), flows=traffic),
        Edge(_right("triage", "auto"), "auto", auto),
        Edge(_right("triage", "review"), "expert", traffic),
        Edge(_right("auto", "labels"), "auto", auto),
        Edge(_right("review", "labels"), "expert", queued),
        Edge(_down("labels", "dataset"), flows=running),
        Edge(_left("dataset", "train"), flows=running),
        Edge(_left("train", "registry"), flows=running),
        Edge(_left("registry", "rollout"), "challenger", rollout),
        Edge(_home("rollout", "gateway"), "challenger", rollout),
    ]


def _middle(key: str) -> int:
    return PLACES[key][1] + HEIGHT // 2


def _right(start: str, end: str) -> str:
    x0, x1, y0, y1 = PLACES[start][0] + WIDTH, PLACES[end][0], _middle(start), _middle(end)
    if y0 == y1:
        return f"M{x0} {y0}H{x1}"
    bend = (x1 - x0) // 2 + 5
    return f"M{x0} {y0}C{x0 + bend} {y0} {x1 - bend} {y1} {x1} {y1}"


def _left(start: str, end: str) -> str:
    return f"M{PLACES[start][0]} {_middle(start)}H{PLACES[end][0] + WIDTH}"


def _down(start: str, end: str) -> str:
    x, y0, y1 = PLACES[start][0] + WIDTH, _middle(start), _middle(end)
    out = x + 32
    return (
        f"M{x} {y0}H{out - 14}Q{out} {y0} {out} {y0 + 14}V{y1 - 14}Q{out} {y1} {out - 14} {y1}H{x}"
    )


def _home(start: str, end: str) -> str:
    y, x, top = _middle(start), PLACES[end][0] + WIDTH // 2, PLACES[end][1] + HEIGHT
    return f"M{PLACES[start][0]} {y}H{x + 14}Q{x} {y} {x} {y - 14}V{top}"
