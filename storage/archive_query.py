"""The archive, asked in SQL: by DuckDB, over the files where they lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from flywheel.errors import ArtefactStoreError, ConfigurationError, RequestError
from flywheel.settings import FlywheelSettings
from storage.repositories.archived import ArchiveFile
from storage.tables import metadata

PACKAGE = "duckdb"


def query(
    settings: FlywheelSettings, files: Sequence[ArchiveFile], sql: str
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(columns, rows) of what ``sql`` asks of the archive, whose tables have the database's names.

    A row that was archived twice, since a process was killed in between, is there once. Files that
    earlier versions wrote are read with the others: what they lack is NULL, what they alone have is
    there under the name that it had. Times are UTC, wherever this runs. Raises
    ConfigurationError where a package is missing, RequestError for SQL that cannot be run, and
    ArtefactStoreError when the store is away.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigurationError(
            "retention.archive", f"to ask the archive needs the package {PACKAGE} ({error})"
        ) from error
    filesystem, root = _opened(settings)
    of_table: dict[str, list[str]] = defaultdict(list)
    for file in files:
        of_table[file.source].append(f"{root}/{file.key}")
    with duckdb.connect() as connection:
        try:
            connection.execute("SET TimeZone = 'UTC'")
            for name, paths in of_table.items():
                held = _dataset(filesystem, paths)
                connection.register(f"{name}_files", held)
                connection.execute(_view(name, held.schema.names))
            asked = connection.execute(sql)
            columns = [column[0] for column in asked.description or []]
            return columns, asked.fetchall()
        except duckdb.Error as error:
            known = ", ".join(sorted(of_table)) or "none yet"
            raise RequestError(f"{error} (tables of the archive: {known})") from error
        except OSError as error:
            raise ArtefactStoreError(f"the archive cannot be read: {error}") from error


def _view(name: str, columns: Sequence[str]) -> str:
    """The rows of a table's files, each once: by its key as far as the files know it."""
    table = metadata().tables.get(name)
    keys = [] if table is None else [c.name for c in table.primary_key if c.name in columns]
    # Of a table that is none any more nobody knows the key.
    once = ", ".join(f'"{key}"' for key in keys or columns)
    return (
        f"CREATE VIEW {name} AS SELECT * FROM {name}_files "  # noqa: S608 - our own names
        f"QUALIFY row_number() OVER (PARTITION BY {once}) = 1"
    )


def _dataset(filesystem: Any, paths: Sequence[str]) -> Any:
    """All columns that any of the files has: pyarrow by itself goes by the first file alone."""
    from pyarrow import dataset, fs

    factory = dataset.FileSystemDatasetFactory(
        fs.PyFileSystem(fs.FSSpecHandler(filesystem)), list(paths), dataset.ParquetFileFormat()
    )
    return factory.finish(factory.inspect(promote_options="permissive"))


def _opened(settings: FlywheelSettings) -> tuple[Any, str]:
    """The file system that the archive lies in, and where."""
    url = settings.artefacts.url
    if "://" not in url:
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), url or str(settings.layout.artefacts)
    from fsspec.core import url_to_fs

    filesystem, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return filesystem, root
