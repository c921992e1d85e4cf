"""Whatever people, servers and evidence do, in whatever order: what must never happen."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rollout_memory import START, Crash, Fleet, MemoryDatabase, arm, naming, pairs

from flywheel.contracts.ids import new_id
from flywheel.contracts.release import Override
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import gather, tick
from flywheel.rollout.decide import decide
from flywheel.rollout.plan import split_of
from flywheel.rollout.ports import Assignment, Command, CommandKind, Rollout

TASK = "topics"
SETTINGS = RolloutSettings(
    steps=(0.1, 0.5), min_requests=10, min_labels=20, max_minutes=30, warm_seconds=60
)
ENDED = ("promoted", "rolled_back", "serving")
KINDS: tuple[CommandKind, ...] = ("pause", "resume", "promote", "rollback", "start", "restore")


class Controller(RuleBasedStateMachine):
    """One task, its controller, and a world that does as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.db = MemoryDatabase()
        self.fleet = Fleet()
        self.now = START
        self.released = 0
        self.ended: dict[str, Rollout] = {}
        self.seen = 0

    @initialize()
    def first(self) -> None:
        self.register(True)

    @rule(passed=st.booleans())
    def register(self, passed: bool) -> None:
        self.released += 1
        with self.db.transaction() as tx:
            tx.challengers.enqueue(TASK, f"r{self.released}", self.now, passed)

    @rule(kind=st.sampled_from(KINDS), which=st.integers(1, 6), override=st.booleans())
    def command(self, kind: CommandKind, which: int, override: bool) -> None:
        command = Command(
            command_id=new_id(),
            task=TASK,
            kind=kind,
            by="ana",
            why="test",
            at=self.now,
            **naming(self.db, TASK),  # type: ignore[arg-type]
            release=f"r{which}",
            override=Override(by="ana", why="test") if override else None,
        )
        with self.db.transaction() as tx:
            tx.commands.add(command)

    @rule(
        wins=st.integers(0, 8),
        losses=st.integers(0, 30),
        same=st.integers(0, 60),
        live=st.integers(0, 400),
        errors=st.sampled_from([0, 0, 0, 30]),
        ms=st.sampled_from([20.0, 20.0, 90.0]),
        units=st.sampled_from([(0, 0), (90, 10), (50, 50)]),
    )
    def evidence(
        self,
        wins: int,
        losses: int,
        same: int,
        live: int,
        errors: int,
        ms: float,
        units: tuple[int, int],
    ) -> None:
        self.db.state.pairs = pairs([1] * wins + [0] * same + [-1] * losses)
        self.db.state.arms = (arm(500, shadow=live), arm(live, min(errors, live), ms, shadow=500))
        self.db.state.assignment = Assignment(
            champion_requests=500,
            challenger_requests=live,
            champion_units=units[0],
            challenger_units=units[1],
        )

    @rule(release=st.integers(1, 6), missing=st.integers(0, 2))
    def servers(self, release: int, missing: int) -> None:
        self.fleet.missing[f"r{release}"] = missing

    @rule(seconds=st.sampled_from([1, 45, 1000]), crash_at=st.sampled_from([None, None, 0, 1]))
    def ticks(self, seconds: int, crash_at: int | None) -> None:
        self.now += timedelta(seconds=seconds)
        before = self.active()
        harmful = self.harm(before)
        pending = any(c not in self.db.state.outcomes for c in self.db.state.commands)
        self.db.crash_at = crash_at
        with contextlib.suppress(Crash):
            tick(self.db.transaction, self.db.reading, TASK, SETTINGS, self.fleet, self.now)
        after = self.db.state.rollouts.get(before.rollout_id) if before else None
        if before is not None and after is not None and harmful and not pending:
            assert after.share <= before.share, "a share rose after harm"
            assert after.state != "promoted"
            if crash_at is None:
                # Rolled back to a champion that answers nowhere, no request would be answered.
                champion, challenger = map(self.fleet.ready, (before.champion, before.challenger))
                gone = challenger.ready and not champion.ready
                assert after.state == ("paused" if gone else "rolled_back")
        self.db.crash_at = None

    def active(self) -> Rollout | None:
        found = [r for r in self.db.state.rollouts.values() if r.ended_at is None]
        return found[0] if found else None

    def harm(self, rollout: Rollout | None) -> bool:
        if rollout is None:
            return False
        with self.db.transaction() as tx:
            facts = gather(tx.evidence, rollout)
        seen = decide(rollout, facts, SETTINGS, self.now).assessment
        return bool(seen.failed("harm"))

    @invariant()
    def one_champion_and_one_active_rollout(self) -> None:
        state = self.db.state
        assert sum(r.ended_at is None for r in state.rollouts.values()) <= 1
        if state.sent:
            assert state.sent[-1].split.champion == state.champions[TASK]

    @invariant()
    def ended_rollouts_never_change(self) -> None:
        for rollout_id, rollout in self.ended.items():
            assert self.db.state.rollouts[rollout_id] == rollout
        for rollout in self.db.state.rollouts.values():
            assert (rollout.ended_at is not None) == (rollout.state in ENDED)
            if rollout.ended_at is not None:
                self.ended[rollout.rollout_id] = rollout

    @invariant()
    def every_transition_has_its_event_and_a_complete_split(self) -> None:
        state = self.db.state
        assert len(state.sent) == len(state.transitions)
        for event, transition in zip(
            state.sent[self.seen :], state.transitions[self.seen :], strict=True
        ):
            split = event.split
            assert (event.rollout_id, event.state) == (transition.rollout_id, transition.state)
            assert event.reason
            assert event.decided_by in ("controller", "ana")
            if event.state in ENDED:
                assert split.challenger is None
                assert split.challenger_share == split.shadow_share == 0
            else:
                assert split.challenger not in (None, split.champion)
                assert split.rollout_id == event.rollout_id
                assert split.challenger_share == transition.share
        self.seen = len(state.sent)

    @invariant()
    def what_is_stored_is_what_was_announced_last(self) -> None:
        active = self.active()
        if active is not None:
            assert self.db.state.sent[-1].split == split_of(active, SETTINGS)
            assert active.share in (0.0, *SETTINGS.steps)


Controller.TestCase.settings = hypothesis_settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
TestController = Controller.TestCase
