"""Tools of a request: what is refused and how it is named, what types a schema comes to, and what a text becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.reply.schema import ToolSpec, check_schema, check_tools, parameter_types, value_type
from sglang_nemotron.reply.values import ANY, JSON_TYPES, ValueType, as_json, literal
from support.reply_texts import OPENAI_TOOLS, TOOLS


def tool(name: Any = "f", parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_tools_are_read_in_every_form() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    spec = ToolSpec("f", schema)
    assert check_tools([tool("f", schema)]) == check_tools([{"name": "f", "parameters": schema}]) == (spec,)
    assert check_tools([spec]) == (spec,)
    assert check_tools([]) == ()
    assert [spec.name for spec in check_tools(OPENAI_TOOLS)] == ["get_weather", "set", "now", "set_all"]
    assert check_tools([tool("mcp.server/tool-1:x", {})])[0].name == "mcp.server/tool-1:x"


@pytest.mark.parametrize(
    ("tools", "named"),
    [
        ([tool(), tool()], ["'f'", "twice", "tools[1]"]),
        ([tool("")], ["''", "tools[0]", "1 to 128"]),
        ([tool(None)], ["None", "tools[0]"]),
        ([tool("a b")], ["'a b'"]),
        ([tool("a>")], ["'a>'"]),
        ([tool("a\nb")], ["'a\\nb'"]),
        ([tool("a" * 129)], ["'aaa", "128"]),
        ([{"function": "f"}], ["'f'", "tools[0].function"]),
        (["f"], ["'f'", "tools[0]"]),
        ([tool("f", [])], ["'f'", "[]", "JSON schema"]),
        ([tool("f", {"properties": {"a": {"$ref": "#/$defs/X"}}})], ["'#/$defs/X'", "properties.a"]),
        ([tool("f", {"properties": {"a": {"$ref": "https://x.org/y"}}})], ["'https://x.org/y'", "inside it"]),
        ([tool("f", {"anyOf": [{}, {"items": [{"$ref": 5}]}]})], ["anyOf, items", "5"]),
    ],
)
def test_bad_tools_are_refused_by_name(tools: list[Any], named: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        check_tools(tools)
    for word in named:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "objekt"}, ["at $.type", "'objekt'"]),
        ({"type": 3}, ["at $.type", "3"]),
        ({"properties": []}, ["at $.properties", "[]"]),
        ({"properties": {"a": 5}}, ["at $.properties.a", "5"]),
        ({"properties": {"a": {"type": ["string", "nil"]}}}, ["at $.properties.a.type", "'nil'"]),
        ({"properties": {"a": {"anyOf": []}}}, ["at $.properties.a.anyOf", "[]"]),
        ({"properties": {"a": {"enum": "x"}}}, ["at $.properties.a.enum", "'x'"]),
        ({"properties": {"a": {"items": {"type": "no"}}}}, ["at $.properties.a.items.type", "'no'"]),
        ({"required": "a"}, ["at $.required", "'a'"]),
        ({"minimum": "1"}, ["at $.minimum", "'1'"]),
    ],
)
def test_what_is_no_schema_is_refused_by_place(schema: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        check_schema(schema, "the parameters of tool 'f'")
    for word in ("the parameters of tool 'f'", *named):
        assert word in str(refusal.value)
    # SGLang's business by the time that names are asked, and nothing to fall over
    assert check_tools([tool("f", schema)])[0].types


def deep(schema: dict[str, Any]) -> dict[str, Any]:
    for _ in range(20_000):
        schema = {"items": schema}
    return schema


def test_a_deep_schema_ends_no_process() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        check_tools([tool("f", deep({"$ref": "#/nonsense"}))])
    with pytest.raises(ValueError, match="nested too deeply"):
        check_schema(deep({}), "the parameters")


def test_what_looks_like_a_reference_and_is_none() -> None:
    data = {"$ref": "#/nonsense"}
    check_tools([tool("f", {"properties": {"$ref": {"type": "string"}, "a": {"enum": [data], "default": data}}})])


ROOT = {
    "$defs": {
        "A": {"type": "integer"},
        "Loop": {"$ref": "#/$defs/Loop"},
        "B": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]},
        "odd/name~x": {"type": "boolean"},
        "list": [{"type": "array"}],
    }
}


@pytest.mark.parametrize(
    ("schema", "types", "members"),
    [
        ({"type": "string"}, {"string"}, None),
        ({"type": ["string", "null"]}, {"string", "null"}, None),
        ({"anyOf": [{"type": "integer"}, {"type": "array"}]}, {"integer", "array"}, None),
        ({"oneOf": [{"type": "integer"}, {"enum": ["a"]}]}, {"integer", "string"}, None),
        ({"oneOf": [{"const": "b"}, {"enum": ["a"]}, {"type": "null"}]}, {"string", "null"}, ("b", "a", None)),
        ({"allOf": [{"type": ["integer", "string"]}, {"type": "integer"}]}, {"integer"}, None),
        ({"type": "number", "enum": [1, 2]}, {"number"}, (1, 2)),
        ({"const": True}, {"boolean"}, (True,)),
        ({"$ref": "#/$defs/A"}, {"integer"}, None),
        ({"$ref": "#/$defs/B"}, {"integer", "null"}, None),
        ({"$ref": "#/$defs/Loop"}, ANY, None),
        ({"$ref": "#/$defs/odd~1name~0x"}, {"boolean"}, None),
        ({"$ref": "#/$defs/list/0"}, {"array"}, None),
        ({"type": "string", "nullable": True}, {"string", "null"}, None),
        ({"properties": {}}, {"object"}, None),
        ({"items": {}}, {"array"}, None),
        ({"pattern": "x"}, {"string"}, None),
        ({"minimum": 0}, {"number"}, None),
        ({"type": "varchar(20)"}, {"string"}, None),
        ({"type": "float"}, {"number"}, None),
        ({}, ANY, None),
        (True, ANY, None),
    ],
)
def test_types_of_a_schema(schema: Any, types: set[str], members: tuple[Any, ...] | None) -> None:
    assert value_type(schema, ROOT) == ValueType(frozenset(types), members)


def test_properties_are_found_behind_references_and_branches() -> None:
    schema = {
        "$defs": {"P": {"properties": {"a": {"type": "integer"}}}},
        "anyOf": [{"$ref": "#/$defs/P"}, {"properties": {"b": {"type": "boolean"}}}],
        "additionalProperties": {"type": "number"},
    }
    found, other = parameter_types(schema)
    assert {name: kind.types for name, kind in found.items()} == {"a": {"integer"}, "b": {"boolean"}}
    assert other.types == {"number"}
    assert parameter_types(None) == ({}, ValueType(frozenset({"string"})))


KINDS = st.sets(st.sampled_from(JSON_TYPES), min_size=1).map(lambda names: ValueType(frozenset(names)))
SCALARS = st.sampled_from(
    ["null", "true", "false", "None", "12", "-0.5e+3", "[1]", '{"a":1}', "[", "x", " ", "nul", "-", ""]
)
TEXTS = st.lists(SCALARS | st.text(max_size=3), max_size=4).map("".join)


@settings(max_examples=1000, derandomize=True, database=None, deadline=None)
@given(TEXTS, KINDS)
def test_every_text_becomes_json_of_an_allowed_type_or_itself(text: str, wanted: ValueType) -> None:
    value = json.loads(as_json(text, wanted))
    if literal(text, wanted) is None:
        assert value == text and "string" not in wanted.types
    else:
        kind = {str: "string", bool: "boolean", type(None): "null", int: "integer", float: "number"}.get(type(value))
        allowed = {kind} if kind else {"array", "object"}
        # an integer is a number, and a number where an integer is wanted is better than a string
        allowed |= {"integer", "number"} if kind in ("integer", "number") else set()
        assert allowed & wanted.types


@settings(max_examples=1000, derandomize=True, database=None, deadline=None)
@given(TEXTS, KINDS)
def test_what_is_called_a_string_early_ends_as_that_string(text: str, wanted: ValueType) -> None:
    for size in range(1, len(text) + 1):
        if not wanted.undecided(text[:size]):
            assert json.loads(as_json(text, wanted)) == text
            break
    if wanted.streams:
        assert json.loads(as_json(text, wanted)) == text


def test_every_tool_of_the_tests_is_sound() -> None:
    assert check_tools(TOOLS) == TOOLS


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_schemas_that_branch_for_ever_end(keyword: str) -> None:
    """Eight branches on each of thirty levels: more paths than anybody can walk. What was not seen allows all."""
    levels = {f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 8} for level in range(30)}
    root = {"$defs": {**levels, "d30": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/d0"}, "b": True}}
    types, other = parameter_types({**root, "properties": {**root["properties"], "c": {"type": "string"}}})
    assert set(types) == {"a", "b", "c"} and other.types == {"string"}
