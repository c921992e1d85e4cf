"""The local broker's settings, JVM flags and log layout, as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

NODE_ID = 1

JVM_FLAGS = (
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    # One node on a laptop gains nothing from the optimising compiler and pays for it at start.
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:+PerfDisableSharedMem",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "--enable-native-access=ALL-UNNAMED",
    "-Djava.awt.headless=true",
)


def controller_port(port: int) -> int:
    """The controller listens beside the broker, on the next port."""
    return port + 1


def server_properties(data: Path, port: int) -> str:
    """One KRaft node, broker and controller, on loopback."""
    controller = controller_port(port)
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "controller.quorum.voters": f"{NODE_ID}@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "num.network.threads": 2,
        "num.io.threads": 4,
        "num.recovery.threads.per.data.dir": 2,
        # One node: a copy elsewhere does not exist, so none may be waited for.
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # Fewer internal partitions: each costs files, and time at every start.
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # The defaults make a restart after kill -9 take 12–15 s instead of 3–5 s.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        # Two times a second a record that says nothing: controllers elsewhere would wait for it.
        "metadata.max.idle.interval.ms": 0,
        # Three nodes keep what one loses with its power; a single one must write it down. Kafka
        # looks for what is due as often as the second says, which by default is never.
        "log.flush.interval.ms": 1000,
        "log.flush.scheduler.interval.ms": 1000,
        # And begins to look half a minute after its start, by default.
        "log.initial.task.delay.ms": 1000,
        "log.cleaner.threads": 1,
        "log.cleaner.dedupe.buffer.size": 4194304,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def log_properties(log_file: Path, max_mb: int = 5, files: int = 2) -> str:
    """Warnings and what the server says of itself, to one file that rolls and never grows on."""
    return f"""status = warn
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {log_file}
appender.file.filePattern = {log_file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %c: %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = {max_mb}MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = {files}
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""


def java_command(
    java: Path, class_path: Sequence[Path], log_configuration: Path, main: str, *arguments: str
) -> list[str]:
    """The command line of one of Kafka's programs."""
    return [
        str(java),
        *JVM_FLAGS,
        f"-Dlog4j2.configurationFile={log_configuration}",
        "-cp",
        ":".join(str(path) for path in class_path),
        main,
        *arguments,
    ]
