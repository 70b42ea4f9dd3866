"""What a server ends with where a model of ours cannot be fetched, or is refused: what is wrong, and the remedy.

SGLang asks the hub for a config long before it knows whose model it is, and ends with a traceback of four libraries.
Until there is a config only the id says whose model it is. What a check of ours refuses needs no traceback either.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any

from sglang_nemotron.config import hub
from sglang_nemotron.family import IN_MODEL_TYPES
from sglang_nemotron.host import ending
from sglang_nemotron.host.refusal import flag_value, model_path

logger = logging.getLogger(__name__)

_hook_before: Any = None


def last_words(error: BaseException, argv: list[str]) -> str | None:
    """What to say when this ended a server with this command line; None if it is no matter of ours."""
    model = model_path(argv)
    if model is None or IN_MODEL_TYPES not in model.lower() or isinstance(error, KeyboardInterrupt):
        return None
    return hub.why_not(error, model, flag_value(argv, "--revision"))


def is_refusal(error: BaseException, trace: TracebackType | None) -> bool:
    """Whether a check of ours ended a server: a ValueError that this package raised. A program's own is its own."""
    raised_in = ""
    while trace is not None:
        raised_in, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return isinstance(error, ValueError) and raised_in.startswith("sglang_nemotron.") and ending.is_command()


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    words = last_words(error, sys.argv) or (str(error) if is_refusal(error, trace) else None)
    if words is None:
        _hook_before(kind, error, trace)
        return
    # the way to it is for whoever mends it
    logger.debug("this server ends", exc_info=(kind, error, trace))
    named = "" if words.startswith("sglang-nemotron ") else "sglang-nemotron: "
    print(f"\n{named}{words}", file=sys.stderr, flush=True)


def explain() -> None:
    """Once for each process. No row of the table: a hook that somebody else takes is no reason to refuse a model."""
    global _hook_before
    if _hook_before is None:
        _hook_before, sys.excepthook = sys.excepthook, _hook
