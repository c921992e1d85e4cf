"""/docs: an API's description as a page of its own, without scripts and without a foreign host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

_POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --back: #fff;
  --code: #f3f5f7; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --line: #3d444d;
  --back: #0d1117; --code: #161b22; --link: #79b8ff; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
a { color: var(--link); }
section { border-top: 1px solid var(--line); padding: .5rem 0; }
h2, h3 { font-size: 1.1rem; margin: .75rem 0 .25rem; }
code, pre { font: .9em ui-monospace, monospace; background: var(--code); border-radius: 4px; }
code { padding: .1em .3em; overflow-wrap: anywhere; }
pre { padding: .75rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); }
"""


def docs_routes(app: FastAPI) -> None:
    """Add /docs, which shows what the app's OpenAPI document says."""

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        page = docs_page(app.openapi(), app.openapi_url or "")
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs/style.css", include_in_schema=False)
    def style() -> Response:
        return Response(_STYLE, media_type="text/css")


def docs_page(document: dict[str, Any], source: str) -> str:
    """The page for an OpenAPI document, which itself is to be had at ``source``."""
    title = escape(document["info"]["title"])
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    contents = "".join(
        f'<li><a href="#{_anchor(name)}"><code>{escape(name)}</code></a> '
        f"{escape(operation.get('summary', ''))}</li>"
        for name, operation in operations
    )
    schemas = document.get("components", {}).get("schemas", {})
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{title}</title><link rel="stylesheet" href="/docs/style.css"></head>',
            f"<body><main><h1>{title}</h1>",
            f"<p>{escape(document['info'].get('description', ''))}</p>",
            f'<p>For programs: <a href="{escape(source)}">{escape(source)}</a> (OpenAPI).</p>',
            f"<nav aria-label='Routes'><ul>{contents}</ul></nav>",
            *(_operation(name, operation) for name, operation in operations),
            "<h2>Schemas</h2>",
            *(_schema(name, schema) for name, schema in schemas.items()),
            "</main></body></html>",
        )
    )


def _operation(name: str, operation: dict[str, Any]) -> str:
    parts = [f'<section id="{_anchor(name)}"><h2><code>{escape(name)}</code></h2>']
    said = operation.get("description") or operation.get("summary", "")
    parts.append(f"<p>{escape(said)}</p>")
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            (
                f"<code>{escape(one['name'])}</code>",
                escape(one["in"]) + (", required" if one.get("required") else ""),
                escape(one.get("description", "")),
            )
            for one in parameters
        ]
        parts.append(_table(("Parameter", "Where", "What"), rows))
    body = operation.get("requestBody", {}).get("content", {})
    parts += [f"<p>Body, {escape(kind)}: {_named(one)}</p>" for kind, one in body.items()]
    rows = [
        (
            f"<code>{escape(str(status))}</code>",
            escape(one.get("description", "")),
            ", ".join(
                f"{escape(kind)}: {_named(it)}" for kind, it in one.get("content", {}).items()
            ),
        )
        for status, one in operation["responses"].items()
    ]
    parts.append(_table(("Status", "When", "Answer"), rows))
    return "".join((*parts, "</section>"))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _named(content: dict[str, Any]) -> str:
    schema = content.get("schema") or {}
    reference = schema.get("$ref", "").rpartition("/")[2]
    if reference:
        return f'<a href="#schema-{escape(reference)}">{escape(reference)}</a>'
    return f"<code>{escape(json.dumps(schema, ensure_ascii=False))}</code>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
    label = escape(name)
    return (
        f'<section id="schema-{label}"><h3>{label}</h3>'
        f'<pre tabindex="0" aria-label="{label}">{text}</pre></section>'
    )


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).lower()
