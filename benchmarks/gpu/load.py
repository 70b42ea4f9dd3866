"""The cookbooks' load against a server of each side: SGLang's own class by default, and ours with its state slots.

    python benchmarks/gpu/load.py --model DIR --out benchmarks/gpu_load.json --commit HASH [-- SERVER FLAGS]

DIR holds config and tokenizer only: weights are random at a realistic scale (hook/dummy_weights.py). SGLang's
`bench_serving` sends as many requests of 1,024 random ids as may be open at once, all in the first moment, and asks for
1,024 tokens each. Ids are sent as such (`--tokenize-prompt`): as text they would come to several times as many tokens
with a tokenizer that was not made for them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import text

PORT, LENGTH = 30000, 1024
SIDES = {
    "in-tree": ({"SGLANG_NEMOTRON_DISABLE": "1"}, ["--moe-runner-backend", "triton"]),
    # a request of the load has 2,048 tokens; SGLang's graphs end at 256 rows unless it is told otherwise
    "ours": ({"SGLANG_NEMOTRON_REQUEST_TOKENS": str(2 * LENGTH)}, ["--cuda-graph-max-bs-decode", "512"]),
}


def load(model: str, concurrency: int, folder: Path) -> dict[str, Any]:
    """What `bench_serving` says of one load, without its lists of single requests."""
    out = folder / f"load_{concurrency}.jsonl"
    command = [sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang"]
    command += ["--base-url", f"http://127.0.0.1:{PORT}", "--model", model, "--tokenizer", model]
    command += ["--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1.0"]
    command += ["--random-input-len", str(LENGTH), "--random-output-len", str(LENGTH)]
    command += ["--num-prompts", str(concurrency), "--max-concurrency", str(concurrency)]
    command += ["--warmup-requests", "4", "--flush-cache", "--disable-tqdm", "--output-file", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the load of {concurrency} failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found = json.loads(out.read_text().splitlines()[-1])
    return {key: value for key, value in found.items() if not isinstance(value, list | dict)}


def pools(log: Path) -> list[str]:
    """The lines in which a server says what it allocated, and how many requests run at once."""
    wanted = re.compile(r"Load weight end|Cache is allocated|Memory pool end|CUDA graph end|max_running_requests=")
    return [line[:400] for line in log.read_text().splitlines() if wanted.search(line) and "server_args" not in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with config.json and a tokenizer, no weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--commit", default="unknown", help="of this repository, for the record")
    parser.add_argument("--limit", type=float, default=300, help="seconds a server may take to start")
    parser.add_argument("server_args", nargs="*", help="more flags for all servers, after --")
    args = parser.parse_args()
    folder, sides = Path(tempfile.mkdtemp()), {}
    for side in args.sides:
        environment, flags = SIDES[side]
        command = [sys.executable, "-m", "sglang.launch_server", "--model-path", args.model, "--port", str(PORT)]
        command += ["--load-format", "dummy", "--random-seed", "1", *flags, *args.server_args]
        with text.Server(side, command, PORT, folder / f"server_{side}.log", args.limit, environment) as server:
            rows = [load(args.model, concurrency, folder) for concurrency in args.concurrency]
        sides[side] = {"command": command, "environment": environment, "server": pools(server.log), "rows": rows}
        for row in rows:
            figures = [f"{row[key]:.1f}" for key in ("output_throughput", "median_itl_ms", "p99_itl_ms")]
            print(side, row["max_concurrency"], "tok/s, median and p99 gap in ms:", *figures, flush=True)
    record = {
        **text.about(args.commit),
        "sides": sides,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
