"""Arguments of calls in a history: what clients send for none, what is broken, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_nemotron.prompt.call_arguments import read_arguments, read_broken

WHERE = "messages[1] calls 'f'"


@pytest.mark.parametrize("given", [None, "", " \n", "null", " null ", "{}", {}])
def test_nothing_is_no_arguments(given: Any) -> None:
    assert read_arguments(given, WHERE) == ({}, None)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ('{"a": 1, "b": [true, null, 0.5, {"c": "d"}]}', {"a": 1, "b": [True, None, 0.5, {"c": "d"}]}),
        ({"a": None}, {"a": None}),
        # what models write for a line break, and for a number that is none
        ('{"a": "x\ny"}', {"a": "x\ny"}),
        ('{"a": NaN, "b": -Infinity}', {"a": "NaN", "b": "-Infinity"}),
        ('{"a": 1e999}', {"a": "1e999"}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\N{GRINNING FACE}"}),
        # half a character: no tokenizer takes it
        ('{"\\ud83d": ["\\ude00"]}', {"\ufffd": ["\ufffd"]}),
    ],
)
def test_json_is_what_it_says(given: Any, found: dict[str, Any]) -> None:
    assert read_arguments(given, WHERE) == (found, None)


@pytest.mark.parametrize("digits", ["9007199254740993", "18446744073709551616", "-" + "7" * 300, "8" * 5000])
def test_integers_keep_their_digits(digits: str) -> None:
    read, note = read_arguments(f'{{"a": {digits}, "b": [{digits}]}}', WHERE)
    assert (str(read["a"]), str(read["b"][0]), note) == (digits, digits, None)
    assert str(read_broken(f'{{"a": {digits}, "b": ')["a"]) == digits


BROKEN: list[tuple[str, dict[str, Any]]] = [
    # cut: in a text, an escape, a number, a word, a name, at every sign between
    ('{"a": "x', {"a": "x"}),
    ('{"a": "x\\', {"a": "x"}),
    ('{"a": "x\\\\', {"a": "x\\"}),
    ('{"a": "x\\u00e', {"a": "x"}),
    ('{"a": "x\\ud83d', {"a": "x\ufffd"}),
    ('{"a": "x", "b": 12', {"a": "x", "b": 12}),
    ('{"a": "x", "b": tru', {"a": "x"}),
    ('{"a": "x", "b": -', {"a": "x"}),
    ('{"a": "x", "b', {"a": "x"}),
    ('{"a": "x", "b"', {"a": "x"}),
    ('{"a": "x", "b":', {"a": "x"}),
    ('{"a": "x",', {"a": "x"}),
    ('{"a": "x"', {"a": "x"}),
    ('{"a": {"b": [1, "y', {"a": {"b": [1, "y"]}}),
    ('{"a": [1, [2, 3], ', {"a": [1, [2, 3]]}),
    ("{", {}),
    # not cut: a comma too many, words of Python, a path, two objects, prose behind
    ('{"a": 1,}', {"a": 1}),
    ('{"a": [1, 2,], "b": 3}', {"a": [1, 2], "b": 3}),
    ('{"a": True, "b": None, "c": yes}', {"a": "True", "b": "None", "c": "yes"}),
    ('{"a": "C:\\dir\\n", "b": 1}', {"a": "C:\\dir\n", "b": 1}),
    ('{"a": 1}{"b": 2}', {"a": 1}),
    ('{"a": 1} as you asked', {"a": 1}),
    # nothing to hold on to
    ("ls -la", {}),
    ("{'a': 1}", {}),
    ("[1, 2", {}),
    ('{"a" 1}', {}),
    ('{"a": "x" "b": 1}', {"a": "x"}),
    ('{"a": }', {}),
]


@pytest.mark.parametrize(("given", "found"), BROKEN, ids=[text for text, _ in BROKEN])
def test_broken_json_is_read_as_far_as_it_goes(given: str, found: dict[str, Any]) -> None:
    read, note = read_arguments(given, WHERE)
    assert read == found
    assert note is not None and WHERE in note and all(repr(name) in note for name in found)


def test_every_cut_of_a_call_is_read() -> None:
    whole = {"command": 'echo "hi"\n\té\\', "n": -12.5e3, "deep": [{"k": [None, True, "x"]}], "": ""}
    text = json.dumps(whole)
    for end in range(1, len(text)):
        read = read_broken(text[:end])
        assert list(whole)[: len(read)] == list(read), end
        # all but the last are whole
        assert all(read[name] == whole[name] for name in list(read)[:-1]), end
        json.dumps(read)
    assert read_broken(text) == whole


@pytest.mark.parametrize("given", ["[1]", '"x"', "1", "true", '"{}"', [1], "[" * 3 + "]" * 3])
def test_json_that_is_no_object_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"messages\[1\] calls 'f' with the arguments .*; allowed: a JSON object"):
        read_arguments(given, WHERE)


def test_depth_has_an_end() -> None:
    for text in ('{"a":' + "[" * 100_000, "[" * 100_000, '{"a":' + '{"b":' * 100_000):
        read, note = read_arguments(text, WHERE)
        assert note is not None and len(repr(read)) < 1000
