"""A plugin for tests: a sampled reply is words to its end, so that what random weights draw decides no test.

Of 2,048 tokens two end a reply and three open or close a block: left alone, a reply of dozens draws one now and then.
Special tokens are made unlikely, not impossible: grammars and budgets, which come later, still decide. Greedy
replies, whose tokens and logprobs are compared with the reference, stay as they are.
"""

from __future__ import annotations

import sys
from typing import Any

from sglang_nemotron.checkpoint.spec import NUM_RESERVED

UNLIKELY = 1000.0


def register() -> None:
    scheduler = sys.modules.get("sglang.srt.managers.scheduler")
    if scheduler is None:
        return
    from sglang.srt.model_executor.model_runner import ModelRunner

    forward = ModelRunner.forward
    if hasattr(forward, "wordy"):
        return

    # not in `sample`: what another test plugin does to logits there comes after this
    def wordy(self: Any, forward_batch: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, forward_batch, *args, **kwargs)
        sampling, logits = forward_batch.sampling_info, getattr(out.logits_output, "next_token_logits", None)
        if sampling is not None and logits is not None and not sampling.is_all_greedy:
            # temperature 0 reaches the runner as a choice among one
            sampled = (sampling.top_ks != 1).to(logits.dtype)
            logits[: len(sampled), :NUM_RESERVED] -= UNLIKELY * sampled[:, None]
        return out

    wordy.wordy = True  # type: ignore[attr-defined]
    ModelRunner.forward = wordy
