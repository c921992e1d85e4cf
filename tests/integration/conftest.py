"""Fixtures that several files of integration tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import generation_harness
import pytest
from gateway_harness import Gateway, model_server, split_event, started_gateway
from registry_workspace import Workspace, make_models


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


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[generation_harness.Gateway]:
    """A gateway of two tasks: one answers with labels, one generates text."""
    folder = tmp_path_factory.mktemp("gate")
    labels_split = split_event("r1")
    texts_split = split_event("capitals-good", task=generation_harness.TASK)
    with (
        model_server(labels_split) as (labels, _),
        model_server(texts_split, load=generation_harness.Geographer) as (texts, _),
        generation_harness.gateway(folder, [labels, texts], labels_split) as gate,
    ):
        gate.splits.update(texts_split)
        yield gate


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained models and their dataset, of which releases are made."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace that releases come from."""
    made = Workspace(tmp_path / "here")
    yield made
    made.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Workspace]:
    """Another, that they go to."""
    made = Workspace(tmp_path / "there")
    yield made
    made.close()
