"""A plugin for `reply_streams.py`: times SGLang's calls of its reply parsers, and can put SGLang's own in their place.

`PARSER_TIMES` names the file that gets the processor seconds spent in parsers so far, and the number of calls; while
the file that `PARSERS_INTREE` names exists, replies are read by SGLang's own parsers.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVERY = 200

_spent = 0.0
_calls = 0


def _timed(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Any:
        global _spent, _calls
        began = time.thread_time()
        try:
            return call(*args, **kwargs)
        finally:
            _spent += time.thread_time() - began
            _calls += 1
            if _calls % EVERY == 0:
                Path(os.environ["PARSER_TIMES"]).write_text(f"{_spent} {_calls}")

    return timed


def _renamed(init: Callable[..., None], argument: str, name: str) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def renamed(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        if Path(os.environ["PARSERS_INTREE"]).exists():
            bound.arguments[argument] = name
        init(*bound.args, **bound.kwargs)

    return renamed


def register() -> None:
    """Runs in every process of the server; those that answer no HTTP build no parser."""
    from sglang.srt.function_call.function_call_parser import FunctionCallParser
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    if hasattr(ReasoningParser.parse_stream_chunk, "__wrapped__"):
        return
    for parser, argument, name in (
        (ReasoningParser, "model_type", "nemotron_3"),
        (FunctionCallParser, "tool_call_parser", "qwen3_coder"),
    ):
        parser.parse_stream_chunk = _timed(parser.parse_stream_chunk)
        parser.__init__ = _renamed(parser.__init__, argument, name)
