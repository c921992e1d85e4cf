"""What the gateway needs of any engine, over HTTP: run for each engine that can be started."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from vllm_models import LABELS, bert_release, require_vllm

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, unit_fraction, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.monitoring.http_server import HttpServer
from flywheel.serving.app import create_app
from flywheel.serving.config import VllmSettings
from flywheel.serving.engine import InProcess, Loader
from flywheel.serving.releases import ReleaseSet


@dataclass
class Engine:
    """A started engine, a model that it serves, and the labels of that model."""

    http: httpx.Client
    model: str
    labels: set[str]

    def classify(self, texts: str | list[str], model: str | None = None) -> httpx.Response:
        body = {"model": model or self.model, "input": texts}
        return self.http.post("/classify", json=body)


class HashClassifier(InProcess):
    """Deterministic probabilities out of a text's hash."""

    labels = LABELS

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [self._scores(text) for text in texts]

    def _scores(self, text: str) -> dict[str, float]:
        raw = [0.01 + unit_fraction(text, label) for label in LABELS]
        return {label: value / sum(raw) for label, value in zip(LABELS, raw, strict=True)}


def _embedded(_folder: Path) -> Iterator[Engine]:
    yield from _serving(lambda _release: HashClassifier())


def _embedded_release(folder: Path) -> Iterator[Engine]:
    from flywheel.serving.runtime import load_classifier

    path = bert_release(folder / "release")
    yield from _serving(lambda _release: load_classifier(path, 1))


def _vllm(
    folder: Path, make: Callable[[Path], Path], bases: Path | None = None
) -> Iterator[Engine]:
    from flywheel.serving.vllm.engine import VllmEngine

    require_vllm()
    path = make(folder / "release")
    engine = VllmEngine(
        VllmSettings(dtype="float32", max_tokens=512),
        cache=folder / "cache",
        bases=bases or folder / "bases",
    )
    yield from _serving(lambda release: engine.load(release, path))


def _vllm_fp32(folder: Path) -> Iterator[Engine]:
    yield from _vllm(folder, RELEASES["vllm-fp32"])


def _vllm_int8(folder: Path) -> Iterator[Engine]:
    yield from _vllm(folder, RELEASES["vllm-int8"])


def _vllm_static(folder: Path) -> Iterator[Engine]:
    yield from _vllm(folder, RELEASES["vllm-int8-static-cls"])


def _serving(load: Loader) -> Iterator[Engine]:
    split = TrafficSplit(task="t", champion="release-1")
    releases = ReleaseSet(load)
    releases.update(
        RolloutChanged(
            event_id=new_id(),
            occurred_at=utc_now(),
            task="t",
            rollout_id="r",
            state="serving",
            split=split,
            decided_by="test",
            reason="",
        )
    )
    releases.start()
    server = HttpServer(create_app(releases=releases), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            while not (listed := http.get("/v1/models").json())["data"]:
                assert [m["status"] for m in listed["unavailable"]] == ["loading"], listed
                time.sleep(0.01)
            yield Engine(http, "release-1", set(LABELS))
    finally:
        server.stop()
        thread.join()
        releases.stop()


ENGINES = {
    "embedded": _embedded,
    "embedded-release": _embedded_release,
    "vllm-fp32": _vllm_fp32,
    "vllm-int8": _vllm_int8,
    "vllm-int8-static-cls": _vllm_static,
}
RELEASES: dict[str, Callable[[Path], Path]] = {
    "vllm-fp32": lambda path: bert_release(path, pooling="weighted_mean", normalise=True),
    "vllm-int8": lambda path: bert_release(path, "int8-dynamic"),
    "vllm-int8-static-cls": lambda path: bert_release(path, "int8-static", "cls"),
}


def tolerance(engine: str) -> float:
    """How far an answer may be from that of the embedded engine for the same release.

    FP32 differs by the order of sums, INT8 also by how each engine rounds what it quantises. On a
    CPU without VNNI (AVX2 alone) vLLM's answers were seen to be up to 0.13 away.
    """
    if engine == "vllm-fp32":
        return 1e-4
    return 0.02 if "vnni" in Path("/proc/cpuinfo").read_text() else 0.15


# vLLM takes half a minute to start: its rows are in the slow part, which .ci/run runs.
ROWS = [
    pytest.param(name, marks=pytest.mark.slow if name.startswith("vllm") else ())
    for name in sorted(ENGINES)
]


@pytest.fixture(scope="module", params=ROWS)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    yield from ENGINES[request.param](tmp_path_factory.mktemp("engine"))


def test_it_is_healthy_and_lists_its_models(engine: Engine) -> None:
    assert engine.http.get("/health").status_code == 200
    listed = engine.http.get("/v1/models").json()
    assert engine.model in [model["id"] for model in listed["data"]]


def test_probabilities_sum_to_one_and_the_label_is_the_likeliest(engine: Engine) -> None:
    texts = [f"What is number {n}?" for n in range(20)]
    answer = engine.classify(texts).json()
    assert answer["model"] == engine.model
    assert [item["index"] for item in answer["data"]] == list(range(20))
    for item in answer["data"]:
        assert sum(item["probs"]) == pytest.approx(1.0, abs=1e-3)
        assert all(0 <= p <= 1 for p in item["probs"])
        likeliest = max(range(len(item["probs"])), key=item["probs"].__getitem__)
        assert item["label"] in engine.labels
        assert item.get("labels", [item["label"]] * 9)[likeliest] == item["label"]


def test_one_text_need_not_be_a_list(engine: Engine) -> None:
    assert len(engine.classify("Who wrote Faust?").json()["data"]) == 1


def test_the_tokens_that_were_read_are_counted(engine: Engine) -> None:
    usage = engine.classify(["Where?", "Where is it?"]).json()["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"]
    one = [
        engine.classify(text).json()["usage"]["prompt_tokens"]
        for text in ("Where?", "Where is it?")
    ]
    assert usage["prompt_tokens"] == sum(one)
    # A classifier of the tests has no tokenizer, so nobody counts.
    assert one == [0, 0] or 0 < one[0] < one[1]


def test_an_unknown_model_is_not_found(engine: Engine) -> None:
    response = engine.classify(["x"], model="no-such-model")
    assert response.status_code == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":"m"}', b'{"model":1,"input":["x"]}'])
def test_a_malformed_request_is_refused(engine: Engine, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = engine.http.post("/classify", content=body, headers=headers)
    assert 400 <= response.status_code < 500


def test_an_empty_input_is_refused(engine: Engine) -> None:
    assert 400 <= engine.classify([]).status_code < 500
    assert 400 <= engine.classify(["fine", ""]).status_code < 500


def test_many_inputs_are_answered_like_single_ones(engine: Engine) -> None:
    texts = [f"How far is planet {n}, and {'very ' * (n % 7)}why?" for n in range(70)]
    together = engine.classify(texts).json()["data"]
    for text, item in list(zip(texts, together, strict=True))[::10]:
        alone = engine.classify([text]).json()["data"][0]
        assert alone["label"] == item["label"]
        assert alone["probs"] == pytest.approx(item["probs"], abs=0.02)


def test_concurrent_requests_get_their_own_answers(engine: Engine) -> None:
    texts = [f"Where does road {n} lead?" for n in range(60)]
    one_by_one = [engine.classify([text]).json()["data"][0] for text in texts]
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(lambda t: engine.classify([t]).json()["data"][0], texts))
    for alone, together in zip(one_by_one, at_once, strict=True):
        assert together["label"] == alone["label"]
        assert together["probs"] == pytest.approx(alone["probs"], abs=0.02)


def test_chat_answers_with_the_label_alone(engine: Engine) -> None:
    text = "Who wrote Faust?"
    body = {"model": engine.model, "messages": [{"role": "user", "content": text}]}
    answer = engine.http.post("/v1/chat/completions", json=body).json()
    label = engine.classify([text]).json()["data"][0]["label"]
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": label}


def test_the_same_release_answers_alike_on_every_engine(
    engine: Engine, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from flywheel.serving.runtime import load_classifier

    name = request.node.callspec.params["engine"]
    if name not in RELEASES:
        pytest.skip("is what the others are compared with")
    folder = RELEASES[name](tmp_path / "same")
    texts = [
        f"What number {n} is {'very ' * (n % 40)}far, and who wrote {n * 7}?" for n in range(50)
    ]
    expected = load_classifier(folder, 1).predict(texts)
    near = tolerance(name)
    found = engine.classify(texts).json()["data"]
    assert len({item["label"] for item in found}) > 1, "the texts must tell labels apart"
    for item, scores in zip(found, expected, strict=True):
        assert item["probs"] == pytest.approx(list(scores.values()), abs=near)
        ranked = sorted(scores.values())
        if ranked[-1] - ranked[-2] > 2 * near:
            assert item["label"] == max(scores, key=scores.__getitem__)
