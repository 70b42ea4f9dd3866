"""A plugin for tests: a prompt that holds `script:HEX.` is answered with that text, whatever the weights say.

It changes logits token by token before SGLang masks them, so grammars and budgets still decide: a token of the script
that may not come is left out, and where `</think>` is forced the script goes on behind its own `</think>`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

SCRIPT = re.compile(r"script:([0-9a-f]*)\.")
CLOSE, END = 13, 11
# how many tokens in a row may be left out
AHEAD = 8


@dataclass
class Part:
    """One request's script and how far it came."""

    tokens: list[int]
    at: int = 0

    def wanted(self) -> list[int]:
        """The tokens that the model would say next, dearest first."""
        return [*self.tokens[self.at : self.at + AHEAD], END]

    def sampled(self, token: int) -> None:
        if token in self.wanted()[:-1]:
            self.at += self.wanted().index(token) + 1
        elif token == CLOSE and CLOSE in self.tokens[self.at :]:
            self.at = self.tokens.index(CLOSE, self.at) + 1


_parts: dict[str, Part | None] = {}
_requests: dict[str, Any] = {}
# the request of the present batch whose prompt is not read to its end: what is sampled for it is thrown away
_unfinished: list[str] = []


def _part(req: Any, tokenizer: Any) -> Part | None:
    if req.rid not in _parts:
        found = SCRIPT.findall(tokenizer.decode(list(req.origin_input_ids), skip_special_tokens=False))
        text = bytes.fromhex(found[-1]).decode() if found else None
        _parts[req.rid] = None if text is None else Part(tokenizer.encode(text, add_special_tokens=False))
    return _parts[req.rid]


def register() -> None:
    scheduler = sys.modules.get("sglang.srt.managers.scheduler")
    if scheduler is None or hasattr(scheduler.Scheduler.run_batch, "scripted"):
        return
    from sglang.srt.model_executor.model_runner import ModelRunner

    run_batch, sample = scheduler.Scheduler.run_batch, ModelRunner.sample

    def remembered(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        for req in batch.reqs:
            _requests[req.rid] = (req, self.tokenizer)
        _unfinished[:] = [batch.chunked_req.rid] if batch.chunked_req and batch.forward_mode.is_extend() else []
        return run_batch(self, batch, *args, **kwargs)

    def scripted(self: Any, logits_output: Any, forward_batch: Any) -> Any:
        rows = []
        for row, rid in enumerate(forward_batch.rids or ()):
            part = _part(*_requests[rid]) if rid in _requests else None
            if part is not None and rid not in _unfinished:
                logits = logits_output.next_token_logits[row]
                logits.zero_()
                for rank, token in reversed(list(enumerate(part.wanted()))):
                    logits[token] = 1000.0 - 50 * rank
                rows.append((row, part))
        tokens = sample(self, logits_output, forward_batch)
        for row, part in rows:
            part.sampled(int(tokens[row]))
        return tokens

    remembered.scripted = True  # type: ignore[attr-defined]
    scheduler.Scheduler.run_batch = remembered
    ModelRunner.sample = scripted
