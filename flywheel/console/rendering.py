"""Templates, static files with their versions, and error pages."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from flywheel.console.words import FILTERS, THIN

HERE = Path(__file__).parent
STATIC = HERE / "static"


@cache
def static(name: str) -> str:
    """The URL of one of our static files, with its content's hash."""
    digest = hashlib.blake2b((STATIC / name).read_bytes(), digest_size=6).hexdigest()
    return f"/static/{name}?v={digest}"


def make_environment() -> Environment:
    """Jinja with autoescape on; a name that a template misspells is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(static=static, thin=THIN)
    return environment


def wants_page(request: Request) -> bool:
    """Whether a person's browser asks, rather than a program."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(
        "/api/"
    )


def install_error_pages(app: FastAPI, environment: Environment) -> None:
    """Show browsers a page instead of the problem document that programs get."""
    template = environment.get_template("error.html")
    for kind, handler in list(app.exception_handlers.items()):

        async def page(request: Request, error: Exception, handler: Any = handler) -> Response:
            answer: Response = await handler(request, error)
            if not wants_page(request):
                return answer
            problem = json.loads(bytes(answer.body))
            if "title" not in problem:
                return answer
            return HTMLResponse(template.render(problem=problem), answer.status_code)

        app.exception_handlers[kind] = page
