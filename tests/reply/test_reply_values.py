"""Words and nothing at all as values, for each kind of schema: null comes back as templates write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_nemotron.reply.grammar import ReplyParser, collect
from sglang_nemotron.reply.schema import check_tools

NULL = {"type": "null"}
ENUM_OR_NULL = {"anyOf": [{"type": "string", "enum": ["a", "b"]}, NULL]}
STRING_OR_NULL = {"type": ["string", "null"]}
INTEGER_OR_NULL = {"type": ["integer", "null"]}
LIST_OR_NULL = {"anyOf": [{"type": "array", "items": {}}, NULL]}
NUMBER_OR_NULL = {"type": "number", "nullable": True}
OBJECT_OR_NULL = {"anyOf": [{"$ref": "#/$defs/O"}, NULL]}
WORDS = {"enum": ["None", "x", None]}
LEFT_OUT = object()
HUGE = 10**40 + 1

ROWS: list[tuple[Any, str, Any]] = [
    # null, wherever the schema allows it
    *(
        (schema, word, None)
        for schema in (
            ENUM_OR_NULL,
            STRING_OR_NULL,
            INTEGER_OR_NULL,
            LIST_OR_NULL,
            NUMBER_OR_NULL,
            OBJECT_OR_NULL,
            NULL,
        )
        for word in ("None", "null")
    ),
    # unless that very text is enumerated
    (WORDS, "None", "None"),
    (WORDS, "null", None),
    (WORDS, "x", "x"),
    ({"enum": ["null", None]}, "null", "null"),
    ({"enum": ["null", None]}, "None", None),
    ({"type": ["string", "null"], "enum": ["", "a", None]}, "", ""),
    # a text that only begins like the word
    (STRING_OR_NULL, "None of them", "None of them"),
    (STRING_OR_NULL, " None", " None"),
    (STRING_OR_NULL, "none", "none"),
    (STRING_OR_NULL, "N", "N"),
    # JSON that was written as a JSON string, where no string is wanted
    ({"type": "object"}, '"{\\"a\\": \\"b\\"}"', {"a": "b"}),
    ({"type": "array"}, '\n"[1, {\\"a\\": null}]" ', [1, {"a": None}]),
    (LIST_OR_NULL, '"[]"', []),
    ({"type": "integer"}, '"12"', 12),
    ({"type": "boolean"}, '"false"', False),
    ({"type": "object"}, '"words"', '"words"'),
    ({"type": "object"}, '"{"', '"{"'),
    ({"type": ["object", "string"]}, '"{}"', '"{}"'),
    ({"type": "string"}, '"[]"', '"[]"'),
    ({}, '"{}"', '"{}"'),
    # nothing at all
    (STRING_OR_NULL, "", ""),
    (ENUM_OR_NULL, "", None),
    (INTEGER_OR_NULL, "", None),
    (LIST_OR_NULL, "", None),
    (NUMBER_OR_NULL, " ", None),
    (OBJECT_OR_NULL, "", None),
    (NULL, "", None),
    ({"type": "string"}, "", ""),
    ({"type": ["string", "integer"]}, "", ""),
    *(
        ({"type": kind}, text, LEFT_OUT)
        for kind in ("integer", "number", "boolean", "array", "object")
        for text in ("", " \t")
    ),
    ({"enum": [1, 2]}, "", LEFT_OUT),
    # where null is not allowed, the word is a text
    ({"type": "string"}, "None", "None"),
    ({"type": "string"}, "null", "null"),
    ({"type": "integer"}, "None", "None"),
    # no schema
    ({}, "None", "None"),
    ({}, "", ""),
    ({}, "True", "True"),
    # booleans
    ({"type": ["boolean", "string"]}, "True", True),
    ({"type": ["boolean", "string"]}, "false", False),
    ({"type": ["boolean", "string"]}, "TRUE", "TRUE"),
    ({"type": ["boolean", "string"]}, "Truest", "Truest"),
    ({"type": "boolean"}, "TRUE", True),
    ({"enum": ["True", True]}, "True", "True"),
    ({"enum": ["True", True]}, "true", True),
    # integers of any length
    ({"type": "integer"}, str(HUGE), HUGE),
    ({"type": ["integer", "string"]}, str(-HUGE), -HUGE),
    ({"type": "number"}, str(HUGE), HUGE),
    ({"enum": [HUGE, 1]}, str(HUGE), HUGE),
    ({"type": "array"}, f"[{HUGE}]", [HUGE]),
    ({"type": "object"}, f"{{'a': {HUGE}}}", {"a": HUGE}),
    ({"type": "object"}, f'{{"a": "x\ny", "b": {HUGE}}}', {"a": "x\ny", "b": HUGE}),
    ({}, str(HUGE), HUGE),
    ({"type": "integer"}, "9" * 4300, int("9" * 4300)),
    # a sign is no digit
    ({"type": "integer"}, "-" + "9" * 4300, -int("9" * 4300)),
    ({"type": "integer"}, "+" + "9" * 4300, int("9" * 4300)),
    ({"type": "number"}, "-" + "9" * 4300, -int("9" * 4300)),
    ({"type": ["integer", "string"]}, "-" + "9" * 4300, -int("9" * 4300)),
    ({}, "-" + "9" * 4300, -int("9" * 4300)),
    # what Python's JSON reader refuses keeps its digits as a text
    ({"type": "integer"}, "9" * 4301, "9" * 4301),
    ({"type": "integer"}, "-" + "9" * 4301, "-" + "9" * 4301),
    ({"type": ["integer", "string"]}, "-" + "9" * 4301, "-" + "9" * 4301),
]


@pytest.mark.parametrize(
    ("schema", "text", "value"), ROWS, ids=[f"{json.dumps(s)[:60]} {t[:20]!r}" for s, t, _ in ROWS]
)
def test_a_value(schema: Any, text: str, value: Any) -> None:
    parameters = {"type": "object", "properties": {"p": schema}, "$defs": {"O": {"type": "object"}}}
    tools = check_tools([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    reply = f"<tool_call>\n<function=f>\n<parameter=p>\n{text}\n</parameter>\n</function>\n</tool_call>"
    expected = json.dumps({} if value is LEFT_OUT else {"p": value})
    for size in (1, 3, len(reply)):
        parser = ReplyParser(tools, thinking=False)
        events = [event for at in range(0, len(reply), size) for event in parser.feed(reply[at : at + size])]
        (call,) = collect(events + parser.finish()).calls
        assert json.dumps(json.loads(call.arguments)) == expected
