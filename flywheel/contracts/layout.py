"""Where everything of a workspace lies: the one file that knows its paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIG_FILE = "flywheel.toml"
PARAMS_FILE = "params.yaml"
DVC_LOCK_FILE = "dvc.lock"
# What a model answered to each held-out sample, and how good that is: in evaluations and releases.
PREDICTIONS_FILE = "predictions.jsonl"
METRICS_FILE = "metrics.json"
# Neither configuration nor versioned; git ignores it.
STATE_FOLDER = ".flywheel"
# Below the state folder, and in whatever holds releases as it does: an import, an exported archive.
RELEASES = "releases"
BASES = "bases"
# Base models that training begins from; git ignores them: hundreds of megabytes that can be had
# again.
BASE_MODELS = "models/bases"
# DVC's remote where no other is named, and the hashes it remembers, made anew when they are gone.
DVC_REMOTE = f"{STATE_FOLDER}/dvc-remote"
DVC_SITE_CACHE = f"{STATE_FOLDER}/dvc-state"


def data_path(task: str) -> str:
    """The output of build@TASK, as DVC and git name it: relative to the workspace."""
    return f"data/{task}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one workspace; ``Layout(Path())`` has them relative to it."""

    workspace: Path

    # --- what is configured, and what git and DVC keep

    @property
    def config(self) -> Path:
        """flywheel.toml."""
        return self.workspace / CONFIG_FILE

    @property
    def params(self) -> Path:
        """What the pipeline's stages are told."""
        return self.workspace / PARAMS_FILE

    @property
    def git(self) -> Path:
        """Git's own folder."""
        return self.workspace / ".git"

    @property
    def dvc(self) -> Path:
        """DVC's own folder."""
        return self.workspace / ".dvc"

    @property
    def base_models(self) -> Path:
        """Base models that were brought in, each in a folder of its name."""
        return self.workspace / BASE_MODELS

    def dataset(self, task: str) -> Path:
        """The built dataset: the output of build@TASK."""
        return self.workspace / data_path(task)

    def trained(self, task: str) -> Path:
        """The FP32 model: the output of train@TASK."""
        return self.workspace / "models" / task / "trained"

    def compressed(self, task: str) -> Path:
        """What would be served: the output of compress@TASK."""
        return self.workspace / "models" / task / "compressed"

    def comparison(self, task: str) -> Path:
        """Every variant beside the others, and what each answered: an output of compress@TASK."""
        return self.workspace / "models" / task / "comparison"

    def evaluation(self, task: str) -> Path:
        """metrics.json and predictions.jsonl: the outputs of evaluate@TASK."""
        return self.workspace / "evaluation" / task

    # --- the state folder: database, logs, artefacts

    @property
    def state(self) -> Path:
        """The folder of all that is neither configuration nor versioned."""
        return self.workspace / STATE_FOLDER

    @property
    def database(self) -> Path:
        """SQLite's file, where no other database is named."""
        return self.state / "flywheel.db"

    @property
    def releases(self) -> Path:
        """Every release, each in a folder of its id."""
        return self.state / RELEASES

    @property
    def bases(self) -> Path:
        """What adapters of releases are loaded onto, each in a folder of its digest."""
        return self.state / BASES

    @property
    def artefacts(self) -> Path:
        """Artefacts under their digest, where no other store is named."""
        return self.state / "artefacts"

    @property
    def artefact_cache(self) -> Path:
        """Artefacts that were fetched."""
        return self.state / "artefact-cache"

    @property
    def imports(self) -> Path:
        """What waits for the trainer, each in a folder of its request's id."""
        return self.state / "imports"

    @property
    def features(self) -> Path:
        """The feature store."""
        return self.state / "features"

    def splits(self, instance: str) -> Path:
        """The traffic splits as this gateway saw them last."""
        return self.state / f"gateway-splits-{instance}.json"

    def all_splits(self) -> list[Path]:
        """The splits as every gateway of this workspace saw them last, the latest first."""
        found = self.state.glob("gateway-splits*.json")
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    @property
    def spills(self) -> Path:
        """The spill logs of every gateway of this workspace, also of those that are gone."""
        return self.state / "spill"

    def spill(self, instance: str) -> Path:
        """The spill log of this gateway."""
        return self.spills / f"gateway-{instance}"

    def serving_cache(self, instance: str) -> Path:
        """What this model server prepared of the releases it loads."""
        return self.state / "serving" / instance

    def checkpoints(self, task: str) -> Path:
        """Where a training of this task goes on from, once it was ended."""
        return self.state / "checkpoints" / task

    def variants(self, task: str) -> Path:
        """The variants that the compress stage is making."""
        return self.state / "variants" / task

    def held_out_answers(self, release: str) -> Path:
        """What a release said of samples that were held out after it was made."""
        return self.state / "held-out" / f"{release}.jsonl"

    @property
    def stage_failure(self) -> Path:
        """Why the stage that ran last failed, by its own words."""
        return self.state / "stage-failure.txt"

    # --- processes

    @property
    def logs(self) -> Path:
        """The logs of all processes."""
        return self.state / "logs"

    def log(self, process: str) -> Path:
        """The log of one."""
        return self.logs / f"{process}.log"

    @property
    def supervisor_config(self) -> Path:
        """What supervisord reads."""
        return self.state / "run" / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        """Where supervisord notes its process id."""
        return self.state / "run" / "supervisor.pid"

    def instance_lock(self, kind: str, instance: str) -> Path:
        """Locked by the process that has this name, for as long as it lives."""
        return self.state / "run" / "instances" / f"{kind}-{instance}"

    @property
    def pipeline_lock(self) -> Path:
        """Locked by the trainer that makes a turn in this workspace."""
        return self.state / "run" / "pipeline.lock"

    @property
    def up_lock(self) -> Path:
        """Locked by who runs the processes; it notes the holder."""
        return self.state / "run" / "up.lock"
