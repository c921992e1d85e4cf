"""What the champion says of held-out samples: what a challenger is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from flywheel.contracts.dataset_folder import DatasetLine
from flywheel.contracts.layout import PREDICTIONS_FILE
from flywheel.errors import ArtefactError, FlywheelError
from flywheel.evaluation.answered import read_predictions, write_predictions
from flywheel.kinds.predictions import Prediction, as_predictions
from flywheel.settings import FlywheelSettings
from flywheel.turn.served import Serve, served_folder

# Of the held-out samples: so many that a champion never answered change no verdict worth the wait.
_FEW_MISSING = 0.05

_log = structlog.get_logger(__name__)


def champion_answers(
    settings: FlywheelSettings,
    task: str,
    champion: Path,
    lines: Sequence[DatasetLine],
    serve: Serve | None = None,
) -> list[Prediction]:
    """What the champion, whose folder this is, says of held-out samples.

    Its folder tells, and what it was asked since. Where the holdout grew, or it was never asked any
    (it was imported without a holdout, or the holdout is a new one), it is asked the others now,
    through what serves it, and that is kept for the turns to come. A few that are missing are not
    worth a start of its server; nor does one that cannot be started end the turn, as long as there
    are answers to compare.
    """
    kept = settings.layout.held_out_answers(champion.name)
    since = _predictions(kept)
    known = _predictions(champion / PREDICTIONS_FILE) + since
    answered = {prediction.sample_id for prediction in known}
    missing = [line for line in lines if line.sample_id not in answered]
    if len(missing) <= _FEW_MISSING * len(lines):
        return known
    serve = serve or served_folder(settings)
    try:
        with serve(champion, settings.layout.bases, settings.task(task).answers.scored) as served:
            asked = as_predictions(missing, served.answers([one.text for one in missing]))
    except FlywheelError as error:
        if len(missing) == len(lines):
            raise
        _log.warning(
            "the champion cannot be asked what is new in the holdout",
            champion=champion.name,
            missing=len(missing),
            error=str(error),
        )
        return known
    _keep(kept, since + asked)
    return known + asked


def _predictions(path: Path) -> list[Prediction]:
    """What lies there; none where nothing does, or nothing that can be read."""
    try:
        return read_predictions(path)
    except ArtefactError:
        return []


def _keep(path: Path, predictions: Sequence[Prediction]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    write_predictions(written, predictions)
    written.replace(path)
