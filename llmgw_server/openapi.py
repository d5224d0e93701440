"""`/openapi.json` and `/docs`: what a listener serves, read from its routes.

The page is complete in itself: nothing in it comes from elsewhere, neither when it is installed nor
when it is looked at. Bodies of calls are OpenAI's; they are not described again.
"""

from __future__ import annotations

import html
import inspect
import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_server.pages import Page

_CHAT = "A chat completion in OpenAI's format, complete or as a stream of events."
_CALLS = (
    ("post", "/v1/chat/completions", _CHAT, True),
    ("post", "/v1/embeddings", "Embeddings in OpenAI's format.", True),
    ("get", "/v1/models", "The models that the caller may use.", False),
    ("get", "/v1/models/{model}", "One of them.", False),
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "request_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "request_id": {"type": "string"},
            },
        }
    },
}
_KEYS = {
    "api_key": "A key made with `llmgw-server keys create`.",
    "admin_key": "The value of `server.admin_key`.",
}
_ZONE = {
    "name": "x-llmgw-zone",
    "in": "header",
    "description": "Zones, separated by commas, that the call is confined to.",
    "schema": {"type": "string"},
}
_TIMEOUT = {
    "name": "x-llmgw-timeout-ms",
    "in": "header",
    "description": "Milliseconds that the call may take, less than its model would give it.",
    "schema": {"type": "integer", "minimum": 1},
}
_COST_CENTER = {
    "name": "x-llmgw-cost-center",
    "in": "header",
    "description": "Code of the cost centre that pays, of those that the key may choose.",
    "schema": {"type": "string"},
}
_NAMED = re.compile(r"\{(\w+)\}")
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4em;"
    "border-bottom:1px solid #ccc;vertical-align:top}"
)


def document(pages: Iterable[Page], *, calls: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 description of `pages`, and of calls if they are served."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Error": _ERROR}
    if calls:
        for method, path, text, has_body in _CALLS:
            operation = _operation(text, "api_key", path, body=has_body)
            parameters = operation.setdefault("parameters", [])
            parameters += (_ZONE, _TIMEOUT, _COST_CENTER) if method == "post" else (_ZONE,)
            paths.setdefault(path, {})[method] = operation
    for page in pages:
        if not page.listed:
            continue
        text = " ".join((inspect.getdoc(page.endpoint) or "").split())
        key = "admin_key" if page.access == "admin" else None
        for method in sorted((page.methods or set()) - {"HEAD"}):
            path = page.path_format
            operation = _operation(text, key, path, body=False)
            _describe_request(operation, page, schemas)
            paths.setdefault(path, {})[method.lower()] = operation
    used = {"api_key"} if calls else set()
    used |= {"admin_key" for page in pages if page.access == "admin"}
    schemes = {
        name: {"type": "http", "scheme": "bearer", "description": text}
        for name, text in _KEYS.items()
        if name in used
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmgw", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": schemes},
    }


def _operation(text: str, key: str | None, path: str, *, body: bool) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "summary": text,
        "responses": {
            "200": {"description": "Done."},
            "default": {"description": "Refused or failed.", "content": error},
        },
    }
    if key is not None:
        operation["security"] = [{key: []}]
    if parameters := _NAMED.findall(path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parameters
        ]
    if body:
        content = {"application/json": {"schema": {"type": "object"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _describe_request(operation: dict[str, Any], page: Page, schemas: dict[str, Any]) -> None:
    """Add what the page takes beside its path."""
    for name, text in page.query.items():
        parameter = {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        operation.setdefault("parameters", []).append(parameter)
    if page.body is not None:
        (schema,), found = msgspec.json.schema_components(
            [page.body], ref_template="#/components/schemas/{name}"
        )
        schemas |= found
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }


def page(description: dict[str, Any]) -> bytes:
    """The description as a page to read."""
    rows = [
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['summary'])}</td><td>{_key(operation)}</td></tr>"
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>llmgw</title>'
        f"<style>{_STYLE}</style></head><body><h1>llmgw</h1>"
        "<p>An OpenAI-compatible API: any client of OpenAI's works with this address followed by"
        ' <code>/v1</code>. For programs: <a href="openapi.json">openapi.json</a>.</p>'
        "<table><tr><th>request</th><th>what it does</th><th>key</th></tr>"
        f"{''.join(rows)}</table></body></html>"
    ).encode()


def _key(operation: dict[str, Any]) -> str:
    schemes = [name for need in operation.get("security", ()) for name in need]
    return ", ".join(name.replace("_", " ") for name in schemes) or "none"
