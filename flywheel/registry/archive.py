"""A release as one file: a plain tar whose bytes depend on nothing but the release's files.

Reading one trusts nothing of it: names, kinds and sizes are checked before a byte is written, and
every file against the manifest, which comes first.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from flywheel.contracts.layout import BASES, RELEASES
from flywheel.contracts.model_folder import BASE_FILE, FileDigest, digest, read_base
from flywheel.errors import ArtefactError
from flywheel.registry.formats import check_name
from flywheel.registry.release_folder import verify

MANIFEST = "export.json"
FORMAT = 1
RELEASE_PART = "release"
BASE_PART = "base"
MAX_FILES = 500
MAX_MANIFEST = 1 << 20
# What is left on the disk for everything else.
SPARE_BYTES = 1 << 30
_CHUNK = 1 << 20
_NAME = re.compile(r"(?:release|base)/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class ExportManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """export.json: what the file holds. ``base`` is the id of an adapter's base."""

    format: int
    task: str
    release: str
    base: str | None
    files: dict[str, FileDigest]


def export_release(folder: Path, bases: Path, target: Path) -> ExportManifest:
    """Write ``folder``, and the base of an adapter from ``bases``, to the file ``target``.

    The same release gives the same bytes. Raises ArtefactError for a release that is damaged.
    """
    description = verify(folder, bases)
    sources = {f"{RELEASE_PART}/{file.name}": file for file in folder.iterdir() if file.is_file()}
    if description.base is not None:
        base = bases / description.base.id
        names = (BASE_FILE, *read_base(base).files)
        sources |= {f"{BASE_PART}/{name}": base / name for name in names}
    manifest = ExportManifest(
        format=FORMAT,
        task=description.task,
        release=folder.name,
        base=description.base.id if description.base else None,
        files={name: digest(sources[name]) for name in sorted(sources)},
    )
    part = target.with_name(f".{target.name}.part")
    try:
        with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
            head = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2)
            _add(tar, MANIFEST, len(head), io.BytesIO(head))
            for name, file in manifest.files.items():
                with sources[name].open("rb") as stream:
                    _add(tar, name, file.bytes, stream)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return manifest


def extract(
    archive: Path, into: Path, *, free: Callable[[Path], int] | None = None
) -> ExportManifest:
    """Put what ``archive`` holds into the empty folder ``into``, every file verified.

    ``into/releases/<id>`` is then the release, and ``into/bases/<id>`` the base of an adapter.
    Raises ArtefactError for anything but a plain tar of exactly the files its manifest lists.
    """
    free = free or (lambda path: shutil.disk_usage(path).free)
    try:
        with tarfile.open(archive, "r:") as tar:
            manifest = _read_manifest(tar)
            _check_listed(manifest, free(into))
            folders = {RELEASE_PART: into / RELEASES / manifest.release}
            if manifest.base is not None:
                folders[BASE_PART] = into / BASES / manifest.base
            for folder in folders.values():
                folder.mkdir(parents=True)
            left = dict(manifest.files)
            while (member := tar.next()) is not None:
                expected = _expected(member, left)
                part, _, name = member.name.partition("/")
                _write(tar.extractfile(member), folders[part] / name, member.name, expected)
    except (tarfile.TarError, EOFError, OSError, OverflowError) as error:
        raise ArtefactError(f"{archive} is no release, or is cut off: {error}") from error
    if left:
        raise ArtefactError(f"{archive} is cut off: it has no {min(left)}")
    return manifest


def _add(tar: tarfile.TarFile, name: str, size: int, stream: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    tar.addfile(member, stream)


def _read_manifest(tar: tarfile.TarFile) -> ExportManifest:
    member = tar.next()
    if member is None or member.name != MANIFEST or member.type != tarfile.REGTYPE:
        raise ArtefactError(
            f"{tar.name!s} is no exported release: it does not begin with {MANIFEST}"
        )
    if member.size > MAX_MANIFEST:
        raise ArtefactError(f"{tar.name!s}: {MANIFEST} has {member.size} bytes")
    stream = tar.extractfile(member)
    try:
        manifest = msgspec.json.decode(stream.read() if stream else b"", type=ExportManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{tar.name!s}: {MANIFEST} cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise ArtefactError(
            f"{tar.name!s} is of format {manifest.format}; this version reads format {FORMAT}"
        )
    return manifest


def _check_listed(manifest: ExportManifest, free: int) -> None:
    if len(manifest.files) > MAX_FILES:
        raise ArtefactError(f"{MANIFEST} lists {len(manifest.files)} files; {MAX_FILES} at most")
    for name in manifest.files:
        if not _NAME.fullmatch(name):
            raise ArtefactError(f"{MANIFEST} lists {name!r}, which is no name that may be written")
        check_name(name)
        if name.startswith(f"{BASE_PART}/") and manifest.base is None:
            raise ArtefactError(f"{MANIFEST} lists {name}, but no base")
    if not re.fullmatch("[a-z0-9_-]{1,100}-[0-9a-f]{12}", manifest.release):
        raise ArtefactError(f"{MANIFEST} names release {manifest.release!r}, which is no id of one")
    if manifest.base is not None and not re.fullmatch("[0-9a-f]{12}", manifest.base):
        raise ArtefactError(f"{MANIFEST} names base {manifest.base!r}, which is no id of one")
    needed = sum(file.bytes for file in manifest.files.values())
    if min((file.bytes for file in manifest.files.values()), default=0) < 0:
        raise ArtefactError(f"{MANIFEST} lists a file of a negative size")
    if needed + SPARE_BYTES > free:
        raise ArtefactError(
            f"the release needs {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left"
        )


def _expected(member: tarfile.TarInfo, left: dict[str, FileDigest]) -> FileDigest:
    """What a member must be; only a plain file that is listed, and is listed once, may be here."""
    if member.type != tarfile.REGTYPE or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "no plain file"
        raise ArtefactError(f"{member.name!r} in the archive is {kind}: only files are accepted")
    expected = left.pop(member.name, None)
    if expected is None:
        raise ArtefactError(f"{member.name!r} is in the archive, but {MANIFEST} does not list it")
    if member.size != expected.bytes:
        raise ArtefactError(
            f"{member.name} has {member.size} bytes; {MANIFEST} says {expected.bytes}"
        )
    return expected


def _write(stream: IO[bytes] | None, target: Path, name: str, expected: FileDigest) -> None:
    hashed = hashlib.sha256()
    with target.open("xb") as file:
        while stream is not None and (data := stream.read(_CHUNK)):
            hashed.update(data)
            file.write(data)
    if hashed.hexdigest() != expected.sha256:
        raise ArtefactError(f"{name} is not the file that was exported: its SHA-256 differs")
