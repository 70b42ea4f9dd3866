"""Counts requests that run at once under one memory cap on a CPU: our defaults beside SGLang's, same flags otherwise.

    python benchmarks/slots_cpu.py                     # minutes; writes benchmarks/slots_cpu.json
    python benchmarks/slots_cpu.py --requests 12 --out /tmp/quick.json

The model is small, but a slot of it weighs as many KV entries as one of the published model. Each server gets all
requests at once. What SGLang's defaults make of the cap is computed as SGLang does it on a GPU (`state/capacity.py`,
which tests compare with SGLang's own function) and given as sizes, since on a CPU the platform bounds the pools. Counts
are of the scheduler's log. Nothing is reported unless all servers give the same tokens. Seconds are one run on a
machine that others may use, and say little.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import ROOT, machine

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.parity.client import Answer, Client
from sglang_nemotron.parity.prompts import make_prompt
from sglang_nemotron.state.capacity import pools_of
from sglang_nemotron.state.layout import StateLayout, state_layout

MODEL = replace(
    PRESETS["toy"],
    hybrid_override_pattern="MEM*MEM",
    mamba_num_heads=16,
    mamba_head_dim=64,
    n_groups=8,
    ssm_state_size=128,
)
PROMPT_TOKENS, NEW_TOKENS = 1920, 128
CAP_GIB = 0.25
# of every server; the CPU platform's own cap on requests would hide the slots'
FLAGS = ("--dtype", "float32", "--max-running-requests", "256", "--decode-log-interval", "1")
SGLANGS_RATIO = 0.9
SKIP = "SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK"


def sglangs_sizes(layout: StateLayout, cap_gib: float) -> list[str]:
    """The flags by which our platform gives what SGLang's defaults make of so much memory."""
    pools = pools_of(layout, cap_gib * 2**30, SGLANGS_RATIO)
    return ["--max-mamba-cache-size", str(pools.num_slots), "--max-total-tokens", str(pools.num_tokens)]


def allocated(log: str) -> dict[str, int]:
    """What a server made of it: slots, KV tokens, and how often it put a request back."""
    return {
        "slots": int(re.findall(r"max_mamba_cache_size: (\d+)", log)[0]),
        "kv_tokens": int(re.findall(r"max_total_num_tokens=(\d+)", log)[0]),
        "retractions": log.count("Retract"),
    }


def variants(layout: StateLayout) -> dict[str, tuple[list[str], dict[str, str | None]]]:
    """Flags and variables of each server, beside those of all."""
    sizes = sglangs_sizes(layout, CAP_GIB)
    cap = {"SGLANG_NEMOTRON_CPU_MEMORY_GIB": str(CAP_GIB)}
    return {
        "ours": ([], {**cap, SKIP: None}),
        "ours, hint 2048": ([], {**cap, SKIP: None, "SGLANG_NEMOTRON_REQUEST_TOKENS": "2048"}),
        "SGLang's defaults": (["--mamba-radix-cache-strategy", "extra_buffer", *sizes], {**cap, SKIP: "0"}),
        "SGLang's split, our strategy by hand": (
            ["--mamba-radix-cache-strategy", "extra_buffer_lazy", *sizes],
            {**cap, SKIP: "1"},
        ),
    }


def measure(
    folder: Path, log: Path, flags: list[str], env: dict[str, str | None], layout: StateLayout, prompts: list[list[int]]
) -> tuple[dict[str, Any], list[Answer]]:
    """What one server did with all prompts at once."""
    server = ServerProcess(
        folder, [*FLAGS, *flags], log_path=log, env={"OMP_WAIT_POLICY": "PASSIVE", **env}, time_limit_s=1800
    )
    with server:
        client = Client(server.url, new_tokens=NEW_TOKENS, timeout_s=3600)
        began = time.monotonic()
        answers = client.ask_together(prompts, None)
        seconds = time.monotonic() - began
        text = server.log_text()
    found = allocated(text)
    settings = " ".join(f"{name}={value}" for name, value in env.items() if value is not None)
    return {
        "command": f"{settings} sglang serve --model-path MODEL {shlex.join([*FLAGS, *flags])}",
        **found,
        # one slot of padding and no page, as SGLang counts its budget
        "pool_bytes": layout.total_bytes(num_slots=found["slots"] + 1, num_tokens=found["kv_tokens"]),
        "max_running_requests": int(re.findall(r"max_running_requests=(\d+)", text)[0]),
        "most_at_once": max(int(count) for count in re.findall(r"#running-req: (\d+)", text)),
        "seconds": round(seconds, 1),
    }, answers


def _gap(answers: list[Answer], golden: list[Answer]) -> float:
    """The largest difference of a token's logprob."""
    ours = [logprob for answer in answers for logprob in answer.output_logprobs]
    theirs = [logprob for answer in golden for logprob in answer.output_logprobs]
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "slots_cpu.json")
    args = parser.parse_args()
    prompts = [make_prompt(PROMPT_TOKENS, MODEL.vocab_size, seed=i) for i in range(args.requests)]
    results: dict[str, Any] = {}
    golden: list[Answer] | None = None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_checkpoint(MODEL, folder)
        spec = decoder_spec(json.loads((folder / "config.json").read_text()))
        layout = state_layout(spec, tp_size=1, conv_dtype="float32", ssm_dtype="float32", kv_dtype="float32")
        for number, (name, (flags, env)) in enumerate(variants(layout).items()):
            result, answers = measure(folder, Path(temporary) / f"{number}.log", flags, env, layout, prompts)
            golden = golden or answers
            if [answer.tokens for answer in answers] != [answer.tokens for answer in golden]:
                print(f"{name}: other tokens than the first server's; nothing is reported", file=sys.stderr)
                return 1
            results[name] = {**result, "worst_logprob_difference": _gap(answers, golden)}
            print(f"{name:<40} {result['most_at_once']:>4} at once of {result['max_running_requests']:>4}", flush=True)
    report = {
        "cap_gib": CAP_GIB,
        "slot_bytes": layout.bytes_per_slot,
        "kv_token_bytes": layout.kv_bytes_per_token,
        "load": {"requests": args.requests, "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS},
        "machine": machine(["sglang", "torch"]),
        "results": results,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
