"""Whether what flywheel.toml refers to is there: folders, files, ports, addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from flywheel.errors import ConfigurationError, StorageError
from flywheel.ops.orphans import members
from flywheel.ops.readiness import base_model_problems
from flywheel.ops.supervisor import check_compressor, check_engine, taken_ports
from flywheel.ops.up_lock import holder
from flywheel.settings import FlywheelSettings, load_settings, refused_keys
from flywheel.turn.contradictions import contradictions
from storage.database import Database
from storage.objects import artefacts_problem
from storage.workspace import open_database


def check(workspace: Path) -> list[ConfigurationError]:
    """Everything that is wrong with a workspace's configuration, each with its key.

    What it refers to is looked at once the file itself is right. Raises WorkspaceError for a
    folder that is no workspace.
    """
    return refused_keys(workspace) or list(_references(load_settings(workspace)))


def _references(settings: FlywheelSettings) -> Iterator[ConfigurationError]:
    yield from base_model_problems(settings)
    yield from _addresses(settings)
    yield from _refusal(lambda: Database(settings.database).dispose())
    yield from _running(settings)
    if settings.artefacts.url and (problem := artefacts_problem(settings)):
        yield problem
    for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        file: Path | None = getattr(settings.kafka, key)
        if file is not None and not file.is_file():
            yield ConfigurationError(f"kafka.{key}", f"{file} is no file")
    yield from _refusal(lambda: check_engine(settings))
    yield from _refusal(lambda: check_compressor(settings))
    # Our own processes hold the ports while they run.
    if holder(settings) is None and not members(settings):
        yield from taken_ports(settings)


def _running(settings: FlywheelSettings) -> list[ConfigurationError]:
    """What contradicts the releases that serve, where there is a database that says so."""
    if not settings.database_url and not settings.layout.database.exists():
        return []
    try:
        with open_database(settings) as database, database.transaction(read_only=True) as tx:
            return list(contradictions(settings, tx))
    except (StorageError, ConfigurationError):
        return []  # a database that is away says nothing; one that is misspelt is said above


def _refusal(attempt: Callable[[], None]) -> Iterator[ConfigurationError]:
    try:
        attempt()
    except ConfigurationError as error:
        yield error


def _addresses(settings: FlywheelSettings) -> Iterator[ConfigurationError]:
    named = {"serving.urls": settings.serving.urls, "serving.vllm.urls": settings.serving.vllm.urls}
    for key, urls in named.items():
        for url in urls:
            if problem := _url_problem(url):
                yield ConfigurationError(key, f"{url!r} {problem}", "such as http://10.0.0.5:8101")
    for server in filter(None, settings.kafka.bootstrap_servers.split(",")):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            yield ConfigurationError("kafka.bootstrap_servers", f"{server!r} is not host:port")


def _url_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        return f"is no URL: {error}"
    if not well_formed:
        return "is no http:// or https:// address"
    return None
