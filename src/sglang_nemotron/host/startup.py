"""What runs in the main process once SGLang knows that it is about to serve one of our architectures.

Proves the doors, refuses flags that our classes do not serve, and gives the defaults that depend on the model.
"""

from __future__ import annotations

import logging
from typing import Any

from sglang_nemotron.config import check_parallel, is_nano
from sglang_nemotron.host.names.args import NemotronHConfig, resolving_view

logger = logging.getLogger(__name__)


def resolve(server_args: Any, hf_config: Any) -> dict[str, Any]:
    """SGLang's override provider for NemotronHForCausalLM: raises to refuse, returns the fields to set.

    A config of another family under this name is left to SGLang alone.
    """
    if is_nano(hf_config) is not None:
        return {}
    from sglang_nemotron.host.doors import prove_all

    prove_all()
    view = resolving_view(server_args)
    _check_flags(view)
    _check_sizes(view, hf_config)
    return {}


def _check_sizes(view: Any, hf_config: Any) -> None:
    assert isinstance(hf_config, NemotronHConfig)
    spec = hf_config.nano_spec
    attn_tp = view.tp_size // max(view.attn_dp_size if hasattr(view, "attn_dp_size") else 1, 1)
    check_parallel(spec, max(attn_tp, 1), pp_size=view.pp_size)


def _check_flags(view: Any) -> None:
    refused = {
        "--speculative-algorithm": view.speculative_algorithm,
    }
    for flag, value in refused.items():
        if value:
            raise ValueError(
                f"{flag} {value} is not supported by sglang-nemotron's Nemotron 3 Nano classes; drop the flag, or set "
                "SGLANG_NEMOTRON_DISABLE=1 to serve with SGLang's own class"
            )
