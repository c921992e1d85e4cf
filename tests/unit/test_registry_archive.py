"""Archives: every file exactly as exported, and nothing that anyone may have put into one."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_files import TASK, make_release, safetensors

from flywheel.contracts.layout import BASES, RELEASES
from flywheel.contracts.model_folder import BASE_FILE
from flywheel.errors import ArtefactError
from flywheel.registry.archive import MANIFEST, export_release, extract
from flywheel.registry.release_folder import verify, verify_release


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    release = make_release(tmp_path / "state")
    file = tmp_path / "release.tar"
    export_release(tmp_path / "state" / RELEASES / release.release, tmp_path / BASES, file)
    return file


def members(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(archive) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def rewrite(archive: Path, rows: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for member, data in rows:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return archive


def add(archive: Path, name: str, data: bytes, *, listed: bool = True, **kind: Any) -> Path:
    """The archive with one more member."""
    rows = members(archive)
    if listed:
        manifest = json.loads(rows[0][1])
        digest = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["files"][name] = digest
        rows[0] = (rows[0][0], json.dumps(manifest).encode())
    member = tarfile.TarInfo(name)
    for key, value in kind.items():
        setattr(member, key, value)
    return rewrite(archive, [*rows, (member, data)])


def refused(archive: Path, tmp_path: Path, words: str) -> None:
    into = tmp_path / "in"
    into.mkdir()
    with pytest.raises(ArtefactError, match=words):
        extract(archive, into)
    outside = [p for p in tmp_path.rglob("*evil*") if into not in p.parents]
    assert not outside


def test_out_and_in_is_the_same_release(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    manifest = extract(archive, tmp_path / "in")
    assert manifest.task == TASK
    folder = tmp_path / "in" / RELEASES / manifest.release
    assert verify(folder).task == TASK
    original = tmp_path / "state" / RELEASES / manifest.release
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        f.name: f.read_bytes() for f in original.iterdir()
    }


def test_an_adapter_brings_its_base(tmp_path: Path) -> None:
    state = tmp_path / "state"
    release = make_release(state, adapter=True)
    export_release(state / RELEASES / release.release, state / BASES, tmp_path / "a.tar")
    (tmp_path / "in").mkdir()
    manifest = extract(tmp_path / "a.tar", tmp_path / "in")
    assert manifest.base is not None
    verify_release(tmp_path / "in", release.release)
    weights = tmp_path / "in" / BASES / manifest.base / "model.safetensors"
    weights.write_bytes(safetensors({"other": [2]}))
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        verify_release(tmp_path / "in", release.release)


def test_bytes_depend_on_nothing_but_the_files(archive: Path) -> None:
    for member, _ in members(archive):
        assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
        assert (member.uname, member.gname, member.mode) == ("", "", 0o644)
    names = [member.name for member, _ in members(archive)]
    assert names == [MANIFEST, *sorted(names[1:])]


@pytest.mark.parametrize("name", ["/etc/evil.json", "../evil.json", "release/../../evil.json"])
def test_a_path_that_leaves_the_folder(archive: Path, tmp_path: Path, name: str) -> None:
    refused(add(archive, name, b"{}"), tmp_path, "no name that may be written")


def test_a_link(archive: Path, tmp_path: Path) -> None:
    kind = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    refused(add(archive, "release/a.json", b"", **kind), tmp_path, "is a link")


def test_a_device(archive: Path, tmp_path: Path) -> None:
    refused(add(archive, "release/a.json", b"", type=tarfile.CHRTYPE), tmp_path, "no plain file")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "head.joblib"])
def test_a_pickle(archive: Path, tmp_path: Path, name: str) -> None:
    refused(add(archive, f"release/{name}", b"\x80\x04."), tmp_path, "may run code")


def test_code(archive: Path, tmp_path: Path) -> None:
    refused(add(archive, "release/modeling.py", b"import os"), tmp_path, "is code")


def test_a_file_that_is_not_listed(archive: Path, tmp_path: Path) -> None:
    changed = add(archive, "release/more.json", b"{}", listed=False)
    refused(changed, tmp_path, "does not list it")


def test_a_file_twice(archive: Path, tmp_path: Path) -> None:
    rows = members(archive)
    refused(rewrite(archive, [*rows, rows[-1]]), tmp_path, "does not list it")


def test_a_file_that_is_missing(archive: Path, tmp_path: Path) -> None:
    rows = [row for row in members(archive) if row[0].name != "release/tokenizer.json"]
    refused(rewrite(archive, rows), tmp_path, "has no release/tokenizer.json")


def test_a_file_with_other_bytes(archive: Path, tmp_path: Path) -> None:
    rows = [
        (m, d[:-1] + bytes([d[-1] ^ 1]) if m.name.endswith(".safetensors") else d)
        for m, d in members(archive)
    ]
    refused(rewrite(archive, rows), tmp_path, "SHA-256 differs")


def test_more_than_the_disk_holds(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ArtefactError, match=r"the disk has 1\.0 GB left"):
        extract(archive, tmp_path / "in", free=lambda _: 1_000_000_000)


def test_a_compressed_archive_is_not_opened(archive: Path, tmp_path: Path) -> None:
    import gzip

    archive.write_bytes(gzip.compress(archive.read_bytes()))
    refused(archive, tmp_path, "no release")


@settings(max_examples=40)
@given(st.randoms(use_true_random=False))
def test_a_damaged_archive_is_refused_or_whole(chance: random.Random) -> None:
    """Cut off anywhere, or with any byte changed: an ArtefactError, or the very same files."""
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        release = make_release(root / "state")
        original = root / "state" / RELEASES / release.release
        file = root / "release.tar"
        export_release(original, root / BASES, file)
        data = bytearray(file.read_bytes())
        if chance.random() < 0.5:
            data = data[: chance.randrange(len(data))]
        else:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        (root / "in").mkdir()
        try:
            manifest = extract(file, root / "in")
            verify_release(root / "in", manifest.release)
        except ArtefactError:
            return
        for name in (f.name for f in original.iterdir()):
            found = root / "in" / RELEASES / manifest.release / name
            assert found.read_bytes() == (original / name).read_bytes()


def tampered_record(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    record["recipe"]["parts"]["deployment"] = "another"
    (folder / "record.json").write_text(json.dumps(record))


def tampered_labels(folder: Path) -> None:
    about = json.loads((folder / "release.json").read_text())
    about["labels"] = about["labels"][::-1]
    (folder / "release.json").write_text(json.dumps(about))


def tampered_temperature(folder: Path) -> None:
    about = json.loads((folder / "release.json").read_text())
    about["temperature"] = 9.0
    (folder / "release.json").write_text(json.dumps(about))


@pytest.mark.parametrize("harm", [tampered_record, tampered_labels, tampered_temperature])
def test_what_decides_the_answers_cannot_be_changed(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    release = make_release(tmp_path)
    harm(tmp_path / RELEASES / release.release)
    with pytest.raises(ArtefactError, match="it was changed"):
        verify_release(tmp_path, release.release)


def test_a_base_that_is_gone_is_named(tmp_path: Path) -> None:
    release = make_release(tmp_path, adapter=True)
    base = next((tmp_path / BASES).iterdir())
    (base / BASE_FILE).unlink()
    with pytest.raises(ArtefactError, match="is no base model"):
        verify_release(tmp_path, release.release)
