"""How quick decode could be at most: the bytes of a step over the bandwidth that large reads reach on an H200.

    python benchmarks/decode_floor.py

A step of `batch` requests reads every weight but the embedding's rows that it does not look up, of the routed experts
those that random choices would hit, and keys and values of the prompt and half the reply; it reads and writes each
request's fp32 state. Sizes are those of the files of a checkpoint of the published shape. Nothing is measured here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_nemotron.checkpoint.quant_layout import layer_algorithms
from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import all_tensors, stored_tensors

OUT = Path(__file__).parent / "decode_floor.json"
BATCHES = (1, 32, 128, 256, 512)
# what a copy of GBs reaches on the card, docs/notes-experts.md; the data sheet says 4.8
BYTES_PER_SECOND = 4.3e12
PROMPT, REPLY = 1024, 256
# as `benchmarks/gpu/decode.py` had them
_STATE_BYTES, _KV_BYTES = 4, 2


def weights(quantization: str) -> dict[str, int]:
    """Bytes that each step reads, of the routed experts those of all."""
    spec = replace(PRESETS["full"], quantization=quantization)
    algorithms = layer_algorithms(spec)
    found = {"experts": 0, "others": 0}
    for source in all_tensors(spec):
        for tensor in stored_tensors(spec, source, algorithms):
            if "embed" not in tensor.name:
                found["experts" if ".experts." in tensor.name else "others"] += tensor.num_bytes
    return found


def step_bytes(read: dict[str, int], batch: int) -> float:
    """Bytes of one step of so many requests."""
    spec = PRESETS["full"]
    experts, chosen = spec.n_routed_experts, spec.num_experts_per_tok
    hit = 1 - (1 - chosen / experts) ** batch
    mamba, attention = spec.hybrid_override_pattern.count("M"), spec.hybrid_override_pattern.count("*")
    state = mamba * spec.mamba_num_heads * spec.mamba_head_dim * spec.ssm_state_size * _STATE_BYTES
    token = attention * 2 * spec.num_key_value_heads * spec.head_dim * _KV_BYTES
    return read["others"] + read["experts"] * hit + batch * (2 * state + token * (PROMPT + REPLY / 2))


def floors() -> dict[str, Any]:
    """Most tokens a second, by checkpoint and batch."""
    sides = {"bf16": weights("none"), "fp8": weights("fp8")}
    return {
        name: {str(batch): round(batch * BYTES_PER_SECOND / step_bytes(read, batch)) for batch in BATCHES}
        for name, read in sides.items()
    }


def main() -> None:
    terms = {"bytes_per_second": BYTES_PER_SECOND, "prompt": PROMPT, "reply": REPLY}
    OUT.write_text(json.dumps({"computed": True, **terms, "tokens_per_second": floors()}, indent=1) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
