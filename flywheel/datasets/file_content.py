"""The content of a file that people bring: text in UTF-8, or what it is instead, by name."""

from __future__ import annotations

import codecs
from pathlib import Path

from flywheel.datasets.file_formats import ACCEPTED
from flywheel.errors import RejectedEvent

# What begins a file that is no text, and how people call it.
_BINARY = {
    b"PK\x03\x04": "a ZIP archive, or a workbook of a spreadsheet",
    b"\x1f\x8b": "compressed with gzip",
    b"PAR1": "a Parquet file",
    b"\xd0\xcf\x11\xe0": "a workbook of a spreadsheet",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF-": "a PDF",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3\x00": "a database of SQLite",
}
# The same of files that are text: how they begin, in small letters.
_OTHER_TEXT = {
    b"version https://git-lfs": "a pointer of Git LFS in its place: `git lfs pull` brings the file",
    b"<!doctype html": "a web page: a site's answer was saved, not its file",
    b"<html": "a web page: a site's answer was saved, not its file",
    b"<?xml": "XML",
    b"sep=": "CSV below a line that is for Excel alone (sep=): take that line out",
}
_BEGINNING = 60


def file_content(path: Path) -> bytes:
    """The bytes of a file after its byte order mark. Raises RejectedEvent for what is no text."""
    data = path.read_bytes()
    for beginning, what in _BINARY.items():
        if data.startswith(beginning):
            raise RejectedEvent(f"{path} is {what}; what is taken is {ACCEPTED}")
    begins = data.removeprefix(codecs.BOM_UTF8)[:_BEGINNING].lstrip().lower()
    for beginning, what in _OTHER_TEXT.items():
        if begins.startswith(beginning):
            raise RejectedEvent(f"{path} is {what}; what is taken is {ACCEPTED}")
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise RejectedEvent(f"{path} is UTF-32, not UTF-8: save it as UTF-8")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:2]:
        raise RejectedEvent(f"{path} is UTF-16, not UTF-8: save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise RejectedEvent(f"{path} is empty: nothing was brought in")
    return data
