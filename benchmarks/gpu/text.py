"""Decode and prefill of the full-size model, SGLang's own class against ours, on one GPU.

    python benchmarks/gpu/text.py --model DIR --out benchmarks/gpu_text.json

DIR holds config and tokenizer only: weights are random at a realistic scale (hook/dummy_weights.py). Each side gets
a server of its own with the same flags, one after the other on the same machine; SGLang's own `one_batch_server`
sends static batches of random ids, `--rounds` times each, and the best of them counts. Raw numbers go to the file.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = ["--load-format", "dummy", "--moe-runner-backend", "triton", "--disable-radix-cache"]


def environment(side: str) -> dict[str, str]:
    env = dict(os.environ)
    env["PYTHONPATH"] = f"{HERE / 'hook'}:{env.get('PYTHONPATH', '')}"
    env.pop("SGLANG_NEMOTRON_DISABLE", None)
    if side == "in-tree":
        env["SGLANG_NEMOTRON_DISABLE"] = "1"
    return env


class Server:
    """One server process group; stopped on exit. The log stays for the report."""

    def __init__(
        self, side: str, command: list[str], port: int, log: Path, limit: float, more: dict[str, str] | None = None
    ) -> None:
        self.side, self.command, self.port, self.log, self.limit = side, command, port, log, limit
        self.environment = environment(side) | (more or {})

    def __enter__(self) -> Server:
        started = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while not self._healthy():
            if self.process.poll() is not None or time.monotonic() - started > self.limit:
                tail = "\n".join(self.log.read_text().splitlines()[-25:])
                self.__exit__()
                raise SystemExit(f"{self.side}: no server after {time.monotonic() - started:.0f} s\n{tail}")
            time.sleep(1)
        self.ready_s = time.monotonic() - started
        print(f"{self.side}: ready after {self.ready_s:.0f} s", flush=True)
        return self

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        # the driver frees the memory of a killed process a moment later
        time.sleep(5)


def measure(side: str, port: int, args: argparse.Namespace, folder: Path) -> list[dict]:
    results = folder / f"{side}.jsonl"
    command = [
        *[sys.executable, "-m", "sglang.benchmark.one_batch_server", "--model-path", "None"],
        *["--base-url", f"http://127.0.0.1:{port}", "--local-tokenizer-path", args.model],
        *["--batch-size", *[str(b) for _ in range(args.rounds) for b in args.batch]],
        *["--input-len", str(args.input_len), "--output-len", str(args.output_len)],
        *["--dataset-name", "random-ids", "--result-filename", str(results), "--no-append-to-github-summary"],
    ]
    print(" ".join(command), flush=True)
    log = folder / f"bench_{side}.log"
    done = subprocess.run(command, env=environment(side), stdout=log.open("w"), stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{side}: the benchmark failed\n" + "\n".join(log.read_text().splitlines()[-25:]))
    return [json.loads(line) for line in results.read_text().splitlines()]


def class_lines(log: Path) -> list[str]:
    wanted = ("Load weight end", "Mamba Cache is allocated", "KV Cache is allocated", "state pools", " op ")
    return [line[:300] for line in log.read_text().splitlines() if any(word in line for word in wanted)]


def best(rows: list[dict], batch: int, field: str) -> float:
    return max(row[field] for row in rows if row["batch_size"] == batch)


def report(sides: dict[str, dict], batches: list[int]) -> list[dict]:
    table = []
    for batch in batches:
        row: dict = {"batch": batch}
        for what, field in (("prefill", "input_throughput"), ("decode", "output_throughput")):
            values = {side: best(data["rows"], batch, field) for side, data in sides.items()}
            row[what] = {**values, "ours / in-tree": values["ours"] / values["in-tree"] if len(values) == 2 else None}
        table.append(row)
    return table


def about(commit: str) -> dict[str, object]:
    """When, of what, where and how a record was made."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": machine(),
        "argv": sys.argv[1:],
    }


def machine() -> dict[str, str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    packages = ("sglang", "torch", "triton", "transformers", "sglang-kernel", "flashinfer-python")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "?"
    gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {"gpu": gpu, "python": sys.version.split()[0], **versions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with config.json and a tokenizer, no weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--input-len", type=int, default=1024)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--sides", nargs="+", default=["in-tree", "ours"], choices=["in-tree", "ours"])
    parser.add_argument("--commit", default="unknown", help="of this repository, for the record")
    parser.add_argument("--limit", type=float, default=300, help="seconds a server may take to start")
    parser.add_argument("server_args", nargs="*", help="more flags for both servers, after --")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    sides: dict[str, dict] = {}
    flags = [*COMMON, "--max-running-requests", str(max(args.batch)), *args.server_args]
    for side in args.sides:
        command = [sys.executable, "-m", "sglang.launch_server", "--model-path", args.model, "--port", "30000", *flags]
        print(f"{side}: {' '.join(command)}", flush=True)
        with Server(side, command, 30000, folder / f"server_{side}.log", args.limit) as server:
            rows = measure(side, 30000, args, folder)
            sides[side] = {"command": command, "ready_s": server.ready_s, "rows": rows, "log": class_lines(server.log)}
        print("\n".join(sides[side]["log"]), flush=True)
    table = report(sides, args.batch)
    record = {
        **about(args.commit),
        "table": table,
        "sides": sides,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    for row in table:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
