"""Bodies, schemas and grammars that are nested too deep or too long are refused by name, before anybody recurses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_nemotron.prompt.bounds import (
    MAX_DEPTH,
    MAX_GRAMMAR,
    MAX_TAGS,
    check_body,
    check_depth,
    check_grammars,
    text_depth,
)
from sglang_nemotron.prompt.call_arguments import read_arguments
from support.costs import assert_cheap, cost


def nested(depth: int, *, lists: bool = False) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value


@pytest.mark.parametrize("lists", [False, True])
def test_depth_is_counted_to_the_last_level(lists: bool) -> None:
    check_depth(nested(MAX_DEPTH, lists=lists), "x")
    with pytest.raises(ValueError, match=f"^x is nested more than {MAX_DEPTH} levels deep; send it flatter"):
        check_depth(nested(MAX_DEPTH + 1, lists=lists), "x")
    # nor does it recurse itself
    with pytest.raises(ValueError, match="nested more than"):
        check_depth(nested(100_000, lists=lists), "x")


def test_a_body_names_its_field() -> None:
    check_body({"messages": nested(100), "model": "m", "n": 1})
    check_body(["x"])
    with pytest.raises(ValueError, match="^the field 'tools' is nested"):
        check_body({"messages": [], "tools": nested(500)})
    with pytest.raises(ValueError, match="^the body is nested"):
        check_body(nested(500, lists=True))


def test_names_that_would_be_compared_pair_by_pair() -> None:
    unlike = [1, *map(str, range(5000))]
    with pytest.raises(ValueError, match="^the field 'tools' has a `required` that lists something else than names"):
        check_body({"tools": [{"function": {"parameters": {"properties": {"a": {"required": unlike}}}}}]})
    # a value of a call's arguments may be called so
    check_body(
        {"messages": [{"arguments": {"required": unlike}}], "tools": [{"required": list(map(str, range(5000)))}]}
    )


def test_a_large_flat_body_costs_little_beside_reading_it() -> None:
    body = {"messages": [{"role": "user", "content": "hi", "parts": [1, 2, 3]} for _ in range(20_000)]}
    text = json.dumps(body)
    assert_cheap(lambda: check_body(body), beside=cost(lambda: json.loads(text)), times=10, what="json.loads")


@pytest.mark.parametrize("name", ["json_schema", "regex", "ebnf", "structural_tag"])
def test_grammars_have_a_length(name: str) -> None:
    most = MAX_TAGS if name == "structural_tag" else MAX_GRAMMAR
    check_grammars({name: "a" * most, "n": 1})
    with pytest.raises(ValueError, match=f"^{name} has {most + 1} characters.*allowed: {most}"):
        check_grammars({name: "a" * (most + 1)})


def test_grammars_have_a_depth() -> None:
    for name in ("json_schema", "structural_tag"):
        check_grammars({name: json.dumps(nested(MAX_DEPTH))})
        with pytest.raises(ValueError, match=f"^{name} is nested more than"):
            check_grammars({name: json.dumps(nested(MAX_DEPTH * 2))})
        with pytest.raises(ValueError, match=f"^{name} is nested more than"):
            check_grammars({name: "[" * 100_000})
    # brackets of expressions are XGrammar's to count
    check_grammars({"regex": "(" * 1000 + "[a]" * 1000, "ebnf": "["})
    for nothing in (None, [], {"json_schema": None}):
        check_grammars(nothing)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ],
)
def test_a_schema_that_leads_to_itself_alone(schema: Any) -> None:
    with pytest.raises(ValueError, match="^json_schema leads from '#.* back to it and to nothing else"):
        check_grammars({"json_schema": json.dumps(schema)})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/a"}}}}},
        *({"$ref": "#/$defs/nope"}, {"$ref": "http://a/b"}, {"$ref": 1}, {"properties": {"$ref": {"type": "string"}}}),
        *(True, [], {"$ref": "#/a~1b", "a/b": {"type": "string"}}),
    ],
)
def test_other_references_are_for_whoever_compiles_them(schema: Any) -> None:
    check_grammars({"json_schema": json.dumps(schema)})


def test_brackets_in_strings_do_not_count() -> None:
    assert text_depth('{"a": "[[[[", "b": ["\\"[", {"]": "\\\\"}]}') == 3
    assert text_depth("]]]]") == 0 and text_depth('"' + "[" * 1000) == 1000
    text = json.dumps({"enum": ["[" * 50, "\\" * 50] * 1000})
    assert text_depth(text) == 2


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 300, 400, 900, 5000])
def test_arguments_of_a_call_are_no_deeper_than_a_body(depth: int) -> None:
    """As an object, and as JSON text, whichever way that is read."""
    with pytest.raises(ValueError, match="^messages.1. calls 'f', with arguments: their JSON is nested"):
        read_arguments(nested(depth), "messages[1] calls 'f'")
    try:
        found, note = read_arguments('{"a":' * depth + "1" + "}" * depth, "messages[1] calls 'f'")
    except ValueError as error:
        assert "nested more than" in str(error)
    else:
        # too deep for Python itself: it is read as broken text is
        assert note is not None
        check_depth(found, "x")
