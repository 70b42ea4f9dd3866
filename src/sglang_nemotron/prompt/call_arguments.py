"""The arguments of a tool call in a history: JSON text, or what came of it, goes in; the object that a template shows
comes out.

A reply that was cut leaves JSON without an end, and a conversation must survive that: what is broken is read as far as
its parameters go. Nothing here may know templates, tools or SGLang.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from sglang_nemotron.prompt.bounds import check_depth

# Python reads longer numbers as text only; a template shows their digits either way
_MAX_DIGITS = 4300
# deeper than any call, and far from Python's own limit
_MAX_DEPTH = 64

_BLANKS = re.compile(r"[\s\ufeff]*")
# the inside of a string up to its closing quote, or up to the end of the text
_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_WORD = re.compile(r'[^\s,:"\[\]{}]+')
_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})')
# an escape that the text ends in
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?$")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Unreadable(Exception):
    """There is no value here."""


def read_arguments(given: Any, where: str) -> tuple[dict[str, Any], str | None]:
    """The arguments of one call, and what to log of them if they are broken.

    given: an object, JSON text, or None. where: names message and call, as in "messages[1] calls 'f'". Nothing, blanks
    and `null` are no arguments. Raises ValueError for what is sound JSON, but no object.
    """
    if given is None:
        return {}, None
    if isinstance(given, str):
        text = given.strip()
        if not text or text == "null":
            return {}, None
        try:
            given = _loads(text)
        except (ValueError, RecursionError):
            found = read_broken(text)
            read = f"read as far as {', '.join(map(repr, found))}" if found else "none could be read"
            return found, f"{where} with arguments that are no JSON: {read}"
    if not isinstance(given, dict):
        raise ValueError(f"{where} with the arguments {_short(given)}; allowed: a JSON object, as in {{}}")
    check_depth(given, f"{where}, with arguments: their JSON")
    return given, None


def read_broken(text: str) -> dict[str, Any]:
    """The parameters of an object's broken JSON, up to the place where it can no longer be read.

    A text that is cut keeps what it has; a word that is no JSON is kept as text; a word that is cut is left out.
    """
    reader = _Reader(text)
    reader.skip()
    found: dict[str, Any] = {}
    if reader.take("{"):
        reader.members(found, 0)
    return _sound(found)


def _loads(text: str) -> Any:
    return _sound(json.loads(text, strict=False, parse_int=_integer, parse_float=_decimal, parse_constant=str))


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _decimal(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else digits


def _sound(value: Any) -> Any:
    """The value without halves of surrogate pairs, which no tokenizer takes."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_sound(item) for item in value]
    if isinstance(value, dict):
        return {_sound(key): _sound(item) for key, item in value.items()}
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."


class _Reader:
    """Reads broken JSON from left to right; `whole` turns false where the text, or the sense of it, ended."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.whole = True

    def skip(self) -> None:
        match = _BLANKS.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def take(self, char: str) -> bool:
        if self._text.startswith(char, self._at):
            self._at += 1
            return True
        return False

    def members(self, found: dict[str, Any], depth: int) -> None:
        """Fills `found` from behind the opening brace."""
        while self.whole:
            self.skip()
            if self.take("}"):
                return
            if not self.take('"'):
                break
            name = self._string()
            self.skip()
            if not self.whole or not self.take(":"):
                break
            try:
                found[name] = self._value(depth)
            except _Unreadable:
                break
            self.skip()
            if self.whole and not self.take(",") and not self._text.startswith("}", self._at):
                break
        self.whole = False

    def _items(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while self.whole:
            self.skip()
            if self.take("]"):
                return found
            try:
                found.append(self._value(depth))
            except _Unreadable:
                break
            self.skip()
            if self.whole and not self.take(",") and not self._text.startswith("]", self._at):
                break
        self.whole = False
        return found

    def _value(self, depth: int) -> Any:
        self.skip()
        if depth >= _MAX_DEPTH:
            raise _Unreadable
        if self.take('"'):
            return self._string()
        if self.take("{"):
            found: dict[str, Any] = {}
            self.members(found, depth + 1)
            return found
        if self.take("["):
            return self._items(depth + 1)
        return self._word()

    def _string(self) -> str:
        match = _STRING.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        inside = match[0]
        if not self.take('"'):
            # the match stops before a backslash that the text ends in
            inside = _HALF_ESCAPE.sub("", inside)
            self._at = len(self._text)
            self.whole = False
        return _unescaped(inside)

    def _word(self) -> Any:
        match = _WORD.match(self._text, self._at)
        if match is None:
            raise _Unreadable
        self._at = match.end()
        try:
            return _loads(match[0])
        except ValueError:
            if self._at == len(self._text):
                raise _Unreadable from None
            return match[0]


def _unescaped(inside: str) -> str:
    """The text that a string's inside stands for; a backslash that escapes nothing is a backslash."""
    try:
        return json.loads(f'"{inside}"', strict=False)
    except ValueError:
        return _ESCAPE.sub(lambda found: json.loads(f'"{found[0]}"'), inside)
