"""What a parameter's text means: a text and the JSON types that its schema allows come in, a JSON literal goes out.

Knows nothing of schemas, tags or streams.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Final

JSON_TYPES: Final = ("string", "integer", "number", "boolean", "array", "object", "null")
ANY: Final = frozenset(JSON_TYPES)

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LOOSE_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eE][+-]?[0-9]+)?", re.ASCII)
_SCALAR_PREFIX = re.compile(r"-?[0-9][0-9.eE+-]*|-", re.ASCII)
# longer numerals are kept as strings: Python's JSON reader stops at this many digits
_MAX_NUMERAL: Final = 4300
# longest text that is also tried as a Python literal
_MAX_PYTHON: Final = 65536


@dataclass(frozen=True)
class ValueType:
    """The JSON types that a parameter's schema allows, and its enumerated values (None: not enumerated)."""

    types: frozenset[str]
    members: tuple[Any, ...] | None = None

    @property
    def streams(self) -> bool:
        """Whether any text at all is a value of this type as it stands, so that it can be passed on as it comes."""
        return self.types == _STRING_ONLY and all(isinstance(member, str) for member in self.members or ())

    def undecided(self, text: str) -> bool:
        """Whether a value that begins like this may still turn out to be something else than a string."""
        if self.waits(text):
            return True
        if _too_long(text):
            return False
        numeral = not self.types.isdisjoint(("integer", "number")) and _SCALAR_PREFIX.fullmatch(text)
        return bool(numeral) or text.isspace() or any(word.startswith(text) for word in self.words)

    def waits(self, text: str) -> bool:
        """Whether a value that begins like this stays undecided until its end, whatever comes next."""
        if "string" not in self.types or self.members is not None:
            return True
        bracket = "" if self.types.isdisjoint(("array", "object")) else text[: _MAX_NUMERAL + 1].lstrip()[:1]
        return bracket in ("[", "{")

    @property
    def words(self) -> dict[str, str]:
        """The words that stand for something else than themselves, with their JSON.

        Templates write `None`, `True` and `False` (`| string`), so these mean what they meant on their way out. Where
        the schema says nothing, only JSON's own spelling is read so.
        """
        spelt = _JSON_WORDS if self.types == ANY else _WORDS
        return {word: value for word, (value, kind) in spelt.items() if kind in self.types}


_STRING_ONLY: Final = frozenset(("string",))
_JSON_WORDS: Final = {"null": ("null", "null"), "true": ("true", "boolean"), "false": ("false", "boolean")}
_WORDS: Final = {
    **_JSON_WORDS,
    "None": ("null", "null"),
    "True": ("true", "boolean"),
    "False": ("false", "boolean"),
}
STRING: Final = ValueType(_STRING_ONLY)


def literal(text: str, wanted: ValueType) -> str | None:
    """The JSON literal for a parameter's text, or None if the text is no value of the wanted type.

    An enumerated text is itself. Where a string is allowed too, only exact JSON (`12`, `true`, `null`, `{...}`) and
    Python's words (`ValueType.words`) are taken for something else. Where it is not, surrounding space, words in any
    case, `+1`, `.5`, Python's spelling of lists and dicts, and any of these within a JSON string are accepted. Nothing
    at all is null where no text can be empty.
    """
    if wanted.members is not None:
        found = _member(text, wanted.members)
        if found is not None:
            return found
    if wanted.types == _STRING_ONLY:
        return encode_basestring(text)
    if "null" in wanted.types and _says_nothing(text, wanted):
        return "null"
    strict = "string" in wanted.types
    bare = text if strict else text.strip()
    found = _plain(bare, wanted, strict)
    if found is None and strict:
        return encode_basestring(text)
    # a value that was written as JSON twice
    return _plain(_unquoted(bare).strip(), wanted, strict) if found is None else found


def _plain(text: str, wanted: ValueType, strict: bool) -> str | None:
    """A text as something else than a string."""
    return _word(text, wanted, strict) or _numeral(text, wanted.types, strict) or _container(text, wanted.types)


def _unquoted(text: str) -> str:
    """What a JSON string says; a text that is none says nothing."""
    if not text.startswith('"'):
        return ""
    try:
        said = json.loads(text)
    except ValueError:
        return ""
    return said if isinstance(said, str) else ""


def leaves_out(text: str, wanted: ValueType) -> bool:
    """Whether a parameter with this text is not given at all: it says nothing, and its type has no such value."""
    return "null" not in wanted.types and "string" not in wanted.types and _says_nothing(text, wanted)


def _says_nothing(text: str, wanted: ValueType) -> bool:
    """Whether a text is blank where no blank text is a value."""
    return not text.strip() and ("string" not in wanted.types or (wanted.members is not None and not text))


def as_json(text: str, wanted: ValueType) -> str:
    """The JSON literal for a parameter's text; text that is no value of the wanted type stays a string, unaltered."""
    found = literal(text, wanted)
    return encode_basestring(text) if found is None else found


def _member(text: str, members: tuple[Any, ...]) -> str | None:
    if text in [member for member in members if isinstance(member, str)]:
        return encode_basestring(text)
    for member in members:
        if not isinstance(member, str) and json.dumps(member) == text.strip():
            return json.dumps(member)
    return None


def _word(text: str, wanted: ValueType, strict: bool) -> str | None:
    if strict:
        return wanted.words.get(text)
    return next((value for word, value in wanted.words.items() if word.lower() == text.lower()), None)


def _too_long(text: str) -> bool:
    """Whether a numeral has more digits than Python reads; a sign is none."""
    return len(text) - text.startswith(("+", "-")) > _MAX_NUMERAL


def _numeral(text: str, types: frozenset[str], strict: bool) -> str | None:
    if _too_long(text) or types.isdisjoint(("integer", "number")):
        return None
    if strict and "number" not in types:
        return text if _INTEGER.fullmatch(text) else None
    if not strict:
        loose = _LOOSE_NUMBER.fullmatch(text)
        if loose is None or not (loose[2] or loose[3]):
            return None
        sign = "-" if loose[1] == "-" else ""
        fraction = f".{loose[3]}" if loose[3] else ""
        text = f"{sign}{(loose[2] or '').lstrip('0') or '0'}{fraction}{loose[4] or ''}"
        if "number" not in types and fraction and not loose[4] and not loose[3].strip("0"):
            text = text.partition(".")[0]
    return text if _NUMBER.fullmatch(text) else None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _container(text: str, types: frozenset[str]) -> str | None:
    if types.isdisjoint(("array", "object")) or not text.lstrip().startswith(("[", "{")):
        return None
    try:
        # what is JSON already goes through as it is: number spellings, key order, repeated keys
        json.loads(text, parse_constant=_refuse_constant)
        return text.strip()
    except (ValueError, RecursionError):
        pass
    try:
        # raw newlines inside its strings
        value = json.loads(text, strict=False, parse_constant=_refuse_constant)
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        pass
    if len(text) > _MAX_PYTHON:
        return None
    try:
        value = ast.literal_eval(text.strip())
        return json.dumps(value, ensure_ascii=False, allow_nan=False) if isinstance(value, (list, dict)) else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
