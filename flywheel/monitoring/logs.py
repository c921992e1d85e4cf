"""Structured log lines: one JSON object a line on stderr, or readable text on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_SECRET_WORDS = ("password", "secret", "token", "api_key", "authorization")


def _redact(
    _logger: Any, _method: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any] | Mapping[str, Any]:
    for key in line:
        if any(word in key.lower() for word in _SECRET_WORDS) and not isinstance(line[key], int):
            line[key] = "***"
    return line


def log_to_stderr() -> None:
    """Where nobody has configured logs: lines on stderr, so that what a command prints is alone on
    stdout."""
    if not structlog.is_configured():
        # Looked up for each line: whoever runs commands in a process may put another in its place.
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def configure_logging(process: str, level: str = "info") -> None:
    """Send structlog and the standard library's loggers through one format.

    Keys whose name speaks of a secret are blanked, whoever logs them.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in (
        *("kafka", "aiokafka", "faust", "mode", "feast"),
        *("aiohttp.access", "uvicorn.access", "httpx", "httpcore"),
    ):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.contextvars.bind_contextvars(process=process)
