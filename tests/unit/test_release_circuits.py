"""When a release is passed over, and when it is asked again."""

from __future__ import annotations

import asyncio

import pytest

from flywheel.contracts.model_server import CLASSIFY
from flywheel.gateway.circuits import OPEN_AFTER, Circuits, PassedOver


class Release:
    """A release under trial: answers once it is ``well``."""

    def __init__(self) -> None:
        self.well = asyncio.Event()
        self.trials = 0

    async def trial(self, _call: object, _release: str) -> bool:
        self.trials += 1
        await asyncio.wait_for(self.well.wait(), 10)
        return True


def passed_over(circuits: Circuits, release: str) -> bool:
    try:
        circuits.require_closed(release)
    except PassedOver:
        return True
    return False


def test_only_what_ran_out_of_time_in_a_row_is_passed_over() -> None:
    async def story() -> None:
        release = Release()
        circuits = Circuits(release.trial)
        for _ in range(3):
            for _ in range(OPEN_AFTER - 1):
                circuits.ran_out(CLASSIFY, "r2", "slow")
            assert not passed_over(circuits, "r2")
            circuits.answered("r2")
        for _ in range(OPEN_AFTER):
            circuits.ran_out(CLASSIFY, "r2", "slow")
        assert passed_over(circuits, "r2")
        assert not passed_over(circuits, "r1")
        with pytest.raises(PassedOver, match="the last one as slow"):
            circuits.require_closed("r2")
        await circuits.close()

    asyncio.run(story())


def test_one_trial_at_a_time_says_when_it_is_back() -> None:
    async def story() -> None:
        release = Release()
        circuits = Circuits(release.trial)
        for _ in range(2 * OPEN_AFTER):
            circuits.ran_out(CLASSIFY, "r2", "slow")
        for _ in range(100):
            assert passed_over(circuits, "r2")
            await asyncio.sleep(0)
        assert release.trials == 1
        release.well.set()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not passed_over(circuits, "r2")
        # It begins anew: one that is slow again is not yet passed over.
        circuits.ran_out(CLASSIFY, "r2", "slow")
        assert not passed_over(circuits, "r2")

    asyncio.run(story())


def test_an_answer_to_a_request_that_was_under_way_ends_it() -> None:
    async def story() -> None:
        circuits = Circuits(Release().trial)
        for _ in range(OPEN_AFTER):
            circuits.ran_out(CLASSIFY, "r2", "slow")
        circuits.answered("r2")
        assert not passed_over(circuits, "r2")
        await circuits.close()

    asyncio.run(story())
