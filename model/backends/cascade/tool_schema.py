"""The JSON Schema of a tool's arguments: read into a small bounded subset, made a grammar, and checked against. Pure.

A schema comes from a stranger and goes into a C++ and a Rust library that would follow it to any depth and size, so
nothing but a copy of what is understood reaches them. References into the schema itself are written out; one that
contains itself therefore runs into the limits, as a deep or huge schema does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

MAX_DEPTH = 12
MAX_NODES = 400  # a grammar of this size is made in less than a tenth of a second
MAX_ENUM_VALUES = 500
MAX_TEXT_CHARS = 20_000  # names, descriptions and values together
MAX_ITEMS = 16  # of a list that says nothing of its length: a small model does not find the end of it
MAX_BOUND = 10**9  # of a number; what is larger says nothing about spoken arguments
MAX_LENGTH = 1_000  # of a string that must have a length

Schema: TypeAlias = dict[str, object]
Scalar: TypeAlias = str | int | float | bool | None

_TYPES = {"string", "integer", "number", "boolean", "null", "object", "array"}
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class InvalidSchemaError(ValueError):
    """A tool's parameters cannot be used. The message is safe to show: it quotes nothing."""


@dataclass(slots=True)
class _Reader:
    root: Mapping[str, object]
    num_nodes: int = 0
    num_chars: int = 0

    def read(self, node: object, depth: int) -> Schema:
        self.num_nodes += 1
        if depth > MAX_DEPTH:
            raise InvalidSchemaError(f"they are nested deeper than {MAX_DEPTH} levels, or refer to themselves")
        if self.num_nodes > MAX_NODES:
            raise InvalidSchemaError(f"they have more than {MAX_NODES} parts")
        if node is True:
            return {"type": "string"}  # anything will do
        if not isinstance(node, Mapping):
            raise InvalidSchemaError("a part of them is not an object")
        if "$ref" in node:
            return self.read(self._target(node["$ref"]), depth + 1)
        parts = node.get("allOf")
        if isinstance(parts, list) and len(parts) == 1:  # how pydantic 1 wraps a reference
            return self.read(parts[0], depth + 1)
        schema = self._description(node)
        if "enum" in node or "const" in node:
            return schema | {"enum": self._values(node["enum"] if "enum" in node else [node["const"]])}
        variants = node.get("anyOf", node.get("oneOf"))
        if variants is not None:
            if not isinstance(variants, list) or not variants:
                raise InvalidSchemaError("anyOf must be a list of schemas")
            return schema | {"anyOf": [self.read(variant, depth + 1) for variant in variants]}
        kinds = self._kinds(node)
        if len(kinds) > 1:
            return schema | {"anyOf": [self.read({**node, "type": kind}, depth + 1) for kind in kinds]}
        return schema | {"type": kinds[0]} | self._limits(node, kinds[0]) | self._parts(node, kinds[0], depth)

    def _description(self, node: Mapping[str, object]) -> Schema:
        text = node.get("description")
        return {"description": self._text(text)} if isinstance(text, str) else {}

    def _kinds(self, node: Mapping[str, object]) -> list[str]:
        kind = node.get("type", "object" if "properties" in node else "array" if "items" in node else "string")
        kinds = kind if isinstance(kind, list) else [kind]
        if not kinds or not all(isinstance(each, str) and each in _TYPES for each in kinds):
            raise InvalidSchemaError("one of their types is not known")
        return list(dict.fromkeys(kinds))

    def _limits(self, node: Mapping[str, object], kind: str) -> Schema:
        limits: Schema = {}
        if kind in ("integer", "number"):
            for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                value = node.get(key)
                if _is_number(value) and abs(value) <= MAX_BOUND:
                    limits[key] = value
            return limits
        keys = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}.get(kind, ())
        most = MAX_LENGTH if kind == "string" else MAX_ITEMS
        for key in keys:
            value = node.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                if key.startswith("min") and value > most:
                    raise InvalidSchemaError(f"{key} is more than {most}")
                limits[key] = min(value, most)
        if kind == "array":
            limits.setdefault("maxItems", MAX_ITEMS)
        return limits

    def _parts(self, node: Mapping[str, object], kind: str, depth: int) -> Schema:
        if kind == "array":
            return {"items": self.read(node.get("items", True), depth + 1)}
        if kind != "object":
            return {}
        given = node.get("properties", {})
        required = node.get("required", [])
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise InvalidSchemaError("properties must be an object")
        if not isinstance(required, list) or not all(key in given for key in required if isinstance(key, str)):
            raise InvalidSchemaError("required must be a list of names that are among the properties")
        properties = {self._text(key): self.read(value, depth + 1) for key, value in given.items()}
        others = node.get("additionalProperties")
        return {
            "properties": properties,
            "required": [key for key in required if isinstance(key, str)],
            "additionalProperties": self.read(others, depth + 1) if isinstance(others, Mapping) and others else False,
        }

    def _values(self, values: object) -> list[Scalar]:
        if not isinstance(values, list) or not 0 < len(values) <= MAX_ENUM_VALUES:
            raise InvalidSchemaError(f"an enum must be a list of 1 to {MAX_ENUM_VALUES} values")
        if not all(value is None or isinstance(value, str | int | float) for value in values):
            raise InvalidSchemaError("the values of an enum must be texts, numbers, booleans or null")
        for value in values:
            self._text(str(value))
        return values

    def _target(self, reference: object) -> object:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise InvalidSchemaError("a $ref must point into the same schema")
        node: object = self.root
        for name in reference.split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, Mapping) or name not in node:
                raise InvalidSchemaError("a $ref points nowhere")
            node = node[name]
        return node

    def _text(self, text: str) -> str:
        self.num_chars += len(text)
        if self.num_chars > MAX_TEXT_CHARS:
            raise InvalidSchemaError(f"their names and values have more than {MAX_TEXT_CHARS} characters")
        return text


def read_schema(parameters: object) -> Schema:
    """A tool's parameters as a bounded copy: "object" with `properties` and `required`. Raises InvalidSchemaError.

    Kept: type, properties, required, additionalProperties, items, enum, const, anyOf, oneOf (as anyOf), local $ref,
    descriptions, the limits of numbers, strings and lists. Ignored: everything else, `pattern` and `format` too."""
    if not isinstance(parameters, Mapping):
        raise InvalidSchemaError("they must be a JSON Schema")
    schema = _Reader(parameters).read(parameters or {"type": "object"}, 0)
    if schema.get("type") != "object":
        raise InvalidSchemaError('their type must be "object"')
    return schema


def properties_of(schema: Schema) -> dict[str, Schema]:
    """The properties of an object that `read_schema` returned."""
    properties = schema["properties"]
    assert isinstance(properties, dict)
    return properties


def required_of(schema: Schema) -> list[str]:
    """The names of the properties that an object must have."""
    required = schema["required"]
    assert isinstance(required, list)
    return required


def variant_of(schema: Schema) -> Schema:
    """The schema itself, or the first of its alternatives that is not null."""
    variants = schema.get("anyOf")
    if not isinstance(variants, list):
        return schema
    return next((variant for variant in variants if variant.get("type") != "null"), variants[0])


def arguments_grammar(schema: Schema) -> str:
    """The grammar of the arguments on one line, for llama.cpp's llguidance."""
    return f"%llguidance {{}}\nstart: %json {json.dumps(schema | {'x-guidance': _COMPACT})}"


def fits(value: object, schema: Schema) -> bool:
    """Whether a JSON value has the types, properties and enum values that a schema of `read_schema` asks for."""
    variants = schema.get("anyOf")
    if isinstance(variants, list):
        return any(fits(value, variant) for variant in variants)
    values = schema.get("enum")
    if isinstance(values, list):
        return any(type(value) is type(each) and value == each for each in values) or (
            _is_number(value) and any(_is_number(each) and value == each for each in values)
        )
    match schema["type"]:
        case "object":
            return isinstance(value, dict) and _object_fits(value, schema)
        case "array":
            items = schema["items"]
            assert isinstance(items, dict)
            return isinstance(value, list) and all(fits(item, items) for item in value)
        case "string":
            return isinstance(value, str)
        case "integer":
            return _is_number(value) and value == int(value)
        case "number":
            return _is_number(value)
        case "boolean":
            return isinstance(value, bool)
        case _:
            return value is None


def _object_fits(value: dict[str, object], schema: Schema) -> bool:
    properties, others = properties_of(schema), schema["additionalProperties"]
    if not all(name in value for name in required_of(schema)):
        return False
    for name, item in value.items():
        kind = properties.get(name, others)
        if not isinstance(kind, dict) or not fits(item, kind):
            return False
    return True


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
