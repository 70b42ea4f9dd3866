"""Compare a running server with itself: prompts computed afresh against prompts from its prefix cache.

For any OpenAI-compatible server (this package on SGLang, SGLang's own classes, vLLM). A hybrid model keeps a state
beside keys and values; a state that is kept for the wrong token gives answers that look right. Exit 0 if all agree.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli.console import Bar, fail, finite, show, table

if TYPE_CHECKING:
    from sglang_nemotron.verify.bound import Bound
    from sglang_nemotron.verify.compare import Comparison, Run
    from sglang_nemotron.verify.conversations import Conversation
    from sglang_nemotron.verify.endpoint import Endpoint
    from sglang_nemotron.verify.modes import Cold, Tick

_PROGRAM = "sglang-nemotron verify"
# of a prompt's length: what a template or a count may be off by
_SPARE = 16
# of what a picture takes at least, in tokens
_LEAST_MEDIA = 16

_EPILOG = """\
what is asked:
  Chats: a short one, one that ends just past a multiple of 256 tokens, many-shot, branches of one document, tools, an
  agent's loop of calls, an agent whose thoughts the template strips from what went before, one of --longest tokens, one
  that goes on after the server's own answer (SGLang), and for Omni an image, speech, a clip, and all of them. Each is
  answered with --new-tokens greedy tokens:
    cold      computed afresh, alone; and again beside 2, 5 and 9 strangers, for the server's noise
    warm      the same prompt again, twice
    batched   all conversations at once, from an empty cache, and all at once again
    chunked   after a prefix of the prompt that ends in one of seven places, and after all of them in turn; prompts
              longer than a server's prefill chunk are computed in several, too
    turns     after the turns that a client would have sent before, with their answers
  Every mode begins with an empty cache: it is flushed (SGLang), or every mode has a salt of its own (`cache_salt`, for
  vLLM and with --keep-cache).

what passes:
  The same greedy tokens, and the logprobs of the five likeliest within a bound (those below chance, -ln 131072, are
  left out). The bound is not chosen but found: two
  right runs differ because the company in a batch changes the order of sums, so each prompt is computed afresh four
  times; 4 times the largest difference seen there is allowed, or what rounding costs in the served dtype if that is
  more: 2 (|logprob| + ln 131072) (u + sqrt(n) 2^-24) for n prompt tokens, u = 2^-8 for bfloat16, 2^-11 for float16,
  2^-24 for float32. The output says both. Where the two likeliest tokens lie within the bound of each other, either may
  win: that is counted as a tie, and what comes after it is not compared.

examples:
  sglang-nemotron verify http://127.0.0.1:30000
  sglang-nemotron verify http://127.0.0.1:30000 --json out.json --dtype float32
  sglang-nemotron verify http://127.0.0.1:8000 --keep-cache --api-key KEY       # vLLM, or a server that others use

Exit code: 0 if all agree, 1 if something disagrees, 2 if it could not be asked, if its noise is too large to see
anything, or if nothing at all was reused, which proves nothing.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.epilog = _EPILOG
    parser.add_argument("url", metavar="URL", help="the server, http://HOST:PORT")
    parser.add_argument("--model", metavar="NAME", help="where it serves several (default: its first)")
    parser.add_argument("--api-key", metavar="KEY", help="(default: OPENAI_API_KEY)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="what it computes in (default: what SGLang says, else bfloat16)",
    )
    parser.add_argument(
        "--media", choices=("auto", "yes", "no"), default="auto", help="ask about media (default: if the model can)"
    )
    parser.add_argument(
        "--longest", type=int, default=8192, metavar="N", help="tokens of the longest prompt (default: 8192, or less)"
    )
    parser.add_argument("--new-tokens", type=int, default=16, metavar="N", help="greedy tokens each (default: 16)")
    parser.add_argument("--keep-cache", action="store_true", help="salts instead of flushing a cache that others use")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here")
    parser.add_argument("--timeout", type=finite, default=600, metavar="S", help="seconds for a request (default: 600)")


def run(args: argparse.Namespace) -> int:
    """Compare. Returns 0, 1 if something disagrees, 2 if nothing can be said."""
    from sglang_nemotron.verify.server import Unfit

    try:
        _check(args)
        return _run(args)
    except (Unfit, ValueError, OSError) as error:
        fail(_PROGRAM, error, f"`{_PROGRAM} --help` says what is needed")
        return 2


def _check(args: argparse.Namespace) -> None:
    for flag, least in (("new_tokens", 1), ("longest", 1)):
        if getattr(args, flag) < least:
            name = "--" + flag.replace("_", "-")
            raise ValueError(f"{name} is {getattr(args, flag)}; it must be {least} or more")


def _run(args: argparse.Namespace) -> int:
    from sglang_nemotron.verify import bound as bounds
    from sglang_nemotron.verify import modes, report
    from sglang_nemotron.verify.compare import compare, unproved
    from sglang_nemotron.verify.endpoint import Endpoint
    from sglang_nemotron.verify.server import Unfit

    endpoint = Endpoint(
        args.url,
        model=args.model,
        key=args.api_key or os.environ.get("OPENAI_API_KEY"),
        new_tokens=args.new_tokens,
        keep_cache=args.keep_cache,
        timeout_s=args.timeout,
    )
    dtype = args.dtype or _dtype(endpoint)
    conversations = _conversations(args, endpoint)
    _say_how(endpoint, conversations, dtype)
    with Bar("requests") as bar:
        done, total = itertools.count(1), modes.requests(conversations)
        colds, runs = _ask(endpoint, conversations, lambda: bar(next(done), total))
    bound = bounds.measure(((cold.alone, other) for cold in colds.values() for other in cold.in_company), dtype)
    found = [compare(colds[one.conversation].alone, one, bound) for one in runs]
    show(table(None, report.COLUMNS, report.rows(found)))
    print(f"\n{report.how_bounded(bound, [one.alone.prompt_tokens for one in colds.values()])}")
    print(report.sentence(found))
    for line in report.first_faults(found):
        print(f"  {line}")
    code = _verdict(found, bound)
    if args.json:
        verdict = {"passed": code == 0, "url": endpoint.url, "model": endpoint.model}
        args.json.write_text(json.dumps(verdict | report.raw(found, conversations, bound)) + "\n")
        print(f"  wrote {args.json}", file=sys.stderr)
    for name in (names := unproved(found)):
        print(f"NOTHING WAS REUSED for '{name}': nothing was proved of it")
    if bound.too_wide:
        raise Unfit(
            f"the server's own noise, {bound.noise:.1e}, is so large that a probability might grow tenfold unseen"
            "\n  remedy: look for what differs between two runs of one prompt, or serve a higher precision"
        )
    if code == 0 and len(names) == len(conversations):
        raise Unfit(
            f"{report.NOTHING}, or the server does not say what was: nothing was proved"
            "\n  remedy: serve with a prefix cache, and let the server report it: --enable-cache-report (SGLang), "
            "--enable-prompt-tokens-details (vLLM)"
        )
    print("AGREES" if code == 0 else "DISAGREES")
    return code


def _verdict(found: Sequence[Comparison], bound: Bound) -> int:
    return 0 if all(one.agrees for one in found) and not bound.too_wide else 1


def _ask(endpoint: Endpoint, conversations: Sequence[Conversation], tick: Tick) -> tuple[dict[str, Cold], list[Run]]:
    """Every request of every mode; by conversation what was computed afresh."""
    from sglang_nemotron.verify import modes

    colds, runs = {}, []
    for one in conversations:
        colds[one.name], warm = modes.cold_and_warm(endpoint, one, tick)
        length = colds[one.name].alone.prompt_tokens
        runs += [*warm, *modes.chunked(endpoint, one, length, tick), *modes.turns(endpoint, one, tick)]
    return colds, runs + modes.batched(endpoint, conversations, tick)


def _conversations(args: argparse.Namespace, endpoint: Endpoint) -> list[Conversation]:
    """Those that fit the server; Unfit if media are wanted and it takes none."""
    from sglang_nemotron.verify import conversations

    room = endpoint.context - endpoint.new_tokens - _SPARE if endpoint.context else args.longest
    longest = min(args.longest, room)
    found = conversations.built_in(endpoint.prompt_length, longest=longest)
    shown = _media(args.media, endpoint)
    own = _own_answer(endpoint, found, longest)
    return [*found, *own, *(conversations.with_media(shown) if shown else ())]


def _own_answer(endpoint: Endpoint, found: Sequence[Conversation], longest: int) -> list[Conversation]:
    """One that goes on after the server's own answer, token by token; none without /generate."""
    from sglang_nemotron.verify import conversations

    ids = endpoint.tokens(next(one for one in found if one.turns).turns[0])
    if ids is None or len(ids) + 2 * (count := conversations.asked_to_continue(len(ids))) > longest:
        return []
    answer = endpoint.answer(ids, count)
    return [] if answer is None else [conversations.continued(ids, answer)]


def _media(wish: str, endpoint: Endpoint) -> dict[str, Mapping[str, Any]]:
    """Message parts by name; none if the model takes no media, or nobody asked."""
    from sglang_nemotron.verify.endpoint import Chat
    from sglang_nemotron.verify.server import Unfit

    if wish == "no" or (wish == "auto" and endpoint.takes_images is False):
        return {}
    try:
        parts = _parts()
        question = {"type": "text", "text": "What is this?"}
        counts = [
            endpoint.computed_length(Chat(({"role": "user", "content": content},)))
            for content in ([question], [parts["image"], question])
        ]
    except (Unfit, ImportError) as error:
        if wish == "auto":
            print(f"  text only: {str(error).partition(chr(10))[0]}", file=sys.stderr)
            return {}
        raise Unfit(_no_media(endpoint, str(error).partition("\n")[0])) from error
    if counts[1] - counts[0] < _LEAST_MEDIA:
        if wish == "auto":
            return {}
        raise Unfit(_no_media(endpoint, f"an image made the prompt {counts[1] - counts[0]} tokens longer"))
    return parts


def _no_media(endpoint: Endpoint, reason: str) -> str:
    return f"{endpoint.model} takes no media: {reason}\n  remedy: leave --media out, or name a model that takes them"


def _parts() -> dict[str, Mapping[str, Any]]:
    from sglang_nemotron.cli.demo_media import clip, photo, speech

    image, sound, film = (base64.b64encode(data).decode() for data in (photo(), speech(), clip()))
    return {
        "image": {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}},
        "speech": {"type": "input_audio", "input_audio": {"data": sound, "format": "mp3"}},
        "clip": {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{film}"}},
    }


def _dtype(endpoint: Endpoint) -> str:
    """By the server's word; a checkpoint's own is taken for bfloat16, whose bound is the widest."""
    said = str(endpoint.info.get("dtype", "")).removeprefix("torch.")
    return said if said in ("float32", "float16") else "bfloat16"


def _say_how(endpoint: Endpoint, conversations: Sequence[Conversation], dtype: str) -> None:
    chunk = endpoint.info.get("chunked_prefill_size")
    facts = [
        f"{endpoint.url} serves {endpoint.model}, compared as {dtype}",
        "its cache is flushed" if endpoint.flushes else "its cache stays, every mode under a salt of its own",
        "prefixes end at exact tokens" if endpoint.tells_ids else "it has no /tokenize: prefixes end within texts",
        *([f"prompts of more than {chunk} tokens are computed in several chunks"] if chunk and chunk > 0 else []),
        f"{len(conversations)} conversations",
    ]
    print("  " + "; ".join(facts), file=sys.stderr, flush=True)
