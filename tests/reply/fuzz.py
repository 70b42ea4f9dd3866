"""`python -m tests.reply.fuzz --minutes 10`: made-up replies against the second grammar, big ones against the clock.

Ends with 0 if every reply came out right and no 1 MB reply took more than its share of time, else with 1 and the reply.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from sglang_nemotron.reply.grammar import ReplyParser

sys.path.insert(0, str(Path(__file__).parents[1]))

from reply.test_reply_invariance import check  # noqa: E402
from reply.test_reply_linear import SHAPES, parse, reply  # noqa: E402
from support.costs import cost  # noqa: E402
from support.reply_texts import PIECES, VALUES, made, tight  # noqa: E402

MEGABYTE = 1 << 20
# a linear parse takes well under a second for each of these; a quadratic one takes minutes
MAX_SECONDS = 30.0


def noisy(pick: random.Random) -> str:
    """Pieces of the grammar, values and characters of all planes, in any order."""
    pieces = [pick.choice(PIECES) if pick.random() < 0.8 else pick.choice(VALUES) for _ in range(pick.randrange(60))]
    if pick.random() < 0.3:
        pieces.insert(
            pick.randrange(len(pieces) + 1),
            chr(pick.choice([pick.randrange(0xD800), pick.randrange(0xE000, 0x110000)])),
        )
    return "".join(pieces)


def small(seed: int) -> None:
    pick = random.Random(seed)
    kind = pick.random()
    text = made(seed) if kind < 0.5 else noisy(pick) if kind < 0.8 else tight(seed)
    mode = pick.random() < (0.7 if kind < 0.8 else 0.1), pick.random() < 0.8, pick.random() < 0.2
    try:
        check(text, *mode, seed)
    except Exception as error:
        print(f"seed {seed}, thinking, split, nonempty = {mode}: {type(error).__name__}\n{text!r}", flush=True)
        raise SystemExit(1) from error


def big(seed: int) -> float:
    """Parse 1 MB of one shape, or of noise, whole or in pieces; returns the processor time."""
    pick = random.Random(seed)
    shape = pick.choice([*SHAPES, "noise"])
    text = reply(shape, MEGABYTE) if shape != "noise" else "".join(noisy(pick) for _ in range(MEGABYTE // 300))
    chunk = pick.choice([7, 100, MEGABYTE])
    spent = cost(lambda: parse(text[:MEGABYTE], chunk, ReplyParser), runs=2)
    if spent > MAX_SECONDS:
        print(f"seed {seed}: 1 MB of {shape!r} took {spent:.1f} s", flush=True)
        raise SystemExit(1)
    return spent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="first seed; printed, to run it again")
    options = parser.parse_args()
    start = last = time.monotonic()
    seed, bigs, slowest = options.seed, 0, 0.0
    print(f"seed {seed}, {options.minutes:g} minutes", flush=True)
    while time.monotonic() - start < 60 * options.minutes:
        for _ in range(500):
            small(seed)
            seed += 1
        slowest = max(slowest, big(seed))
        bigs += 1
        if time.monotonic() - last > 15:
            last = time.monotonic()
            done = seed - options.seed
            print(f"{last - start:5.0f} s  {done} replies, {bigs} of 1 MB (slowest {slowest:.2f} s)", flush=True)
    print(f"clean: {seed - options.seed} replies, {bigs} of 1 MB (slowest {slowest:.2f} s)", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
