"""What the reply parsers cost a server that streams 64 replies at once: ours and SGLang's own, in turn on one server.

`python benchmarks/reply_streams.py` writes `benchmarks/reply_streams.json`. A scripted model on the CPU says replies of
thinking, an answer and tool calls; what is reported is processor time of the process that answers HTTP.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from reply_speed import reply  # noqa: E402

from sglang_nemotron.checkpoint.spec import PRESETS  # noqa: E402
from sglang_nemotron.checkpoint.writer import write_checkpoint  # noqa: E402
from sglang_nemotron.cli.server import ServerProcess  # noqa: E402
from support.reply_texts import OPENAI_TOOLS  # noqa: E402
from support.scripted import PARSERS, PLUGIN, streams  # noqa: E402

HOOK = str(ROOT / "benchmarks" / "reply_hook")


def one_round(server: ServerProcess, times: Path, num_streams: int, size: tuple[int, int]) -> dict[str, Any]:
    """Processor seconds of the HTTP process, in all and in parsers, and tokens, while the streams run."""
    http = psutil.Process(server.pid)
    text, expected = reply(*size)
    before, parsed = http.cpu_times(), seconds_and_calls(times)
    began = time.monotonic()
    heard = streams(server, [(text, {"tools": OPENAI_TOOLS})] * num_streams)
    wall = time.monotonic() - began
    after, parsed_after = http.cpu_times(), seconds_and_calls(times)
    http_s = after.user + after.system - before.user - before.system
    parser_s = parsed_after[0] - parsed[0]
    return {
        "wall_s": round(wall, 2),
        "tokens": sum(one.usage.completion_tokens for one in heard),
        "http_cpu_s": round(http_s, 2),
        "parser_cpu_s": round(parser_s, 3),
        "parser_share_of_http": round(parser_s / http_s, 4),
        "parser_calls": parsed_after[1] - parsed[1],
        "exact_replies": sum(one.said[:2] == (expected.reasoning, expected.content) for one in heard),
        "streams": num_streams,
    }


def seconds_and_calls(times: Path) -> tuple[float, int]:
    seconds, calls = times.read_text().split() if times.exists() else ("0", "0")
    return float(seconds), int(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=120, help="about this many words a reply; bytes are tokens here")
    parser.add_argument("--calls", type=int, default=2, help="tool calls in each reply")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "reply_streams.json")
    options = parser.parse_args()
    size = (options.tokens, options.calls)
    with tempfile.TemporaryDirectory() as folder:
        times, intree = Path(folder) / "times", Path(folder) / "intree"
        # a script is in the prompt as hexadecimal digits, each a token
        write_checkpoint(replace(PRESETS["tiny"], max_position_embeddings=32768), Path(folder) / "model")
        env = {
            "PYTHONPATH": os.pathsep.join([PLUGIN, HOOK]),
            "PARSER_TIMES": str(times),
            "PARSERS_INTREE": str(intree),
        }
        flags = ["--dtype", "float32", "--max-running-requests", str(options.streams), *PARSERS]
        results: dict[str, list[dict[str, Any]]] = {"ours": [], "in-tree": []}
        print("starting the server ...", flush=True)
        with ServerProcess(
            Path(folder) / "model", flags, log_path=Path(folder) / "log", env=env, time_limit_s=600
        ) as server:
            for _ in range(options.rounds):
                for side in results:
                    intree.touch() if side == "in-tree" else intree.unlink(missing_ok=True)
                    results[side].append(one_round(server, times, options.streams, size))
                    print(side, results[side][-1], flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "what": __doc__,
        "command": " ".join(["python", "benchmarks/reply_streams.py", *sys.argv[1:]]),
        "commit": subprocess.check_output(["git", "rev-parse", "HEAD"], text=True, cwd=ROOT).strip(),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: importlib.metadata.version(name) for name in ("sglang", "torch", "transformers")},
        "rounds": results,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
