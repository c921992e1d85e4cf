"""The console: one web app with the pages and JSON APIs of review, rollout and registry."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

import flywheel.registry.app
import flywheel.review.app
import flywheel.rollout.app
from flywheel.console.access import Guard, Keyring
from flywheel.console.assets import locate
from flywheel.console.openapi import describe
from flywheel.console.pages import Pages
from flywheel.console.ports import Transactions
from flywheel.console.release_page import Mistakes
from flywheel.console.rendering import STATIC, install_error_pages, make_environment
from flywheel.contracts.addresses import own_names
from flywheel.contracts.artefacts import Address, Artefacts
from flywheel.contracts.ids import utc_now
from flywheel.contracts.release import KeptRelease
from flywheel.errors import NotFound
from flywheel.monitoring.bearer import AcceptedKeys
from flywheel.monitoring.bodies import BoundedBodies
from flywheel.monitoring.docs_page import docs_routes
from flywheel.monitoring.health import Checks, health_routes
from flywheel.monitoring.problems import install_problem_details
from flywheel.registry.release_folders import ReleaseFolders
from flywheel.retention.releases import refuse_pruned
from flywheel.settings import FlywheelSettings

# The longest answer that an expert may give, with every character escaped, fits in.
MAX_BODY_BYTES = 256 * 1024


def create_app(
    settings: FlywheelSettings,
    transactions: Transactions,
    assets: Path,
    *,
    artefacts: Artefacts,
    reading: Transactions | None = None,
    checks: Checks | None = None,
    unanswered: Callable[[str], str | None] = lambda _task: None,
    now: Callable[[], datetime] = utc_now,
) -> FastAPI:
    """The console as an ASGI app.

    ``transactions`` opens a transaction whose outbox belongs to the console; ``reading`` one that
    can't write, which whatever only reads uses, so as not to hold up writers (default: the
    same). ``assets`` is the folder of the fetched packages; ``artefacts`` has images, and the
    releases that were not made here; ``checks`` are further lines of /healthz; ``unanswered`` says
    why nobody answers for a task, or None. Raises ArtefactError when a script is missing there.
    """
    reading = reading or transactions
    folders = ReleaseFolders(settings.layout, artefacts, lambda release: _kept(reading, release))
    vendored = locate(assets)
    keyring = Keyring([key.get_secret_value() for key in settings.console.api_keys])
    environment = make_environment()
    app = FastAPI(
        title="Flywheel console", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    install_problem_details(app)
    install_error_pages(app, environment)
    health_routes(app, {"database": lambda: _database(settings, reading), **(checks or {})})
    # The last one added is asked first: no body is read for who may not pass.
    app.add_middleware(BoundedBodies, most_bytes=MAX_BODY_BYTES)
    web = settings.console
    names = own_names(web.host, keys=keyring.required, allowed=web.allowed_hosts)
    app.add_middleware(
        Guard,
        keyring=keyring,
        names=names,
        ended=lambda session: _ended(reading, session),
        metrics=AcceptedKeys(settings.monitoring.metrics_keys),
    )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(_third_party(vendored))
    tasks = settings.tasks
    app.include_router(
        flywheel.review.app.router(
            transactions,
            {name: (task.answers, task.review) for name, task in tasks.items()},
            reading=reading,
        )
    )
    app.include_router(
        flywheel.rollout.app.router(
            transactions,
            reading,
            {name: task.rollout for name, task in tasks.items()},
            verify=folders.verified,
        )
    )
    app.include_router(flywheel.registry.app.router(reading, tasks, folders.hold))
    describe(app, bool(keyring.required or settings.monitoring.metrics_key))
    docs_routes(app)
    mistakes = Mistakes(folders.read)
    pages = Pages(
        settings,
        transactions,
        reading,
        environment,
        keyring,
        now,
        unanswered,
        mistakes,
        lambda image: artefacts.read(Address("file", image.sha256)),
    )
    app.include_router(pages.routes())
    return app


def _third_party(files: dict[str, Path]) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/assets/{name}")
    def asset(name: str) -> Response:
        if name not in files:
            raise NotFound(f"no asset {name!r}")
        return FileResponse(files[name])

    return routes


def _ended(reading: Transactions, session: str) -> bool:
    with reading() as tx:
        ended: bool = tx.sessions.ended(session)
    return ended


def _kept(reading: Transactions, release: str) -> KeptRelease | None:
    with reading() as tx:
        record = tx.releases.get(release)
        refuse_pruned(tx.pruned.get(release))
    return None if record is None else record.kept


def _database(settings: FlywheelSettings, reading: Transactions) -> str | None:
    with reading() as tx:
        tx.rollouts.champion(next(iter(settings.tasks)))
    return None
