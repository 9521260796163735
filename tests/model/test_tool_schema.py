"""A tool's schema: what is understood is kept, what would blow up is refused, and arguments are checked against it."""

from __future__ import annotations

import json
import time

import pytest

from model.backends.cascade.tool_schema import InvalidSchemaError, arguments_grammar, fits, read_schema


def nested(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def of(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": sorted(properties)}


def doubling(levels: int) -> dict[str, object]:
    """Each definition refers to the next one twice."""
    definitions = {
        f"d{n}": of(left={"$ref": f"#/$defs/d{n + 1}"}, right={"$ref": f"#/$defs/d{n + 1}"}) for n in range(levels)
    }
    return of(a={"$ref": "#/$defs/d0"}) | {"$defs": definitions | {f"d{levels}": {"type": "string"}}}


HOSTILE: dict[str, object] = {
    "nested 10,000 times": nested(10_000),
    "refers to itself": of(a={"$ref": "#"}),
    "a definition that refers to itself": of(a={"$ref": "#/$defs/n"}) | {"$defs": {"n": {"$ref": "#/$defs/n"}}},
    "doubles itself": doubling(8),
    "a reference to nowhere": of(a={"$ref": "#/$defs/none"}),
    "a reference to the network": of(a={"$ref": "https://example.com/schema.json"}),
    "a huge enum": of(a={"enum": [f"value {n}" for n in range(10_000)]}),
    "an enum of long texts": of(a={"enum": ["x" * 1_000 + str(n) for n in range(400)]}),
    "an enum of objects": of(a={"enum": [{}]}),
    "an empty enum": of(a={"enum": []}),
    "thousands of properties": of(**{f"p{n}": {"type": "string"} for n in range(5_000)}),
    "an unknown type": of(a={"type": "strange"}),
    "a type that is a number": of(a={"type": 5}),
    "no types": of(a={"type": []}),
    "properties that are a number": {"type": "object", "properties": 5},
    "a property that is a text": of(a="string"),
    "required that is a text": {"type": "object", "properties": {}, "required": "a"},
    "a required property that is not there": {"type": "object", "properties": {}, "required": ["a"]},
    "a string longer than anything said": of(a={"type": "string", "minLength": 10**9}),
    "a list longer than anything said": of(a={"type": "array", "items": {"type": "string"}, "minItems": 10**9}),
    "not an object": {"type": "string"},
    "a list": [],
    "a text": "object",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_used_is_refused_at_once(name: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidSchemaError):
        read_schema(HOSTILE[name])
    assert time.process_time() - started < 1.0


def test_a_refusal_quotes_nothing() -> None:
    with pytest.raises(InvalidSchemaError) as raised:
        read_schema(of(secret={"type": "secret"}))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("parameters", [{}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_tool_may_have_no_parameters(parameters: dict[str, object]) -> None:
    schema = read_schema(parameters)
    assert fits({}, schema)
    assert not fits({"a": 1}, schema)


def test_references_are_written_out() -> None:
    schema = read_schema(
        of(unit={"allOf": [{"$ref": "#/$defs/Unit"}]}, place={"$ref": "#/$defs/Place"})
        | {"$defs": {"Unit": {"enum": ["c", "f"]}, "Place": of(city={"type": "string"})}}
    )
    assert "$ref" not in json.dumps(schema)
    assert fits({"unit": "c", "place": {"city": "Rome"}}, schema)
    assert not fits({"unit": "k", "place": {"city": "Rome"}}, schema)
    assert not fits({"unit": "c", "place": {}}, schema)


def test_only_what_is_understood_reaches_the_grammar() -> None:
    grammar = arguments_grammar(
        read_schema(of(a={"type": "string", "pattern": "(a+)+$", "format": "x", "maxLength": 9}))
    )
    assert "pattern" not in grammar
    assert "format" not in grammar
    assert '"maxLength": 9' in grammar
    assert '"additionalProperties": false' in grammar


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ({"type": "string"}, ["", "a"], [1, None, True, [], {}]),
        ({"type": "integer"}, [0, -3, 2.0], [1.5, "1", True, None, float("inf")]),
        ({"type": "number"}, [0, 1.5], ["1", True, None, float("nan")]),
        ({"type": "boolean"}, [True, False], [0, 1, "true", None]),
        ({"type": ["string", "null"]}, ["a", None], [1]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, [3, None], ["3"]),
        ({"type": "array", "items": {"type": "integer"}}, [[], [1, 2]], [["a"], 1, {}]),
        ({"enum": ["on", 1]}, ["on", 1, 1.0], ["off", True, 2]),
        ({"const": "on"}, ["on"], ["off"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1}], [{"a": "b"}]),
        ({}, ["a"], [1]),
    ],
)
def test_arguments_are_checked(kind: dict[str, object], good: list[object], bad: list[object]) -> None:
    schema = read_schema(of(a=kind))
    assert all(fits({"a": value}, schema) for value in good)
    assert not any(fits({"a": value}, schema) for value in bad)
    assert not fits({}, schema)
    assert not fits({"a": good[0], "b": 1}, schema)
    assert not fits([], schema)
