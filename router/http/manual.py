"""The page at `/docs`: the OpenAPI description as plain HTML, which neither needs a network nor runs a script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; background: #8882; border-radius: 3px; }
pre { padding: 0.75rem; overflow-x: auto; }
code { padding: 0 0.2em; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid #8884; padding: 0.25rem 0.5rem; text-align: left; vertical-align: top; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

MANUAL_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def render_manual(document: Mapping[str, Any]) -> str:
    """Write an OpenAPI description as a page.

    Args:
        document: the description; everything in it is escaped.
    """
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>{escape(document['info']['title'])}</title><style>{_STYLE}</style>",
            f"<h1>{escape(document['info']['title'])}</h1>",
            '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
            *_paragraphs(document["info"].get("description", "")),
            *_operations(document),
            *_models(document),
            "</html>",
        ]
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield from _paragraphs(operation.get("summary", ""))
            yield from _paragraphs(operation.get("description", ""))
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body:
                yield f"<p>Body: {_type(body['schema'])}</p>"
                if "example" in body:
                    yield f"<pre>{escape(json.dumps(body['example'], ensure_ascii=False))}</pre>"
            yield "<table><tr><th>status<th>reply</tr>"
            for status, reply in operation["responses"].items():
                content = reply.get("content", {}).get("application/json", {}).get("schema")
                kind = f" ({_type(content)})" if content else ""
                yield f"<tr><td>{escape(status)}<td>{_inline(reply['description'])}{kind}</tr>"
            yield "</table>"


def _models(document: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        yield f'<h2 id="{escape(name)}">{escape(name)}</h2>'
        yield from _paragraphs(schema.get("description", ""))
        required = schema.get("required", ())
        yield "<table><tr><th>key<th>value<th></tr>"
        for key, value in schema.get("properties", {}).items():
            needed = " (required)" if key in required else ""
            about = _inline(value.get("description", ""))
            yield f"<tr><td><code>{escape(key)}</code>{needed}<td>{_type(value)}<td>{about}</tr>"
        yield "</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema and "type" not in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[union])))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any value")))


def _paragraphs(text: str) -> Iterator[str]:
    for part in filter(None, map(str.strip, text.split("\n\n"))):
        yield f"<p>{_inline(part)}</p>"


def _inline(text: str) -> str:
    """Text with its code and bold words."""
    code = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", code)
