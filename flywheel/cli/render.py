"""How every command shows what it found: a table, facts below each other, or JSON for programs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec

Command = TypeVar("Command", bound=Callable[..., Any])

# Wide enough for any row: what is piped is for programs and for grep, and is never cut off.
_PIPED_WIDTH = 100_000
_LEAST_WIDTH = 104


def json_option(command: Command) -> Command:
    """``--json``, given to the command as ``as_json``."""
    words = "Everything, for programs; times are UTC."
    return click.option("--json", "as_json", is_flag=True, help=words)(command)


def utc_option(command: Command) -> Command:
    """``--utc``, given to the command as ``utc``."""
    words = "Show times in UTC, not in local time."
    return click.option("--utc", is_flag=True, help=words)(command)


def show_json(value: Any) -> None:
    """Print msgspec structs, and what holds them, as JSON."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    click.echo(json.dumps(plain, indent=2, ensure_ascii=False))


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    empty: str = "none",
    title: str = "",
    right: Collection[str] = (),
    bold: Collection[int] = (),
) -> None:
    """Print a table with its header, or ``empty`` where there is no row.

    The columns named in ``right`` are aligned to the right, the rows numbered in ``bold`` stand
    out. What does not fit a terminal is wrapped, never cut off; piped, each row is one line.
    """
    if not rows:
        click.echo(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    piped = not sys.stdout.isatty()
    style = None if piped else box.SIMPLE_HEAD
    table = Table(box=style, pad_edge=False, title=title or None, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for number, row in enumerate(rows):
        cells = ["; ".join(cell.splitlines()) for cell in row] if piped else row
        # Brackets in a cell are no markup.
        table.add_row(*(Text(cell) for cell in cells), style="bold" if number in bold else "")
    if not piped:
        screen = Console(highlight=False)
        Console(highlight=False, width=max(screen.width, _LEAST_WIDTH)).print(table)
        return
    page = io.StringIO()
    Console(file=page, width=_PIPED_WIDTH, highlight=False).print(table)
    click.echo("\n".join(line.rstrip() for line in page.getvalue().rstrip("\n").splitlines()))


def show_facts(facts: Mapping[str, str], *, title: str = "") -> None:
    """Print names and what there is to say of each, aligned; empty ones are left out."""
    shown = {name: words for name, words in facts.items() if words}
    width = max((len(name) for name in shown), default=0)
    if title:
        click.secho(title, bold=True)
    for name, words in shown.items():
        first, *more = words.splitlines()
        click.echo(f"{name:{width}}  {first}")
        for line in more:
            click.echo(f"{'':{width}}  {line}")


def moment(at: datetime | None, utc: bool = False) -> str:
    """A moment for people, in local time unless told otherwise, with its zone."""
    if at is None:
        return "–"
    return f"{at.astimezone(UTC if utc else None):%Y-%m-%d %H:%M:%S %Z}"


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A moment as people write it: ISO 8601, with a zone or in local time."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The moment, with a zone."""
        if isinstance(value, datetime):
            return value
        try:
            # Without a zone astimezone() takes it for local time, as the help says.
            return datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is no time: write 2026-11-29, 2026-11-29T03:12 (local time) or "
                "2026-11-29T03:12+01:00",
                param,
                ctx,
            )
