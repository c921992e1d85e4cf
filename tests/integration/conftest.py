"""Fixtures of the gateway's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gateway_harness import Gateway, model_server, split_event, started_gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    with ExitStack() as stack:
        yield lambda endpoints, **options: stack.enter_context(
            started_gateway(tmp_path, endpoints, **options)
        )


@pytest.fixture(scope="module")
def champion() -> Iterator[str]:
    with model_server(split_event("r1", "r2", 0.5)) as (url, _):
        yield url
