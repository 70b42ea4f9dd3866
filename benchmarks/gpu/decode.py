"""Decode and prefill over HTTP, one client for every side, and how far the sides' logits lie apart; on one GPU.

    python benchmarks/gpu/decode.py --model DIR --out benchmarks/gpu_decode.json --commit HASH [-- SERVER FLAGS]

DIR holds config and tokenizer only: weights are random at a realistic scale (hook/dummy_weights.py), and the same on
each side, as all servers get one seed. Sides: `in-tree` is SGLang's own class, `sglang-kernels` our class on SGLang's
kernels, `ours` what a user gets, `few-rows` ours with whole layers a launch at one or two rows.

Decode is batch x 256 / (time for 257 tokens - time for 1), so it holds scheduling and HTTP too; the best of `--rounds`.
Logits: a bias makes every reply the same token over and over, so that all sides decode the same text, and differences
between the logits of some other tokens are compared; `sglang-kernels` with itself in another batch is the yardstick.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import random
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import text

PORT, PROMPT, REPLY, FORCED = 30000, 1024, 257, 1000
WATCHED = [2000 + 911 * i for i in range(64)]
SIDES = {
    "in-tree": {"SGLANG_NEMOTRON_DISABLE": "1"},
    "sglang-kernels": {"SGLANG_NEMOTRON_OPS": "experts=layer,experts_fp8=layer,mamba_step=apart"},
    "ours": {},
    "few-rows": {"SGLANG_NEMOTRON_OPS": "few_rows=triton"},
}


def ask(ids: list[int], tokens: int, **options: Any) -> dict[str, Any]:
    sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True, **options.pop("sampling", {})}
    body = {"input_ids": ids, "sampling_params": sampling, **options}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def together(prompts: list[list[int]], tokens: int, **options: Any) -> list[dict[str, Any]]:
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as clients:
        return list(clients.map(lambda ids: ask(ids, tokens, **options), prompts))


def prompts_of(batch: int, seed: int, length: int = PROMPT) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(300, 131000) for _ in range(length)] for _ in range(batch)]


def timed(batch: int, tokens: int, seed: int) -> float:
    prompts = prompts_of(batch, seed)
    began = time.perf_counter()
    replies = together(prompts, tokens)
    took = time.perf_counter() - began
    assert all(reply["meta_info"]["completion_tokens"] == tokens for reply in replies)
    return took


def speed(batch: int, rounds: int) -> dict[str, Any]:
    """The best round, and all of them: seconds for one token and for `REPLY`. Short rounds are the noisier ones."""
    rounds = max(rounds, 5) if batch <= 8 else rounds
    pairs = [(timed(batch, 1, 2 * i), timed(batch, REPLY, 2 * i + 1)) for i in range(rounds)]
    decode = [batch * (REPLY - 1) / (whole - first) for first, whole in pairs]
    prefill = [batch * PROMPT / first for first, _ in pairs]
    return {"batch": batch, "decode": round(max(decode)), "prefill": round(max(prefill)), "seconds": pairs}


def logits(batch: int, steps: int) -> list[list[float]]:
    """Of one prompt among `batch`: log-probabilities of the watched tokens at each step, less their mean."""
    options = {
        "sampling": {"logit_bias": {str(FORCED): 100.0}},
        "return_logprob": True,
        "token_ids_logprob": WATCHED,
    }
    reply = together(prompts_of(batch, 77, 300), steps, **options)[0]
    found = []
    for step in reply["meta_info"]["output_token_ids_logprobs"]:
        # what is not finite comes as None
        values = [float("nan") if entry[0] is None else entry[0] for entry in step]
        mean = sum(values) / len(values)
        found.append([value - mean for value in values])
    return found


def apart(one: list[list[float]], other: list[list[float]]) -> dict[str, float]:
    """Mean and largest difference, beside the spread of the values themselves."""
    pairs = [(a, b) for row, same in zip(one, other, strict=True) for a, b in zip(row, same, strict=True)]
    differences = [abs(a - b) for a, b in pairs]
    return {
        "mean": sum(differences) / len(differences),
        "largest": max(differences),
        "spread": (sum(a * a for a, _ in pairs) / len(pairs)) ** 0.5,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with config.json and a tokenizer, no weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=128, help="forced decode steps whose logits are compared")
    parser.add_argument("--sides", nargs="+", default=["in-tree", "sglang-kernels", "ours"], choices=list(SIDES))
    parser.add_argument("--commit", default="unknown", help="of this repository, for the record")
    parser.add_argument("--limit", type=float, default=300, help="seconds a server may take to start")
    parser.add_argument("server_args", nargs="*", help="more flags for all servers, after --")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    most = str(max(args.batch))
    flags = ["--load-format", "dummy", "--random-seed", "1", "--disable-radix-cache", "--max-running-requests", most]
    flags += ["--cuda-graph-max-bs-decode", most, *args.server_args]
    sides: dict[str, Any] = {}
    kept: dict[str, list[list[float]]] = {}
    for side in args.sides:
        # SGLang's own default compiles its experts for half an hour
        runner = ["--moe-runner-backend", "triton"] if side == "in-tree" else []
        command = [sys.executable, "-m", "sglang.launch_server", "--model-path", args.model, "--port", str(PORT)]
        command += [*flags, *runner]
        with text.Server(side, command, PORT, folder / f"server_{side}.log", args.limit, SIDES[side]) as server:
            together(prompts_of(4, 5), 8)
            # SGLang's class names its weights otherwise, so the same seed fills them otherwise
            for batch in (1, 8, 40) if side != "in-tree" else ():
                kept[f"{side} {batch}"] = logits(batch, args.steps)
            rows = [speed(batch, args.rounds) for batch in args.batch]
            sides[side] = {"command": command, "environment": SIDES[side], "ready_s": server.ready_s, "rows": rows}
            sides[side]["log"] = text.class_lines(server.log)
        print(side, *(f"{row['batch']}: {row['decode']}" for row in rows), flush=True)
    yardstick = next((name for name in ("sglang-kernels 1", *kept) if name in kept), None)
    distances = {name: apart(kept[yardstick], values) for name, values in kept.items()} if yardstick else {}
    for name, distance in distances.items():
        print(f"logits of {name} against {yardstick}:", {key: round(value, 4) for key, value in distance.items()})
    record = {
        **text.about(args.commit),
        "sides": sides,
        "logits against": yardstick,
        "logits": distances,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
