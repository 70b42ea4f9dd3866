"""Show the main job: make tiny checkpoints, serve them with stock SGLang, and talk to them with the OpenAI client.

Weights are random, so the text means nothing. Everything else is real: the architecture, the files, the special tokens,
the chat template, the server and the client. It needs no accelerator and no network.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS, CheckpointSpec
from sglang_nemotron.cli.console import fail
from sglang_nemotron.cli.demo_omni import omni_requests
from sglang_nemotron.cli.demo_requests import DemoFailed, Row, all_requests
from sglang_nemotron.cli.server import ServerFailed, ServerProcess, is_taken
from sglang_nemotron.family import OMNI, TEXT
from sglang_nemotron.media import libraries

if TYPE_CHECKING:
    from openai import OpenAI

# what a user with a GPU passes too: the parsers of the published commands, and cached tokens in `usage`
SERVER_FLAGS = ("--reasoning-parser", "nano_v3", "--tool-call-parser", "qwen3_coder", "--enable-cache-report")

# a request of the demo takes a second; a machine that is busy with other work may need far longer
_REQUEST_LIMIT_S = 300.0

# our classes write this line when they see SGLang's pools for the first time; nothing of SGLang's own does
_OUR_LINE = re.compile(r"state pools: .*?(?=; TP|$)", re.MULTILINE)
_OUR_CLASSES = {
    TEXT: f"sglang_nemotron.models.nemotron_h.{TEXT}",
    OMNI[0]: f"sglang_nemotron.models.nemotron_omni.{OMNI[0]}",
}

Requests = Callable[["OpenAI", str], Iterator[Row]]


@dataclass(frozen=True)
class _Act:
    """One model of the demo. `suffix` tells its files from those of the other."""

    name: str
    suffix: str
    spec: CheckpointSpec
    requests: Requests

    def checkpoint(self, folder: Path) -> Path:
        return folder / f"checkpoint{self.suffix}"

    def log(self, folder: Path) -> Path:
        return folder / f"server{self.suffix}.log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.add_argument(
        "--dir", type=Path, metavar="D", help="folder for the checkpoint and the log (default: a temporary one)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave both there; without it only a failure leaves them behind"
    )
    parser.add_argument("--size", choices=("tiny", "toy"), default="tiny", help="of the checkpoint (default: tiny)")
    parser.add_argument("--only", choices=("text", "omni"), help="show one of the two models (default: both)")
    parser.add_argument("--port", type=_port, metavar="N", help="for the server (default: a free one)")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if all went as promised, 1 if not, 130 or 143 if interrupted; the server never outlives it."""
    folder = args.dir or Path(tempfile.mkdtemp(prefix="sglang-nemotron-demo-"))
    began = time.monotonic()
    acts: list[_Act] = []
    try:
        acts = _acts(args.size, args.only)
        with _terminable():
            for number, act in enumerate(acts):
                _play(act, folder, args.port, first=number == 0)
    except (ServerFailed, DemoFailed, ValueError, OSError) as failure:
        logs = [act.log(folder) for act in acts if act.log(folder).exists()]
        remedy = (
            f"look into the server's log, {logs[-1]}" if logs else "`sglang-nemotron doctor` looks at the installation"
        )
        if args.dir is None and not logs:
            shutil.rmtree(folder)
        print(file=sys.stderr)
        fail("sglang-nemotron demo", failure, remedy)
        return 1
    except KeyboardInterrupt:
        _clean(folder, acts, made_here=args.dir is None, keep=args.keep)
        print("\ndemo: interrupted; the server is stopped", file=sys.stderr)
        return 130
    print(f"\nall as promised, in {time.monotonic() - began:.0f} s; the server is stopped")
    _clean(folder, acts, made_here=args.dir is None, keep=args.keep)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535")
    return int(text)


def _acts(size: str, only: str | None) -> list[_Act]:
    """What is to be shown; without the packages that media need, text alone, which is said."""
    acts = [] if only == "omni" else [_Act("Nemotron 3 Nano", "", PRESETS[size], all_requests)]
    if only == "text":
        return acts
    missing = ", ".join(libraries.missing())
    if not missing:
        return [*acts, _Act("Nemotron 3 Nano Omni", "-omni", OMNI_PRESETS[size], omni_requests)]
    if only == "omni":
        raise ValueError(f"Omni needs {missing}\n  remedy: {libraries.INSTALL}")
    print(f"text only, since Omni needs {missing}: {libraries.INSTALL}\n")
    return acts


def _play(act: _Act, folder: Path, port: int | None, *, first: bool) -> None:
    """Make the act's checkpoint, serve it, send its requests, and stop its server."""
    # torch and the client are imported here, so that --help stays quick
    from openai import OpenAI, OpenAIError

    from sglang_nemotron.checkpoint.writer import write_checkpoint

    if port is not None and is_taken(port):
        raise ValueError(f"port {port} is in use\n  remedy: choose another with --port, or none for a free one")
    checkpoint, log, spec = act.checkpoint(folder), act.log(folder), act.spec
    print(f"{'' if first else chr(10)}{act.name}\n")
    print(f"1. checkpoint: {spec.num_hidden_layers} layers {spec.hybrid_override_pattern}, {spec.dtype}, {checkpoint}")
    write_checkpoint(spec, checkpoint, overwrite=True)

    server = ServerProcess(checkpoint, SERVER_FLAGS, log_path=log, port=port, progress=_show_progress)
    print(f"2. server: {' '.join(['sglang', 'serve', *server.command[2:]])}", flush=True)
    with server:
        print(f"   ready after {server.seconds_to_ready:.0f} s at {server.url}")
        client = OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", timeout=_REQUEST_LIMIT_S, max_retries=0)
        try:
            _show_requests(client, act.requests)
            _show_classes(checkpoint, server.log_text())
        except (OpenAIError, DemoFailed) as error:
            state = "" if server.returncode is None else f"; the server ended with exit code {server.returncode}"
            tail = f"last lines of the server's log:\n{server.log_tail()}"
            raise DemoFailed(f"{type(error).__name__}: {error}{state}\n{tail}") from error


def _show_requests(client: OpenAI, requests: Requests) -> None:
    print("3. requests, with the openai client:\n")
    print(_line(_HEAD), flush=True)
    for row in requests(client, "nemotron"):
        counts = (str(row.prompt_tokens), str(row.completion_tokens), str(row.cached_tokens))
        print(_line((row.request, *counts, f"{row.seconds:.2f}", row.finish, row.said)), flush=True)


def _show_classes(checkpoint: Path, log: str) -> None:
    """Says which class served each architecture, by the server's log; DemoFailed if one was not ours."""
    print("\n4. who served it:\n")
    for architecture in json.loads((checkpoint / "config.json").read_text())["architectures"]:
        name, line = _OUR_CLASSES[architecture], _OUR_LINE.search(log)
        if line is None:
            raise DemoFailed(f"{architecture} was not served by {name}: the server's log has no line of it")
        print(f"   {architecture}: {name}\n   {line[0]}")


_HEAD = ("request", "prompt", "completion", "cached", "seconds", "finish", "reply")


def _line(cells: tuple[str, ...]) -> str:
    request, prompt, completion, cached, seconds, finish, said = cells
    return f"   {request:<22}{prompt:>7}{completion:>12}{cached:>8}{seconds:>9}  {finish:<15} {said}"


def _show_progress(stage: str, seconds: float) -> None:
    print(f"   {seconds:4.0f} s  {stage}", flush=True)


def _clean(folder: Path, acts: list[_Act], *, made_here: bool, keep: bool) -> None:
    if keep:
        print("kept:", ", ".join(f"{act.checkpoint(folder)}, {act.log(folder)}" for act in acts))
        return
    if made_here:
        shutil.rmtree(folder)
        return
    # a folder of the user's: remove what the demo wrote, nothing else
    for act in acts:
        shutil.rmtree(act.checkpoint(folder), ignore_errors=True)
        act.log(folder).unlink(missing_ok=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind like an exception, so that the server is stopped on the way out."""

    def leave(signum: int, frame: object) -> None:
        sys.exit(128 + signum)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
