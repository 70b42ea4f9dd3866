"""How long a context may be asked for: beyond what a config says, up to what NVIDIA measured this model at.

Attention has no positions here and a state has no length, so nothing in these models ends at
`max_position_embeddings` (262,144 as published); the model cards serve a million tokens, where SGLang raises.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Final

from sglang_nemotron.host.door import Door
from sglang_nemotron.sglang_api.wrapping import Wrap

logger = logging.getLogger(__name__)

_MODULE: Final = "sglang.srt.configs.model_config"
# RULER at 1M tokens: NVIDIA's report on Nemotron 3 Nano
LONGEST: Final = 1_048_576


def _around(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def derive(self: Any, context_length: int | None, *rest: Any, **options: Any) -> Any:
        spec = getattr(self.hf_text_config, "nano_spec", None)
        if spec is not None and context_length is not None and not _overrides():
            _lengthen(self.hf_text_config, context_length)
        return method(self, context_length, *rest, **options)

    return derive


def _overrides() -> bool:
    from sglang_nemotron.sglang_api.args import envs

    return bool(envs.SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN.get())


def _lengthen(text_config: Any, wanted: int) -> None:
    """The config's own length becomes what is asked for, where that is longer; ValueError beyond `LONGEST`."""
    said = text_config.max_position_embeddings
    if wanted <= said:
        return
    if wanted > LONGEST:
        raise ValueError(
            f"--context-length {wanted} is longer than {LONGEST} tokens, the most that NVIDIA measured this model at "
            f"(its config says {said}); ask for less, or set SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1"
        )
    logger.info("--context-length %d: longer than the %d of the config; measured up to %d", wanted, said, LONGEST)
    text_config.max_position_embeddings = wanted


# opened once more when the first config of ours is read: SGLang's module is there by then, and not before
CONTEXT = Door(
    "context",
    "engine",
    "contexts beyond the config's own length",
    needs=(_MODULE,),
    wraps=(Wrap(_MODULE, "ModelConfig", "_derive_context_length", _around, takes=("context_length",)),),
    without="would refuse a context that this model was measured at",
)
