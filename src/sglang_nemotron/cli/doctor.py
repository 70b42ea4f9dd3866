"""Check this installation and machine, and with MODEL whether it would start here, and with what.

Python, torch, SGLang, the GPU, every door with its proof, what is refused and why; memory, disk, port and token; what
text and Omni lack; which published checkpoint fits on which cards. Exit code 0 if what was asked for would start
(MODEL, else a text model), 1 if it would be refused, or break over a name, a field or a signature that this SGLang
lacks.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import logging
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from sglang_nemotron import KILL_SWITCH, __version__, disabled
from sglang_nemotron.cli.console import console, show, table
from sglang_nemotron.cli.doctor_host import examine_host, what_fits
from sglang_nemotron.cli.doctor_model import examine_model, faults_of
from sglang_nemotron.cli.doctor_model import lines as model_lines
from sglang_nemotron.media import libraries
from sglang_nemotron.sglang_api import release

# SGLang's own default
_PORT = 30000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a checkpoint's folder, or its id")
    parser.add_argument("--revision", metavar="R", help="of an id: branch, tag or commit (default: main)")
    parser.add_argument("--port", type=int, metavar="N", help="that a server would take (default: 30000)")
    parser.add_argument("--serve-args", default="", metavar="'FLAGS'", help="what `sglang serve` would be given beside")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the report. Returns 0, or 1 if something is refused."""
    began = time.monotonic()
    with console(sys.stderr).status("looking at SGLang and every door") as status:
        report = examine()
        if "device" in report:
            _look_around(report, args, lambda text: status.update(text))
    report["seconds"] = round(time.monotonic() - began, 1)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0 if report["ok"] else 1


def _look_around(report: dict[str, Any], args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """This machine, what text and Omni lack here, and the model that was asked about."""
    host = report["host"] = examine_host(args.port or _PORT, _memory())
    lacks = [fault["reason"] for fault in report["refused"]]
    media = [f"not installed: {name}" for name in libraries.missing()]
    report["text"], report["omni"] = ({"starts": not wrong, "lacks": wrong} for wrong in (lacks, lacks + media))
    report["published"] = what_fits(report["device"], host["memory_available_gib"])
    # without either it is the installation that was asked about, which may be serving already
    if not host["port_free"] and (args.model or args.port):
        report["refused"].append(_fault("port", f"{host['port']} is in use", "choose another with --port"))
    if args.model is not None and not lacks:
        say(f"resolving the arguments of a server of {args.model}")
        with _hushed():
            model = report["model"] = examine_model(args.model, args.revision, shlex.split(args.serve_args))
        for reason, remedy in faults_of(model, host, report["device"]):
            report["refused"].append(_fault("model", reason, remedy))
    report["ok"] = not report["refused"]


def _memory() -> tuple[int, int]:
    """(bytes available, bytes in all); SGLang is imported by now, if it can be."""
    try:
        from sglang_nemotron.host.cpu import host_memory
    except ImportError:
        # which the report says elsewhere; a container's limit is then not seen
        memory = psutil.virtual_memory()
        return memory.available, memory.total
    return host_memory()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Our own warnings come back in the report; SGLang's import chatter is nobody's business here."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def examine() -> dict[str, Any]:
    """Everything the report says, as plain values; walks the rows that `register()` opens."""
    report: dict[str, Any] = {
        "ok": False,
        "versions": {
            "sglang-nemotron": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "sglang", "transformers", "triton", "sglang-kernel")},
        },
        "tested_sglang": list(release.SUPPORTED_SGLANG),
        "entry_points": _entry_points(),
        "disabled": disabled(),
        "doors": [],
        "differences": [],
        "refused": [],
    }
    if disabled():
        report["refused"].append(_fault("package", f"{KILL_SWITCH} is set", f"unset {KILL_SWITCH}"))
        return report
    with _hushed():
        report["device"] = _device()
        _walk(report)
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

    refusal.guarded("release", "sglang_nemotron.host.release", "announce")
    refusal.guarded("doors", "sglang_nemotron.host.doors", "open_all")
    if report["versions"]["sglang"]:
        report["sglang_tested"] = release.is_tested(report["versions"]["sglang"])
    if not any(fault.door == "doors" for fault in refusal.faults()):
        from sglang_nemotron.host import doors

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
    from sglang_nemotron.sglang_api import drift

    report["differences"] = drift.differences(wrap for door in rows for wrap in door.wraps)
    for difference in report["differences"]:
        report["refused"].append(_fault("contract with SGLang", difference, f"install sglang {release.window()}"))


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


def _print(report: dict[str, Any]) -> None:
    show(table(None, ("", ""), _facts(report)))
    if report["doors"]:
        rows = [("ours" if row["is_ours"] else "NOT OURS", row["name"], row["what"]) for row in report["doors"]]
        show(table(None, ("served by", "door", "what"), rows))
    if "published" in report:
        print()
        fits = [(row["model"], row["weights_gib"], *_verdicts(row["fits"])) for row in report["published"]]
        splits = [f"TP {split}" for split in report["published"][0]["fits"]]
        show(table(None, ("weights alone, of", ">GiB", *splits), fits))
    for fault in report["refused"]:
        print(f"\nrefused: {fault['door']}\n  reason: {fault['reason']}\n  remedy: {fault['remedy']}")
    print(f"\n{_verdict(report)}")


def _verdict(report: dict[str, Any]) -> str:
    if not report["ok"]:
        return "a server would be refused"
    model = report.get("model")
    if model and model["ours"] not in ("text", "omni", None):
        return f"{model['name']} is left to SGLang's own class ({model['ours']}); only its arguments were looked at"
    return f"a server of {model['name'] if model else 'Nemotron 3 Nano'} starts here"


def _verdicts(fits: dict[int, bool]) -> list[str]:
    return ["fits" if room else "no" for room in fits.values()]


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [(name, version or "not installed") for name, version in report["versions"].items()]
    if "sglang_tested" in report:
        verdict = "tested" if report["sglang_tested"] else f"not tested (the tested window is {release.window()})"
        facts.append(("this sglang", verdict))
    if "device" in report:
        facts.append(("device", ", ".join(f"{value}" for value in report["device"].values())))
    if host := report.get("host"):
        cache = f"{host['cache']}, {host['disk_free_gib']} GiB free" + ("" if host["cache_writable"] else ", read-only")
        token = "a token is set" if host["token"] else "no token (gated or private models need one: HF_TOKEN)"
        facts += [
            ("driver", host["driver"] or "none"),
            ("host memory", f"{host['memory_available_gib']} of {host['memory_gib']} GiB free"),
            ("cache", cache + (", offline" if host["offline"] else "")),
            ("hub", token),
            ("port", f"{host['port']} is {'free' if host['port_free'] else 'in use'}"),
            *(
                (kind, "starts" if report[kind]["starts"] else "; ".join(report[kind]["lacks"]))
                for kind in ("text", "omni")
            ),
        ]
    return facts + (model_lines(report["model"]) if "model" in report else [])
