"""`flywheel database`: what a person does to the database itself."""

from __future__ import annotations

import click

from flywheel.settings import load_settings


@click.group()
def database() -> None:
    """Look after the database."""


@database.command()
@click.pass_context
def recount(ctx: click.Context) -> None:
    """Make every total that pages and decisions read anew, from the rows that it sums up.

    Nothing need be stopped. A new version of Flywheel does so by itself where it must; by hand it
    is for a database that was changed by hand.
    """
    from storage import counting
    from storage.workspace import open_database

    settings = load_settings(ctx.obj)
    with open_database(settings) as opened, counting.shown() as progress:
        opened.recount(progress)
    click.echo("counted anew: every total is what its rows come to")
