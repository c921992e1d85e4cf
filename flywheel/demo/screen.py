"""What the terminal shows while the demo runs."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flywheel.demo.expert import SimulatedExpert
from flywheel.demo.traffic import Traffic
from flywheel.rollout.plan import percent

Json = dict[str, Any]
_QUIET_SECONDS = 5.0
_FILE_WIDTH = 150


class Screen:
    """A live panel on a terminal, a line every few seconds elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=_FILE_WIDTH)
        self._began = time.monotonic()
        self._phase = ""
        self._line_at = 0.0
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        if self.console.is_terminal:
            self._live.start()

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def phase(self, text: str) -> None:
        """A new phase begins."""
        self._phase = text
        self._line_at = 0.0
        self.console.print(f"[bold]{self._clock()}  {text}[/bold]")

    def note(self, text: str) -> None:
        """Something worth keeping on the screen happened."""
        self.console.print(f"{self._clock()}    {text}", style="cyan")

    def show(self, state: Json, traffic: Traffic, expert: SimulatedExpert) -> None:
        """Refresh: progress, events per second, queue depth, current split."""
        line = summary(state, traffic, expert)
        if self.console.is_terminal:
            grid = Table.grid(padding=(0, 2))
            for name, value in line.items():
                grid.add_row(Text(name, style="dim"), Text(value))
            self._live.update(Group(Text(f"{self._clock()}  {self._phase}", "bold"), grid))
        elif time.monotonic() - self._line_at > _QUIET_SECONDS:
            self._line_at = time.monotonic()
            text = " · ".join(f"{name} {value}" for name, value in line.items())
            self.console.print(f"{self._clock()}    {text}", soft_wrap=True)

    def stop(self) -> None:
        """Leave the terminal as it is now."""
        self._live.stop()


def summary(state: Json, traffic: Traffic, expert: SimulatedExpert) -> dict[str, str]:
    """The few figures that say how the loop stands, by name."""
    rollout, turn = state.get("rollout"), state.get("turn")
    split = "champion 100 %" if state.get("champion") else "nothing serves yet"
    if rollout:
        share = rollout["share"]
        split = f"champion {percent(1 - share)}, challenger {percent(share)} ({rollout['state']})"
    stage = "idle"
    if turn and turn["state"] == "running":
        stage = f"{turn['stage']} for {turn['elapsed']:.0f} s"
    queue, labels = state["queue"], state["labels"]
    return {
        "traffic": f"{traffic.sent} sent, {traffic.per_second():.0f}/s, "
        f"{len(traffic.failures)} failed",
        "queue": f"{queue['open'] + queue['claimed']} waiting",
        "labels": f"{labels['expert']} expert ({expert.given} simulated), {labels['auto']} auto",
        "pipeline": stage,
        "split": split,
    }
