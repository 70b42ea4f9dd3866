"""How deep and how large what a request is made of may be: bodies, schemas and grammars go in, errors come out.

Whoever reads these later takes time or stack that grows with more than their size. Nothing here may know SGLang.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# levels of JSON: what Python reads and writes recursively ends at 1,000 calls, of several for a level
MAX_DEPTH = 128
# characters of a schema or a grammar. XGrammar's time grows with the square of what one rule holds: 4 s of one thread
# for a list of 60,000 characters, minutes for a million
MAX_GRAMMAR = 1 << 17
# of the grammars of all tools together
MAX_TAGS = 1 << 18
# levels that a structural tag puts around a schema
_AROUND = 16
# what a schema must list as names: jsonschema compares lists of anything else pair by pair, where HTTP is answered
_NAMES = ("required", "type")
MOST_UNLIKE = 256

_GRAMMARS = {
    "json_schema": MAX_GRAMMAR,
    "regex": MAX_GRAMMAR,
    "ebnf": MAX_GRAMMAR,
    "structural_tag": MAX_TAGS,
}
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|([\[{])|([\]}])', re.DOTALL)


def check_depth(value: Any, where: str) -> None:
    """ValueError, naming the place, for JSON that is nested deeper than MAX_DEPTH."""
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        inner, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{where} is nested more than {MAX_DEPTH} levels deep; send it flatter")
        pending.extend((item, depth + 1) for item in _inside(inner))


def check_names(schemas: Any, where: str) -> None:
    """ValueError, naming the place, for a long `required` or `type` that lists something else than names.

    schemas: not deeper than MAX_DEPTH.
    """
    pending: list[Any] = [schemas]
    while pending:
        inner = pending.pop()
        if isinstance(inner, dict):
            for keyword in _NAMES:
                listed = inner.get(keyword)
                if (
                    isinstance(listed, list)
                    and len(listed) > MOST_UNLIKE
                    and any(type(name) is not str for name in listed)
                ):
                    raise ValueError(f"{where} has a `{keyword}` that lists something else than names; leave that out")
        pending.extend(_inside(inner))


def _inside(value: Any) -> list[Any]:
    """What may be nested further."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if type(item) is dict or type(item) is list]


def check_body(body: Any) -> None:
    """The two of a JSON body, field by field, so that the error names the field."""
    for name, value in body.items() if isinstance(body, dict) else [("", body)]:
        where = f"the field {name[:80]!r}" if name else "the body"
        check_depth(value, where)
        if name == "tools":
            check_names(value, where)


def check_grammars(sampling_params: Any) -> None:
    """ValueError for a schema, an expression or a grammar of a request that is longer or deeper than is compiled.

    sampling_params: as SGLang has them, a mapping whose grammars are text. What a chat's response format and tools
    demand is there, too.
    """
    if not isinstance(sampling_params, Mapping):
        return
    for name, most in _GRAMMARS.items():
        text = sampling_params.get(name)
        if not isinstance(text, str):
            continue
        if len(text) > most:
            raise ValueError(
                f"{name} has {len(text)} characters, with those of the tools that it is made of; allowed: {most}. "
                "Leave values out, or demand fewer tools at once"
            )
        if name in ("json_schema", "structural_tag") and text_depth(text) > MAX_DEPTH + _AROUND:
            raise ValueError(f"{name} is nested more than {MAX_DEPTH} levels deep; send it flatter")
        if name == "json_schema":
            _check_end(text)


def _check_end(text: str) -> None:
    """ValueError for a schema whose references lead to themselves and to nothing else: no answer has an end there.

    XGrammar compiles it into a grammar without a word, whose first token is an error of the server.
    """
    try:
        root = json.loads(text)
    except ValueError:
        # whoever compiles it says so
        return
    seen: set[str] = set()
    schema = root
    while isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        reference = schema["$ref"]
        if reference in seen:
            raise ValueError(
                f"json_schema leads from {reference[:80]!r} back to it and to nothing else; say what it is"
            )
        seen.add(reference)
        schema = _referred(root, reference)


def _referred(root: Any, reference: str) -> Any:
    """What a reference inside a schema names (RFC 6901); None for any other."""
    target = root if reference.startswith("#") else None
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        target = target.get(key) if isinstance(target, dict) else None
    return target


def text_depth(text: str) -> int:
    """How many brackets of JSON text are open at most, without those in strings."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        if found[1]:
            depth += 1
            deepest = max(deepest, depth)
        elif found[2]:
            depth -= 1
    return deepest
