"""Every round at every concurrency against one server or two in turn: what is asked comes in, `Run`s go out one by one.

Each round asks new questions, the same of both servers; the server that goes first changes with every round.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_nemotron.bench import bench_serving, stream
from sglang_nemotron.bench.load import Load, MakeMedia, questions, words
from sglang_nemotron.bench.records import Run
from sglang_nemotron.bench.server import Server
from sglang_nemotron.bench.statistics import summarise
from sglang_nemotron.verify.server import Unfit

# beside each place, so that 4,096 requests meet a concurrency of 256, as in the cookbooks
PER_PLACE = 16
_WARM_TOKENS = 32
_TAIL_LINES = 15

# (what is done, so many, of so many)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """count: requests of a round; None for PER_PLACE beside each place. own: ask with our own client, always.

    tokenizer: for bench_serving, where it is not the one that the server names.
    """

    load: Load
    concurrencies: tuple[int, ...]
    rounds: int
    count: int | None
    own: bool
    tokenizer: str | None

    def requests(self, concurrency: int) -> int:
        """Of one round at this concurrency."""
        return self.count or PER_PLACE * concurrency


def order(servers: Sequence[Server], round_: int) -> list[Server]:
    """Who is asked first: the first server in even rounds, the last in odd ones."""
    return list(servers) if round_ % 2 == 0 else list(reversed(servers))


def sweep(
    servers: Sequence[Server], plan: Plan, media: MakeMedia, key: str | None, progress: Progress
) -> Iterator[tuple[Run, Mapping[str, Any]]]:
    """(a run, what bench_serving wrote beside it) as they are measured. Raises Unfit; KeyboardInterrupt after the run
    that was interrupted, with what it had by then, was given.
    """
    # by the first server's tokenizer, so that both are asked the same
    words_per_token = 1.0
    if (plan.load.chat or plan.load.has_media) and plan.own:
        words_per_token = servers[0].words_per_token(words(500, plan.load.seed))
    for concurrency in plan.concurrencies:
        for round_ in range(plan.rounds):
            for server in order(servers, round_):
                if plan.own:
                    run, interrupted = _own(server, plan, concurrency, round_, words_per_token, media, progress)
                    yield run, {}
                    if interrupted:
                        raise KeyboardInterrupt
                else:
                    yield _theirs(server, plan, concurrency, round_, key, progress)


def _own(
    server: Server,
    plan: Plan,
    concurrency: int,
    round_: int,
    words_per_token: float,
    media: MakeMedia,
    progress: Progress,
) -> tuple[Run, bool]:
    load, count = plan.load, plan.requests(concurrency)
    name = f"{concurrency} at once"
    making, asking = _ticks(progress, f"{name}, making", count + 1), _ticks(progress, name, count)
    # one more than is measured: it warms the server
    made = questions(load, count + 1, _seed(concurrency, round_), words_per_token, media, making)
    warm = made.pop()
    warm.body["max_tokens"] = min(warm.body["max_tokens"], _WARM_TOKENS)
    _check_warm(server, stream.ask(server, [warm], 1, lambda: None))
    outcome = stream.ask(server, made, concurrency, asking)
    summary = summarise(outcome.requests, outcome.duration_s, text_alone=not load.has_media)
    run = Run(server.url, concurrency, round_, "own", count, tuple(outcome.requests), summary)
    return run, outcome.interrupted


def _check_warm(server: Server, outcome: stream.Outcome) -> None:
    if outcome.interrupted:
        raise KeyboardInterrupt
    (warm,) = outcome.requests
    if warm.error:
        raise Unfit(
            f"{server.url} failed at the first request: {warm.error}"
            "\n  remedy: see what the server's log says; ids above its vocabulary want a smaller --vocab, prompts that "
            "are too long a smaller --input-len"
        )


def _theirs(
    server: Server, plan: Plan, concurrency: int, round_: int, key: str | None, progress: Progress
) -> tuple[Run, Mapping[str, Any]]:
    tokenizer, count = plan.tokenizer or server.tokenizer, plan.requests(concurrency)
    assert tokenizer is not None, "bench_serving was chosen for a server without a tokenizer"
    seed = plan.load.seed + _seed(concurrency, round_)
    words_ = bench_serving.command(sys.executable, plan.load, server, tokenizer, concurrency, count, seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.jsonl"
        tail = _program([*words_, "--output-file", str(file)], key, f"{concurrency} at once", progress)
        if not file.exists():
            told = "\n".join(tail[-_TAIL_LINES:])
            raise Unfit(
                f"{bench_serving.MODULE} ended without a result: {tail[-1] if tail else 'it said nothing'}\n{told}"
                "\n  remedy: give it a tokenizer that is on this machine with --tokenizer, or add --client own"
            )
        run, rest = bench_serving.run_of(file, server=server.url, concurrency=concurrency, round_=round_, count=count)
        return run, rest | {"command": " ".join(words_)}


def _program(words_: Sequence[str], key: str | None, name: str, progress: Progress) -> list[str]:
    """Runs it to its end, which must not outlive this; its last lines."""
    env = {**os.environ, **({"OPENAI_API_KEY": key} if key else {})}
    lines: list[str] = []
    # universal newlines: a progress bar ends its lines with a carriage return
    with subprocess.Popen(words_, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := bench_serving.progress(line):
                    progress(name, *found)
                elif line.strip():
                    lines = [*lines[-_TAIL_LINES:], line.rstrip()]
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
    return lines


def _seed(concurrency: int, round_: int) -> int:
    # no two rounds of a sweep share one, whatever the concurrencies
    return concurrency * 10_007 + round_


def _ticks(progress: Progress, name: str, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(name, done, total)

    return tick
