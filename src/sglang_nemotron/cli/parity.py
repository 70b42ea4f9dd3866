"""Compare a server with Hugging Face transformers on one checkpoint, token by token; exit 0 if they agree.

Starts `sglang serve` on MODEL (or asks the server at --url), loads the same checkpoint into transformers' own class in
float32 (for Omni with its own preprocessing of images, video and sound), sends both the same prompts, and compares
every logprob and every greedy token.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli import parity_checkpoint, parity_media
from sglang_nemotron.cli.console import counted, fail, finite, show, table
from sglang_nemotron.cli.parity_media import MEDIA_MODES
from sglang_nemotron.cli.server import ServerFailed, ServerProcess
from sglang_nemotron.config import hub

if TYPE_CHECKING:
    from sglang_nemotron.parity.client import Answer, Client
    from sglang_nemotron.parity.compare import Difference
    from sglang_nemotron.parity.report import Part

_PROGRAM = "sglang-nemotron parity"
TEXT_MODES = ("alone", "concurrent", "radix")
MODES = (*TEXT_MODES, *MEDIA_MODES)
# of float32: what two correct float32 programs differ by on these models, with room for the order of sums
TOLERANCE = 2e-5
# of a lower precision: our mean error over what that precision costs transformers itself
RATIO = 1.25
# in a lower precision a token may take other experts and everything after it moves: only a mean over many says anything
_ROUGH_REPEATS = 4

_EPILOG = f"""\
what is compared:
  Prompts of 1 to 600 tokens, with lengths around every boundary at which the engine changes what it does: the
  convolution's width, the SSM chunk, the prefill chunk, the cache page. Each is answered with 32 greedy tokens.
    alone       one prompt at a time, empty cache: logprobs of the whole prompt and of the answer
    concurrent  ten at a time, short and long together: the same
    radix       prompts whose beginning is in the prefix cache, at every length
  transformers then reads prompt and answer at once. A greedy token counts where transformers' own two best tokens are
  more than 1e-4 apart; the others are excluded and counted (fewer than 1 %).

{parity_media.HELP}
what passes:
  --dtype float32   no |delta logprob| above --tolerance, no other greedy token. transformers in float32 rounds too:
                    an answer that is further from it is set beside transformers in float64
  --dtype bfloat16  mean |delta logprob| at most 1.25 times what transformers in bfloat16 itself shows against
                    transformers in float32 on the same tokens; four prompts of each length, since single answers
                    differ widely where a token takes another expert
  Text and media are judged apart, each by its own bound; both must pass.
  A quantised checkpoint is compared with transformers on its dequantised weights.

examples:
  sglang-nemotron make-checkpoint /tmp/toy && sglang-nemotron parity /tmp/toy
  sglang-nemotron make-checkpoint /tmp/omni --omni && sglang-nemotron parity /tmp/omni
  sglang-nemotron parity /tmp/omni --modes video,media-again
  sglang-nemotron parity /tmp/toy --prompts full --json out.json --server-args='--chunked-prefill-size 64'
  sglang-nemotron parity nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --url http://127.0.0.1:30000  # one that runs

Reading the table: `about` what was shown, `length` prompt tokens, `cached` of them from the prefix cache, the largest
|delta logprob| on prompt and on answer, greedy tokens that agree, and positions excluded as unsure. The exit code is 0
if everything passes, 1 if not, 2 if it could not be compared.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "model", metavar="MODEL", help="the checkpoint's folder, or its id; transformers needs it in memory, in fp32"
    )
    parser.add_argument("--revision", metavar="R", help="of an id: branch, tag or commit (default: main)")
    parser.add_argument("--url", help="a server that already serves MODEL; without it one is started and stopped")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="what the server computes in (default: float32; with --url, what that server says)",
    )
    parser.add_argument("--prompts", choices=("quick", "full"), default="quick", help="how many (default: quick)")
    parser.add_argument(
        "--modes",
        metavar="A,B",
        help=f"comma-separated (default: {','.join(TEXT_MODES)}; for Omni also {','.join(MEDIA_MODES)})",
    )
    parser.add_argument(
        "--new-tokens", type=int, default=32, metavar="N", help="greedy tokens per prompt (default: 32)"
    )
    parser.add_argument("--max-length", type=int, default=600, metavar="N", help="longest prompt (default: 600)")
    parser.add_argument(
        "--tolerance",
        type=finite,
        metavar="X",
        help=f"for float32 (default: {TOLERANCE:g}, with media {parity_media.TOLERANCE:g})",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the prompts (default: 0)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every number here")
    parser.add_argument(
        "--time-limit", type=finite, default=900, metavar="S", help="seconds for the server's start (default: 900)"
    )
    parser.add_argument(
        "--server-args", default="", metavar="'FLAGS'", help="more flags for the `sglang serve` that is started"
    )


def run(args: argparse.Namespace) -> int:
    """Compare. Returns 0, 1 if they differ, 2 if the comparison could not be made."""
    from sglang_nemotron.parity.client import Client, ServerError

    try:
        _check(args)
        if args.url:
            return _run(args, Client(args.url, new_tokens=args.new_tokens))
        with tempfile.TemporaryDirectory(prefix="sglang-nemotron-") as folder:
            revision = ["--revision", args.revision] if args.revision else []
            server = ServerProcess(
                args.model,
                ["--dtype", args.dtype or "float32", *revision, *shlex.split(args.server_args)],
                log_path=Path(folder) / "server.log",
                time_limit_s=args.time_limit,
                progress=lambda stage, seconds: _say(f"server: {stage} ({seconds:.0f} s)"),
            )
            with server:
                _say(f"server: ready after {server.seconds_to_ready:.0f} s")
                try:
                    return _run(args, Client(server.url, new_tokens=args.new_tokens))
                except ServerError as error:
                    raise ServerError(f"{error}\nlast lines of the server's log:\n{server.log_tail()}") from error
    except (ServerFailed, ServerError) as error:
        fail(_PROGRAM, error, "look at the server's own lines, or `sglang-nemotron doctor`")
        return 2
    except (ValueError, OSError) as error:
        fail(_PROGRAM, error, f"`{_PROGRAM} --help` says what it takes")
        return 2


def _check(args: argparse.Namespace) -> None:
    unknown = sorted(set(_asked(args)) - set(MODES))
    if unknown:
        raise ValueError(f"--modes has {', '.join(unknown)}; choose from {', '.join(MODES)}")
    if args.url and args.server_args:
        raise ValueError("--server-args are for a server that this command starts; drop them or --url")
    for name in ("new_tokens", "max_length"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    if args.url or not hub.is_id(args.model) or hub.is_offline():
        folder = _folder(args)
        parity_checkpoint.config_of(folder, args.model)
        # one that runs says first what it serves; for one of our own, all that can be known is found out before
        if not args.url:
            _modes(args, folder)
            parity_checkpoint.check_whole(folder)
    elif missing := hub.unfetched(hub.local_folder(args.model, args.revision)):
        _say(f"{args.model}: {missing}; the server that is started here fetches them first")


def _folder(args: argparse.Namespace) -> Path:
    """Where the checkpoint lies that transformers reads; ValueError if it is not here, or not all of it."""
    folder = hub.config_folder(args.model, args.revision)
    if hub.is_id(args.model) and (missing := hub.unfetched(folder)):
        raise ValueError(f"{args.model}: {missing}\n  remedy: {hub.fetch_first(args.model, args.revision)}")
    return folder


def _asked(args: argparse.Namespace) -> list[str]:
    """The modes that the user names, once each, in their order; none if that is left to us."""
    return list(dict.fromkeys(args.modes.split(","))) if args.modes is not None else []


def _modes(args: argparse.Namespace, folder: Path) -> list[str]:
    """The modes for this checkpoint; ValueError of two lines if it is not ours, or one of them cannot be had."""
    config = parity_checkpoint.config_of(folder, args.model)
    asked = _asked(args)
    if parity_media.is_omni(config):
        modes = asked or [*TEXT_MODES, *parity_media.modes_of(config)]
        parity_media.check([mode for mode in modes if mode in MEDIA_MODES], config, TEXT_MODES)
        return modes
    if media := [mode for mode in asked if mode in MEDIA_MODES]:
        raise ValueError(
            f"{args.model} is a text model, which --modes {','.join(media)} cannot be asked of"
            f"\n  remedy: choose from {', '.join(TEXT_MODES)}, or give an Omni checkpoint"
        )
    return asked or list(TEXT_MODES)


def _run(args: argparse.Namespace, client: Client) -> int:
    folder, info = _folder(args), client.info()
    _check_same_model(args, folder, client)
    modes = _modes(args, folder)
    dtype = _served_dtype(info, args.dtype)
    load = functools.cache(functools.partial(parity_checkpoint.load, folder, say=_say))
    repeats = 1 if dtype == "float32" else _ROUGH_REPEATS
    # what cannot be loaded is told before anything is asked
    load("float32")
    parts = []
    if text := [mode for mode in modes if mode in TEXT_MODES]:
        answers = _answers(args, text, folder, client, info, repeats=repeats)
        parts.append(_text(answers, load, dtype, TOLERANCE if args.tolerance is None else args.tolerance))
    if media := [mode for mode in modes if mode in MEDIA_MODES]:
        tolerance = parity_media.TOLERANCE if args.tolerance is None else args.tolerance
        bound = tolerance if dtype == "float32" else RATIO
        parts.append(parity_media.compare(media, folder, client, load, dtype, bound, repeats=repeats, say=_say))
    return _conclude(args, parts, dtype)


def _text(answers: dict[str, Sequence[Answer]], load: Callable[[str], Any], dtype: str, tolerance: float) -> Part:
    """The text modes' answers beside transformers; prints a table of each."""
    from sglang_nemotron.parity import compare, report
    from sglang_nemotron.parity.exact import beside_the_truth

    golden = load("float32")
    differences: list[Difference] = []
    for mode, said in answers.items():
        _say(f"transformers reads the {len(said)} sequences of mode {mode}")
        group = [compare.compare(mode, answer, golden.scores) for answer in said]
        if dtype == "float32":
            group = beside_the_truth(group, tolerance, lambda: load("exact"))
        print(report.headline(mode, group))
        show(table(None, report.COLUMNS, report.rows(group)))
        print(flush=True)
        differences += group
    if dtype == "float32":
        return report.Part("text", dtype, differences, tolerance)
    own = compare.noise(differences, golden.scores, load(dtype).scores)
    return report.Part("text", dtype, differences, RATIO, own)


def _conclude(args: argparse.Namespace, parts: Sequence[Part], dtype: str) -> int:
    """Prints the verdict and writes it down; the exit code."""
    from sglang_nemotron.parity import report
    from sglang_nemotron.parity.compare import verdict

    everything = [difference for part in parts for difference in part.differences]
    passed = all(part.passed for part in parts)
    for part in parts:
        print(f"{part.name}: {part.line()}" if len(parts) > 1 else part.line())
    print("PASS" if passed else "FAIL")
    if args.json:
        outcome: dict[str, Any] = {"passed": passed, "served_dtype": dtype, **asdict(verdict(everything))}
        if len(parts) == 1:
            outcome |= parts[0].raw()
        outcome["parts"] = {part.name: part.raw() for part in parts}
        args.json.write_text(json.dumps({**outcome, "answers": report.raw(everything)}) + "\n")
        _say(f"wrote {args.json}")
    return 0 if passed else 1


def _answers(
    args: argparse.Namespace, asked: Sequence[str], folder: Path, client: Client, info: dict[str, Any], *, repeats: int
) -> dict[str, Sequence[Answer]]:
    """The server's answers in every mode of text, to `repeats` prompts of each length."""
    from sglang_nemotron.config.decoder import decoder_spec
    from sglang_nemotron.config.layers import MambaSpec
    from sglang_nemotron.parity import modes, prompts

    spec = decoder_spec(parity_checkpoint.config_of(folder))
    mamba = spec.find(MambaSpec)
    chunk = info.get("chunked_prefill_size") or 0
    boundaries = prompts.Boundaries(
        conv_width=mamba.conv_width if mamba else 1,
        ssm_chunk=mamba.chunk_size if mamba else 1,
        # a size of -1 is no chunking
        prefill_chunk=max(chunk, 1),
        page=max(info.get("page_size") or 1, 1),
    )
    lengths = prompts.lengths(boundaries, full=args.prompts == "full", max_length=args.max_length)
    sent = prompts.make_prompts(sorted(lengths * repeats), spec.vocab_size, seed=args.seed)
    _say(f"{len(sent)} prompts of {lengths[0]} to {lengths[-1]} tokens, {args.new_tokens} new ones each")
    calls: dict[str, Callable[[modes.Tick], list[Answer]]] = {
        "alone": lambda tick: modes.alone(client, sent, tick),
        "concurrent": lambda tick: modes.concurrent(client, sent, tick),
        "radix": lambda tick: modes.radix(client, sent, spec.vocab_size, tick),
    }
    answers = {}
    for mode in asked:
        with counted(mode, len(sent) * modes.ANSWERS[mode]) as tick:
            answers[mode] = calls[mode](tick)
    return answers


def _served_dtype(info: dict[str, Any], asked: str | None) -> str:
    """The server's dtype by its own word; ValueError if the user named another one."""
    served = str(info.get("dtype", "")).removeprefix("torch.")
    if served in ("", "auto"):
        # a checkpoint's own dtype, which the tolerance depends on
        served = asked or "bfloat16"
    if asked and served != asked:
        raise ValueError(f"--dtype {asked} was given, but the server computes in {served}")
    return served


def _check_same_model(args: argparse.Namespace, folder: Path, client: Client) -> None:
    """ValueError if the server says that it serves another model, before anything large is loaded."""
    served = client.model()
    theirs, config = served.get("architectures"), json.loads((folder / "config.json").read_text())
    named = served.get("model_path", "another model")
    remedy = f"\n  remedy: give what the server serves, `parity {named} --url {args.url}`, or another --url"
    if theirs and theirs != config.get("architectures"):
        raise ValueError(f"{client.url} serves {named} ({', '.join(theirs)}), not {args.model}{remedy}")
    # two folders may hold the same; two ids are two models
    if "model_path" in served and hub.is_id(named) and hub.is_id(args.model) and named != args.model:
        raise ValueError(f"{client.url} serves {named}, not {args.model}{remedy}")


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
