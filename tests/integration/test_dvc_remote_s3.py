"""DVC's remote in a bucket of a real S3 server; needs DVC's plug-in, the package dvc-s3."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_workspace import build, make
from s3_server import S3Server

from flywheel.datasets.workspace import (
    checkout,
    commit_dataset,
    lacking_bytes,
    prune,
    settle_remote,
)
from flywheel.errors import WorkspaceError

pytest.importorskip("dvc_s3")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


def objects(s3: S3Server, place: str) -> list[Path]:
    return [path for path in s3.folder.rglob(f"{place}/**/*") if path.is_file()]


def test_versions_go_to_a_bucket_and_come_back(bucket: S3Server, tmp_path: Path) -> None:
    root = make(tmp_path / "workspace")
    first = build(root, 20)
    commit_dataset(root, "mail", first)
    settle_remote(root, bucket.url("versions"))
    assert len(objects(bucket, "versions")) == 5, "what was in the folder came along"
    second = build(root, 40, first.version)
    commit_dataset(root, "mail", second)
    assert lacking_bytes(root) == []

    shutil.rmtree(root / ".dvc/cache")
    shutil.rmtree(root / ".flywheel/dvc-remote")
    assert checkout(root, "mail", first.version, tmp_path / "again") == first
    assert prune(root, "mail", first.version, "ada: a test") == 5
    assert len(objects(bucket, "versions")) == 5
    assert lacking_bytes(root) == []

    objects(bucket, "versions")[0].unlink()
    (lost,) = lacking_bytes(root)
    assert (lost.files, lost.gone) == (1, 1)


def test_a_bucket_that_refuses_or_is_away_commits_nothing(
    bucket: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "workspace")
    settle_remote(root, bucket.url("refused"))
    manifest = build(root, 20)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(WorkspaceError, match=r"cannot be kept \(PermissionError.*s3://flywheel"):
        commit_dataset(root, "mail", manifest)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.environment["AWS_SECRET_ACCESS_KEY"])
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(WorkspaceError, match=r"cannot be kept.*Could not connect"):
        commit_dataset(root, "mail", manifest)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.endpoint)
    assert commit_dataset(root, "mail", manifest).version == manifest.version
