"""One contract of every store of artefacts: a folder, fsspec's memory, and a real S3 server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from s3_server import S3Server

from flywheel.contracts.artefacts import Address, Artefacts, FolderList
from flywheel.contracts.ids import new_id
from flywheel.contracts.model_folder import FileDigest
from flywheel.errors import ArtefactError, ArtefactStoreError, ConfigurationError
from flywheel.settings import load_settings
from storage.objects import StoredArtefacts, artefacts_problem
from storage.objects.blobs import Blobs
from storage.objects.cache import Cache
from storage.objects.folder import FolderBlobs
from storage.objects.url import UrlBlobs

ROOMY = 10**9
PROCESS = Path(__file__).parents[1] / "artefact_process.py"


@pytest.fixture(params=["folder", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    if request.param == "folder":
        return FolderBlobs(tmp_path / "store")
    if request.param == "memory":
        return UrlBlobs(f"memory://{new_id()}")
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return UrlBlobs(server.url(new_id()))


@pytest.fixture
def artefacts(blobs: Blobs, tmp_path: Path) -> Artefacts:
    return StoredArtefacts(blobs, Cache(tmp_path / "cache", ROOMY))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "release", {"model.bin": b"weights" * 99, "onnx/a.json": b"{}"})


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_comes_back_byte_for_byte(artefacts: Artefacts, release: Path) -> None:
    address = artefacts.put(release)
    assert (address.kind, address.size) == ("folder", sum(map(len, contents(release).values())))
    assert artefacts.has(address)
    with artefacts.fetch(address) as path:
        assert contents(path) == contents(release)


def test_a_file_comes_back_by_an_address_with_and_without_its_size(
    artefacts: Artefacts, tmp_path: Path
) -> None:
    (tmp_path / "image.png").write_bytes(b"pixels")
    address = artefacts.put(tmp_path / "image.png")
    assert address == artefacts.put_bytes(b"pixels") == Address("file", address.sha256)
    assert artefacts.read(Address("file", address.sha256)) == b"pixels"
    for asked in (address, Address("file", address.sha256)):
        with artefacts.fetch(asked) as path:
            assert path.read_bytes() == b"pixels"


def test_an_empty_file_is_an_artefact(artefacts: Artefacts, tmp_path: Path) -> None:
    address = artefacts.put_bytes(b"")
    assert artefacts.has(address)
    assert artefacts.read(address) == b""
    folder = folder_of(tmp_path / "one", {"empty": b"", "other": b"x"})
    with artefacts.fetch(artefacts.put(folder)) as path:
        assert contents(path) == {"empty": b"", "other": b"x"}


def test_the_same_content_has_the_same_address_wherever_it_lies(
    artefacts: Artefacts, release: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(release, tmp_path / "elsewhere")
    assert artefacts.put(copied) == artefacts.put(release)
    (copied / "onnx" / "a.json").rename(copied / "a.json")
    assert artefacts.put(copied) != artefacts.put(release)


def test_what_was_never_put_is_said_to_be_missing(artefacts: Artefacts) -> None:
    for kind in ("file", "folder"):
        address = Address(kind, "ab" * 32, 5)  # type: ignore[arg-type]
        assert not artefacts.has(address)
        with pytest.raises(ArtefactError, match="has no f"):
            artefacts.fetch(address)
        with pytest.raises(ArtefactError, match="has no f"):
            artefacts.read(address)


def test_a_damaged_file_never_appears_and_a_repaired_one_does(
    blobs: Blobs, artefacts: Artefacts, release: Path, tmp_path: Path
) -> None:
    address = artefacts.put(release)
    listed = FolderList.decoded(artefacts.read(address))
    key = f"files/{listed.files['model.bin'].sha256[:2]}/{listed.files['model.bin'].sha256}"
    blobs.write(key, b"WEIGHTS" * 99)
    with pytest.raises(ArtefactError, match="not what its digest says"):
        artefacts.fetch(address)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name == "model.bin"]
    blobs.remove(key)
    artefacts.put(release)
    with artefacts.fetch(address) as path:
        assert contents(path) == contents(release)


def test_a_folder_is_there_once_all_its_files_are(
    blobs: Blobs, artefacts: Artefacts, release: Path
) -> None:
    """What a kill in the middle leaves: some files, no list."""
    address = artefacts.put(release)
    blobs.remove(f"folders/{address.sha256[:2]}/{address.sha256}.json")
    assert not artefacts.has(address)
    assert artefacts.put(release) == address
    assert artefacts.has(address)


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", ".", "a//b", ""])
def test_a_list_that_would_write_outside_its_folder_is_refused(
    blobs: Blobs, artefacts: Artefacts, name: str, tmp_path: Path
) -> None:
    kept = artefacts.put_bytes(b"x")
    listed = FolderList(files={name: FileDigest(bytes=1, sha256=kept.sha256)})
    address = listed.address
    blobs.write(f"folders/{address.sha256[:2]}/{address.sha256}.json", listed.encoded())
    with pytest.raises(ArtefactError, match="no folder may hold"):
        artefacts.fetch(address)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("harm", ["link", "pipe", "empty"])
def test_what_has_no_digest_cannot_be_put(artefacts: Artefacts, harm: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    if harm == "link":
        (folder / "secret").symlink_to("/etc/hostname")
    elif harm == "pipe":
        os.mkfifo(folder / "pipe")
    with pytest.raises(ArtefactError, match=str(folder)):
        artefacts.put(folder)


@pytest.mark.parametrize(
    "text", ["", "sha256:ab", "folder:sha256:" + "A" * 64, "file:sha256:" + "a" * 64 + ":-1",
             "file:sha256:" + "a" * 64 + "\n"]
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ArtefactError, match="no address"):
        Address.parse(text)


def test_an_address_is_read_as_it_was_written() -> None:
    for address in (Address("file", "ab" * 32), Address("folder", "0f" * 32, 12)):
        assert Address.parse(str(address)) == address
        assert Address.parse(str(address)).size == address.size


def test_what_is_used_longest_ago_is_evicted_and_what_is_in_use_stays(
    blobs: Blobs, tmp_path: Path
) -> None:
    artefacts = StoredArtefacts(blobs, Cache(tmp_path / "cache", 250))
    one, two, three, four = (artefacts.put_bytes(bytes([n]) * 100) for n in range(4))
    with artefacts.fetch(one) as used:
        artefacts.fetch(two).release()
        artefacts.fetch(three).release()
        assert used.exists()
        assert cached(tmp_path) == {one.sha256, three.sha256}
    artefacts.fetch(three).release()
    artefacts.fetch(four).release()
    assert cached(tmp_path) == {three.sha256, four.sha256}
    with artefacts.fetch(one) as again:
        assert again.read_bytes() == bytes(100)


def test_more_than_fits_is_fetched_all_the_same(blobs: Blobs, tmp_path: Path) -> None:
    artefacts = StoredArtefacts(blobs, Cache(tmp_path / "cache", 10))
    for address in [artefacts.put_bytes(bytes([n]) * 100) for n in range(2)]:
        with artefacts.fetch(address) as path:
            assert len(path.read_bytes()) == 100
    assert len(cached(tmp_path)) == 1


def cached(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").iterdir() if path.name != ".locks"}


def test_a_store_that_cannot_be_reached_is_worth_another_try(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    artefacts = StoredArtefacts(FolderBlobs(tmp_path / "store"), Cache(tmp_path / "cache", ROOMY))
    with pytest.raises(ArtefactStoreError, match=str(tmp_path / "store")) as refused:
        artefacts.put_bytes(b"x")
    assert refused.value.retryable


def test_a_store_is_written_to_and_read_back_before_it_is_trusted(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "flywheel.toml").write_text(
        '[tasks.t]\nlabels = ["a", "b"]\ntraining.base_model = "b"\n', "utf-8"
    )

    def problem(url: str) -> ConfigurationError | None:
        settings = load_settings(tmp_path, {"FLYWHEEL_ARTEFACTS_URL": url})
        return artefacts_problem(settings)

    assert problem(s3.url("checked")) is None
    assert not [path for path in s3.folder.rglob("*") if path.is_file() and "checks" in path.parts]
    absent = problem("s3://no-such-bucket/name")
    assert absent is not None
    assert absent.key == "artefacts.url"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-of-somebody")
    wrong = problem(s3.url("checked"))
    assert wrong is not None
    assert "a-wrong-secret" not in str(wrong)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # one that is not there comes no sooner
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert problem(s3.url("checked")) is not None


def test_on_one_machine_no_byte_lies_there_twice(tmp_path: Path, release: Path) -> None:
    artefacts = StoredArtefacts(FolderBlobs(tmp_path / "store"), Cache(tmp_path / "cache", ROOMY))
    with artefacts.fetch(artefacts.put(release)) as path:
        assert (path / "model.bin").samefile(release / "model.bin")


# --- several processes


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `artefact_process.py` with a command; what runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, PROCESS, tmp_path / "store", tmp_path / "cache", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def said(child: subprocess.Popen[str]) -> str:
    output: IO[str] | None = child.stdout
    assert output is not None
    return output.readline()


def test_several_processes_that_fetch_the_same_download_it_once(
    tmp_path: Path, release: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    address = StoredArtefacts(
        FolderBlobs(tmp_path / "store"), Cache(tmp_path / "cache", ROOMY)
    ).put(release)
    children = [run("fetch", str(address), SLOW="0.2") for _ in range(3)]
    for child in children:
        words = said(child)
        while words.startswith("copied"):
            words = said(child)
        assert words.startswith("held")
    assert len((tmp_path / "store" / "copies.txt").read_text("utf-8").splitlines()) == 2


def test_a_fetch_that_was_killed_leaves_nothing_half_there(
    tmp_path: Path, release: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    artefacts = StoredArtefacts(FolderBlobs(tmp_path / "store"), Cache(tmp_path / "cache", ROOMY))
    address = artefacts.put(release)
    child = run("fetch", str(address), SLOW="60")
    assert said(child).startswith("copied")
    child.kill()
    child.wait()
    assert not (tmp_path / "cache" / address.sha256).exists()
    with artefacts.fetch(address) as path:
        assert contents(path) == contents(release)
    assert cached(tmp_path) == {address.sha256}


def test_a_put_that_was_killed_shows_nothing_and_is_finished_by_the_next(
    tmp_path: Path, release: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    child = run("put", str(release), SLOW="60")
    assert said(child).startswith("written")
    child.kill()
    child.wait()
    artefacts = StoredArtefacts(FolderBlobs(tmp_path / "store"), Cache(tmp_path / "cache", ROOMY))
    assert not list((tmp_path / "store").glob("folders/*/*"))
    address = artefacts.put(release)
    with artefacts.fetch(address) as path:
        assert contents(path) == contents(release)


def test_what_another_process_uses_is_not_evicted_until_that_is_killed(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    artefacts = StoredArtefacts(FolderBlobs(tmp_path / "store"), Cache(tmp_path / "cache", 150))
    one, two, three = (artefacts.put_bytes(bytes([n]) * 100) for n in range(3))
    child = run("fetch", str(one))
    assert said(child).startswith("copied")
    assert said(child).startswith("held")
    artefacts.fetch(two).release()
    assert cached(tmp_path) == {one.sha256, two.sha256}
    child.kill()
    child.wait()
    artefacts.fetch(three).release()
    assert cached(tmp_path) == {three.sha256}
