"""What a start would make of a model and its flags: arguments are resolved as a start does, nothing starts.

Every check of ours in the main process runs on the way; what one refuses is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# what a user would ask about, by SGLang's names
CHOICES = (
    "dtype",
    "quantization",
    "attention_backend",
    "moe_runner_backend",
    "tp_size",
    "chunked_prefill_size",
    "max_running_requests",
    "max_total_tokens",
    "max_mamba_cache_size",
)


def rehearse(model: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved CHOICES. Raises whatever would end a start: our ValueError, SGLang's, or an OSError of the hub."""
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    # SGLang's own order: plugins first, which bring the platform
    load_plugins()
    server_args = prepare_server_args(["--model-path", model, *flags])
    server_args.resolve_once()
    view = resolving_view(server_args)
    return {name: getattr(view, name) for name in CHOICES}
