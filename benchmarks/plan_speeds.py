"""The speeds that `sglang-nemotron plan` tells, taken from the committed measurements.

    python benchmarks/plan_speeds.py

writes src/sglang_nemotron/plan/speeds.json; run it after a new measurement was committed. Nothing is measured here.
Of several sittings the last that measured a batch counts. `few-rows` in gpu_decode.json is ours, as served since.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OUT = HERE.parent / "src" / "sglang_nemotron" / "plan" / "speeds.json"
SOURCE = "benchmarks/gpu_decode.json"
# of benchmarks/gpu/decode.py
PROMPT = 1024


def decode_rows(record: dict[str, Any], weights: str) -> list[dict[str, Any]]:
    """Our rows of one number format ("bf16", "fp8"), by batch, with the date of each."""
    rows: dict[int, dict[str, Any]] = {}
    for sitting in record["sittings"]:
        for row in _ours(sitting, weights):
            batch = row.get("batch", row.get("bs"))
            rows[batch] = {"batch": batch, "decode": row["decode"], "prefill": row["prefill"], "date": sitting["date"]}
    return [rows[batch] for batch in sorted(rows)]


def _ours(sitting: dict[str, Any], weights: str) -> list[dict[str, Any]]:
    if "sides" in sitting:
        return sitting["sides"].get(f"{weights}, ours", {"rows": []})["rows"]
    runs = [run for run in sitting["runs"] if run["checkpoint"] == weights and "few-rows" in run["sides"]]
    return [row for run in runs for row in run["sides"]["few-rows"]["rows"]]


def table() -> dict[str, Any]:
    record = json.loads((HERE / "gpu_decode.json").read_text())
    series = [
        {
            "gpu": "h200",
            "kind": "text",
            "quantization": quantization,
            "tp": 1,
            "prompt": PROMPT,
            "source": SOURCE,
            "measured_with": "prompts of 1,024 tokens, 256 timed tokens, random weights, no prefix cache, bfloat16 KV",
            "rows": decode_rows(record, weights),
        }
        for quantization, weights in (("none", "bf16"), ("fp8", "fp8"))
    ]
    return {"made_by": "python benchmarks/plan_speeds.py", "series": series}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="(default: the file that the package ships)")
    args = parser.parse_args()
    args.out.write_text(json.dumps(table(), indent=1) + "\n")
    print(f"wrote {args.out.name}")


if __name__ == "__main__":
    main()
