"""How often a server is right: GSM8K and MMLU as the Omni cookbook runs them, pictures and recordings.

Questions come from data that you name. Without data a tiny set of our own is asked, which proves that asking and
scoring work and says nothing about a model.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli import bench_record
from sglang_nemotron.cli.console import Bar, fail, finite

if TYPE_CHECKING:
    from sglang_nemotron.bench.accuracy import Result
    from sglang_nemotron.bench.asking import Way
    from sglang_nemotron.bench.questions import Set
    from sglang_nemotron.bench.server import Server

_PROGRAM = "sglang-nemotron bench accuracy"
TASKS = ("gsm8k", "mmlu", "vision", "audio")
# of a chat that may think, and of one that does not
_THINKING_TOKENS, _CHAT_TOKENS = 16_384, 512
_GSM8K_COUNT = 200

_EPILOG = """\
what is asked:
  gsm8k   --data test.jsonl, GSM8K's own. As SGLang's benchmark/gsm8k: the first 5 questions are the examples, the first
          200 are asked, 512 tokens, the last number counts.
  mmlu    --data FOLDER with dev/ and test/ of MMLU's data.tar. As SGLang's benchmark/mmlu: 5 examples of the subject,
          one token, its letter counts.
  vision  --data set.jsonl with {"image": FILE, "question": TEXT, "answer": TEXT or [TEXT, ...]} a line. An answer
          counts if it is the same without case, punctuation and articles.
  audio   --data set.jsonl with {"audio": FILE, "answer": TRANSCRIPT} a line, and "question" if you like. Accuracy is
          one minus the word error rate.
  Without --data a dozen questions of our own are asked, or three recordings: a check of the way, no benchmark.

how it is asked:
  gsm8k and mmlu go as the raw prompts of the scripts to /v1/completions, where no template makes a model think.
  --thinking on or off, --thinking-budget and --chat ask in chats. What is thought is never read for an answer: it comes
  apart (reasoning_content), or it ends with </think>. A chat that was cut off while it thought has no answer (invalid).
  A request that fails counts as wrong, and is told.

examples:
  sglang-nemotron bench accuracy http://127.0.0.1:30000
  sglang-nemotron bench accuracy http://127.0.0.1:30000 --data test.jsonl --expect 0.83
  sglang-nemotron bench accuracy http://127.0.0.1:30000 --data test.jsonl --thinking on --thinking-budget 2048
  sglang-nemotron bench accuracy http://127.0.0.1:30000 --task mmlu --data data --json mmlu.json
  sglang-nemotron bench accuracy http://127.0.0.1:30000 --task vision

Exit code: 0, 1 if it is below --expect, 2 if nothing could be asked, 130 after ctrl-C.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.epilog = _EPILOG
    parser.add_argument("url", metavar="URL", help="the server, http://HOST:PORT")
    parser.add_argument("--task", choices=TASKS, default="gsm8k", help="(default: gsm8k)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="the questions (default: a tiny set of our own)")
    parser.add_argument("--model", metavar="NAME", help="where it serves several (default: its first)")
    parser.add_argument("--api-key", metavar="KEY", help="(default: OPENAI_API_KEY)")
    parser.add_argument("--shots", type=int, default=5, metavar="N", help="examples before a question (default: 5)")
    parser.add_argument(
        "--num-questions", type=int, metavar="N", help="the first N; of mmlu, of each subject (default: 200; all)"
    )
    parser.add_argument("--parallel", type=int, default=64, metavar="N", help="asked at once (default: 64)")
    parser.add_argument("--chat", action="store_true", help="ask gsm8k and mmlu in chats")
    parser.add_argument("--thinking", choices=("on", "off"), help="switch it by the chat template; asks in chats")
    parser.add_argument("--thinking-budget", type=int, metavar="N", help="thinking tokens at most; asks in chats")
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="of a reply (default: the script's; in chats 16384 or, not thinking, 512)",
    )
    parser.add_argument("--temperature", type=finite, default=0.0, metavar="T", help="(default: 0, greedy)")
    parser.add_argument("--lm-eval", action="store_true", help="let lm-eval, if installed, ask and score the same")
    parser.add_argument("--expect", type=finite, metavar="X", help="exit with 1 if the accuracy is below")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every question and reply here")
    parser.add_argument("--timeout", type=finite, default=3600, metavar="S", help="seconds for a request")


def run(args: argparse.Namespace) -> int:
    """Ask and score. Returns 0, 1 below --expect, 2 if nothing could be asked, 130 if it was interrupted."""
    from sglang_nemotron.verify.server import Unfit

    try:
        return _run(args)
    except (Unfit, ValueError, OSError) as error:
        fail(_PROGRAM, error, f"`{_PROGRAM} --help` says what is needed")
        return 2


def _run(args: argparse.Namespace) -> int:
    from sglang_nemotron.bench import accuracy
    from sglang_nemotron.bench.server import Server
    from sglang_nemotron.verify.server import Unfit

    _check(args)
    way = way_of(args)
    version = _lm_eval_version() if args.lm_eval else None
    # files are read first: what is wrong with them needs no server
    make_set = _data(args)
    server = Server(args.url, model=args.model, key=bench_record.key_of(args), timeout_s=args.timeout)
    asked = make_set(_length(server))
    print(f"  {server.url} serves {server.model}", file=sys.stderr)
    print(f"  {asked.title}; {_how(way)}", file=sys.stderr, flush=True)
    for note in asked.notes:
        print(f"  {note}", file=sys.stderr)
    if version is not None:
        return _through_lm_eval(args, server, asked, version)
    result = _ask(server, asked, way)
    if args.json and result.told:
        _write(args, server, accuracy.raw(result))
    if result.told and len(result.failed) == len(result.told):
        raise Unfit(
            f"all {len(result.told)} requests failed, the first with: {result.failed[0].reply.error}"
            "\n  remedy: see what the server's log says of it"
        )
    print(asked.title)
    print("\n".join(accuracy.lines(result)))
    return 128 + signal.SIGINT if result.interrupted else _verdict(args.expect, result.accuracy)


def _check(args: argparse.Namespace) -> None:
    least = {"shots": 0, "num_questions": 1, "parallel": 1, "thinking_budget": 0, "max_tokens": 1}
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be {lowest} or more")
    if args.expect is not None and not 0 <= args.expect <= 1:
        raise ValueError(f"--expect is {args.expect:g}; it is a share\n  remedy: give a number from 0 to 1, as 0.83")
    if args.temperature < 0:
        raise ValueError(f"--temperature is {args.temperature:g}\n  remedy: give 0, which is greedy, or more")
    if args.thinking == "off" and args.thinking_budget:
        raise ValueError(
            f"--thinking-budget is {args.thinking_budget} where --thinking is off\n  remedy: leave out one of them"
        )
    bench_record.check(args)


def way_of(args: argparse.Namespace) -> Way:
    """How these arguments ask."""
    from sglang_nemotron.bench.asking import Way

    media = args.task in ("vision", "audio")
    chat = args.chat or media or args.thinking is not None or args.thinking_budget is not None
    if args.lm_eval and chat:
        raise ValueError(
            "--lm-eval asks gsm8k and mmlu as raw prompts"
            "\n  remedy: leave out --lm-eval, or --chat, --thinking, --thinking-budget and media"
        )
    return Way(
        chat=chat,
        thinking=None if args.thinking is None else args.thinking == "on",
        budget=args.thinking_budget,
        max_tokens=args.max_tokens or _room(chat, args.thinking),
        parallel=args.parallel,
        temperature=args.temperature,
    )


def _room(chat: bool, thinking: str | None) -> int | None:
    """Tokens of a reply; None for the set's own number."""
    if not chat:
        return None
    return _CHAT_TOKENS if thinking == "off" else _THINKING_TOKENS


def _how(way: Way) -> str:
    if not way.chat:
        return "raw prompts, as SGLang's scripts send them"
    thinking = {None: "as the template has it", True: "on", False: "off"}[way.thinking]
    return f"chats, thinking {thinking}" + ("" if way.budget is None else f", {way.budget} tokens of it at most")


def _data(args: argparse.Namespace) -> Callable[[Callable[[str], int]], Set]:
    """Reads the questions; what is given makes the set of them, and takes how long a text is in tokens (for MMLU)."""
    from sglang_nemotron.bench import questions

    name, count = args.data, args.num_questions
    if name is not None and not name.exists():
        raise ValueError(f"--data {name} is not there\n  remedy: name a file or folder on this machine")
    if args.task == "mmlu":
        subjects, title = _subjects(name)
        return lambda length: questions.mmlu(subjects, title=title, shots=args.shots, count=count, length=length)
    if args.task == "gsm8k":
        lines, title = _sums(name)
        made = questions.gsm8k(lines, title=title, shots=args.shots, count=_GSM8K_COUNT if count is None else count)
    else:
        made = _media_set(args.task, name, count)
    return lambda length: made


def _sums(name: Path | None) -> tuple[Any, str]:
    from sglang_nemotron.bench import questions, sets

    if name is None:
        return sets.sums(), "12 sums of our own, not GSM8K"
    return questions.json_lines(name, ("question", "answer")), f"GSM8K from {name}"


def _subjects(name: Path | None) -> tuple[Any, str]:
    from sglang_nemotron.bench import questions, sets

    if name is None:
        return sets.choices(), "12 choices of our own, not MMLU"
    if not name.is_dir():
        raise ValueError(f"--data {name} is a file\n  remedy: give the folder of MMLU's data.tar, with dev/ and test/")
    return questions.mmlu_folder(name), f"MMLU from {name}"


def _length(server: Server) -> Callable[[str], int]:
    """Tokens of a text, by the server's tokenizer; a quarter of its characters where it does not count."""

    def length(text: str) -> int:
        count = server.count(text)
        return len(text) // 4 if count is None else count

    return length


def _media_set(task: str, name: Path | None, count: int | None) -> Set:
    from dataclasses import replace

    from sglang_nemotron.bench import questions, sets
    from sglang_nemotron.cli.demo_media import speech
    from sglang_nemotron.media import libraries

    kind, rule, question = {
        "vision": ("image", "match", "What is shown? Answer with one word."),
        "audio": ("audio", "transcript", "Write down exactly what is said, and nothing else."),
    }[task]
    if name is not None:
        return questions.with_media(name, kind=kind, title=str(name), rule=rule, question=question, count=count)
    if lacking := libraries.missing():
        raise ValueError(
            f"the set of our own is made with {', '.join(lacking)}, not installed"
            f"\n  remedy: {libraries.INSTALL}, or give --data"
        )
    made = sets.pictures() if task == "vision" else sets.recordings(speech())
    return replace(made, items=made.items[:count])


def _ask(server: Server, asked: Set, way: Way) -> Result:
    from sglang_nemotron.bench.accuracy import Result, Told
    from sglang_nemotron.bench.asking import ask_all
    from sglang_nemotron.bench.questions import Item
    from sglang_nemotron.bench.scoring import Reply, score

    told: dict[str, Told] = {}
    began = time.perf_counter()
    with Bar("questions") as bar:

        def tell(item: Item, reply: Reply) -> None:
            scored = score(asked.rule, reply, item.answers, chat=way.chat, thinking=way.thinking)
            told[item.name] = Told(item, reply, scored)
            bar(len(told), len(asked.items))

        ended = ask_all(server, asked, way, tell)
    in_order = tuple(told[item.name] for item in asked.items if item.name in told)
    return Result(asked, in_order, time.perf_counter() - began, interrupted=not ended)


def _lm_eval_version() -> str:
    """Of the installed one; ValueError of two lines where there is none."""
    import importlib.metadata

    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            "lm-eval is not installed\n  remedy: pip install 'lm-eval[api]', or leave --lm-eval out: it asks the same"
        ) from error


def _through_lm_eval(args: argparse.Namespace, server: Server, asked: Set, version: str) -> int:
    import subprocess
    import tempfile

    from sglang_nemotron.bench import lm_eval
    from sglang_nemotron.verify.server import Unfit

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lm_eval.write_task(asked, folder)
        words = lm_eval.command(sys.executable, server, folder, args.parallel)
        # data sets that it prepares stay in the folder, and nothing is looked for on the hub
        env = {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        key = bench_record.key_of(args) or "EMPTY"
        done = subprocess.run(
            words, env={**os.environ, **env, "OPENAI_API_KEY": key}, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise Unfit(
                f"lm-eval ended with exit code {done.returncode}\n{lm_eval.last_words(done.stdout)}"
                "\n  remedy: see what it said above"
            )
        share = lm_eval.accuracy(folder)
    print(f"{asked.title}, by lm-eval {version}")
    print(f"Accuracy: {share:.3f} ({len(asked.items)} questions)")
    if args.json:
        _write(args, server, {"lm_eval": version, "accuracy": share, "title": asked.title})
    return _verdict(args.expect, share)


def _write(args: argparse.Namespace, server: Server, said: dict[str, Any]) -> None:
    about = {**bench_record.about(args), "server": server.about()}
    args.json.write_text(json.dumps(about | said) + "\n")
    print(f"  wrote {args.json}", file=sys.stderr)


def _verdict(expected: float | None, accuracy: float) -> int:
    if expected is None:
        return 0
    # the figure is compared as it is, not as it is printed
    met = accuracy >= expected
    print(f"{'MET' if met else 'BELOW'}: {accuracy:.4f}, expected {expected:g} or more")
    return 0 if met else 1
