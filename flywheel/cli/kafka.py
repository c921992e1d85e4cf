"""The broker, its topics, and the events that could not be used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from flywheel.cli.ids import full_id
from flywheel.cli.render import json_option, moment, show_facts, show_json, show_table, utc_option
from flywheel.errors import ConfigurationError
from flywheel.settings import FlywheelSettings, load_settings

if TYPE_CHECKING:
    from streams.local_broker import LocalBroker
    from streams.local_broker.broker import BrokerStatus


@click.group()
def kafka() -> None:
    """The local broker: Apache Kafka itself, its data in the workspace."""


def _local(ctx: click.Context) -> tuple[FlywheelSettings, LocalBroker]:
    from streams.local_broker import LocalBroker

    settings = load_settings(ctx.obj)
    if not settings.kafka.local:
        raise ConfigurationError(
            "kafka.bootstrap_servers",
            f"this workspace uses the broker at {settings.kafka.servers}, not a local one",
            "remove the key to use a local broker",
        )
    return settings, LocalBroker(settings.state, settings.kafka.local_port)


def _say(status: BrokerStatus, *, as_json: bool = False) -> None:
    if as_json:
        show_json(status)
        return
    show_facts(
        {
            "running": f"yes, process {status.pid}" if status.running else "no",
            "kafka": f"{status.version} on 127.0.0.1:{status.port}",
            "cluster": status.cluster_id or "not made yet",
            "data": str(status.data),
            "log": str(status.log),
        }
    )


@kafka.command()
@click.pass_context
def start(ctx: click.Context) -> None:
    """Start the broker in the background and make the topics."""
    from streams.topics import ensure_topics

    settings, broker = _local(ctx)
    _say(broker.start())
    ensure_topics(settings.kafka)


@kafka.command()
@click.pass_context
def run(ctx: click.Context) -> None:
    """Run the broker in the foreground (what the supervisor does)."""
    _, broker = _local(ctx)
    sys.exit(broker.run_foreground())


@kafka.command()
@click.pass_context
def stop(ctx: click.Context) -> None:
    """Stop the broker; its data stays."""
    _, broker = _local(ctx)
    broker.stop()
    click.echo("stopped")


@kafka.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Whether the broker runs, where its data is, which version it is."""
    _, broker = _local(ctx)
    _say(broker.status(), as_json=as_json)


@kafka.command()
@click.confirmation_option(prompt="This removes every event in the local broker. Go on?")
@click.pass_context
def reset(ctx: click.Context) -> None:
    """Remove the broker's data. Events that no process has read are gone."""
    _, broker = _local(ctx)
    broker.reset()
    click.echo("removed")


@click.command()
@json_option
@click.pass_context
def topics(ctx: click.Context, as_json: bool) -> None:
    """Make the topics that are missing and list them all."""
    from flywheel.contracts.events import EVENTS, TOPICS
    from streams.topics import ensure_topics

    settings = load_settings(ctx.obj)
    ensure_topics(settings.kafka)
    events = {
        topic.name: [spec.schema for spec in EVENTS if spec.topic == topic.name] for topic in TOPICS
    }
    if as_json:
        show_json(
            [
                {
                    "topic": topic.name,
                    "retention_hours": topic.retention_hours,
                    "compacted": topic.compacted,
                    "events": events[topic.name],
                }
                for topic in TOPICS
            ]
        )
        return
    rows = []
    for topic in TOPICS:
        hours = topic.retention_hours
        kept = "for ever" if hours is None else f"{hours // 24} days"
        rows.append(
            (
                topic.name,
                "newest per key" if topic.compacted else kept,
                ", ".join(events[topic.name]),
            )
        )
    show_table(["topic", "kept", "events"], rows)


@click.group()
def dead_letters() -> None:
    """Events that an agent could not use, with the reason."""


@dead_letters.command("list")
@click.option("--limit", default=50, show_default=True)
@json_option
@utc_option
@click.pass_context
def list_letters(ctx: click.Context, limit: int, as_json: bool, utc: bool) -> None:
    """The newest dead letters first."""
    from streams.dead_letters import list_dead_letters

    letters = list_dead_letters(load_settings(ctx.obj).kafka, limit)
    if as_json:
        show_json(letters)
        return
    rows = [
        (
            letter.event_id,
            moment(letter.occurred_at, utc),
            letter.task or "–",
            f"{letter.source_topic}/{letter.partition}/{letter.offset}",
            letter.group,
            letter.code,
            " ".join(letter.reason.split()),
        )
        for letter in letters
    ]
    show_table(
        ["letter", "when", "task", "record", "group", "code", "reason"],
        rows,
        empty="no dead letters: every event could be used",
    )


@dead_letters.command()
@click.argument("event_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Replay every dead letter.")
@click.pass_context
def replay(ctx: click.Context, event_ids: tuple[str, ...], everything: bool) -> None:
    """Send the records of dead letters again to the topics they came from."""
    from streams.dead_letters import all_letters
    from streams.dead_letters import replay as replay_letters
    from streams.publisher import KafkaPublisher

    if not event_ids and not everything:
        raise click.UsageError("name event ids (see `flywheel dead-letters list`), or use --all")
    settings = load_settings(ctx.obj)
    if not everything:
        known = [letter.event_id for letter in all_letters(settings.kafka)]
        listing = "flywheel dead-letters list"
        event_ids = tuple(full_id(one, known, "dead letter", listing) for one in event_ids)
    publisher = KafkaPublisher(settings.kafka, "flywheel-replay")
    try:
        done = replay_letters(settings.kafka, publisher, None if everything else event_ids)
    finally:
        publisher.close()
    click.echo(f"sent {done.sent} records again")
    for event_id in done.cut:
        click.echo(f"{event_id} cannot be replayed: its record was too large to keep whole")
    for event_id, reason in done.refused.items():
        click.echo(f"{event_id} was not replayed: {reason}")
    if done.refused:
        ctx.exit(1)
