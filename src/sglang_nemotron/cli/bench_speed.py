"""How fast a server answers: the cookbooks' benchmark, without its download, and with media.

Random token ids (or words and made media) go to the server, so many requests at once; the table is SGLang's "Serving
Benchmark Result". SGLang's own `bench_serving` asks where it can, a client of our own elsewhere.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli import bench_record
from sglang_nemotron.cli.console import Bar, check_file, fail, finite, show, size, table

if TYPE_CHECKING:
    from sglang_nemotron.bench.load import Load
    from sglang_nemotron.bench.records import Run
    from sglang_nemotron.bench.server import Server
    from sglang_nemotron.bench.sweep import Plan

_PROGRAM = "sglang-nemotron bench speed"

_EPILOG = """\
what is asked:
  Per round and concurrency 16 requests for every place (4,096 at 256, as in the cookbooks), or --num-prompts. Lengths
  are drawn evenly from 1 to --input-len and --output-len, as the cookbooks' command draws them: the mean is about half.
  --range-ratio 1 fixes them. Answers go on past the model's end token (ignore_eos). No prompt is sent twice.
  With --images, --audios or --videos every request carries so many made files, unlike all others.

what is counted:
  Tokens by the server's own usage. Times as SGLang's bench_serving defines them: TTFT to the first text; TPOT is
  (latency - TTFT) / (tokens - 1) of one request; ITL is the time between tokens after the first, of all requests
  together; percentiles are interpolated linearly. docs/bench.md has all of it, and when which client asks.

examples:
  sglang-nemotron bench speed http://127.0.0.1:30000 --concurrency 256
  sglang-nemotron bench speed http://127.0.0.1:30000 --concurrency 1,8,64 --rounds 3 --json run.json --plot run.svg
  sglang-nemotron bench speed http://127.0.0.1:30000 --against http://127.0.0.1:30001 --concurrency 8 --rounds 4
  sglang-nemotron bench speed http://127.0.0.1:30000 --images 1 --image-size 1280x720 --input-len 128 --concurrency 8
  sglang-nemotron bench speed http://127.0.0.1:30000 --audios 1 --audio-seconds 10 --input-len 128 --concurrency 8

Exit code: 0 if every request was answered, 1 if some failed, 2 if the server could not be asked, 130 after ctrl-C.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.epilog = _EPILOG
    parser.add_argument("url", metavar="URL", help="the server, http://HOST:PORT")
    parser.add_argument("--against", metavar="URL2", help="a second server, asked the same in turn with the first")
    parser.add_argument("--model", metavar="NAME", help="where a server serves several (default: its first)")
    parser.add_argument("--api-key", metavar="KEY", help="(default: OPENAI_API_KEY)")
    parser.add_argument(
        "--concurrency", default="16", metavar="N[,N...]", help="requests under way at once (default: 16)"
    )
    parser.add_argument("--num-prompts", type=int, metavar="N", help="requests a round (default: 16 a place)")
    parser.add_argument("--rounds", type=int, metavar="N", help="(default: 1; 4 with --against)")
    parser.add_argument("--input-len", type=int, default=1024, metavar="N", help="tokens in, at most (default: 1024)")
    parser.add_argument("--output-len", type=int, default=1024, metavar="N", help="tokens out, at most (default: 1024)")
    parser.add_argument(
        "--range-ratio", type=finite, default=0.0, metavar="R", help="lengths from R times that (default: 0)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of what is asked (default: another one each time)")
    parser.add_argument(
        "--client",
        choices=("auto", "own", "bench_serving"),
        default="auto",
        help="who asks (default: bench_serving where it can)",
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="for bench_serving (default: the one the server names)")
    parser.add_argument(
        "--vocab", type=int, default=32_000, metavar="N", help="our own client's ids lie below (default: 32000)"
    )
    parser.add_argument("--chat", action="store_true", help="chats of words rather than token ids")
    parser.add_argument("--images", type=int, default=0, metavar="N", help="per request (default: 0)")
    parser.add_argument("--image-size", type=size, default=(1280, 720), metavar="WxH", help="(default: 1280x720)")
    parser.add_argument("--audios", type=int, default=0, metavar="N", help="recordings per request (default: 0)")
    parser.add_argument("--audio-seconds", type=finite, default=10.0, metavar="S", help="of each (default: 10)")
    parser.add_argument("--videos", type=int, default=0, metavar="N", help="clips per request (default: 0)")
    parser.add_argument("--video-seconds", type=finite, default=4.0, metavar="S", help="of each (default: 4)")
    parser.add_argument("--video-size", type=size, default=(640, 360), metavar="WxH", help="(default: 640x360)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every request's numbers here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw here (.svg, .png, .pdf; extra `bench`)")
    parser.add_argument("--timeout", type=finite, default=3600, metavar="S", help="seconds for a request")


def run(args: argparse.Namespace) -> int:
    """Measure. Returns 0, 1 if requests failed, 2 if nothing could be asked, 130 if it was interrupted."""
    from sglang_nemotron.verify.server import Unfit

    try:
        return _run(args)
    except (Unfit, ValueError, OSError) as error:
        fail(_PROGRAM, error, f"`{_PROGRAM} --help` says what is needed")
        return 2


def _run(args: argparse.Namespace) -> int:
    from sglang_nemotron.bench import plots
    from sglang_nemotron.verify.server import Unfit

    load, concurrencies = _load(args), _concurrencies(args.concurrency)
    check_file("--plot", args.plot)
    if args.plot:
        plots.check(args.plot)
    bench_record.check(args)
    key = bench_record.key_of(args)
    servers = _servers(args, key)
    plan = _plan(args, load, concurrencies, servers)
    _say_how(servers, plan)
    about = _about(args, load, servers)
    runs: list[Run] = []
    wrote: list[Mapping[str, Any]] = []
    ended: BaseException | None = None
    try:
        _measure(servers, plan, key, runs, wrote)
    # whatever ends it, what was measured so far is shown and kept
    except (KeyboardInterrupt, Unfit) as error:
        ended = error
    _show(runs, servers)
    if args.json and runs:
        _write(args.json, runs, about | {"interrupted": ended is not None, "bench_serving": wrote})
    if args.plot and any(run.summary for run in runs):
        plots.draw(_by_name(runs, servers), args.plot, f"{servers[0].model}, {_asked(load)}")
        print(f"  wrote {args.plot}", file=sys.stderr)
    if isinstance(ended, KeyboardInterrupt):
        done = sum(len(run.requests) for run in runs)
        print(f"\n{_PROGRAM}: interrupted; the numbers are of {done} requests", file=sys.stderr)
        return 128 + signal.SIGINT
    if ended is not None:
        raise ended
    return _verdict(runs)


def _measure(
    servers: Sequence[Server], plan: Plan, key: str | None, runs: list[Run], wrote: list[Mapping[str, Any]]
) -> None:
    from sglang_nemotron.bench.media import Sources
    from sglang_nemotron.bench.sweep import sweep
    from sglang_nemotron.cli.demo_media import photo, speech

    sources = Sources(photo(), speech())
    bars: dict[str, Bar] = {}

    def progress(name: str, done: int, total: int) -> None:
        if name not in bars:
            for other in bars.values():
                other.__exit__()
            bars.clear()
            bars[name] = Bar(name).__enter__()
        bars[name](done, total)
        if done == total:
            bars.pop(name).__exit__()

    try:
        for run_, raw in sweep(servers, plan, sources.parts, key, progress):
            runs.append(run_)
            wrote.append(raw)
    finally:
        for bar in bars.values():
            bar.__exit__()


def _load(args: argparse.Namespace) -> Load:
    from sglang_nemotron.bench.load import Load
    from sglang_nemotron.media import libraries

    load = Load(
        input_len=args.input_len,
        output_len=args.output_len,
        range_ratio=args.range_ratio,
        vocab=args.vocab,
        # a server's cache may still hold what an earlier measurement asked
        seed=secrets.randbelow(1 << 31) if args.seed is None else args.seed,
        images=args.images,
        image_size=args.image_size,
        sounds=args.audios,
        sound_s=args.audio_seconds,
        clips=args.videos,
        clip_size=args.video_size,
        clip_s=args.video_seconds,
        chat=args.chat,
    )
    load.check()
    if load.has_media and (lacking := libraries.missing()):
        raise ValueError(
            f"media are made with {', '.join(lacking)}, not installed"
            f"\n  remedy: {libraries.INSTALL}, or ask without media"
        )
    for flag, value, least in (("--num-prompts", args.num_prompts, 1), ("--rounds", args.rounds, 1)):
        if value is not None and value < least:
            raise ValueError(f"{flag} is {value}; it must be {least} or more")
    return load


def _concurrencies(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(f"--concurrency is {text!r}\n  remedy: give numbers from 1 with commas between, as 1,16,256")
    return tuple(dict.fromkeys(map(int, words)))


def _servers(args: argparse.Namespace, key: str | None) -> list[Server]:
    from sglang_nemotron.bench.server import Server

    urls = [args.url] if args.against is None else [args.url, args.against]
    servers = [Server(url, model=args.model, key=key, timeout_s=args.timeout) for url in urls]
    if len({server.url for server in servers}) < len(servers):
        raise ValueError(f"--against is {args.against}, the same server\n  remedy: name another, or --rounds alone")
    return servers


def _plan(args: argparse.Namespace, load: Load, concurrencies: tuple[int, ...], servers: Sequence[Server]) -> Plan:
    from sglang_nemotron.bench import bench_serving
    from sglang_nemotron.bench.sweep import Plan

    # both servers are asked by the same client, or the numbers would say more about those
    why = next((reason for server in servers if (reason := bench_serving.why_not(load, server))), None)
    if args.client == "bench_serving" and why:
        raise ValueError(f"--client is bench_serving; {why}\n  remedy: leave it out, or --client own")
    own = args.client == "own" or (args.client == "auto" and why is not None)
    rounds = args.rounds or (1 if args.against is None else 4)
    return Plan(load, concurrencies, rounds, args.num_prompts, own, args.tokenizer)


def _say_how(servers: Sequence[Server], plan: Plan) -> None:
    for name, server in zip("AB", servers, strict=False):
        which = f"{name}: " if len(servers) > 1 else ""
        print(f"  {which}{server.url} serves {server.model}", file=sys.stderr)
    client = "our own client" if plan.own else "SGLang's bench_serving"
    print(f"  {client} asks for {_asked(plan.load)}, {plan.rounds} round(s) each", file=sys.stderr, flush=True)


def _asked(load: Load) -> str:
    least = "" if load.range_ratio == 1 else f" (lengths from {load.range_ratio:g} of that)"
    media = [f"{count} {name}" for count, name in ((load.images, "image(s)"), (load.sounds, "recording(s)")) if count]
    media += [f"{load.clips} clip(s)"] if load.clips else []
    return f"{load.input_len} in, {load.output_len} out{least}" + "".join(f", {one}" for one in media)


def _about(args: argparse.Namespace, load: Load, servers: Sequence[Server]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **bench_record.about(args),
        "load": asdict(load),
        "servers": [server.about() for server in servers],
    }


def _write(file: Path, runs: Sequence[Run], about: dict[str, Any]) -> None:
    import json

    from sglang_nemotron.bench import records

    file.write_text(json.dumps(records.raw(runs, about)) + "\n")
    print(f"  wrote {file}", file=sys.stderr)


def _by_name(runs: Sequence[Run], servers: Sequence[Server]) -> dict[str, list[Run]]:
    names = dict(zip((server.url for server in servers), ("A", "B"), strict=False)) if len(servers) > 1 else {}
    found: dict[str, list[Run]] = {}
    for one in runs:
        found.setdefault(f"{names[one.server]} {one.server}" if names else "", []).append(one)
    return found


def _show(runs: Sequence[Run], servers: Sequence[Server]) -> None:
    from sglang_nemotron.bench import compare
    from sglang_nemotron.bench import table as tables

    for (server, _), rounds in tables.groups(runs).items():
        shown = tables.middle(rounds)
        which = f"{server}, " if len(servers) > 1 else ""
        if which or len(rounds) > 1:
            print(f"\n{which}round {shown.round + 1} of {len(rounds)}, the middle one by output throughput", end="")
        print(f"\n{tables.result(shown)}")
    if len(runs) > 1 and any(run_.summary for run_ in runs):
        print("\nmilliseconds; medians over rounds")
        show(table(None, tables.COLUMNS, tables.rows(runs)))
    a, b = (
        [run_ for run_ in runs if run_.server == server.url and run_.summary] for server in (servers[0], servers[-1])
    )
    if len(servers) > 1 and {run_.concurrency for run_ in a} & {run_.concurrency for run_ in b}:
        print(f"\nA is {servers[0].url}, B is {servers[1].url}")
        show(table(None, compare.COLUMNS, compare.rows(a, b)))
        print(compare.chance(a, b))


def _verdict(runs: Sequence[Run]) -> int:
    from sglang_nemotron.verify.server import Unfit

    failed = [one for one in runs if one.failed]
    if not failed:
        return 0
    said = f"{sum(one.failed for one in failed)} of {sum(len(one.requests) for one in runs)} requests failed, the first"
    if not any(one.summary for one in runs):
        raise Unfit(f"{said} with: {failed[0].first_error}\n  remedy: see what the server's log says of it")
    fail(_PROGRAM, f"{said} with: {failed[0].first_error}", "see what the server's log says; numbers are of the rest")
    return 1
