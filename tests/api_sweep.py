"""Asks an API what its OpenAPI document allows, and what it doesn't."""

from __future__ import annotations

from collections.abc import Mapping

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def sweep(
    url: str, document: Mapping[str, object], headers: dict[str, str], examples: int = 20
) -> set[str]:
    """Ask every operation of ``document``; returns their names.

    Fails where an answer is a server's error, or has a status, a content type or a body that the
    document doesn't know.
    """
    schema = schemathesis.openapi.from_dict(dict(document))
    schema.validate()
    asked = set()
    with requests.Session() as session:
        session.trust_env = False
        for result in schema.get_all_operations():
            operation = result.ok()
            asked.add(operation.label)
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if mode is GenerationMode.NEGATIVE and not _takes_anything(operation):
                    continue

                @settings(
                    max_examples=examples,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    verbosity=Verbosity.quiet,
                    suppress_health_check=list(HealthCheck),
                )
                @given(operation.as_strategy(generation_mode=mode))
                def ask(case: Case) -> None:
                    case.call_and_validate(
                        base_url=url,
                        session=session,
                        headers=headers,
                        checks=CHECKS,
                        allow_redirects=False,
                    )

                ask()
    return asked


def _takes_anything(operation: object) -> bool:
    definition = operation.definition.raw  # type: ignore[attr-defined]
    return bool(definition.get("parameters") or definition.get("requestBody"))
