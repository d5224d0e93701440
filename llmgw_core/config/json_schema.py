"""The JSON Schema of a configuration file, for editors: made from the same types that decode it.

What plugins bring (their `Config`, the `Options` of their backends) is joined by name. A schema
cannot say everything that `check` finds; what it refuses, `check` refuses too.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.config.schema import Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SENTENCE: Final = re.compile(r"(?<=\.) ")
_REFERENCE: Final = {"type": "string", "pattern": r"\$\{|^file:"}
_DECIMAL: Final = ({"type": "string", "pattern": r"\$\{|^\s*[-+]?[0-9.]"},)
"""Numbers that are exact may be quoted."""
_RESTRICTIONS: Final = {"pattern", "minLength", "maxLength", "format"}
_NOTES: Final = ("description", "title", "default", "examples")
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(
    plugins: Mapping[str, type[Any] | None], backends: Mapping[str, type[Any]]
) -> dict[str, Any]:
    """The schema. `plugins` gives the `Config` of each plugin (None: it takes none), `backends`
    the `Options` of each backend."""
    definitions: dict[str, Any] = {}
    root = _schema_of(Config, "", definitions)
    _by_name(definitions["PluginConfig"], "name", "config", plugins, "plugin", definitions)
    deployment = definitions["DeploymentConfig"]
    _by_name(deployment, "backend", "options", backends, "backend", definitions)
    return {"$schema": DIALECT, "title": "llmgw configuration", **root, "$defs": definitions}


def _by_name(
    section: dict[str, Any],
    key: str,
    inner: str,
    kinds: Mapping[str, type[Any] | None],
    what: str,
    definitions: dict[str, Any],
) -> None:
    """What `inner` may be in `section` depends on the word at `key`."""
    rules = []
    for name, kind in sorted(kinds.items()):
        if kind is None:
            schema: dict[str, Any] = {"type": "object", "maxProperties": 0}
        else:
            schema = _schema_of(kind, f"{what}.{name}.", definitions)
        condition = {"properties": {key: {"const": name}}, "required": [key]}
        consequence: dict[str, Any] = {"properties": {inner: schema}}
        if kind is not None and any(f.required for f in msgspec.structs.fields(kind)):
            consequence["required"] = [inner]
        rules.append({"if": condition, "then": consequence})
    section["properties"][key]["examples"] = sorted(kinds)
    if rules:
        section["allOf"] = rules


def _schema_of(kind: type[Any], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a struct; those that it refers to join `definitions`, with `prefix`."""
    try:
        (root,), found = msgspec.json.schema_components(
            [kind], schema_hook=_hook, ref_template="#/$defs/" + prefix + "{name}"
        )
    except TypeError:  # a type of the plugin's own that has no schema
        return {}
    for name, schema in found.items():
        definitions[prefix + name] = schema
    for struct in _structs(kind):
        schema = found.get(struct.__name__)
        if schema is not None:
            _adapted(schema, struct)
    return dict(root)


def _adapted(schema: dict[str, Any], struct: type[Any]) -> None:
    """Unknown keys are errors in all sections, prices are plain numbers in a file, and what the
    docstring says of a key is shown with it."""
    schema["additionalProperties"] = False
    text = " ".join((struct.__doc__ or "").split())
    schema["description"] = text
    for field in msgspec.structs.fields(struct):
        said = [each for each in _SENTENCE.split(text) if f"`{field.encode_name}" in each]
        if said:
            schema["properties"][field.encode_name].setdefault("description", " ".join(said))
    for field in msgspec.structs.fields(struct):
        if getattr(field.type, "__origin__", None) is dict:
            if _is_number(field.type.__args__[1]):
                values = {"anyOf": [{"type": "number"}, *_DECIMAL]}
                schema["properties"][field.encode_name]["additionalProperties"] = values
        elif _is_number(field.type):
            null = [{"type": "null"}] if type(None) in getattr(field.type, "__args__", ()) else []
            own = schema["properties"][field.encode_name]
            kept = {name: own[name] for name in ("description",) if name in own}
            schema["properties"][field.encode_name] = {
                "anyOf": [{"type": "number"}, *null, *_DECIMAL],
                **kept,
            }
    for name, own in schema.get("properties", {}).items():
        schema["properties"][name] = _or_reference(own)


def _or_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema`, and beside every text that is restricted a reference: what that stands for is
    known only when it is loaded."""
    if isinstance(schema.get("anyOf"), list):
        return {**schema, "anyOf": [_or_reference(each) for each in schema["anyOf"]]}
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            schema = {**schema, inner: _or_reference(schema[inner])}
    text = schema.get("type") == "string" and _RESTRICTIONS & set(schema)
    if not (text or any(isinstance(word, str) for word in schema.get("enum", ()))):
        return schema
    outside: dict[str, Any] = {name: schema[name] for name in _NOTES if name in schema}
    inside = {name: value for name, value in schema.items() if name not in outside}
    return {"anyOf": [inside, _REFERENCE], **outside}


def _is_number(kind: Any) -> bool:
    return kind is Decimal or Decimal in getattr(kind, "__args__", ())


def _structs(kind: Any, seen: set[Any] | None = None) -> Iterator[type[Any]]:
    """`kind` and every struct that a value of it can hold."""
    seen = set() if seen is None else seen
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind in seen:
            return
        seen.add(kind)
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from _structs(field.type, seen)
    for argument in getattr(kind, "__args__", ()):
        yield from _structs(argument, seen)


def _hook(kind: type[Any]) -> dict[str, Any]:
    """Types that only a plugin knows: anything goes."""
    return {}
