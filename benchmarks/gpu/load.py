"""The cookbooks' load against a server of each side: SGLang's own class by default, and ours with its state slots.

    python benchmarks/gpu/load.py --model DIR --out benchmarks/gpu_load.json --commit HASH [-- SERVER FLAGS]

DIR holds config and tokenizer only: weights are random at a realistic scale (hook/dummy_weights.py). SGLang's
`bench_serving` sends as many requests of 1,024 random ids as may be open at once, all in the first moment, and asks for
1,024 tokens each. Ids are sent as such (`--tokenize-prompt`): as text they would come to several times as many tokens
with a tokenizer that was not made for them. `--clients 4` shares the requests out to so many of it, begun together: one
takes some 12,000 tokens a second, as SGLang's /generate repeats the whole text so far in each chunk.
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
from load_clients import merged, shares

PORT, LENGTH = 30000, 1024
SIDES = {
    "in-tree": ({"SGLANG_NEMOTRON_DISABLE": "1"}, ["--moe-runner-backend", "triton"]),
    # a request of the load has 2,048 tokens; SGLang's graphs end at 256 rows unless it is told otherwise
    # SGLang's class with what ours chooses on an H200 in BF16
    "in-tree, our flags": (
        {"SGLANG_NEMOTRON_DISABLE": "1", "SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK": "1"},
        [
            *("--moe-runner-backend", "triton", "--cuda-graph-max-bs-decode", "512"),
            *("--mamba-radix-cache-strategy", "extra_buffer_lazy", "--mamba-full-memory-ratio", "11.702"),
        ],
    ),
    "ours": ({"SGLANG_NEMOTRON_REQUEST_TOKENS": str(2 * LENGTH)}, ["--cuda-graph-max-bs-decode", "512"]),
}


def command_of(model: str, requests: int, seed: int, out: Path) -> list[str]:
    """One client's command line."""
    command = [sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang"]
    command += ["--base-url", f"http://127.0.0.1:{PORT}", "--model", model, "--tokenizer", model]
    command += ["--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1.0"]
    command += ["--random-input-len", str(LENGTH), "--random-output-len", str(LENGTH), "--seed", str(seed)]
    command += ["--num-prompts", str(requests), "--max-concurrency", str(requests), "--disable-tqdm"]
    return [*command, "--output-details", "--output-file", str(out)]


def load(model: str, concurrency: int, clients: int, folder: Path) -> dict[str, Any]:
    """What `bench_serving` says of one load, without its lists of single requests; of several clients, together."""
    counts = shares(concurrency, clients)
    files = [folder / f"load_{concurrency}_{place}.jsonl" for place in range(clients)]
    commands = [command_of(model, counts[place], place + 1, files[place]) for place in range(clients)]
    if clients == 1:
        commands[0] += ["--warmup-requests", "4", "--flush-cache"]
    else:
        # a client that flushes would disturb the others; their seeds differ, so that they share no prompt
        commands = [[*command, "--warmup-requests", "0"] for command in commands]
    running = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for one in commands]
    for process in running:
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"the load of {concurrency} failed\n{said[-3000:]}")
    records = [json.loads(file.read_text().splitlines()[-1]) for file in files]
    if clients > 1:
        return {"max_concurrency": concurrency, **merged(records)}
    return {key: value for key, value in records[0].items() if not isinstance(value, list | dict)}


def pools(log: Path) -> list[str]:
    """The lines in which a server says what it allocated, and how many requests run at once."""
    wanted = re.compile(r"Load weight end|Cache is allocated|Memory pool end|CUDA graph end|max_running_requests=")
    return [line[:400] for line in log.read_text().splitlines() if wanted.search(line) and "server_args" not in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with config.json and a tokenizer, no weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--clients", type=int, default=1, help="processes that share the requests out (default: 1)")
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
        with text.Server(
            side, command, PORT, folder / f"server_{side.replace(' ', '_')}.log", args.limit, environment
        ) as server:
            rows = [load(args.model, concurrency, args.clients, folder) for concurrency in args.concurrency]
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
