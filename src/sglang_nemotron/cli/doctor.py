"""Check this installation: Python, torch, SGLang, the GPU, every door with its proof, and what is refused and why.

Exit code 0 if a Nemotron 3 Nano server would start and run here, 1 if it would be refused, or break over a name, a
field or a signature that this SGLang does not have.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import logging
import platform
import time
from typing import Any

from sglang_nemotron import KILL_SWITCH, SUPPORTED_SGLANG, __version__, disabled


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the report. Returns 0, or 1 if something is refused."""
    began = time.monotonic()
    report = examine()
    report["seconds"] = round(time.monotonic() - began, 1)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_lines(report)))
    return 0 if report["ok"] else 1


def examine() -> dict[str, Any]:
    """Everything the report says, as plain values; walks the rows that `register()` opens."""
    report: dict[str, Any] = {
        "ok": False,
        "versions": {
            "sglang-nemotron": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "sglang", "transformers", "triton", "sglang-kernel")},
        },
        "tested_sglang": list(SUPPORTED_SGLANG),
        "entry_points": _entry_points(),
        "disabled": disabled(),
        "doors": [],
        "differences": [],
        "refused": [],
    }
    if disabled():
        report["refused"].append(_fault("package", f"{KILL_SWITCH} is set", f"unset {KILL_SWITCH}"))
        return report
    # our own warnings come back in the report; SGLang's import chatter is nobody's business here
    logging.disable(logging.CRITICAL)
    try:
        report["device"] = _device()
        _walk(report)
    finally:
        logging.disable(logging.NOTSET)
    missing = [group for group, found in report["entry_points"].items() if not found]
    for group in missing:
        report["refused"].append(
            _fault("entry points", f"SGLang would not find us in {group}", "install the package: pip install .")
        )
    report["ok"] = not report["refused"]
    return report


def _walk(report: dict[str, Any]) -> None:
    # the refusal alone is sure to import: it keeps what the others raise
    from sglang_nemotron.host import refusal

    refusal.guarded("doors", "sglang_nemotron.host.doors", "open_all")
    if not any(fault.door == "doors" for fault in refusal.faults()):
        from sglang_nemotron.host import doors, release

        report["sglang_tested"] = release.is_tested(release.sglang_version())
        # every fault is kept, and listed below
        with contextlib.suppress(refusal.Refused):
            doors.prove_all()
        broken = {fault.door for fault in refusal.faults()}
        report["doors"] = [
            {"name": door.name, "stage": door.stage, "what": door.what, "is_ours": door.name not in broken}
            for door in doors.DOORS
        ]
        _compare(report, doors.DOORS)
    report["refused"] += [_fault(fault.door, fault.reason, fault.remedy) for fault in refusal.faults()]


def _compare(report: dict[str, Any], rows: tuple[Any, ...]) -> None:
    from sglang_nemotron.host import drift

    report["differences"] = drift.differences(wrap for door in rows for wrap in door.wraps)
    first, last = report["tested_sglang"]
    for difference in report["differences"]:
        report["refused"].append(_fault("contract with SGLang", difference, f"install sglang {first} to {last}"))


def _device() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"kind": "cpu", "threads": torch.get_num_threads(), "machine": platform.machine()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "kind": "cuda",
        "count": torch.cuda.device_count(),
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }


def _entry_points() -> dict[str, bool]:
    groups = ("sglang.srt.plugins", "sglang.srt.platforms")
    return {
        group: any(entry.value.startswith("sglang_nemotron:") for entry in importlib.metadata.entry_points(group=group))
        for group in groups
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fault(door: str, reason: str, remedy: str) -> dict[str, str]:
    return {"door": door, "reason": reason, "remedy": remedy}


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{name:<16} {version or 'not installed'}" for name, version in report["versions"].items()]
    if "sglang_tested" in report:
        first, last = report["tested_sglang"]
        verdict = "tested" if report["sglang_tested"] else f"not tested (the tested window is {first} to {last})"
        lines.append(f"{'this sglang':<16} {verdict}")
    if "device" in report:
        lines.append(f"{'device':<16} " + ", ".join(f"{value}" for value in report["device"].values()))
    lines.append("")
    for row in report["doors"]:
        lines.append(f"  {'ours' if row['is_ours'] else 'NOT OURS':<9}{row['name']:<12}{row['what']}")
    for fault in report["refused"]:
        lines += ["", f"refused: {fault['door']}", f"  reason: {fault['reason']}", f"  remedy: {fault['remedy']}"]
    lines += ["", "a server of Nemotron 3 Nano starts here" if report["ok"] else "a server would be refused"]
    return lines
