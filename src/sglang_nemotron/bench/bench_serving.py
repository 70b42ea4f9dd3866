"""SGLang's own benchmark as a program: its command line goes out, and what it wrote comes in as a `Run`.

Knows its flags and the names in its file, and never imports it. What it cannot do stands in docs/bench.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sglang_nemotron.bench.load import Load
from sglang_nemotron.bench.records import Run, Summary, Timed
from sglang_nemotron.bench.server import Server
from sglang_nemotron.verify.server import Unfit

MODULE = "sglang.benchmark.serving"
# its names, where they are not those of Summary
_NAMES = {
    "total_input": "total_input_tokens",
    "total_input_text": "total_input_text_tokens",
    "total_input_vision": "total_input_vision_tokens",
    "total_output": "total_output_tokens",
    "total_output_retokenized": "total_output_tokens_retokenized",
}
_PROGRESS = re.compile(r"(\d+)/(\d+) \[")


def why_not(load: Load, server: Server) -> str | None:
    """Why it cannot ask this; None if it can."""
    if not server.is_sglang:
        return "it needs the tokenizer of the server, and only SGLang says where that is"
    if load.sounds or load.clips:
        return "it knows no audio and no video"
    if load.chat and not load.images:
        return "it sends random ids to /generate, not as a chat"
    return None


def command(
    python: str, load: Load, server: Server, tokenizer: str, concurrency: int, count: int, seed: int
) -> list[str]:
    """Without the file that it writes, which `--output-file` names."""
    words = [
        *(python, "-m", MODULE, "--base-url", server.url, "--model", server.model, "--tokenizer", tokenizer),
        *("--num-prompts", str(count), "--max-concurrency", str(concurrency), "--seed", str(seed)),
        *("--random-input-len", str(load.input_len), "--random-output-len", str(load.output_len)),
        *("--random-range-ratio", str(load.range_ratio), "--output-details"),
        *("--ready-check-timeout-sec", "0"),
    ]
    if load.images:
        width, height = load.image_size
        usage = json.dumps({"stream_options": {"include_usage": True}})
        return [
            *(*words, "--backend", "sglang-oai-chat", "--dataset-name", "image", "--image-count", str(load.images)),
            # it names the height first
            *("--image-resolution", f"{height}x{width}", "--extra-request-body", usage),
        ]
    return [*words, "--backend", "sglang", "--dataset-name", "random-ids", "--tokenize-prompt"]


def progress(line: str) -> tuple[int, int] | None:
    """(done, of how many) by a line of its progress bar; None for any other line."""
    found = _PROGRESS.findall(line)
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def run_of(file: Path, *, server: str, concurrency: int, round_: int, count: int) -> tuple[Run, dict[str, Any]]:
    """(the run, what the program wrote beside single requests). Raises Unfit if it wrote nothing of use.

    Input tokens are counted from the server's usage: the program's own total is what it meant to send.
    """
    lines = file.read_text().splitlines() if file.exists() else []
    if not lines:
        raise Unfit(f"{MODULE} wrote no result\n  remedy: see what it said above, or add --client own")
    said = json.loads(lines[-1])
    try:
        return _read(said, server=server, concurrency=concurrency, round_=round_, count=count)
    except KeyError as error:
        raise Unfit(
            f"{MODULE} wrote no {error}: this version of SGLang has other names\n  remedy: add --client own"
        ) from error


def _read(
    said: Mapping[str, Any], *, server: str, concurrency: int, round_: int, count: int
) -> tuple[Run, dict[str, Any]]:
    details = ("input_lens", "output_lens", "ttfts", "itls", "errors")
    asked = zip(*(said[name] for name in details), strict=True)
    requests = tuple(_timed(*one) for one in asked)
    rest = {name: value for name, value in said.items() if name not in (*details, "generated_texts", "server_info")}
    summary = _summary(said, requests) if said["completed"] else None
    return Run(server, concurrency, round_, "bench_serving", count, requests, summary), rest


def _timed(prompt: int, output: int, ttft: float, itl: list[float], error: str) -> Timed:
    if error:
        # the last line of a traceback, or what the server said
        return Timed(error=error.strip().splitlines()[-1][:300])
    return Timed(prompt_tokens=prompt, output_tokens=output, ttft_s=ttft, itl_s=tuple(itl))


def _summary(said: Mapping[str, Any], requests: tuple[Timed, ...]) -> Summary:
    # it prints the longest gap, and does not write it
    gap = 1000 * max((gap for one in requests for gap in one.itl_s), default=0.0)
    values: dict[str, Any] = {
        field.name: gap if field.name == "max_itl_ms" else said[_NAMES.get(field.name, field.name)]
        for field in fields(Summary)
    }
    total = sum(one.prompt_tokens for one in requests if one.error is None)
    values["input_throughput"] *= total / max(1, values["total_input"])
    values["total_throughput"] = values["input_throughput"] + values["output_throughput"]
    values["total_input"] = total
    if not values["total_input_vision"]:
        values |= {"total_input_text": total, "total_input_vision": None}
    return Summary(**values)
