"""The report of a run of tests comes in (JUnit's XML, as pytest writes it), benchmarks/matrix.json goes out.

    python benchmarks/matrix.py REPORT.xml COMMAND        # `make matrix` does this at its end

Fails where a test failed or none ran. Paths of the machine do not appear: tests are named as pytest names their files.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
BAD = ("failure", "error")


def result(report: Path) -> dict[str, Any]:
    """Counts and seconds of the whole and of each file, and which tests did not pass."""
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    files: dict[str, dict[str, Any]] = {}
    told: dict[str, dict[str, str]] = {"failed": {}, "skipped": {}}
    totals: Counter[str] = Counter()
    for case in suite.iter("testcase"):
        file = f"{case.attrib['classname'].replace('.', '/')}.py"
        bad = next((found for found in case if found.tag in BAD), None)
        skipped = case.find("skipped")
        outcome = "failed" if bad is not None else "skipped" if skipped is not None else "passed"
        totals[outcome] += 1
        reason = bad if bad is not None else skipped
        if reason is not None:
            first, _, _ = reason.attrib.get("message", "").partition("\n")
            told[outcome][f"{file}::{case.attrib['name']}"] = first[:200]
        one = files.setdefault(file, {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
        one[outcome] += 1
        one["seconds"] = round(one["seconds"] + float(case.attrib["time"]), 1)
    return {
        "began": suite.attrib["timestamp"],
        "seconds": round(float(suite.attrib["time"])),
        **{outcome: totals[outcome] for outcome in ("passed", "failed", "skipped")},
        "not passed": {**told["failed"], **told["skipped"]},
        "files": files,
    }


def main() -> int:
    report, command = Path(sys.argv[1]), sys.argv[2]
    made = {"command": command, "machine": machine(["sglang", "torch", "transformers"]), **result(report)}
    (ROOT / "benchmarks" / "matrix.json").write_text(json.dumps(made, indent=1) + "\n")
    print(f"{made['passed']} passed, {made['failed']} failed, {made['skipped']} skipped: benchmarks/matrix.json")
    return 1 if made["failed"] or not made["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
