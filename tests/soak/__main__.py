"""`make soak MINUTES=30`: mixed traffic against a server of a tiny checkpoint, or one that runs; JSON and a verdict.

Ends with 0 if no answer was wrong, nothing leaked and nothing was slower than its bound, else with 1 and what was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from machine import machine  # noqa: E402

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS  # noqa: E402
from sglang_nemotron.checkpoint.writer import write_checkpoint  # noqa: E402
from sglang_nemotron.cli.server import ServerProcess  # noqa: E402
from soak.asks import Place  # noqa: E402
from soak.hostile import bad_asks  # noqa: E402
from soak.report import report  # noqa: E402
from soak.run import Seen, Soak, Target  # noqa: E402
from soak.sample import server_at  # noqa: E402
from soak.servers import CONTEXT, ENVIRONMENT, FLAGS  # noqa: E402
from soak.traffic import script  # noqa: E402
from support.omni_requests import TOLERANCE  # noqa: E402
from support.serving import get  # noqa: E402

PACKAGES = ("sglang", "torch", "transformers", "aiohttp")


def say(line: str) -> None:
    print(f"soak: {line}", file=sys.stderr, flush=True)


def model_of(url: str) -> str:
    """The name under which a server has its model."""
    return json.loads(get(f"{url}/v1/models"))["data"][0]["id"]


def soak_made(model: str, args: argparse.Namespace) -> tuple[Seen, dict[str, Any]]:
    """Of a tiny checkpoint that is written, served, and gone afterwards."""
    omni = model == "omni"
    spec = (OMNI_PRESETS if omni else PRESETS)["tiny"]
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        checkpoint = Path(folder) / "checkpoint"
        write_checkpoint(spec, checkpoint)
        server = ServerProcess(
            checkpoint, FLAGS[model], log_path=Path(folder) / "server.log", env=ENVIRONMENT, time_limit_s=900
        )
        with server:
            say(f"{model}: ready after {server.seconds_to_ready:.0f} s")
            target = Target(server.url, server.pid, str(checkpoint), lambda: server.returncode)
            place = Place(CONTEXT[model], spec.vocab_size, omni, model_of(server.url), bad_asks(omni, CONTEXT[model]))
            steps = script(args.seed, place)
            soak = Soak(target, steps, tolerance=args.tolerance, say=say)
            seen = soak.run(seconds=args.minutes * 60, requests=args.requests)
            if args.log:
                Path(args.log).write_text(server.log_text())
        shape = f"tiny {spec.hybrid_override_pattern}{' with towers' if omni else ''}, float32"
        return seen, {"checkpoint": shape, "flags": " ".join(FLAGS[model]), "environment": ENVIRONMENT}


def soak_running(model: str, args: argparse.Namespace) -> tuple[Seen, dict[str, Any]]:
    """Of a server that somebody else started; weights are loaded anew only from a folder that is named."""
    omni = model == "omni"
    place = Place(args.context, args.top_id, omni, model_of(args.url), bad_asks(omni, args.context))
    target = Target(args.url, server_at(args.url), args.weights)
    say(f"{args.url}: {'its processes are watched' if target.pid else 'its processes are elsewhere'}")
    soak = Soak(target, script(args.seed, place), tolerance=args.tolerance, say=say)
    return soak.run(seconds=args.minutes * 60, requests=args.requests), {"context": args.context}


def main() -> int:
    args = _parser().parse_args()
    if args.url and args.model == "both":
        raise SystemExit("--url is one server: say whether it is `text` or `omni`")
    failed = False
    for model in ("text", "omni") if args.model == "both" else (args.model,):
        seen, server = (soak_running if args.url else soak_made)(model, args)
        found = report(seen, slowest_s=args.slowest)
        command = f"make soak MODEL={model} MINUTES={args.minutes:g}" + (" URL=..." if args.url else "")
        path = Path(args.out.replace("MODEL", model))
        whole = {"command": command, "seed": args.seed, "machine": machine(PACKAGES), "server": server, **found}
        path.write_text(dumped(whole))
        for problem in found["problems"][:40]:
            say(f"{model}: {problem}")
        compared = found["compared"]
        say(
            f"{model}: {found['requests']} requests in {found['seconds']:.0f} s, "
            f"{compared['asked again alone']} compared, {compared['wrong']} wrong; "
            f"{'passed' if found['passed'] else 'FAILED'}: {path}"
        )
        failed = failed or not found["passed"]
    return 1 if failed else 0


def dumped(found: dict[str, Any]) -> str:
    """JSON with a line for each series, not for each number."""
    columns = found.pop("series")
    text = json.dumps(found, indent=1)
    rows = [f"  {json.dumps(name)}: {json.dumps(column)}" for name, column in columns.items()]
    return text.removesuffix("\n}") + ',\n "series": {\n' + ",\n".join(rows) + "\n }\n}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("model", choices=("text", "omni", "both"), nargs="?", default="both")
    parser.add_argument("--minutes", type=float, default=30.0, help="of traffic, for each model (default: 30)")
    parser.add_argument("--requests", type=int, help="end after so many, if that is earlier")
    parser.add_argument("--seed", type=int, default=1, help="of the script (default: 1)")
    parser.add_argument("--slowest", type=float, default=120.0, help="seconds that a request may take (default: 120)")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of a logprob (default: 5e-5, for float32)")
    parser.add_argument("--out", default="benchmarks/soak_MODEL.json", help="JSON to write; MODEL is text or omni")
    parser.add_argument("--log", help="file that takes the log of a server that is started here")
    parser.add_argument("--url", help="of a server that runs, such as http://127.0.0.1:30000")
    parser.add_argument("--weights", help="with --url: the folder that the server loads anew now and then")
    parser.add_argument("--context", type=int, default=4096, help="with --url: of that server (default: 4096)")
    parser.add_argument("--top-id", type=int, default=2048, help="with --url: ids of prompts are below it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
