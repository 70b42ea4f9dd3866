"""Plan a server: what a checkpoint takes of a GPU's memory, how many requests run at once, which flags to pass.

By arithmetic and committed measurements, without a GPU, a network or SGLang. What was not measured says so.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from sglang_nemotron.cli.console import fail, finite, size
from sglang_nemotron.family import STATE_DTYPES

if TYPE_CHECKING:
    from sglang_nemotron.plan.gpus import Gpu
    from sglang_nemotron.plan.models import Model

_PROGRAM = "sglang-nemotron plan"

_EPILOG = """\
what is planned:
  MODEL is an id of the hub, a folder with config.json, or one of the published names, which need no file here:
    NVIDIA-Nemotron-3-Nano-30B-A3B-BF16, -FP8
    Nemotron-3-Nano-Omni-30B-A3B-Reasoning, -BF16, -FP8, -NVFP4
  --gpu knows h100, h200, b200, a100-40, a100-80, l40s, rtx-pro-6000 and dgx-spark; without it, the GPUs of this machine
  are asked for (nvidia-smi). For any other, give --memory-mib, its memory.total.

what comes out:
  Memory of one GPU by part, for the server with the flags that are advised: weights, towers, state slots (one of 46.8
  MiB for each running request and for each state that the prefix cache keeps or that a request copies to), KV pages
  (6 KiB a token, half of it in FP8), what SGLang leaves for activations. How many requests of this workload run at
  once, with those flags and without them. Tokens a second where this GPU and checkpoint were measured with such
  prompts, with the source; between two measured batches it is interpolated, with the error that this makes, and outside
  them nothing is said. What `sglang-nemotron command` refuses is refused here, too.

examples:
  sglang-nemotron plan nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --gpu h200
  sglang-nemotron plan nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8 --gpu h100 --count 4 --input 8192 --output 1024
  sglang-nemotron plan nvidia/Nemotron-3-Nano-Omni-30B-A3B-NVFP4 --gpu rtx-pro-6000 --images 2 --context 32768
  sglang-nemotron plan nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --gpu h200 --json

Exit code: 0 if such a server starts, 1 if it does not, 2 if it could not be planned. docs/plan.md has the rules, and
how far servers that ran are from them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="a published name, an id of the hub, or a folder")
    parser.add_argument(
        "--revision", metavar="R", help="of an id that is in the cache: branch, tag or commit (default: main)"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--gpu", metavar="NAME", help="kind of GPU (default: those of this machine)")
    machine.add_argument("--memory-mib", type=int, metavar="N", help="of another kind: memory.total of nvidia-smi")
    machine.add_argument("--count", type=int, metavar="N", help="GPUs to share one model, --tp (default: 1)")
    free = (
        "free on each before weights, as a server's log says (Load weight begin. avail mem); else taken as on an H200"
    )
    machine.add_argument("--free-gib", type=finite, metavar="X", help=free)
    load = parser.add_argument_group("workload")
    load.add_argument("--input", type=int, default=1024, metavar="N", help="tokens of a prompt's text (default: 1024)")
    load.add_argument("--output", type=int, default=1024, metavar="N", help="tokens of an answer (default: 1024)")
    load.add_argument("--concurrency", type=int, default=256, metavar="N", help="requests at once (default: 256)")
    load.add_argument(
        "--context", type=int, metavar="N", help="longest request (default: what the checkpoint promises)"
    )
    load.add_argument("--images", type=int, default=0, metavar="N", help="images of a request (default: 0)")
    load.add_argument("--image-size", type=size, default=(1920, 1080), metavar="WxH", help="(default: 1920x1080)")
    load.add_argument("--video", type=finite, default=0, metavar="S", help="seconds of video of a request (default: 0)")
    load.add_argument("--video-size", type=size, default=(1920, 1080), metavar="WxH", help="(default: 1920x1080)")
    load.add_argument("--audio", type=finite, default=0, metavar="S", help="seconds of audio of a request (default: 0)")
    server = parser.add_argument_group("server", "what you would give `sglang serve` besides")
    server.add_argument("--mem-fraction-static", type=finite, metavar="X", help="(default: as SGLang chooses)")
    server.add_argument(
        "--kv-cache-dtype", choices=("auto", "bfloat16", "fp8_e4m3", "fp8_e5m2"), help="(default: auto)"
    )
    server.add_argument(
        "--mamba-ssm-dtype",
        choices=STATE_DTYPES,
        help="of the states (default: the checkpoint's)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the plan. Returns 0, 1 if no such server starts, 2 after two lines on stderr."""
    try:
        _check(args)
        return _run(args)
    except (ValueError, OSError) as error:
        fail(_PROGRAM, error, f"`{_PROGRAM} --help` says what is needed")
        return 2


def _check(args: argparse.Namespace) -> None:
    for name, least in (
        ("input", 1),
        ("output", 1),
        ("concurrency", 1),
        ("count", 1),
        ("context", 1),
        ("memory_mib", 1),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be {least} or more")
    for name in ("images", "video", "audio"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be a number from 0 on")
    if args.mem_fraction_static is not None and not 0 < args.mem_fraction_static < 1:
        raise ValueError(f"--mem-fraction-static is {args.mem_fraction_static}; it must lie between 0 and 1")
    if args.gpu is not None and args.memory_mib is not None:
        raise ValueError("--gpu and --memory-mib were both given\n  remedy: keep one; a named GPU's memory is known")


def _run(args: argparse.Namespace) -> int:
    from sglang_nemotron.plan import models
    from sglang_nemotron.plan.make import Workload, make
    from sglang_nemotron.plan.media import Media
    from sglang_nemotron.plan.server import Flags

    gpu, there = _gpu(args)
    if args.free_gib is not None:
        gpu = _with_free(gpu, args.free_gib)
    count = args.count or 1
    if there is not None and count > there:
        raise ValueError(f"--count is {count}, and {there} GPUs are here\n  remedy: name the GPU to plan for, --gpu")
    model = models.find(args.model, args.revision)
    media = Media(args.images, args.image_size, args.video, args.video_size, args.audio)
    given = Flags(
        tp_size=count,
        context=_context(args, model),
        mem_fraction=args.mem_fraction_static,
        kv_dtype=args.kv_cache_dtype,
        ssm_dtype=args.mamba_ssm_dtype,
    )
    plan = make(gpu, count, model, Workload(args.input, args.output, args.concurrency, media), given)
    if args.json:
        print(json.dumps(plan.as_json(), indent=2))
    else:
        from sglang_nemotron.cli.plan_chart import show_plan

        show_plan(plan)
    return 0 if plan.fits else 1


def _gpu(args: argparse.Namespace) -> tuple[Gpu, int | None]:
    """(the GPU, how many of them are here, None for one that was named)."""
    from sglang_nemotron.plan import gpus

    if args.gpu is not None:
        return gpus.find(args.gpu), None
    if args.memory_mib is not None:
        return gpus.other(args.memory_mib), None
    return gpus.present()


def _with_free(gpu: Gpu, gib: float) -> Gpu:
    whole = gpu.total_mib / 1024
    if not 0 < gib <= whole:
        raise ValueError(
            f"--free-gib is {gib}, and {gpu.label} has {whole:.2f} GiB in all\n  remedy: give what is free of it"
        )
    return replace(gpu, said_free_mib=gib * 1024)


def _context(args: argparse.Namespace, model: Model) -> int:
    return args.context if args.context is not None else model.decoder.max_positions
