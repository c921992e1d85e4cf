"""Jars pinned by SHA-256, fetched once into the user's cache, verified before a start: Kafka's."""

from __future__ import annotations

import fcntl
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from flywheel.errors import ArtefactError
from streams.local_broker.verified import is_intact, read_stamps, stamp, write_stamps

KAFKA_VERSION = "4.4.0"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Kafka speaks slf4j 1.7; without a binding it logs nothing at all.
LOG_BINDING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"
PINS = Path(__file__).with_name("jars.toml")
_STAMP = "verified.json"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Product:
    """What pinned jars are of: its words for messages, and its folder in the cache."""

    name: str
    version: str
    megabytes: int
    otherwise: str

    @property
    def folder(self) -> str:
        """The folder of this version in the cache."""
        return f"{self.name.split()[-1].lower()}-{self.version}"


APACHE_KAFKA = Product(
    "Apache Kafka",
    KAFKA_VERSION,
    90,
    "or name another Kafka under kafka.bootstrap_servers in flywheel.toml",
)


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned jar. ``coordinates`` are group:artifact:version."""

    file: str
    coordinates: str
    sha256: str


def render_pins(rows: Sequence[tuple[str, str, str]]) -> str:
    """The text of the pins' file."""
    head = (
        "# Apache Kafka and all it needs, by SHA-256; made by `python -m streams.local_broker.pin`."
    )
    blocks = [
        f'[[jar]]\nfile = "{file}"\ncoordinates = "{coordinates}"\nsha256 = "{sha256}"\n'
        for file, coordinates, sha256 in rows
    ]
    return "\n".join([head, "", *blocks])


def pinned_jars(pins: Path = PINS) -> list[Jar]:
    """Every jar of the broker's class path, or of what else has such a file."""
    return [Jar(**row) for row in tomllib.loads(pins.read_text("utf-8"))["jar"]]


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where fetched files are kept for all workspaces of this user."""
    environ = os.environ if environ is None else environ
    if chosen := environ.get("FLYWHEEL_CACHE"):
        return Path(chosen).expanduser()
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "flywheel"


def ensure_jars(
    cache: Path, jars: Sequence[Jar] | None = None, product: Product = APACHE_KAFKA
) -> list[Path]:
    """Paths of all jars, each verified against its SHA-256; what is missing or wrong is fetched.

    A jar whose size and modification time are those of its last full check is not read again.
    Raises ArtefactError when a jar cannot be had or what was fetched is not what is pinned.
    """
    jars = pinned_jars() if jars is None else jars
    folder = cache / product.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            _complete(folder, jars, product)
    except OSError as error:
        raise ArtefactError(
            f"cannot keep {product.name} in {folder} ({error.strerror or error}): free some space "
            f"there ({product.megabytes} MB are needed), or choose another folder with "
            "FLYWHEEL_CACHE"
        ) from error
    return [folder / jar.file for jar in jars]


def _complete(folder: Path, jars: Sequence[Jar], product: Product) -> None:
    stamps = read_stamps(folder / _STAMP)
    bad = [jar for jar in jars if not is_intact(folder / jar.file, jar.sha256, stamps)]
    if bad:
        _log.info(
            f"fetching {product.name}", version=product.version, jars=len(bad), into=str(folder)
        )
        _fetch(folder, bad, product)
        for jar in bad:
            if not is_intact(folder / jar.file, jar.sha256, {}):
                raise ArtefactError(
                    f"{jar.file} ({jar.coordinates}) does not have its pinned SHA-256 after it was "
                    f"fetched anew: something between here and the package host alters files. "
                    f"Remove {folder}, check proxy and mirror, and try again"
                )
    fresh = {jar.file: stamp(folder / jar.file, jar.sha256) for jar in jars}
    if fresh != stamps:
        write_stamps(folder / _STAMP, fresh)


def _fetch(folder: Path, jars: Sequence[Jar], product: Product) -> None:
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        # Pins name every jar, so nothing is resolved here: no POM is read, no version chosen.
        context = MavenContext(repo_cache=Path(temporary), timeout=60)

        def one(jar: Jar) -> None:
            group, name, version = jar.coordinates.split(":")
            artifact = context.project(group, name).at_version(version).artifact()
            try:
                path = _download(artifact, jar)
            except ArtefactError as error:
                raise ArtefactError(
                    f"{error}: {product.name} needs it once. Check the network and run this again, "
                    f"or copy a filled cache folder here (FLYWHEEL_CACHE), {product.otherwise}"
                ) from error
            os.replace(path, folder / jar.file)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, jars))


def _download(artifact: Any, jar: Jar, attempts: int = 3) -> Path:
    for attempt in range(1, attempts + 1):
        try:
            return Path(artifact.resolve())
        # Whatever way it failed in (connection, HTTP status, no such file), the answer is the same.
        except Exception as error:
            partial = artifact.cached_path
            if partial is not None:
                partial.unlink(missing_ok=True)
            if attempt == attempts:
                raise ArtefactError(
                    f"cannot fetch {jar.coordinates} ({type(error).__name__})"
                ) from error
    raise AssertionError


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
