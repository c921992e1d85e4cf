"""DVC's remote lies in the workspace, or where the settings say, wherever a command was called."""

from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from dataset_workspace import build, make, objects

from flywheel.datasets.remote import outside
from flywheel.datasets.versions import versions
from flywheel.datasets.workspace import checkout, commit_dataset, lacking_bytes, settle_remote
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.settings import load_settings

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

# As the code before wrote it, called from the folder above the workspace.
_OLD_CONFIG = """[core]
    analytics = False
    remote = local
['remote "local"']
    url = {url}
"""


@pytest.mark.parametrize("called", [".", "ws", "elsewhere/deep", "ws/data"])
def test_a_remote_lies_in_the_workspace_wherever_init_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    (tmp_path / "P" / called).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "P" / called)
    root = make(tmp_path / "P/ws")
    commit_dataset(root, "mail", build(root, 20))
    assert len(objects(root / ".flywheel/dvc-remote")) == 5
    assert "url = ../.flywheel/dvc-remote" in (root / ".dvc/config").read_text()
    around = {path.name for folder in (tmp_path, tmp_path / "P") for path in folder.iterdir()}
    assert around <= {"P", "ws", "elsewhere"}


def old_workspace(root: Path, url: str, count: int) -> str:
    """A workspace with one version, as the code before left it: the remote is elsewhere, and holds
    datasets alone."""
    make(root)
    manifest = build(root, count)
    commit_dataset(root, "mail", manifest)
    (root / ".dvc/config").write_text(_OLD_CONFIG.format(url=url))
    wrong = (root / ".dvc" / url).resolve()
    shutil.copytree(root / ".flywheel/dvc-remote", wrong, dirs_exist_ok=True)
    shutil.rmtree(root / ".flywheel/dvc-remote")
    return manifest.version


def test_a_workspace_with_the_old_url_is_mended_and_its_bytes_are_moved(tmp_path: Path) -> None:
    root = tmp_path / "P/ws"
    version = old_workspace(root, "../../../.flywheel/dvc-remote", 30)
    held = objects(tmp_path / ".flywheel/dvc-remote")
    shutil.rmtree(root / ".dvc/cache")
    assert outside(root) == str(tmp_path / ".flywheel/dvc-remote")

    settle_remote(root)
    assert objects(root / ".flywheel/dvc-remote") == held
    assert not (tmp_path / ".flywheel").exists()
    assert outside(root) is None
    assert lacking_bytes(root) == []
    checkout(root, "mail", version, tmp_path / "out")

    written = (root / ".dvc/config").read_text()
    settle_remote(root)
    assert (root / ".dvc/config").read_text() == written


def test_two_workspaces_that_shared_one_remote_part_without_loss(tmp_path: Path) -> None:
    """Both had the same first samples: an object of both, and lists of each."""
    url = "../../../.flywheel/dvc-remote"
    one, two = tmp_path / "P/one", tmp_path / "P/two"
    first = old_workspace(one, url, 30)
    second = old_workspace(two, url, 35)
    for root in (one, two):
        shutil.rmtree(root / ".dvc/cache")

    settle_remote(one)
    checkout(one, "mail", first, tmp_path / "out-one")
    assert objects(tmp_path / ".flywheel/dvc-remote")
    settle_remote(two)
    checkout(two, "mail", second, tmp_path / "out-two")
    assert not (tmp_path / ".flywheel").exists()
    assert len(objects(one / ".flywheel/dvc-remote")) == 5


def test_a_workspace_that_never_could_write_its_remote_gets_one(tmp_path: Path) -> None:
    """The image's: the folder above belongs to somebody else, nothing was ever pushed."""
    root = tmp_path / "ws"
    version = old_workspace(root, "../../../.flywheel/dvc-remote", 30)
    shutil.rmtree((root / ".dvc/../../../.flywheel").resolve())
    settle_remote(root)
    assert len(objects(root / ".flywheel/dvc-remote")) == 5
    shutil.rmtree(root / ".dvc/cache")
    checkout(root, "mail", version, tmp_path / "out")


def test_another_remote_by_the_settings_gets_all_bytes_and_the_way_back_too(tmp_path: Path) -> None:
    root = make(tmp_path / "ws")
    version = build(root, 30)
    commit_dataset(root, "mail", version)
    held = objects(root / ".flywheel/dvc-remote")

    settle_remote(root, str(tmp_path / "shared"))
    assert objects(tmp_path / "shared") == held
    assert f"url = {tmp_path / 'shared'}" in (root / ".dvc/config").read_text()
    commit_dataset(root, "mail", build(root, 40, version.version))
    assert len(objects(tmp_path / "shared")) > len(held)
    assert objects(root / ".flywheel/dvc-remote") == held

    settle_remote(root)
    assert objects(root / ".flywheel/dvc-remote") == objects(tmp_path / "shared")
    assert lacking_bytes(root) == []


def test_a_set_remote_that_moves_brings_its_bytes(tmp_path: Path) -> None:
    root = make(tmp_path / "ws")
    settle_remote(root, str(tmp_path / "one"))
    commit_dataset(root, "mail", build(root, 30))
    shutil.rmtree(root / ".dvc/cache")
    settle_remote(root, str(tmp_path / "two"))
    assert len(objects(tmp_path / "two")) == 5
    assert "one" not in (root / ".dvc/config").read_text().replace("none", "")


def test_a_default_that_a_person_gave_dvc_stays(tmp_path: Path) -> None:
    root = make(tmp_path / "ws")
    own = f"[core]\n    remote = nas\n['remote \"nas\"']\n    url = {tmp_path / 'nas'}\n"
    (root / ".dvc/config").write_text(own)
    settle_remote(root)
    assert (root / ".dvc/config").read_text() == own
    commit_dataset(root, "mail", build(root, 20))
    assert len(objects(tmp_path / "nas")) == 5


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", ""),
        ("store", "{ws}/store"),
        ("../store", "{above}/store"),
        ("/srv/store", "/srv/store"),
        ("s3://bucket/name", "s3://bucket/name"),
    ],
)
def test_paths_of_the_file_begin_at_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, read: str
) -> None:
    ws = tmp_path / "ws"
    ws.mkdir()
    (ws / "flywheel.toml").write_text(
        f'dvc_remote_url = "{written}"\ndatabase_url = "sqlite:///own.db"\n'
        '[kafka]\nssl_cafile = "keys/ca.pem"\n'
        '[tasks.mail]\nlabels = ["a", "b"]\n[tasks.mail.training]\nbase_model = "models/base"\n'
    )
    monkeypatch.chdir("/")
    settings = load_settings(ws, {})
    assert settings.dvc_remote_url == read.format(ws=ws, above=tmp_path)
    assert settings.database == f"sqlite:///{ws}/own.db"
    assert settings.kafka.ssl_cafile == ws / "keys/ca.pem"
    assert settings.task("mail").training.base_model == str(ws / "models/base")


class _Kept(BaseHTTPRequestHandler):
    """Takes and gives files by PUT, HEAD and GET, in memory."""

    held: ClassVar[dict[str, bytes]] = {}
    refuses: ClassVar[bool] = False

    def do_PUT(self) -> None:
        body = self._body()
        if not self.refuses:
            self.held[self.path] = body
        self._say(403 if self.refuses else 201)

    def do_POST(self) -> None:
        self._body()
        self._say(405)

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_HEAD(self) -> None:
        self._say(200 if self.path in self.held else 404, self.held.get(self.path))

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.held.get(self.path, b""))

    def _say(self, status: int, body: bytes | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    _Kept.held, _Kept.refuses = {}, False
    with ThreadingHTTPServer(("127.0.0.1", 0), _Kept) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/store"
        running.shutdown()
        thread.join()


# fsspec gives a session that is collected 0.1 s to close (a busy machine takes longer) and closes
# its connector then, which DVC's retrying client keeps to itself.
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
def test_a_remote_that_is_no_folder_is_looked_at_too(tmp_path: Path, server: str) -> None:
    root = make(tmp_path / "ws")
    manifest = build(root, 30)
    commit_dataset(root, "mail", manifest)
    with pytest.raises(WorkspaceError, match=r"cannot be kept .*405"):
        settle_remote(root, server)  # DVC uses POST until it is told otherwise
    (root / ".dvc/config.local").write_text("['remote \"flywheel\"']\n    method = PUT\n")
    settle_remote(root, server)
    assert len(_Kept.held) == 5
    manifest = build(root, 40)
    _Kept.refuses = True
    with pytest.raises(WorkspaceError, match=r"cannot be kept .*403"):
        commit_dataset(root, "mail", manifest)
    assert len(versions(root)) == 1

    _Kept.refuses = False
    commit_dataset(root, "mail", manifest)
    assert len(_Kept.held) > 5
    assert lacking_bytes(root) == []
    shutil.rmtree(root / ".dvc/cache")
    checkout(root, "mail", manifest.version, tmp_path / "out")
    _Kept.held.popitem()
    assert [one.files for one in lacking_bytes(root)] == [1]
    gc.collect()


def test_a_remote_that_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    root = make(tmp_path / "ws")
    with pytest.raises(WorkspaceError, match="s3"):
        settle_remote(root, "s3://bucket/name")
    with pytest.raises(WorkspaceError, match="nothing"):
        settle_remote(root, "nothing://bucket")
    assert "url = ../.flywheel/dvc-remote" in (root / ".dvc/config").read_text()


def test_a_password_stays_out_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "flywheel.toml").write_text(
        'dvc_remote_url = "https://me:secret@host/store"\n'
        '[tasks.mail]\nlabels = ["a", "b"]\n[tasks.mail.training]\nbase_model = "base"\n'
    )
    with pytest.raises(ConfigurationError, match="password") as refused:
        load_settings(tmp_path, {})
    assert "secret@" not in str(refused.value)
