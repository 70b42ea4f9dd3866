"""How far `sglang-nemotron plan` is from a server that ran: a plan's JSON and the server's log in, deviations out.

    sglang-nemotron plan MODEL --gpu h200 --json > plan.json
    python benchmarks/gpu/plan_check.py --plan plan.json --log server.log --server advised --out out.json

`--server advised` is the server of the plan's `command`, `plain` the one without its flags and variable. Compared is
what the log says: free memory before weights (Load weight begin), weights (Load weight end), slots and bytes of states
(Mamba Cache is allocated), KV entries and bytes (KV Cache is allocated, max_total_num_tokens=), what is free then
(Memory pool end), CUDA graphs (Capture ... end) and max_running_requests, chunked_prefill_size and context_len; and of
GET /server_info, if given, mem_fraction_static and the same counts. Exit 1 if a figure is off by more than --limit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from pathlib import Path
from typing import Any

# figure -> where the log has it; the first line that fits, of the first rank
PATTERNS = {
    "free_before_weights_gb": r"Load weight begin\. avail mem=([\d.]+) GB",
    "weights_gb": r"Load weight end\..* mem usage=([\d.]+) GB",
    "max_mamba_cache_size": r"max_mamba_cache_size: (\d+)",
    "free_after_pools_gb": r"Memory pool end\. avail mem=([\d.]+) GB",
    "graphs_gb": r"Capture target decode CUDA graph end\..* mem usage=([\d.]+) GB",
    "max_total_num_tokens": r"max_total_num_tokens=(\d+), chunked",
    "chunked_prefill_size": r"max_total_num_tokens=\d+, chunked_prefill_size=(\d+)",
    "max_running_requests": r"max_total_num_tokens=\d+, .*max_running_requests=(\d+)",
    "context_len": r"max_total_num_tokens=\d+, .*context_len=(\d+)",
    "mem_fraction_static": r"'?mem_fraction_static'?[=:] ?([\d.]+)",
}
# of which the log says two parts
SUMS = {
    "states_gb": r"conv_state size: ([\d.]+)GB, ssm_state size: ([\d.]+)GB",
    "kv_gb": r"K size: ([\d.]+) GB, V size: ([\d.]+) GB",
}
BATCHES = re.compile(r"Capture target decode CUDA graph end\. bs=\[([\d, ]+)\]")
# what GET /server_info calls the same
INFO = ("mem_fraction_static", "max_total_num_tokens", "chunked_prefill_size", "max_running_requests")


def of_log(text: str) -> dict[str, float]:
    """The figures that a server's log has."""
    found = {name: float(hit[1]) for name, pattern in PATTERNS.items() if (hit := re.search(pattern, text))}
    for name, pattern in SUMS.items():
        if hit := re.search(pattern, text):
            found[name] = round(float(hit[1]) + float(hit[2]), 3)
    if hit := BATCHES.search(text):
        found["cuda_graph_max_bs"] = float(max(map(int, hit[1].split(","))))
    return found


def of_info(info: dict[str, Any]) -> dict[str, float]:
    """The figures of GET /server_info; what runs is in its internal states, else in its arguments."""
    states = (info.get("internal_states") or [{}])[0]
    found = {}
    for name in INFO:
        value = states.get(name, info.get(name))
        if isinstance(value, int | float):
            found[name] = float(value)
    return found


def deviations(planned: dict[str, Any], seen: dict[str, float]) -> dict[str, dict[str, float | None]]:
    """For each figure that both have: planned, seen, and planned / seen - 1."""
    rows = {}
    for name, value in seen.items():
        if planned.get(name) is None:
            continue
        off = planned[name] / value - 1 if value else None
        rows[name] = {"planned": planned[name], "seen": value, "off": None if off is None else round(off, 6)}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True, help="what `plan --json` printed")
    parser.add_argument("--log", type=Path, required=True, help="the server's log")
    parser.add_argument("--server-info", type=Path, help="what GET /server_info answered")
    parser.add_argument("--server", choices=("plain", "advised"), default="advised")
    parser.add_argument("--limit", type=float, default=0.03, help="share that a figure may be off (default: 0.03)")
    parser.add_argument("--commit", default="unknown", help="of this repository, for the record")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    plan = json.loads(args.plan.read_text())
    planned = plan["servers"][args.server]["reported"]
    text = args.log.read_text(errors="replace")
    seen = of_log(text)
    if args.server_info:
        seen |= of_info(json.loads(args.server_info.read_text()))
    rows = deviations(planned, seen)
    off = {name: row["off"] for name, row in rows.items() if row["off"] is None or abs(row["off"]) > args.limit}
    # a log without these two says nothing of what was planned
    missing = [name for name in ("max_total_num_tokens", "weights_gb") if name not in rows]
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": args.commit,
        "server": args.server,
        "limit": args.limit,
        "within": not off and not missing,
        "figures": rows,
        "not in the log": sorted(planned.keys() - rows.keys()),
        "plan": plan,
        "log": [line[:300] for line in text.splitlines() if re.search("|".join(PATTERNS.values()), line)],
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    for name, row in rows.items():
        mark = "OFF" if name in off else "ok"
        print(f"{mark:4}{name:28}{row['planned']:>14}{row['seen']:>14}  {row['off'] or 0:+.2%}")
    for name in missing:
        print(f"OFF {name} is not in the log")
    return 0 if record["within"] else 1


if __name__ == "__main__":
    sys.exit(main())
