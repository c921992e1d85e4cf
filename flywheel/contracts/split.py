"""Who serves which share of a task's traffic."""

from __future__ import annotations

from typing import Literal

import msgspec

from flywheel.contracts.bounds import Id, ReleaseId, Share

# What the lot is drawn by: each user (sticky), or each request by itself.
AssignBy = Literal["user", "request"]

RolloutState = Literal[
    "serving",  # no rollout: the champion has all traffic
    "warming",  # the challenger is being loaded and answers no one
    "shadow",  # the challenger answers copies of requests; callers never see it
    "canary",  # the challenger has a share of live traffic
    "paused",  # a person, or a rule, holds the share where it is
    "promoted",  # the challenger became the champion
    "rolled_back",  # the champion has all traffic again
]


class TrafficSplit(msgspec.Struct, frozen=True, kw_only=True):
    """The whole truth of routing for one task at one moment.

    ``challenger_share`` is the share of units (0–1) that the challenger answers live;
    ``shadow_share`` the share of requests (0–1) that the arm which did not answer scores as well.
    A unit is a user, as the client names them, or by ``assign_by`` each request.
    """

    task: Id
    champion: ReleaseId
    challenger: ReleaseId | None = None
    rollout_id: Id | None = None
    challenger_share: Share = 0.0
    shadow_share: Share = 0.0
    assign_by: AssignBy = "user"
