"""The last two lines where a model of ours cannot be fetched: what is wrong, and the remedy.

SGLang asks the hub for a config long before it knows whose model it is, and ends with a traceback of four libraries.
Until there is a config only the id says whose model it is.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from sglang_nemotron.config import hub
from sglang_nemotron.family import IN_MODEL_TYPES
from sglang_nemotron.host.refusal import flag_value, model_path

_hook_before: Any = None


def last_words(error: BaseException, argv: list[str]) -> str | None:
    """What to say when this ended a server with this command line; None if it is no matter of ours."""
    model = model_path(argv)
    if model is None or IN_MODEL_TYPES not in model.lower() or isinstance(error, KeyboardInterrupt):
        return None
    return hub.why_not(error, model, flag_value(argv, "--revision"))


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _hook_before(kind, error, trace)
    words = last_words(error, sys.argv)
    if words is not None:
        print(f"\nsglang-nemotron: {words}", file=sys.stderr, flush=True)


def explain() -> None:
    """Once for each process. No row of the table: a hook that somebody else takes is no reason to refuse a model."""
    global _hook_before
    if _hook_before is None:
        _hook_before, sys.excepthook = sys.excepthook, _hook
