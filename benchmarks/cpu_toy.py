"""Times stock `sglang serve` on a CPU with the frozen toy checkpoint in float32: start, decode, prefill.

    python benchmarks/cpu_toy.py                     # a few minutes; writes benchmarks/cpu_toy.json
    python benchmarks/cpu_toy.py --starts 1 --repeats 2 --out /tmp/quick.json

Every server is first compared with transformers (`sglang-nemotron parity`); if one differs, or a request errs, nothing
is reported. Times are taken at the client, over HTTP. Medians of the repeats are printed; all of them are written.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import json
import os
import platform
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_nemotron import cli
from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.cli.server import ServerFailed, ServerProcess

TOY = PRESETS["toy"]
PROMPT_TOKENS = 32
DECODE_TOKENS = 256
PREFILL_TOKENS = 3000


@dataclass(frozen=True)
class Line:
    """One figure of the report: what is wanted of its median, and which direction is better."""

    name: str
    unit: str
    wanted: float
    higher_is_better: bool = True

    def met(self, values: list[float]) -> bool:
        median = statistics.median(values)
        return median >= self.wanted if self.higher_is_better else median <= self.wanted


LINES = (
    Line("server ready", "s", 60, higher_is_better=False),
    Line("decode, batch 1", "tok/s", 180),
    Line("decode, batch 8", "tok/s", 1000),
    Line(f"prefill, {PREFILL_TOKENS} tokens", "tok/s", 25000),
)


class Wrong(RuntimeError):
    """An output or a reply was not as it must be; no figure may be reported."""


class Load:
    """Requests to one server, with prompts that never repeat, so that nothing comes from the prefix cache."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._random = random.Random(seed)

    def decode(self, batch: int) -> float:
        """Tokens per second of `batch` streams together, while all of them are past their first token."""
        prompts = [self._prompt(PROMPT_TOKENS) for _ in range(batch)]
        with ThreadPoolExecutor(batch) as threads:
            streams = list(threads.map(self._stream, prompts))
        begin = max(stream[0][0] for stream in streams)
        end = min(stream[-1][0] for stream in streams)
        if end <= begin:
            raise Wrong(f"{batch} streams did not run at once")
        num_tokens = sum(_count_at(stream, end) - _count_at(stream, begin) for stream in streams)
        return num_tokens / (end - begin)

    def prefill(self) -> float:
        """Prompt tokens per second of one request, from sending it to its first and only token."""
        body = self._body(self._prompt(PREFILL_TOKENS), 1, stream=False)
        begin = time.perf_counter()
        reply = json.loads(self._post(body).read())
        took = time.perf_counter() - begin
        meta = reply["meta_info"]
        if meta["prompt_tokens"] != PREFILL_TOKENS or meta["cached_tokens"] != 0 or meta["completion_tokens"] != 1:
            raise Wrong(f"a prefill was not what was asked for: {meta}")
        return PREFILL_TOKENS / took

    def _stream(self, prompt: list[int]) -> list[tuple[float, int]]:
        """(arrival, tokens so far) of every piece of one reply."""
        pieces: list[tuple[float, int]] = []
        for raw in self._post(self._body(prompt, DECODE_TOKENS, stream=True)):
            line = raw.decode().strip()
            if not line.startswith("data:") or line == "data: [DONE]":
                continue
            event = json.loads(line[len("data:") :])
            if "error" in event:
                raise Wrong(f"the server answered {event['error']}")
            pieces.append((time.perf_counter(), event["meta_info"]["completion_tokens"]))
        if not pieces or pieces[-1][1] != DECODE_TOKENS:
            raise Wrong(f"a stream ended after {pieces[-1][1] if pieces else 0} tokens, not {DECODE_TOKENS}")
        return pieces

    def _prompt(self, num_tokens: int) -> list[int]:
        # ordinary tokens: bytes and merges, no specials
        return [self._random.randrange(1000, TOY.vocab_size) for _ in range(num_tokens)]

    def _body(self, prompt: list[int], num_tokens: int, *, stream: bool) -> dict[str, Any]:
        sampling = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
        return {"input_ids": prompt, "sampling_params": sampling, "stream": stream}

    def _post(self, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._url + "/generate", data, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=600)


def _count_at(stream: list[tuple[float, int]], moment: float) -> int:
    return max((count for arrival, count in stream if arrival <= moment), default=0)


def measure(starts: int, repeats: int, say: Callable[[str], None]) -> tuple[dict[str, list[float]], str]:
    """(values of each line, the server's command): each start is checked against transformers, then timed."""
    values: dict[str, list[float]] = {line.name: [] for line in LINES}
    ready, decode_1, decode_8, prefill = (values[line.name] for line in LINES)
    with tempfile.TemporaryDirectory(prefix="cpu-toy-") as folder:
        checkpoint = Path(folder) / "toy"
        write_checkpoint(TOY, checkpoint)
        for start in range(starts):
            server = ServerProcess(checkpoint, ["--dtype", "float32"], log_path=Path(folder) / f"server{start}.log")
            with server:
                ready.append(server.seconds_to_ready)
                say(f"start {start + 1} of {starts}: ready after {server.seconds_to_ready:.1f} s; comparing")
                _gate(checkpoint, server.url)
                load = Load(server.url, seed=start)
                # the first of each kind warms up and is not counted
                for repeat in range(repeats + 1):
                    figures = (load.decode(1), load.decode(8), load.prefill())
                    if repeat > 0:
                        for into, figure in zip((decode_1, decode_8, prefill), figures, strict=True):
                            into.append(figure)
                if server.returncode is not None:
                    raise Wrong(f"the server ended with exit code {server.returncode}")
    return values, shlex.join(["sglang", "serve", "--model-path", "TOY", *server.command[-2:]])


def _gate(checkpoint: Path, url: str) -> None:
    output = io.StringIO()
    command = ["parity", str(checkpoint), "--url", url, "--dtype", "float32", "--modes", "alone,concurrent"]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = cli.main(command)
    if code != 0:
        raise Wrong(f"the server differs from transformers:\n{output.getvalue()}")


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    git = ["git", "-C", str(Path(__file__).parent)]
    changed = subprocess.run([*git, "status", "--porcelain", "--", "../src"], capture_output=True, text=True).stdout
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "commit": subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "uncommitted_changes": bool(changed.strip()),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("sglang-nemotron", "sglang", "torch", "transformers")
        },
    }


def main() -> int:
    """Returns 0 if every median is what is wanted, 3 if one is not, 1 if nothing could be reported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=3, help="servers to start (default: 3)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each kind per server (default: 5)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="raw JSON to write")
    args = parser.parse_args()
    if args.starts < 1 or args.repeats < 1:
        parser.error("--starts and --repeats must be at least 1")
    machine = _machine()
    if machine["load_average_before"] > 0.5:
        print(f"warning: the machine is busy (load average {machine['load_average_before']:.1f})", file=sys.stderr)
    try:
        values, server = measure(args.starts, args.repeats, lambda text: print(text, file=sys.stderr, flush=True))
    except (Wrong, ServerFailed, OSError, ValueError) as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1
    print(f"{machine['cpu']}, {machine['cores']} cores; {server}")
    print(f"{'':<24}{'median':>10}{'best':>10}{'worst':>10}{'runs':>6}{'wanted':>12}")
    for line in LINES:
        numbers = sorted(values[line.name], reverse=line.higher_is_better)
        shown = (f"{number:>10.1f}" for number in (statistics.median(numbers), numbers[0], numbers[-1]))
        wanted = f"{'>=' if line.higher_is_better else '<='} {line.wanted:g}"
        verdict = "" if line.met(numbers) else "  MISSED"
        print(f"{line.name + ', ' + line.unit:<24}{''.join(shown)}{len(numbers):>6}{wanted:>12}{verdict}")
    figures = [
        {"name": line.name, "unit": line.unit, "wanted": line.wanted, "values": values[line.name]} for line in LINES
    ]
    args.out.write_text(json.dumps({**machine, "server": server, "figures": figures}, indent=2) + "\n")
    print(f"wrote {args.out}")
    return 0 if all(line.met(values[line.name]) for line in LINES) else 3


if __name__ == "__main__":
    sys.exit(main())
