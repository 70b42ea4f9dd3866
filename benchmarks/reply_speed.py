"""Time per token of parsing a streamed reply with 20 tool calls, ours and SGLang's own parsers, in one run.

`python benchmarks/reply_speed.py` writes `benchmarks/reply_speed.json`. Needs SGLang, no GPU, no model. Both sides get
the same pieces, about one token each, in turn; processor time, median over the rounds.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from sglang_nemotron.reply.grammar import Call, Reply, ReplyParser, collect, parse_reply  # noqa: E402
from sglang_nemotron.reply.reasoning import ReasoningStage  # noqa: E402
from sglang_nemotron.reply.tools import ToolStage  # noqa: E402
from support.reply_intree import InTree, streamed  # noqa: E402
from support.reply_texts import OPENAI_TOOLS, TOOLS  # noqa: E402

WORDS = ("the", "model", "reads", "prompts", "of", "many", "tokens", "and", "writes", "code", "in", "several", "lines")
# about what a tokenizer does to such text: tags whole, words with their space, runs of newlines
TOKEN = re.compile(r"</?t(?:hink|ool_call)>|\n+| ?\w{1,8}|.", re.DOTALL)
CALLS = 20


def prose(pick: random.Random, words: int) -> str:
    """Lines of about 12 words."""
    return " ".join(pick.choice(WORDS) + ("\n" if pick.random() < 0.08 else "") for _ in range(words)).replace(
        "\n ", "\n"
    )


def reply(tokens: int, num_calls: int = CALLS) -> tuple[str, Reply]:
    """A reply of about this many tokens, half of it thinking, most of the rest in string arguments of the calls."""
    pick = random.Random(tokens)
    thought, answer = prose(pick, tokens // 2).strip(), prose(pick, tokens // 10).strip()
    text, calls = f"{thought}\n</think>\n{answer}\n", []
    for number in range(num_calls):
        body = prose(pick, max(4, (tokens * 4 // 10 - num_calls * 60) // num_calls)).strip()
        text += (
            f"<tool_call>\n<function=set>\n<parameter=s>\n{body}\n</parameter>\n<parameter=i>\n{number}\n</parameter>\n"
            "</function>\n</tool_call>\n"
        )
        calls.append(Call("set", json.dumps({"s": body, "i": number})))
    return text, Reply(thought, answer, tuple(calls))


def one_machine(pieces: list[str]) -> None:
    parser = ReplyParser(TOOLS)
    for piece in pieces:
        parser.feed(piece)
    parser.finish()


def two_stages(pieces: list[str]) -> None:
    """As a server calls it: the reasoning parser, and the tool parser on what that leaves."""
    first, second = ReasoningStage([tool.name for tool in TOOLS]), ToolStage(TOOLS)
    for piece in pieces:
        second.feed(first.feed(piece)[1])
    second.feed(first.finish()[1])
    second.finish()


def in_tree(pieces: list[str]) -> None:
    parser = InTree(OPENAI_TOOLS)
    for piece in pieces:
        parser.feed(piece)
    parser.finish()


def check(text: str, pieces: list[str], expected: Reply) -> None:
    """Refuse to time a parser that gets the reply wrong (its blanks aside)."""

    def bare(found: Reply) -> tuple[str, str, list[tuple[str, object]]]:
        calls = [(call.name, json.loads(call.arguments)) for call in found.calls]
        return found.reasoning.strip(), found.content.strip(), calls

    parser = ReplyParser(TOOLS)
    mine = collect([event for piece in pieces for event in parser.feed(piece)] + parser.finish())
    for name, found in (
        ("whole", parse_reply(text, TOOLS)),
        ("ours", mine),
        ("in-tree", streamed(pieces, OPENAI_TOOLS)),
    ):
        if bare(found) != bare(expected):
            raise SystemExit(f"the {name} parse of the benchmark's reply is wrong: nothing is timed")


def timed(side: Callable[[list[str]], None], pieces: list[str]) -> float:
    start = time.process_time()
    side(pieces)
    return (time.process_time() - start) / len(pieces) * 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "reply_speed.json")
    arguments = options.parse_args()
    sides = {"ours": one_machine, "ours_two_stages": two_stages, "in_tree": in_tree}
    results = []
    for size in (8_000, 16_000, 32_000):
        text, expected = reply(size)
        pieces = TOKEN.findall(text)
        assert "".join(pieces) == text
        check(text, pieces, expected)
        rounds = [{name: timed(side, pieces) for name, side in sides.items()} for _ in range(arguments.rounds)]
        row: dict[str, object] = {"tokens": len(pieces), "characters": len(text), "calls": CALLS}
        for name in sides:
            row[f"{name}_us_per_token"] = round(statistics.median(one[name] for one in rounds), 3)
            row[f"{name}_us_per_token_rounds"] = [round(one[name], 3) for one in rounds]
        row["in_tree_over_ours"] = round(statistics.median(one["in_tree"] / one["ours"] for one in rounds), 2)
        row["in_tree_over_two_stages"] = round(
            statistics.median(one["in_tree"] / one["ours_two_stages"] for one in rounds), 2
        )
        results.append(row)
        print({key: value for key, value in row.items() if not key.endswith("rounds")}, flush=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    record = {
        "command": "python benchmarks/reply_speed.py",
        "in_tree": "nemotron_3 + qwen3_coder",
        "clock": "process_time, median of rounds; sides in turn",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "sglang": importlib.metadata.version("sglang"),
            "sglang-nemotron": importlib.metadata.version("sglang-nemotron"),
        },
        "commit": commit.stdout.strip(),
        "machine": platform.machine(),
        "results": results,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
