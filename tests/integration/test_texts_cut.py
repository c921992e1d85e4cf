"""A text that is longer than its release reads: the answer, the events, the counters, the reviewer
and the trainer say so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from gateway_harness import (
    TASK,
    KeywordClassifier,
    client,
    eventually,
    model_server,
    split_event,
    started_gateway,
)
from tiny_encoder import TOPICS, labelled, make_encoder

from flywheel.contracts.codec import decode, encode
from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.events import ShadowRecorded, TrafficRecorded
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.kinds import Choice
from flywheel.serving.engine import Classified
from flywheel.serving.runtime import load_classifier
from flywheel.training.config import TrainingSettings
from flywheel.training.train import train

LABELS = tuple(TOPICS)
READS = {"short": 3, "long": 8}


class FewWords(KeywordClassifier):
    """Reads a few words of a text."""

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        reads = READS[self._release]
        return [
            Classified(
                scores=scores,
                tokens_in=min(reads, len(text.split())),
                tokens_cut=max(0, len(text.split()) - reads),
            )
            for text, scores in zip(texts, self.predict(texts), strict=True)
        ]


def counted(text: str, name: str) -> float:
    return float(next((x for x in text.splitlines() if x.startswith(name)), "0").rpartition(" ")[2])


def test_a_cut_shows_in_answers_events_and_counters(tmp_path: Path) -> None:
    split = split_event("short", "long", share=0.0, shadow=1.0)
    with (
        model_server(split, load=FewWords) as (url, _),
        started_gateway(tmp_path, [url], split=split) as gate,
        client(url) as server,
    ):
        names = {
            gate.http: "flywheel_gateway_texts_cut_total",
            server: "flywheel_serving_texts_cut_total",
        }
        before = {http: counted(http.get("/metrics").text, name) for http, name in names.items()}
        assert gate.classify("How many moons").json()["tokens_cut"] == 0
        assert gate.classify("How many moons has Jupiter").json()["tokens_cut"] == 2
        words = "How many moons has Jupiter and how many has Mars"
        asked = {"model": TASK, "messages": [{"role": "user", "content": words}]}
        answer = gate.http.post("/v1/chat/completions", json=asked).json()
        assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        [choice] = answer["choices"]
        assert choice["tokens_cut"] == 7
        stream = gate.http.post("/v1/chat/completions", json=asked | {"stream": True}).text
        assert '"tokens_cut":7' in stream
        eventually(lambda: len(gate.events(ShadowRecorded)) >= 4)
        live = {event.text: event.tokens_cut for event in gate.events(TrafficRecorded)}
        assert live == {"How many moons": 0, "How many moons has Jupiter": 2, words: 7}
        assert sorted(shadow.tokens_cut for shadow in gate.events(ShadowRecorded)) == [0, 0, 2, 2]
        for http, name in names.items():
            shadows = 2 if http is server else 0
            assert counted(http.get("/metrics").text, name) - before[http] == 3 + shadows


def test_an_event_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    split = split_event("short")
    with (
        model_server(split, load=FewWords) as (url, _),
        started_gateway(tmp_path, [url], split=split) as gate,
    ):
        gate.classify("How many moons has Jupiter")
        eventually(lambda: gate.events(TrafficRecorded))
        [event] = gate.events(TrafficRecorded)
    record = encode(event)
    fields = msgspec.json.decode(record.value)
    del fields["tokens_cut"]
    again = decode(msgspec.json.encode(fields), dict(record.headers))
    assert again == msgspec.structs.replace(event, tokens_cut=0)


def test_training_says_how_many_samples_were_cut_and_serving_how_much(tmp_path: Path) -> None:
    make_encoder(tmp_path / "base")  # reads 64 tokens by its tokenizer and its positions
    samples = labelled(60)
    long = [
        msgspec.structs.replace(one, content=f"{one.text} {'rain ' * 70}") for one in samples[:7]
    ]
    build_dataset(
        [*long, *samples[7:]],
        DatasetSettings(),
        Choice(LABELS),
        task="topics",
        watermark="e",
        parent=None,
        folder=tmp_path / "data",
    )
    recipe = {"base_model": str(tmp_path / "base"), "epochs": 1, "min_steps": 1, "threads": 1}
    told = {}
    for limit in (0, 9):
        settings = TrainingSettings.model_validate(recipe | {"max_tokens": limit})
        told[limit] = train(tmp_path / "data", settings, LABELS, tmp_path / f"model{limit}")
    longer = sum("rain rain rain" in line.text for line in read_part(tmp_path / "data", "train"))
    assert (told[0].max_tokens, told[0].cut) == (64, longer)
    assert told[9].max_tokens == 9
    assert told[9].cut > longer > 1
    whole, short = (load_classifier(tmp_path / f"model{limit}", 1) for limit in (0, 9))
    texts = ["rain " * 60, "rain " * 62, "rain " * 63, "rain " * 90]
    assert [answer.tokens_cut for answer in whole.classify(texts)] == [0, 0, 1, 28]
    assert [answer.tokens_cut for answer in short.classify(texts)] == [53, 55, 56, 83]


def test_what_comes_after_the_same_beginning_decides(tmp_path: Path) -> None:
    """The same 84 words before three endings."""
    base = make_encoder(tmp_path / "base", positions=128)
    build_dataset(
        labelled(30),
        DatasetSettings(),
        Choice(LABELS),
        task="topics",
        watermark="e",
        parent=None,
        folder=tmp_path / "data",
    )
    settings = TrainingSettings(base_model=str(base), epochs=1, min_steps=1, threads=1)
    train(tmp_path / "data", settings, LABELS, tmp_path / "model")
    texts = [f"{'of ' * 84}{end}" for end in ("cost", "storm", "cheese")]
    answers = load_classifier(tmp_path / "model", 1).classify(texts)
    assert [answer.tokens_cut for answer in answers] == [0, 0, 0]
    assert len({tuple(answer.scores.values()) for answer in answers}) == 3
