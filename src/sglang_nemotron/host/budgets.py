"""Thinking budgets where SGLang attaches grammars to requests, in the scheduler."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from sglang_nemotron.host import counts
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.reply_flags import BUDGET
from sglang_nemotron.sglang_api.wrapping import Wrap

_GRAMMARS = "sglang.srt.constrained.grammar_manager"


def _attach_or_end(manager: Any, req: Any) -> None:
    from sglang_nemotron.host.budget import attach

    try:
        attach(manager, req)
    except ValueError as error:
        counts.refused(error, "budget")
        req.set_finish_with_abort(str(error))


def _process(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def process(self: Any, req: Any) -> bool:
        queued = original(self, req)
        custom = req.sampling_params.custom_params
        # a grammar that is still compiling gets its budget when it is ready
        if not queued and custom and BUDGET in custom:
            _attach_or_end(self, req)
        return queued

    return process


def _ready(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def ready(self: Any) -> Any:
        reqs = original(self)
        for req in reqs:
            if (req.sampling_params.custom_params or {}).get(BUDGET) is not None:
                _attach_or_end(self, req)
        return reqs

    return ready


def masks_are_exact() -> str | None:
    """None if our masks bar what they should, else what is wrong."""
    from sglang_nemotron.host import budget

    for dtype, width, clear in ((torch.int32, 2, -1), (torch.bool, 64, 0)):
        mask = torch.full((2, width), clear, dtype=dtype)
        budget.allow_only(mask[0], 31)
        logits = torch.zeros(2, 64)
        budget.apply_mask(logits, mask)
        if logits.isfinite().sum(1).tolist() != [1, 64] or not logits[0, 31].isfinite():
            return "a mask for one token bars others, or not enough"
    return None


BUDGETS = Door(
    "budgets",
    "engine",
    "thinking budgets",
    needs=(_GRAMMARS,),
    proof=masks_are_exact,
    wraps=(
        Wrap(_GRAMMARS, "GrammarManager", "process_req_with_grammar", _process, takes=("req",)),
        Wrap(_GRAMMARS, "GrammarManager", "get_ready_grammar_requests", _ready),
    ),
    without="attaches no thinking budgets",
)
