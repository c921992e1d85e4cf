"""Makes a workspace ready: its git and DVC repository, the broker's files, the database."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from flywheel.contracts.layout import BASE_MODELS, STATE_FOLDER
from flywheel.contracts.private_files import private_folder
from flywheel.datasets.versions import pruned
from flywheel.datasets.workspace import checkout, init, prune
from flywheel.errors import WorkspaceError
from flywheel.settings import FlywheelSettings
from storage.workspace import open_database

# Base models are hundreds of megabytes that can be had again; a release names theirs by its hash.
_IGNORED = f"/{STATE_FOLDER}/\n/{BASE_MODELS}/\n/answered.txt\n/demo-report.json\n"


def pipeline_text() -> str:
    """The product's dvc.yaml: beside the package in a wheel, at the top of a checkout."""
    packaged = resources.files("flywheel.retraining") / "dvc.yaml"
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(__file__).parents[2] / "dvc.yaml").read_text("utf-8")


def make_repository(settings: FlywheelSettings) -> None:
    """Make the workspace a git and DVC repository with the pipeline; what is there is kept."""
    folder = settings.workspace
    private_folder(settings.state)
    (folder / "dvc.yaml").write_text(pipeline_text(), "utf-8")
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text(_IGNORED, "utf-8")
    init(folder)


def prepare(settings: FlywheelSettings) -> None:
    """Slow things that happen once before processes start: repository, database schema, broker."""
    if not settings.layout.dvc.exists():
        make_repository(settings)
    with open_database(settings):
        pass
    if settings.kafka.local:
        from streams.local_broker import LocalBroker

        if "," in str(settings.state):
            raise WorkspaceError(
                f"{settings.workspace} has a comma in its path, at which Kafka would split it: use "
                "another folder, or a broker elsewhere (kafka.bootstrap_servers)"
            )
        broker = LocalBroker(settings.state, settings.kafka.local_port)
        # A supervisor that was killed leaves its broker behind, which would hold the port.
        if broker.status().running:
            broker.stop()
        broker.prepare()


def checkout_dataset(settings: FlywheelSettings, task: str, version: str, folder: Path) -> None:
    """Write a dataset version's bytes to ``folder``. Raises NotFound for an unknown version."""
    checkout(settings.workspace, task, version, folder)


def pruned_datasets(settings: FlywheelSettings, task: str) -> dict[str, str]:
    """Version → by whom and why its bytes were taken away; empty where there is no repository."""
    return pruned(settings.workspace, task) if settings.layout.git.exists() else {}


def prune_dataset(settings: FlywheelSettings, task: str, version: str, *, by: str, why: str) -> int:
    """Take a dataset version's bytes away for good, and note by whom and why. Returns how many
    files went. Raises NotFound for an unknown version, Conflict for the current one."""
    return prune(settings.workspace, task, version, " ".join(f"{by}: {why}".split()))
