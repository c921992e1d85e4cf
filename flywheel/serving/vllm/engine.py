"""Releases served by vLLM: one process per encoder or full language model, one per base of
adapters, or servers that run elsewhere."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flywheel.contracts.model_folder import ModelDescription
from flywheel.errors import FlywheelError, Unavailable
from flywheel.kinds import answers_of
from flywheel.serving.config import VllmSettings
from flywheel.serving.engine import Classifier, Generator
from flywheel.serving.vllm.arguments import server_arguments, server_environment
from flywheel.serving.vllm.client import VllmClient
from flywheel.serving.vllm.folder import (
    Checked,
    check_release,
    longest_input,
    prepare_encoder,
    read_config,
)
from flywheel.serving.vllm.lease import Elsewhere, Lease, Server
from flywheel.serving.vllm.machine import (
    available_bytes,
    choose_dtype,
    find_installation,
    needed_bytes,
    read_cpu_flags,
    refuse_too_large,
)
from flywheel.serving.vllm.process import VllmProcess
from flywheel.serving.vllm.served import VllmChooser, VllmEncoder, VllmWriter


class VllmEngine:
    """Thread-safe. ``load`` is the model server's loader; ``close`` ends a load under way."""

    def __init__(
        self,
        settings: VllmSettings,
        *,
        cache: Path,
        bases: Path,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """``cache`` is this engine's alone: what vLLM loads, and its logs."""
        self._settings, self._cache, self._bases = settings, cache, bases
        self._environment = environment
        self._lock = threading.Lock()
        self._shared: dict[str, _Shared] = {}
        self._stopping = threading.Event()
        shutil.rmtree(cache, ignore_errors=True)

    def load(self, release: str, folder: Path) -> Classifier | Generator:
        """Serve the release in ``folder`` under its name.

        Raises ArtefactError for files that are missing, damaged or nothing that vLLM runs;
        ConfigurationError where vLLM is not installed or its settings are wrong; Unavailable where
        it has no room or a server is away.
        """
        checked = check_release(folder, self._bases, self._settings.max_rank)
        lease = self._lease(release, checked)
        try:
            return _served(release, checked, lease, self._settings)
        except BaseException:
            lease.close()
            raise

    def close(self) -> None:
        """Give up a load under way. What is served is closed by those who hold it."""
        self._stopping.set()

    def _lease(self, release: str, checked: Checked) -> Lease:
        if self._settings.urls:
            return self._elsewhere(release, checked)
        if checked.about.base is None:
            return Lease(self._start(release, checked), release)
        return self._adapter(release, checked.about.base.id, checked)

    def _start(self, name: str, checked: Checked) -> Server:
        installation = find_installation(self._settings, self._environment)
        about, gpu = checked.about, installation.gpu
        dtype = choose_dtype(self._settings, about.kind, gpu=gpu, cpu_flags=read_cpu_flags())
        if not gpu:
            needed = needed_bytes(checked.model, dtype, self._settings.kv_cache_gb)
            refuse_too_large(needed, available_bytes(), checked.model)
        model, prepared = checked.model, None
        if about.kind == "encoder":
            model = prepared = prepare_encoder(checked, self._cache / "models" / name)
        arguments = server_arguments(
            self._settings,
            model=model,
            name=name,
            kind=about.kind,
            adapters=about.base is not None,
            dtype=dtype,
            max_tokens=_longest(checked, self._settings),
            gpu=gpu,
        )
        environment = server_environment(self._settings, self._environment, gpu=gpu)
        process = VllmProcess(
            installation.python, arguments, environment, self._cache / "logs" / f"{name}.log"
        )
        process.start(self._stopping, self._settings.start_seconds)
        return _Prepared(process, prepared)

    def _adapter(self, release: str, base: str, checked: Checked) -> Lease:
        with self._lock:
            shared = self._shared.get(base)
            if shared is None or shared.server.problem() is not None:
                shared = self._shared[base] = _Shared(self._start(base, checked))
            shared.users += 1
        lease = Lease(shared.server, release, lambda: self._give_back(base, shared))
        try:
            lease.load(checked.folder)
        except BaseException:
            lease.close()
            raise
        return lease

    def _give_back(self, base: str, shared: _Shared) -> None:
        with self._lock:
            shared.users -= 1
            if shared.users:
                return
            if self._shared.get(base) is shared:
                del self._shared[base]
        shared.server.stop()

    def _elsewhere(self, release: str, checked: Checked) -> Lease:
        base = checked.about.base
        with ThreadPoolExecutor(len(self._settings.urls)) as pool:
            asked = list(pool.map(_ask, self._settings.urls))
        for wanted in (release, base.id if base else None):
            for url, models, _ in asked:
                if wanted is None or wanted not in models:
                    continue
                lease = Lease(Elsewhere(url), release)
                if wanted != release:
                    lease.load(checked.folder)
                return lease
        problems = [f"{url}: {problem or 'serves ' + ', '.join(m)}" for url, m, problem in asked]
        sought = f"{release} or base {base.id}" if base else release
        raise Unavailable(f"no server of serving.vllm.urls serves {sought} ({'; '.join(problems)})")


@dataclass
class _Shared:
    """A base's server and how many releases use it."""

    server: Server
    users: int = 0


class _Prepared:
    """A process of ours; the folder that was written for it goes with it."""

    def __init__(self, process: VllmProcess, folder: Path | None) -> None:
        self.client, self._process, self._folder = process.client, process, folder

    def problem(self) -> str | None:
        return self._process.problem()

    def stop(self) -> None:
        self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def prepare(release: str, folder: Path, to: Path, bases: Path, settings: VllmSettings) -> list[str]:
    """Make ``to`` what a vLLM elsewhere loads for a release, and say how to start that.

    An encoder is written anew, as ``prepare_encoder`` says; the arguments name where a language
    model or an adapter's base lies. Raises ArtefactError as ``VllmEngine.load`` does.
    """
    checked = check_release(folder, bases, settings.max_rank)
    about = checked.about
    model = prepare_encoder(checked, to) if about.kind == "encoder" else checked.model
    return server_arguments(
        settings,
        model=model,
        name=about.base.id if about.base else release,
        kind=about.kind,
        adapters=about.base is not None,
        dtype=settings.dtype,
        max_tokens=_longest(checked, settings),
        gpu=True,
    )


def _ask(url: str) -> tuple[str, list[str], str]:
    client = VllmClient(url)
    try:
        return url, client.models(), ""
    except FlywheelError as error:
        return url, [], str(error)
    finally:
        client.close()


def _longest(checked: Checked, settings: VllmSettings) -> int:
    limit = longest_input(checked.model)
    if checked.about.kind == "encoder":
        return limit or checked.about.max_tokens
    return min(settings.max_tokens, limit) if limit else settings.max_tokens


def _served(
    release: str, checked: Checked, lease: Lease, settings: VllmSettings
) -> Classifier | Generator:
    about: ModelDescription = checked.about
    if about.kind == "encoder":
        positions = int(read_config(checked.model).get("max_position_embeddings") or 512)
        return VllmEncoder(lease, release, checked.folder, about, positions)
    answering = VllmChooser if answers_of(about.output).scored else VllmWriter
    return answering(lease, release, checked.model, about, settings.parallel)
