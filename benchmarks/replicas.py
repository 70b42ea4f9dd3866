"""Two replicas of a toy behind SGLang's router: prompt tokens found in caches by policy, and one killed under load.

`python benchmarks/replicas.py` writes `benchmarks/replicas.json`. Router, replicas and clients share the cores of one
machine, so that times say nothing of two machines; they are recorded, and nothing is claimed of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import ROOT, machine

sys.path[:0] = [str(ROOT / "tests")]

from sglang_nemotron.checkpoint.spec import PRESETS  # noqa: E402
from sglang_nemotron.checkpoint.writer import write_checkpoint  # noqa: E402
from sglang_nemotron.cli.server import ServerProcess, free_port  # noqa: E402
from support.replicas import PROGRAM, converse, missed, requests_of, router, router_command  # noqa: E402
from support.replicas_killed import Killed, killed_under_load  # noqa: E402
from support.serving import post  # noqa: E402
from support.waiting import NET_S  # noqa: E402

FLAGS = ("--dtype", "float32", "--served-model-name", "default", "--enable-metrics", "--enable-cache-report")


def talk(
    address: str, replicas: list[ServerProcess], tag: str, num: int, turns: int, *, shared: bool
) -> dict[str, Any]:
    """One run of conversations on empty caches."""
    for server in replicas:
        post(server.url, "/flush_cache", {})
    before = [requests_of(server) for server in replicas]
    began = time.monotonic()
    found = converse(address, num, turns, tag=tag, shared=shared)
    wall = time.monotonic() - began
    later = [turn for turn in found if turn.number]
    return {
        "conversations": num,
        "turns_each": turns,
        "prompt_tokens": sum(turn.prompt for turn in found),
        "cached_tokens": sum(turn.cached for turn in found),
        "hit_ratio": round(sum(turn.cached for turn in found) / sum(turn.prompt for turn in found), 4),
        "later_turns": len(later),
        "later_turns_that_met_their_own_prefix": len(later) - len(missed(found)),
        "requests_by_replica": [requests_of(server) - count for server, count in zip(replicas, before, strict=True)],
        "wall_s": round(wall, 2),
        "answer_tokens_per_s": round(sum(turn.answer for turn in found) / wall, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "replicas.json")
    parser.add_argument("--conversations", type=int, default=11)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    record: dict[str, Any] = {
        "what": __doc__,
        "command": " ".join(["python", *sys.argv]),
        "router": subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout.strip(),
        "router_command": " ".join(["smg", *router_command(30000, ["URL", "URL"], "POLICY")[1:]]),
        "replica_flags": " ".join(FLAGS),
        "machine": machine(["sglang", "torch", "transformers"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_checkpoint(PRESETS["tiny"], path / "tiny")

        def make(port: int | None = None) -> ServerProcess:
            log = path / f"{port or free_port()}.log"
            return ServerProcess(path / "tiny", FLAGS, log_path=log, port=port, time_limit_s=NET_S)

        replicas = [make(), make()]
        try:
            for server in replicas:
                server.start()
            record["rounds"] = [one_round(replicas, path, number, args) for number in range(args.rounds)]
            killed = killed_under_load(replicas, path / "killed.log", make)
            record["killed_under_load"] = _killed(killed)
            replicas = killed.replicas
        finally:
            for server in replicas:
                server.stop()
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def one_round(replicas: list[ServerProcess], path: Path, number: int, args: Any) -> dict[str, Any]:
    """The same number of conversations with one replica, and with two by each policy; none says what another said."""
    found: dict[str, Any] = {}
    for shared, name in ((False, "system prompts of their own"), (True, "one system prompt")):

        def talked(address: str, tag: str, shared: bool = shared) -> dict[str, Any]:
            return talk(address, replicas, f"{tag} {number}", args.conversations, args.turns, shared=shared)

        found[name] = {"one replica, no router": talked(replicas[0].url, "one")}
        for policy in ("cache_aware", "round_robin"):
            with router([server.url for server in replicas], path / f"{policy}{number}{shared}.log", policy) as address:
                found[name][policy] = talked(address, policy)
    return found


def _killed(killed: Killed) -> dict[str, Any]:
    heard = killed.heard
    return {
        "right": dict(heard.right),
        "wrong": len(heard.wrong),
        "errors": dict(heard.errors),
        "after_the_kill": {"right": dict(killed.without.right), "errors": dict(killed.without.errors)},
        "after_the_restart": {
            "right": dict(killed.again.right),
            "errors": dict(killed.again.errors),
            "requests_by_replica": killed.shares,
        },
    }


if __name__ == "__main__":
    main()
