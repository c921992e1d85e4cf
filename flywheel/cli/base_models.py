"""Where a model that is brought in comes from, and a base model's way into the workspace."""

from __future__ import annotations

from pathlib import Path

import click

from flywheel.contracts.layout import Layout
from flywheel.errors import ArtefactError, NotFound
from flywheel.turn.bases import PACKAGE


def look_at(source: str, workspace: Path, name: str | None) -> tuple[Path | None, str, Path]:
    """What ``source``, a folder or "package:NAME", holds: (folder of a classifier or None, what to
    call it, where it lies). A base model is copied below ``workspace`` at once.

    Raises NotFound or ArtefactError for anything else.
    """
    from flywheel.registry.hugging_face import install, look

    if source.startswith(PACKAGE):
        from flywheel.registry.packages import find_model

        packaged = find_model(source.removeprefix(PACKAGE))
        folder, called = packaged.folder, f"{packaged.package}=={packaged.version}"
        target = base_target(workspace, name or packaged.package)
        if packaged.gguf is not None:
            _install_gguf(packaged.package, target)
            return None, called, target
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise NotFound(f"{source} is no file and no folder")
        called, target = folder.resolve().name, base_target(workspace, name or folder.name)
    contents = look(folder, strict=not source.startswith(PACKAGE))
    if contents.holds == "classifier":
        return folder, called, folder
    _make_bases(target)
    install(folder, contents, target)
    return None, called, target


def base_target(workspace: Path, name: str) -> Path:
    """Where a base model of that name lies. Raises click.UsageError for no folder's name."""
    models = Layout(workspace).base_models
    target = models / name
    if target.parent != models or name.startswith("."):
        raise click.UsageError(f"--name: {name!r} is no folder's name")
    return target


def _make_bases(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Git keeps what was decided, not hundreds of megabytes that can be had again.
    (target.parent / ".gitignore").write_text("*\n", "utf-8")


def _install_gguf(package: str, target: Path) -> None:
    from flywheel.demo.llm_base import PACKAGE as KNOWN
    from flywheel.demo.llm_base import prepare_base

    if package != KNOWN:
        raise ArtefactError(
            f"{package} carries a GGUF, whose reader is not trusted with any file: convert it with "
            f"transformers (gguf_file=) and import the folder; {KNOWN} is known and converted"
        )
    _make_bases(target)
    prepare_base(target)
