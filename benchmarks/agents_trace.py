"""Counts prompt tokens that come from the prefix cache on a trace of agents: ours, SGLang's defaults, and the most.

    python benchmarks/agents_trace.py                   # about half an hour; writes benchmarks/agents_trace.json
    python benchmarks/agents_trace.py --users 4 --turns 3 --out /tmp/quick.json

Users talk at once, one system prompt and set of tools for all. A turn is a question, some calls of tools with their
results, and an answer, each reply after thoughts. As the published chat template does, a prompt keeps the thoughts of
its own turn and strips those of earlier ones, so that a turn's first prompt parts from what is cached where the first
reply of the turn before began. Prompts are token ids laid out like the template's; replies are the model's own tokens.

"The most" is the longest beginning that a prompt shares with a prompt and reply of an earlier step, its last token left
out, as the cache gives none for it. The model is small, but a slot of it weighs as many KV entries as one of the
published model. Counts depend on the order in which requests of one step are taken, a little; seconds say nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from machine import ROOT, machine
from slots_cpu import FLAGS, SKIP, allocated, sglangs_sizes
from slots_cpu import MODEL as SMALL

from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.cli.console import Bar
from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.parity.client import Client
from sglang_nemotron.state.layout import StateLayout, state_layout

MODEL = replace(SMALL, max_position_embeddings=32768)
# of the published tokenizer; words are any ids from FIRST_WORD on
START, END, THINK, END_THINK, NEWLINE, FIRST_WORD = 10, 11, 12, 13, 1010, 1100
# tokens of each part, from and to
SYSTEM, QUESTION, THOUGHTS, CALL, RESULT, ANSWER, CALLS = (
    1200,
    (40, 160),
    (60, 200),
    (30, 70),
    (80, 400),
    (50, 150),
    (0, 2),
)


@dataclass
class Reply:
    """What the model said: all tokens, and how many of the last ones are no thoughts."""

    tokens: list[int]
    kept: int


@dataclass
class Talk:
    """One user's conversation; `parts` are finished turns as later prompts show them, `turn` the one under way."""

    rng: random.Random
    parts: list[int]
    turn: list[int] = field(default_factory=list)
    stripped: list[int] = field(default_factory=list)
    seen: list[list[int]] = field(default_factory=list)

    def words(self, count: int) -> list[int]:
        return [self.rng.randrange(FIRST_WORD, MODEL.vocab_size) for _ in range(count)]

    def message(self, length: tuple[int, int]) -> list[int]:
        return [START, *self.words(1), NEWLINE, *self.words(self.rng.randint(*length)), END, NEWLINE]

    def says(self, length: tuple[int, int]) -> None:
        said = self.message(length)
        self.turn += said
        self.stripped += said

    def prompt(self) -> list[int]:
        return [*self.parts, *self.turn, START, FIRST_WORD, NEWLINE, THINK, NEWLINE]

    def hears(self, reply: Reply) -> None:
        self.seen.append(self.prompt() + reply.tokens)
        self.turn += [START, FIRST_WORD, NEWLINE, THINK, NEWLINE, *reply.tokens, END, NEWLINE]
        kept = reply.tokens[-reply.kept :]
        self.stripped += [START, FIRST_WORD, NEWLINE, THINK, END_THINK, *kept, END, NEWLINE]

    def ends_turn(self) -> None:
        self.parts += self.stripped
        self.turn, self.stripped = [], []


def steps(talks: list[Talk], turns: int) -> Iterator[tuple[str, list[tuple[Talk, int, int]]]]:
    """Requests that are made at once: kind, and for each its talk, tokens of thoughts and tokens kept."""
    for _ in range(turns):
        calls = [talk.rng.randint(*CALLS) for talk in talks]
        for talk in talks:
            talk.says(QUESTION)
        for step in range(CALLS[1] + 1):
            asking = [(talk, count) for talk, count in zip(talks, calls, strict=True) if step <= count]
            yield (
                "first of a turn" if step == 0 else "after a tool",
                [
                    (talk, talk.rng.randint(*THOUGHTS), talk.rng.randint(*(CALL if step < count else ANSWER)))
                    for talk, count in asking
                ],
            )
            for talk, count in asking:
                if step < count:
                    talk.says(RESULT)
        for talk in talks:
            talk.ends_turn()


def common(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def most(prompt: list[int], talk: Talk, system: list[int], is_first_step: bool) -> int:
    """Tokens that could be hit at the most; all begin with the system prompt, which others have sent by then."""
    shared = 0 if is_first_step else common(prompt, system)
    return min(max([shared, *(common(prompt, seen) for seen in talk.seen)]), len(prompt) - 1)


def run_trace(url: str, users: int, turns: int, bar: Bar) -> dict[str, dict[str, int]]:
    shared = random.Random(0)
    system = [START, *(shared.randrange(FIRST_WORD, MODEL.vocab_size) for _ in range(SYSTEM)), END, NEWLINE]
    talks = [Talk(random.Random(user + 1), list(system)) for user in range(users)]
    counts: dict[str, dict[str, int]] = {}
    is_first = True
    with ThreadPoolExecutor(users) as pool:
        for step, (kind, requests) in enumerate(steps(talks, turns), 1):
            prompts = [talk.prompt() for talk, _, _ in requests]
            best = [most(p, talk, system, is_first) for p, (talk, _, _) in zip(prompts, requests, strict=True)]
            answers = list(
                pool.map(
                    lambda given: Client(url, new_tokens=sum(given[1][1:]), timeout_s=3600).ask(given[0], None),
                    zip(prompts, requests, strict=True),
                )
            )
            row = counts.setdefault(kind, {"requests": 0, "prompt": 0, "most": 0, "hit": 0})
            for prompt, could, answer, (talk, _, kept) in zip(prompts, best, answers, requests, strict=True):
                row["requests"] += 1
                row["prompt"] += len(prompt)
                row["most"] += could
                row["hit"] += answer.cached
                talk.hears(Reply(list(answer.tokens), kept))
            is_first = False
            bar(step, turns * (CALLS[1] + 1))
    return counts


def variants(layout: StateLayout, cap_gib: float) -> dict[str, tuple[list[str], dict[str, str | None]]]:
    """Flags and variables of each server, beside those of all."""
    cap = {"SGLANG_NEMOTRON_CPU_MEMORY_GIB": str(cap_gib)}
    by_sglang = ["--mamba-radix-cache-strategy", "extra_buffer", *sglangs_sizes(layout, cap_gib)]
    return {
        "ours": ([], {**cap, SKIP: None}),
        "ours, --strip-thinking-cache": (["--strip-thinking-cache"], {**cap, SKIP: None}),
        "SGLang's defaults": (by_sglang, {**cap, SKIP: "0"}),
    }


def summed(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    return {name: sum(row[name] for row in counts.values()) for name in next(iter(counts.values()))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--cap", type=float, default=0.5, metavar="GIB", help="memory of pools (default: 0.5)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "agents_trace.json")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_checkpoint(MODEL, folder)
        spec = decoder_spec(json.loads((folder / "config.json").read_text()))
        layout = state_layout(spec, tp_size=1, conv_dtype="float32", ssm_dtype="float32", kv_dtype="float32")
        for number, (name, (flags, env)) in enumerate(variants(layout, args.cap).items()):
            log = Path(temporary) / f"{number}.log"
            server = ServerProcess(
                folder, [*FLAGS, *flags], log_path=log, env={"OMP_WAIT_POLICY": "PASSIVE", **env}, time_limit_s=1800
            )
            with server, Bar(name) as bar:
                counts = run_trace(server.url, args.users, args.turns, bar)
                text = server.log_text()
            whole = summed(counts)
            results[name] = {
                "command": shlex.join(["sglang", "serve", "--model-path", "MODEL", *FLAGS, *flags]),
                "environment": {key: value for key, value in env.items() if value is not None},
                **allocated(text),
                "counts": counts,
                "whole": whole,
            }
            print(f"{name:<30} hit {whole['hit'] / whole['prompt']:.1%} of {whole['prompt']} prompt tokens; the most "
                  f"{whole['most'] / whole['prompt']:.1%}", flush=True)  # fmt: skip
    report = {
        "cap_gib": args.cap,
        "slot_bytes": layout.bytes_per_slot,
        "kv_token_bytes": layout.kv_bytes_per_token,
        "load": {"users": args.users, "turns": args.turns, "system": SYSTEM, "question": QUESTION, "thoughts": THOUGHTS,
                 "call": CALL, "result": RESULT, "answer": ANSWER, "calls": CALLS},
        "machine": machine(["sglang", "torch"]),
        "results": results,
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
