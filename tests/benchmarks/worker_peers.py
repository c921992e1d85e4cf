"""Other libraries' loops for `bench_worker.py`: the same traffic, decisions and acknowledgements.

They run in an environment of their own, `build/bench/peers`, made when it is missing: none of them
is a dependency of ours.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("confluent-kafka==2.12.2", "faststream[kafka]==0.6.3", "quixstreams==3.23.1")
BATCH = 2000


def environment(folder: Path) -> Path:
    """The Python of the environment in ``folder``; ours is on its path, behind its own."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        ours = sysconfig.get_path("purelib")
        (folder / "lib" / version / "site-packages" / "ours.pth").write_text(f"{ours}\n")
        (folder / "ready").touch()
    return python


def confluent(servers: str, group: str, decide: Callable[[Any], Any]) -> None:
    """librdkafka's client, a batch at a time."""
    from confluent_kafka import Consumer, Producer

    from flywheel.contracts.codec import decode, encode

    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer({"bootstrap.servers": servers, "acks": "all", "linger.ms": 2})
    consumer.subscribe(["flywheel.traffic"])
    while True:
        records = consumer.consume(BATCH, 0.05)
        if not records:
            continue
        events = [decode(one.value(), dict(one.headers())) for one in records]
        for event in decide(events):
            made = encode(event)
            producer.produce(made.topic, made.value, made.key, headers=list(made.headers))
            producer.poll(0)
        producer.flush()
        consumer.commit(asynchronous=False)


def faststream(servers: str, group: str, decide: Callable[[Any], Any]) -> None:
    """FastStream, in batches, acknowledged when the handler returns."""
    from faststream import AckPolicy, FastStream
    from faststream.kafka import KafkaBroker, KafkaMessage

    from flywheel.contracts.codec import decode, encode

    broker = KafkaBroker(servers, acks="all", log_level=50)

    @broker.subscriber(
        "flywheel.traffic",
        group_id=group,
        batch=True,
        max_records=BATCH,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        decoder=lambda message: message,
    )
    async def handle(message: KafkaMessage) -> None:
        events = [decode(one.value, dict(one.headers)) for one in message.raw_message]
        made = [encode(event) for event in decide(events)]
        sent = [
            await broker.publish(
                one.value,
                one.topic,
                key=one.key,
                headers={name: value.decode() for name, value in one.headers},
                no_confirm=True,
            )
            for one in made
        ]
        await asyncio.gather(*sent)

    asyncio.run(FastStream(broker).run())


def quix(servers: str, group: str, decide: Callable[[Any], Any]) -> None:
    """Quix Streams, one by one as it hands records on; its checkpoints flush and commit."""
    from quixstreams import Application

    from flywheel.contracts.codec import decode, encode

    app = Application(
        broker_address=servers,
        consumer_group=group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        commit_every=BATCH,
        loglevel="ERROR",
        producer_extra_config={"acks": "all", "linger.ms": 2},
    )
    source = app.topic("flywheel.traffic", value_deserializer="bytes", key_deserializer="bytes")
    names = ("flywheel.review", "flywheel.labels")
    topics = {n: app.topic(n, value_serializer="bytes", key_serializer="bytes") for n in names}
    frame = app.dataframe(source)

    def made(value: bytes, _key: Any, _time: Any, headers: Any) -> list[tuple[str, bytes]]:
        return [
            (one.topic, one.value) for one in map(encode, decide([decode(value, dict(headers))]))
        ]

    frame = frame.apply(made, expand=True, metadata=True)
    for name, topic in topics.items():
        part = frame[frame.apply(lambda one, name=name: one[0] == name)]
        part.apply(lambda one: one[1]).to_topic(topic)
    app.run()


LOOPS: Mapping[str, Callable[[str, str, Callable[[Any], Any]], None]] = {
    "confluent-kafka": confluent,
    "FastStream": faststream,
    "Quix": quix,
}

if __name__ == "__main__":
    from bench_worker import triager

    loop, servers_, group_ = sys.argv[1:4]
    LOOPS[loop](servers_, group_, triager())
