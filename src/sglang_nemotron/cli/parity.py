"""Compare a server with Hugging Face transformers on one checkpoint, token by token; exit 0 if they agree.

Starts `sglang serve` on MODEL (or asks the server at --url), loads the same checkpoint into transformers'
NemotronHForCausalLM in float32, sends both the same prompts, and compares every logprob and every greedy token.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli import doctor_model
from sglang_nemotron.cli.console import Bar, fail, show, table
from sglang_nemotron.cli.server import ServerFailed, ServerProcess
from sglang_nemotron.config import hub

if TYPE_CHECKING:
    from sglang_nemotron.parity.client import Answer, Client
    from sglang_nemotron.parity.compare import Difference
    from sglang_nemotron.parity.reference import Reference

_PROGRAM = "sglang-nemotron parity"
MODES = ("alone", "concurrent", "radix")
# of float32: what two correct float32 programs differ by on these models, with room for the order of sums
TOLERANCE = 2e-5
# of a lower precision: our mean error over what that precision costs transformers itself
RATIO = 1.25
# in a lower precision a token may take other experts and everything after it moves: only a mean over many says anything
_ROUGH_REPEATS = 4

_EPILOG = """\
what is compared:
  Prompts of 1 to 600 tokens, with lengths around every boundary at which the engine changes what it does: the
  convolution's width, the SSM chunk, the prefill chunk, the cache page. Each is answered with 32 greedy tokens.
    alone       one prompt at a time, empty cache: logprobs of the whole prompt and of the answer
    concurrent  ten at a time, short and long together: the same
    radix       prompts whose beginning is in the prefix cache, at every length
  transformers then reads prompt and answer at once. A greedy token counts where transformers' own two best tokens are
  more than 1e-4 apart; the others are excluded and counted (fewer than 1 %).

what passes:
  --dtype float32   no |delta logprob| above --tolerance, no other greedy token. transformers in float32 rounds too:
                    an answer that is further from it is set beside transformers in float64
  --dtype bfloat16  mean |delta logprob| at most 1.25 times what transformers in bfloat16 itself shows against
                    transformers in float32 on the same tokens; four prompts of each length, since single answers
                    differ widely where a token takes another expert
  A quantised checkpoint is compared with transformers on its dequantised weights.

examples:
  sglang-nemotron make-checkpoint /tmp/toy && sglang-nemotron parity /tmp/toy
  sglang-nemotron parity /tmp/toy --prompts full --json out.json --server-args='--chunked-prefill-size 64'
  sglang-nemotron parity nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --url http://127.0.0.1:30000  # one that runs

Reading the table: `length` prompt tokens, `cached` of them from the prefix cache, the largest |delta logprob| on prompt
and on answer, greedy tokens that agree, and positions excluded as unsure. The exit code is 0 if everything passes, 1 if
not, 2 if it could not be compared.
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
    parser.add_argument("--modes", default=",".join(MODES), help=f"comma-separated (default: {','.join(MODES)})")
    parser.add_argument(
        "--new-tokens", type=int, default=32, metavar="N", help="greedy tokens per prompt (default: 32)"
    )
    parser.add_argument("--max-length", type=int, default=600, metavar="N", help="longest prompt (default: 600)")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="X", help=f"for float32 (default: {TOLERANCE:g})"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the prompts (default: 0)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every number here")
    parser.add_argument(
        "--time-limit", type=float, default=900, metavar="S", help="seconds for the server's start (default: 900)"
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
    unknown = sorted(set(args.modes.split(",")) - set(MODES))
    if unknown:
        raise ValueError(f"--modes has {', '.join(unknown)}; choose from {', '.join(MODES)}")
    if args.url and args.server_args:
        raise ValueError("--server-args are for a server that this command starts; drop them or --url")
    for name in ("new_tokens", "max_length"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    if args.url or not hub.is_id(args.model) or hub.is_offline():
        _check_family(args.model, _folder(args))
    elif missing := hub.unfetched(hub.local_folder(args.model, args.revision)):
        _say(f"{args.model}: {missing}; the server that is started here fetches them first")


def _check_family(model: str, folder: Path) -> None:
    """ValueError for the checkpoint of another family, before a server loads it."""
    whose = doctor_model.whose(folder)
    if whose not in ("text", "omni"):
        raise ValueError(
            f"{model} is no Nemotron 3 Nano: {whose}\n"
            "  remedy: give the folder or the id of one; `sglang-nemotron make-checkpoint` writes a small one"
        )


def _folder(args: argparse.Namespace) -> Path:
    """Where the checkpoint lies that transformers reads; ValueError if it is not here, or not all of it."""
    folder = hub.config_folder(args.model, args.revision)
    if hub.is_id(args.model) and (missing := hub.unfetched(folder)):
        raise ValueError(f"{args.model}: {missing}\n  remedy: {hub.fetch_first(args.model, args.revision)}")
    return folder


def _run(args: argparse.Namespace, client: Client) -> int:
    from sglang_nemotron.parity import compare, report
    from sglang_nemotron.parity.exact import beside_the_truth

    folder, info = _folder(args), client.info()
    _check_same_model(args, folder, client)
    dtype = _served_dtype(info, args.dtype)
    reference = _load(folder, "float32")
    exact = functools.cache(functools.partial(_load_exact, folder))
    groups: dict[str, list[Difference]] = {}
    repeats = 1 if dtype == "float32" else _ROUGH_REPEATS
    for mode, answers in _answers(args, folder, client, info, repeats=repeats).items():
        _say(f"transformers reads the {len(answers)} sequences of mode {mode}")
        groups[mode] = [compare.compare(mode, answer, reference.scores) for answer in answers]
        if dtype == "float32":
            groups[mode] = beside_the_truth(groups[mode], args.tolerance, exact)
        print(report.headline(mode, groups[mode]))
        show(table(None, report.COLUMNS, report.rows(groups[mode])))
        print(flush=True)
    everything = [difference for group in groups.values() for difference in group]
    total = compare.verdict(everything)
    outcome: dict[str, Any] = {"served_dtype": dtype, **asdict(total)}
    if dtype == "float32":
        passed = total.passes(args.tolerance)
        print(_float32_line(total, args.tolerance))
    else:
        rough = _load(folder, dtype)
        own = compare.noise(everything, reference.scores, rough.scores)
        outcome |= {"reference_noise": own, "ratio": total.mean / own}
        passed = total.mean <= RATIO * own
        print(
            f"mean |delta logprob| against transformers in float32: server in {dtype} {total.mean:.3e}, transformers "
            f"in {dtype} {own:.3e}; ratio {total.mean / own:.3f}, allowed {RATIO}"
        )
    print("PASS" if passed else "FAIL")
    if args.json:
        args.json.write_text(json.dumps({"passed": passed, **outcome, "answers": report.raw(everything)}) + "\n")
        _say(f"wrote {args.json}")
    return 0 if passed else 1


def _answers(
    args: argparse.Namespace, folder: Path, client: Client, info: dict[str, Any], *, repeats: int
) -> dict[str, Sequence[Answer]]:
    """The server's answers in every mode, to `repeats` prompts of each length."""
    from sglang_nemotron.config.decoder import decoder_spec
    from sglang_nemotron.config.layers import MambaSpec
    from sglang_nemotron.parity import modes, prompts

    spec = decoder_spec(json.loads((folder / "config.json").read_text()))
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
    asked = prompts.make_prompts(sorted(lengths * repeats), spec.vocab_size, seed=args.seed)
    _say(f"{len(asked)} prompts of {lengths[0]} to {lengths[-1]} tokens, {args.new_tokens} new ones each")
    calls: dict[str, Callable[[modes.Tick], list[Answer]]] = {
        "alone": lambda tick: modes.alone(client, asked, tick),
        "concurrent": lambda tick: modes.concurrent(client, asked, tick),
        "radix": lambda tick: modes.radix(client, asked, spec.vocab_size, tick),
    }
    answers = {}
    for mode in args.modes.split(","):
        total = len(asked) * modes.ANSWERS[mode]
        with Bar(mode) as bar:
            done = itertools.count(1)
            answers[mode] = calls[mode](lambda bar=bar, done=done, total=total: bar(next(done), total))
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


def _load(model_dir: Path, dtype: str) -> Reference:
    import torch
    from transformers.utils import logging

    from sglang_nemotron.parity.reference import Reference

    # its list of every tensor that does not fit; what is wrong is said in one sentence
    logging.set_verbosity_error()
    _say(f"transformers: loading {model_dir} in {dtype}")
    return Reference(model_dir, getattr(torch, dtype))


def _load_exact(model_dir: Path) -> Reference:
    from sglang_nemotron.parity.exact import ExactReference

    _say(f"transformers: loading {model_dir} in float64, for what is further from its float32 than the tolerance")
    return ExactReference(model_dir)


def _float32_line(total: Any, tolerance: float) -> str:
    return (
        f"max |delta logprob| {total.worst:.2e} over {total.positions} logprobs, allowed {tolerance:g}; "
        f"{total.disagreements} greedy tokens differ of {total.greedy_positions - total.excluded}; "
        f"{total.excluded} of {total.greedy_positions} excluded, allowed fewer than 1 %"
    )


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
