"""The loop as a drawing: where its nodes and edges lie, and what each of them says now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flywheel.console.words import count, duration, percent, share, short

NODE_WIDTH, NODE_HEIGHT = 150, 74


@dataclass(frozen=True, slots=True)
class Node:
    """One stage of the loop: its name, its number, a note under it, and a page that explains it."""

    key: str
    name: str
    count: str
    note: str
    href: str
    x: int
    y: int
    busy: bool = False
    alert: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    """A path from one node to the next; ``flows`` while something passes along it."""

    path: str
    kind: str = ""
    flows: bool = False


def nodes(read: dict[str, Any]) -> list[Node]:
    """The nodes in the order a sample meets them."""
    task, traffic, queue, auto = read["task"], read["traffic"], read["queue"], read["auto"]
    labels, data, turn, rollout = read["labels"], read["dataset"], read["turn"], read["rollout"]
    training = turn is not None and turn["state"] == "running"
    failed = traffic["failed"]
    seen = auto["auto"] + auto["expert"] + auto["none"]
    newest = read["releases"][-1] if read["releases"] else None
    review = f"/review/{task}"
    return [
        Node(
            "gateway",
            "Gateway",
            count(traffic["requests"]),
            f"{traffic['per_second']:.1f} requests/s",
            "#traffic",
            0,
            96,
            alert=failed > 0,
        ),
        Node("kafka", "Kafka", count(seen), "samples in the log", "#traffic", 194, 96),
        Node(
            "triage",
            "Triage",
            count(
                auto["auto"]
                + queue["open"]
                + queue["claimed"]
                + queue["submitted"]
                + queue["settled"]
            ),
            "samples routed",
            "#coverage",
            388,
            96,
        ),
        Node(
            "auto",
            "Auto-label",
            count(auto["auto"]),
            f"error ≤ {percent(auto['bound'])}" if auto["open"] else "closed: no bound yet",
            "#coverage",
            602,
            24,
        ),
        Node(
            "review",
            "Review",
            count(queue["open"]),
            f"waiting {duration(queue['oldest_seconds'])}" if queue["open"] else "nothing waits",
            review,
            602,
            168,
            busy=queue["claimed"] > 0,
        ),
        Node(
            "labels",
            "Labels",
            count(labels["total"]),
            f"{count(labels['expert'])} by experts",
            "#coverage",
            816,
            96,
        ),
        Node(
            "dataset",
            "Dataset",
            count(data["versions"]),
            f"{count(data['new_labels'])} of {count(data['labels_needed'])} new labels",
            f"/releases/{task}",
            816,
            300,
            busy=training and turn["stage"] == "build",
        ),
        Node(
            "train",
            "Train",
            turn["stage"].capitalize() if training else "Idle",
            duration(turn["elapsed"]) + ("" if training else " last turn")
            if turn
            else "no turn yet",
            f"/releases/{task}",
            602,
            300,
            busy=training and turn["stage"] != "build",
            alert=turn is not None and turn["state"] == "failed",
        ),
        Node(
            "registry",
            "Registry",
            count(len(read["releases"])),
            f"newest {short(newest['release'])}" if newest else "no release yet",
            f"/releases/{task}",
            388,
            300,
        ),
        Node(
            "rollout",
            "Rollout",
            share(rollout["share"]) if rollout else "Steady",
            rollout["state"].replace("_", " ") if rollout else f"serves {short(read['champion'])}",
            f"/rollout/{task}",
            194,
            300,
            busy=rollout is not None,
        ),
    ]


def edges(read: dict[str, Any]) -> list[Edge]:
    """The paths between the nodes, in the drawing's own units."""
    traffic = read["traffic"]["per_second"] > 0
    training = read["turn"] is not None and read["turn"]["state"] == "running"
    rollout = read["rollout"] is not None
    queued = read["queue"]["open"] + read["queue"]["claimed"] > 0
    auto = read["auto"]["open"]
    return [
        Edge("M150 133H194", flows=traffic),
        Edge("M344 133H388", flows=traffic),
        Edge("M538 133C575 133 565 61 602 61", "auto", flows=traffic and auto),
        Edge("M538 133C575 133 565 205 602 205", "expert", flows=traffic),
        Edge("M752 61C789 61 779 133 816 133", "auto", flows=traffic and auto),
        Edge("M752 205C789 205 779 133 816 133", "expert", flows=queued),
        Edge("M966 133H984Q1000 133 1000 149V321Q1000 337 984 337H966", flows=training),
        Edge("M816 337H752", flows=training),
        Edge("M602 337H538", flows=training),
        Edge("M388 337H344", "challenger", flows=rollout),
        Edge("M194 337H91Q75 337 75 321V170", "challenger", flows=rollout),
    ]
