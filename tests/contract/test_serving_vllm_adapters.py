"""Several LoRA releases in one real vLLM server: each answers as itself, and leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
import pytest
from llm_training_process import run
from tiny_llm import make_dataset
from vllm_models import (
    LABELS,
    letter_probabilities,
    living_group,
    llama_base,
    lora_release,
    require_vllm,
)

from flywheel.contracts.model_folder import (
    BaseReference,
    read_description,
    write_description,
)
from flywheel.contracts.witness import read_witness
from flywheel.errors import ArtefactError, Unavailable
from flywheel.serving.config import VllmSettings
from flywheel.serving.engine import generates
from flywheel.serving.vllm.client import VllmClient
from flywheel.serving.vllm.engine import VllmEngine
from flywheel.serving.vllm.served import VllmChooser, VllmWriter
from flywheel.training.config import LoraSettings
from flywheel.turn.same_answers import Texts, by_transformers

# vLLM takes half a minute to start: .ci/run runs these after `make test`.
pytestmark = pytest.mark.slow

TEXTS = ["Who?", "Where does road 7 lead?", "How far is it?", "Ünïcode ✓"]
# FP32 here and there; what differs is the order of sums.
TOLERANCE = 1e-3


@dataclass
class World:
    engine: VllmEngine
    bases: Path
    folders: dict[str, Path]
    choosers: dict[str, VllmChooser]
    writer: VllmWriter


def servers() -> list[int]:
    """The vLLM API servers that this process started."""
    children = psutil.Process().children()
    return [c.pid for c in children if "flywheel.serving.vllm.launch" in " ".join(c.cmdline())]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_vllm()
    folder = tmp_path_factory.mktemp("adapters")
    bases = folder / "bases"
    base = llama_base(bases)
    folders = {"r1": lora_release(folder / "r1", base, 1)}
    folders["r2"] = lora_release(folder / "r2", base, 2, letters=False)
    folders["w1"] = lora_release(folder / "w1", base, 10, labels=())
    settings = VllmSettings(dtype="float32", max_tokens=512)
    engine = VllmEngine(settings, cache=folder / "cache", bases=bases)
    choosers: dict[str, VllmChooser] = {}
    for name in ("r1", "r2"):
        served = engine.load(name, folders[name])
        assert isinstance(served, VllmChooser)
        choosers[name] = served
    writer = engine.load("w1", folders["w1"])
    assert isinstance(writer, VllmWriter)
    yield World(engine, bases, folders, choosers, writer)
    [leader] = servers()
    for served in (*choosers.values(), writer):
        served.close()
    assert not living_group(leader), "the last one out ends the server"


@pytest.mark.parametrize("name", ["r1", "r2"])
def test_each_adapter_answers_as_transformers_says_it_must(world: World, name: str) -> None:
    chooser = world.choosers[name]
    assert chooser.labels == LABELS
    for text, found in zip(TEXTS, chooser.predict(TEXTS), strict=True):
        expected = letter_probabilities(world.bases, world.folders[name], text)
        assert found == pytest.approx(expected, abs=TOLERANCE)


def test_letters_that_are_other_tokens_than_the_trained_ones_are_refused(
    world: World, tmp_path: Path
) -> None:
    folder = lora_release(tmp_path / "other", _base(world), 6)
    about = read_description(folder)
    other = {label: token + 1 for label, token in about.letters.items()}
    write_description(folder, msgspec.structs.replace(about, letters=other))
    with pytest.raises(ArtefactError, match="was trained with"):
        world.engine.load("other", folder)
    assert world.choosers["r2"].predict(TEXTS[:1])


def test_a_server_that_chooses_among_other_tokens_is_refused(world: World) -> None:
    client = VllmClient(world.choosers["r1"].server_url)
    # One token named twice: the server answers with one fewer than were asked for, and another.
    with pytest.raises(ArtefactError, match="chose among"):
        client.choose("r1", [1, 5], [300, 300])
    client.close()


def test_what_was_trained_is_what_is_served(world: World, tmp_path: Path) -> None:
    data, trained = make_dataset(tmp_path / "data"), tmp_path / "trained"
    lora = LoraSettings(rank=4, epochs=1, min_steps=12, max_tokens=200, precision="float32")
    run(data, world.bases / _base(world).id, trained, world.bases, lora)
    witness = read_witness(trained)
    assert witness is not None
    served = world.engine.load("trained", trained)
    assert not generates(served)
    assert witness.apart(served.predict(witness.texts)) < TOLERANCE
    served.close()


def test_adapters_of_one_base_share_one_server(world: World) -> None:
    assert len(servers()) == 1
    answers = {name: chooser.predict(TEXTS) for name, chooser in world.choosers.items()}
    assert answers["r1"] != answers["r2"]


def test_answers_do_not_mix_under_load(world: World) -> None:
    alone = {name: one.predict(TEXTS[:1])[0] for name, one in world.choosers.items()}
    with ThreadPoolExecutor(8) as pool:
        names = ["r1", "r2"] * 20
        together = list(pool.map(lambda n: world.choosers[n].predict(TEXTS[:1])[0], names))
    for name, found in zip(names, together, strict=True):
        assert found == pytest.approx(alone[name], abs=TOLERANCE)


def test_a_generator_answers_with_text_and_counts(world: World) -> None:
    assert generates(world.writer)
    first, second = world.writer.generate(["Who?", "Who?"])
    assert first == second, "the likeliest answer is always the same"
    assert 0 < first.tokens_out <= 8
    assert first.tokens_in > len("Say something.")
    assert 0 < first.confidence <= 1


def test_it_writes_what_transformers_writes(world: World) -> None:
    reference = by_transformers(world.folders["w1"], world.bases)
    assert isinstance(reference, Texts)
    served = world.writer.generate(reference.texts)
    # The likeliest tokens of these weights are likelier than the next ones by 0.01 and more.
    assert [one.text.strip() for one in served] == [own.text.strip() for own in reference.written]
    assert reference.problem(served) is None


def test_a_text_that_is_too_long_loses_its_end(world: World) -> None:
    """The release says 256 tokens, of bytes here; the prompt has some of them."""
    chooser = world.choosers["r1"]
    long = "How far is " + "very " * 500
    [found] = chooser.predict([long])
    assert chooser.classify([long])[0].tokens_cut > 0
    assert found == pytest.approx(chooser.predict([long[:400]])[0], abs=TOLERANCE)
    assert found != pytest.approx(chooser.predict([long[:100]])[0], abs=TOLERANCE)


def test_an_adapter_comes_and_goes_beside_the_others(world: World, tmp_path: Path) -> None:
    about = lora_release(tmp_path / "r9", _base(world), 9)
    before = world.choosers["r1"].predict(TEXTS[:1])
    late = world.engine.load("r9", about)
    assert not generates(late)
    assert late.predict(TEXTS[:1]) != before
    late.close()
    with pytest.raises(Exception, match="r9"):
        late.predict(TEXTS[:1])
    assert world.choosers["r1"].predict(TEXTS[:1]) == before
    assert len(servers()) == 1


def test_an_adapter_that_does_not_fit_its_base_harms_nobody(world: World, tmp_path: Path) -> None:
    base = _base(world)
    folder = lora_release(tmp_path / "bad", base, 5, rank=64)
    with pytest.raises(ArtefactError, match="rank"):
        world.engine.load("bad", folder)
    assert world.choosers["r2"].predict(TEXTS[:1])


def test_servers_elsewhere_are_found_by_what_they_serve(world: World, tmp_path: Path) -> None:
    url = world.choosers["r1"].server_url
    settings = VllmSettings(urls=("http://127.0.0.1:9", url))
    engine = VllmEngine(settings, cache=tmp_path / "cache", bases=world.bases)
    known = engine.load("r1", world.folders["r1"])
    assert not generates(known)
    assert known.predict(TEXTS[:1]) == world.choosers["r1"].predict(TEXTS[:1])
    known.close()
    new = engine.load("r8", lora_release(tmp_path / "r8", _base(world), 8))
    assert not generates(new)
    assert new.predict(TEXTS[:1])
    assert new.problem() is None
    new.close()
    nobody = VllmSettings(urls=("http://127.0.0.1:9",))
    alone = VllmEngine(nobody, cache=tmp_path / "cache", bases=world.bases)
    with pytest.raises(Unavailable, match="serves r1 or base"):
        alone.load("r1", world.folders["r1"])
    assert world.choosers["r1"].predict(TEXTS[:1]), "it was not stopped by those who borrowed it"


def _base(world: World) -> BaseReference:
    base = read_description(world.folders["r1"]).base
    assert base is not None
    return base
