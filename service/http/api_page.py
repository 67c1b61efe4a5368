"""Docs: the OpenAPI document as one HTML page, to read and to try. Nothing on it comes from another host."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

Described = Mapping[str, Any]

EXAMPLES: Final = {
    "SentReading": {"stream": "pump-7", "seq": 0, "values": {"<channel>": 3.1}},
    "StreamSettings": {"on_gap": "hold", "reorder_window_s": 60},
}
"""What stands in a body to try, by its schema."""

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem } h3 { margin: 1.2rem 0 .2rem; font-size: 1rem }
code, pre, textarea, input { font: .875rem/1.5 ui-monospace, monospace; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .6rem 0; padding: .5rem .9rem; }
summary { cursor: pointer } summary b { display: inline-block; width: 4.2rem } summary span { float: right }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line) }
td code { white-space: nowrap }
label { display: block; margin: .4rem 0 } textarea { width: 100%; box-sizing: border-box }
pre { background: var(--soft); padding: .6rem; overflow: auto; max-height: 24rem; white-space: pre-wrap }
"""

_SCRIPT: Final = """
document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target, shown = form.querySelector("pre"), query = new URLSearchParams();
  let path = form.dataset.path.slice(1);
  for (const field of form.querySelectorAll("input")) {
    if (field.dataset.in === "path") path = path.replace(`{${field.name}}`, encodeURIComponent(field.value));
    else if (field.value !== "") query.set(field.name, field.value);
  }
  const body = form.querySelector("textarea"), request = { method: form.dataset.method.toUpperCase() };
  request.headers = body ? { "content-type": "application/json" } : {};
  if (body) request.body = body.value;
  const key = document.getElementById("key").value.trim();
  if (key) request.headers.authorization = `Bearer ${key}`;
  shown.hidden = false;
  shown.textContent = "...";
  try {
    const reply = await fetch(path + (query.size ? `?${query}` : ""), request), text = await reply.text();
    let pretty = text;
    try { pretty = JSON.stringify(JSON.parse(text), null, 1); } catch {}
    shown.textContent = `${reply.status} ${reply.statusText}\\n\\n${pretty}`;
  } catch (error) {
    shown.textContent = `no answer: ${error.message}`;
  }
});
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}
"""The browser holds the page to it: its own style and script, and no host but this one."""


def page(document: Described) -> str:
    """The whole page."""
    title, info = escape(document["info"]["title"]), document["info"]
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return "".join(
        (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} API</title>',
            '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">',
            f"<style>{_STYLE}</style></head><body><h1>{title} {escape(info['version'])}</h1>",
            f"<p>{escape(info['description'])} For machines: <a href='openapi.json'>openapi.json</a>.</p>",
            "<p><label>Key, sent with what is tried below and kept nowhere "
            '<input id="key" type="password" autocomplete="off" size="64"></label></p>',
            "<h2>Requests</h2>",
            *(_operation(*operation) for operation in operations),
            "<h2>What travels</h2>",
            *(_schema(name, schema) for name, schema in document["components"]["schemas"].items()),
            f"<script>{_SCRIPT}</script></body></html>",
        )
    )


def _operation(method: str, path: str, operation: Described) -> str:
    parameters = operation.get("parameters", [])
    body = operation.get("requestBody")
    pieces = [
        f'<details id="{escape(operation["operationId"])}">',
        f"<summary><b>{method.upper()}</b> <code>{escape(path)}</code>",
        f" <span>{escape(operation['summary'])}</span></summary><p>{escape(operation.get('description', ''))}</p>",
    ]
    scopes = {scope for one in operation.get("security", ()) for named in one.values() for scope in named}
    if scopes:
        pieces.append(f"<p>Needs the scope {escape(', '.join(scopes))}.</p>")
    if parameters:
        rows = ((p["name"], f"in the {p['in']}", _kind(p["schema"]), _text(p)) for p in parameters)
        pieces.append(f"<h3>Parameters</h3>{_table(rows)}")
    if body:
        pieces.append(f"<h3>Body</h3>{_table((media, _kind(of['schema'])) for media, of in body['content'].items())}")
    pieces.append(f"<h3>Answers</h3>{_table(_answers(operation['responses']))}<h3>Try</h3>")
    pieces.append(f'<form data-method="{method}" data-path="{escape(path)}">')
    for p in parameters:
        needed = " required" if p.get("required") else ""
        pieces.append(
            f'<label>{escape(p["name"])} <input name="{escape(p["name"])}" data-in="{p["in"]}"{needed}></label>'
        )
    if body:
        pieces.append(f'<textarea rows="4" aria-label="body">{escape(_example(body))}</textarea>')
    pieces.append("<p><button>Send</button></p><pre hidden></pre></form></details>")
    return "".join(pieces)


def _answers(responses: Described) -> Iterator[tuple[str, ...]]:
    for status, answer in responses.items():
        kinds = [_kind(of["schema"]) for of in answer.get("content", {}).values()]
        headers = ", ".join(f"<code>{escape(name)}</code>" for name in answer.get("headers", {}))
        yield status, escape(answer["description"]), kinds[0] if kinds else "", headers


def _schema(name: str, schema: Described) -> str:
    required = schema.get("required", [])
    rows = (
        (f"<code>{escape(field)}</code>", _kind(of), "required" if field in required else "", _text(of))
        for field, of in schema.get("properties", {}).items()
    )
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{_text(schema)}</p>{_table(rows)}'


def _table(rows: Any) -> str:
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _text(described: Described) -> str:
    return escape(described.get("description", ""))


def _kind(schema: Described) -> str:
    """What may stand there, in words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(one))}</code>" for one in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    kinds = schema.get("type", "anything")
    words = [kinds] if isinstance(kinds, str) else list(kinds)
    if "array" in words:
        words[words.index("array")] = f"array of {_one(schema.get('items') or schema.get('prefixItems', [{}])[0])}"
    if "object" in words and isinstance(schema.get("additionalProperties"), dict):
        words[words.index("object")] = f"object of {_one(schema['additionalProperties'])}"
    bounds = {"minimum": "from {}", "maximum": "to {}", "maxLength": "at most {} characters", "pattern": "like {}"}
    told = [escape(words_.format(schema[name])) for name, words_ in bounds.items() if name in schema]
    return ", ".join((" or ".join(words), *told))


def _one(schema: Described) -> str:
    kind = _kind(schema)
    return f"({kind})" if " or " in kind else kind


def _example(body: Described) -> str:
    """A body to begin with."""
    if "application/json" not in body["content"]:  # a file, which the page cannot show
        return ""
    schema = json.dumps(body["content"]["application/json"]["schema"])
    return next((json.dumps(example) for name, example in EXAMPLES.items() if f"/{name}" in schema), "")
