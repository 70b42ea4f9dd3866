"""JSON with integers of any length, where SGLang reads requests and writes answers: bytes or text and values come in,
values and bytes go out.

SGLang's reader makes floats of integers that 64 bits do not hold and refuses those that no double holds, and its writer
refuses both; so an id in a tool's schema, or in the arguments of an earlier call, comes out as another one. For servers
of our models alone; other JSON is read and written as before.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.reply_flags import serves_ours
from sglang_nemotron.sglang_api.wrapping import Wrap, rebind

# SGLang's modules that read a request, or write an answer that repeats its tools
_MODULES = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.entrypoints.openai.serving_chat",
    "sglang.srt.entrypoints.openai.serving_responses",
    "sglang.srt.utils.json_response",
)
# every float from here on may have been an integer
_LONG = 2.0**63


class ExactJson:
    """orjson for one of SGLang's modules, with integers as long as Python reads them: 4,300 digits.

    Anything else that orjson refuses stays refused, with its error.
    """

    def __init__(self, orjson: Any) -> None:
        self._orjson = orjson

    def __getattr__(self, name: str) -> Any:
        return getattr(self._orjson, name)

    def loads(self, data: Any) -> Any:
        try:
            value = self._orjson.loads(data)
        except self._orjson.JSONDecodeError as error:
            # no double holds it
            if "infinity" not in str(error):
                raise
            try:
                return _exact(data)
            except ValueError:
                raise error from None
        return _exact(data) if _has_long_float(value) else value

    def dumps(self, value: Any, default: Any = None, option: int | None = None) -> bytes:
        try:
            return self._orjson.dumps(value, default, option)
        except TypeError as error:
            if "64-bit" not in str(error):
                raise
            return json.dumps(value, default=default, ensure_ascii=False, separators=(",", ":")).encode()


def _exact(data: Any) -> Any:
    text = data if isinstance(data, str) else bytes(data).decode()
    return json.loads(text, parse_float=_finite, parse_constant=_refuse)


def _finite(numeral: str) -> float:
    value = float(numeral)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{numeral[:40]} is too large for a number with a fraction or an exponent")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _has_long_float(value: Any) -> bool:
    """Whether a value holds a float that may have been an integer which 64 bits do not hold."""
    pending = [value]
    while pending:
        item = pending.pop()
        if type(item) is float and abs(item) >= _LONG:
            return True
        if type(item) is dict:
            pending.extend(item.values())
        elif type(item) is list:
            pending.extend(item)
    return False


def open_json() -> None:
    """Puts ours in the place of orjson in SGLang's modules that are there; may be repeated."""
    for name in _MODULES:
        module: Any = sys.modules.get(name)
        if module is not None and not isinstance(module.orjson, ExactJson):
            rebind(module, "orjson", ExactJson(module.orjson))


def _then_open_json(init: Callable[..., Any]) -> Callable[..., Any]:
    # the first moment at which a process that answers HTTP knows its model
    @functools.wraps(init)
    def opened(self: Any) -> Any:
        result = init(self)
        if serves_ours(self):
            open_json()
        return result

    return opened


def integers_are_exact() -> str | None:
    """None if our reader and writer keep an integer that no double holds, else what they make of it."""
    import orjson

    text = b'{"n":123456789012345678901234567890}'
    made = ExactJson(orjson).dumps(ExactJson(orjson).loads(text))
    return None if made == text else f"{text.decode()} becomes {made.decode()}"


_MANAGER = "sglang.srt.managers.tokenizer_manager"

INTEGERS = Door(
    "integers",
    "http",
    "integers of any length in the JSON of requests and answers",
    needs=(_MANAGER,),
    proof=integers_are_exact,
    wraps=(Wrap(_MANAGER, "TokenizerManager", "init_tokenizer_and_processor", _then_open_json),),
    without="does not open our reading of integers",
)
