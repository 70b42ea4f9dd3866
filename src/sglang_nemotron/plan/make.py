"""A whole plan: a GPU, how many, a checkpoint and a workload in; two servers, what they run at once and how fast, out.

The first server is what SGLang makes without further flags; the second has the flags that this workload asks for, each
with its reason. Arithmetic and committed measurements alone.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from sglang_nemotron.config.decoder import check_groups, check_parallel
from sglang_nemotron.plan import media as media_tokens
from sglang_nemotron.plan import speeds
from sglang_nemotron.plan.gpus import Gpu
from sglang_nemotron.plan.media import Media
from sglang_nemotron.plan.models import PUBLISHED, Model, of_published
from sglang_nemotron.plan.server import Flags, Server, of_class, start

HINT = "SGLANG_NEMOTRON_REQUEST_TOKENS"
_COUNTS = (1, 2, 4, 8)
# FP8 products need Ada's matrix units, FP4 ones Blackwell's
_FP8, _FP4 = (8, 9), (10, 0)


@dataclass(frozen=True, slots=True)
class Workload:
    """What clients ask for. prompt: tokens of text, media come on top. concurrency: requests sent at once."""

    prompt: int
    answer: int
    concurrency: int
    media: Media = Media()


@dataclass(frozen=True, slots=True)
class Choice:
    """A flag or a variable to start with, and why."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, eq=False)
class Plan:
    """prompt: tokens of one request's text and media. `plain` is the server without further flags."""

    gpu: Gpu
    count: int
    model: Model
    workload: Workload
    media: dict[str, int]
    plain: Server
    advised: Server
    choices: tuple[Choice, ...]
    speed: speeds.Speed | str
    remarks: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Of one request: prompt, media and answer."""
        return self.workload.prompt + sum(self.media.values()) + self.workload.answer

    @property
    def fits(self) -> bool:
        """Whether a server would start at all."""
        return self.advised.pools is not None and self.advised.max_running_requests > 0

    @property
    def command(self) -> str:
        variables = [f"{choice.name}={choice.value}" for choice in self.choices if not choice.name.startswith("-")]
        flags = [f"{choice.name} {choice.value}" for choice in self.choices if choice.name.startswith("-")]
        return " ".join([*variables, "sglang serve --model-path", shlex.quote(self.model.name), *flags])

    def as_json(self) -> dict[str, Any]:
        """Plain values; `servers` holds figures under the names under which a server reports them."""
        speed = self.speed if isinstance(self.speed, str) else asdict(self.speed)
        servers = {"plain": self.plain, "advised": self.advised}
        return {
            "gpu": asdict(self.gpu) | {"count": self.count},
            "model": {
                "name": self.model.name,
                "source": self.model.source,
                "quantization": self.model.quantization,
                "dtype": self.model.dtype,
                "omni": self.model.omni is not None,
                "file_bytes": self.model.file_bytes,
            },
            "workload": asdict(self.workload) | {"media_tokens": self.media, "tokens": self.tokens},
            "fits": self.fits,
            "servers": {
                name: server.as_json() | {"requests_at_once": server.at_once(self.tokens)}
                for name, server in servers.items()
            },
            "flags": [asdict(choice) for choice in self.choices],
            "command": self.command,
            "speed": speed,
            "remarks": list(self.remarks),
        }


def make(gpu: Gpu, count: int, model: Model, workload: Workload, given: Flags) -> Plan:
    """The plan. given: what the user fixes of the flags; its `tp_size` is `count`.

    ValueError of two lines for a split that does not divide, and for a request longer than the context.
    """
    try:
        _check_split(model, count)
    except ValueError as error:
        raise ValueError(f"{error}\n  remedy: give --count one of {', '.join(map(str, _dividing(model)))}") from None
    if gpu.capability is not None and model.quantization in ("fp8", "mixed") and gpu.capability < _FP8:
        raise ValueError(
            f"{gpu.label} has no FP8 units: SGLang serves FP8 checkpoints of ModelOpt from compute capability 8.9 on\n"
            "  remedy: take the BF16 checkpoint, or another card"
        )
    tokens_by_kind = media_tokens.tokens_of(workload.media, model.omni, given.context)
    tokens = workload.prompt + sum(tokens_by_kind.values()) + workload.answer
    if tokens > given.context:
        raise ValueError(
            f"a request takes {tokens:,} tokens, prompt and answer together, and the context is {given.context:,}\n"
            "  remedy: give a shorter --input or --output, or a longer --context"
        )
    if given.context > model.decoder.max_positions:
        raise ValueError(
            f"--context is {given.context:,}, and the checkpoint promises {model.decoder.max_positions:,}\n"
            f"  remedy: give at most {model.decoder.max_positions}"
        )
    plain = start(gpu, model, given)
    advised = start(gpu, model, _advised(gpu, model, given, tokens, workload.concurrency))
    speed = speeds.expected(
        gpu=gpu.name,
        kind="text" if model.omni is None else "omni",
        quantization=model.quantization,
        tp_size=count,
        batch=max(min(advised.at_once(tokens), workload.concurrency), 1),
        prompt=tokens - workload.answer,
        answer=workload.answer,
    )
    made = Plan(
        gpu=gpu,
        count=count,
        model=model,
        workload=workload,
        media=tokens_by_kind,
        plain=plain,
        advised=advised,
        choices=tuple(_choices(gpu, model, advised, tokens)),
        speed=speed,
        remarks=(),
    )
    return replace(made, remarks=tuple(_remarks(made, given)))


def _check_split(model: Model, count: int) -> None:
    check_parallel(model.decoder, count)
    if model.quantization in ("nvfp4", "mixed"):
        check_groups(model.decoder, count)


def _dividing(model: Model) -> list[int]:
    fitting = []
    for count in _COUNTS:
        with suppress(ValueError):
            _check_split(model, count)
            fitting.append(count)
    return fitting


def _advised(gpu: Gpu, model: Model, given: Flags, tokens: int, concurrency: int) -> Flags:
    """The hint, no more requests than will come, and graphs for as many as run."""
    flags = replace(given, request_tokens=tokens)
    bounded = replace(flags, max_running_requests=concurrency)
    flags = bounded if start(gpu, model, bounded).at_once(tokens) >= concurrency else flags
    running = min(start(gpu, model, flags).at_once(tokens), concurrency)
    if running > of_class(gpu.total_mib, flags.tp_size)[1] and flags.graphs_to is None:
        flags = replace(flags, graphs_to=running)
    if flags.max_running_requests is not None and start(gpu, model, flags).at_once(tokens) < concurrency:
        # the graphs took what the last requests would have had
        flags = replace(flags, max_running_requests=None)
    return flags


def _choices(gpu: Gpu, model: Model, server: Server, tokens: int) -> list[Choice]:
    flags, found = server.flags, []
    if flags.request_tokens is not None:
        found.append(Choice(HINT, str(tokens), "states and KV pages share memory for this length; 3 slots a request"))
    if flags.tp_size > 1:
        found.append(Choice("--tp", str(flags.tp_size), "one rank on each GPU"))
    if flags.context != model.decoder.max_positions:
        found.append(Choice("--context-length", str(flags.context), "no longer request is let in"))
    if flags.max_running_requests is not None:
        why = "no more will come: other slots keep cached prefixes"
        found.append(Choice("--max-running-requests", str(flags.max_running_requests), why))
    if flags.graphs_to is not None:
        usual = of_class(gpu.total_mib, flags.tp_size)[1]
        why = f"CUDA graphs end at {usual} here, and a batch beyond them is slow"
        found.append(Choice("--cuda-graph-max-bs-decode", str(flags.graphs_to), why))
    for name, value in (
        ("--mem-fraction-static", flags.mem_fraction),
        ("--kv-cache-dtype", flags.kv_dtype),
        ("--mamba-ssm-dtype", flags.ssm_dtype),
    ):
        if value is not None:
            found.append(Choice(name, str(value), "as given"))
    # the names of SGLang's two pages; both get our parser
    parser = "nano_v3" if model.omni is None else "deepseek-r1"
    found.append(Choice("--reasoning-parser", parser, "thinking comes apart from the answer"))
    found.append(Choice("--tool-call-parser", "qwen3_coder", "tool calls come as such"))
    return found


def _remarks(plan: Plan, given: Flags) -> list[str]:
    """What a reader must know beside the figures: what does not fit, and what nobody measured."""
    server, gpu, said = plan.advised, plan.gpu, []
    if not plan.fits:
        said += [f"no server starts: {server.reason}", *_ways_out(plan, given)]
    else:
        at_once = server.at_once(plan.tokens)
        if at_once < plan.workload.concurrency:
            said.append(
                f"{at_once} of {plan.workload.concurrency} requests run at once; the others wait for their turn"
            )
        if server.pools and server.pools.num_tokens < given.context:
            entries = server.pools.num_tokens
            said.append(
                f"one request of the whole context ({given.context:,} tokens) does not fit the {entries:,} KV entries; "
                f"give --context {entries} or less"
            )
    if not server.free_measured:
        said.append(
            f"what CUDA holds before the first weight was not measured on {plan.count} x {gpu.label}: "
            f"{server.memory['CUDA and driver']:.2f} GiB a rank, as on H200"
        )
    if plan.count > 1:
        said.append("nobody has served on several GPUs yet; shares are those of the tested splits")
    if gpu.capability is not None and plan.model.quantization != "none" and gpu.capability < _FP8:
        said.append(
            f"{gpu.label} has no FP8 units (compute capability 8.9): quantised checkpoints were never tried on it"
        )
    if gpu.capability is not None and plan.model.quantization in ("nvfp4", "mixed") and gpu.capability < _FP4:
        said.append(
            f"{gpu.label} has no FP4 units: SGLang repacks NVFP4 weights for Marlin, whose memory was not measured"
        )
    if server.memory["CUDA graphs"] == 0:
        said.append(f"memory of CUDA graphs up to {server.captured_to} was not measured; it is part of what is left")
    if plan.media.get("video"):
        said.append("the text between a video's frames is not counted: it needs the tokenizer")
    return said


def _ways_out(plan: Plan, given: Flags) -> list[str]:
    """Counts of this GPU on which the checkpoint starts, and published formats that start on what is there."""
    ways = []
    for count in (count for count in _dividing(plan.model) if count > plan.count):
        try:
            found = start(plan.gpu, plan.model, replace(given, tp_size=count))
        except ValueError:
            continue
        if found.max_running_requests:
            ways.append(f"it would on {count} of them (--count {count})")
            break
    kin = [name for name, (omni, _) in PUBLISHED.items() if omni == (plan.model.omni is not None)]
    smaller = [model for model in map(of_published, kin) if model.file_bytes < plan.model.file_bytes]
    fitting = [model.name for model in smaller if start(plan.gpu, model, given).max_running_requests]
    return ways + ([f"on this one starts {' or '.join(fitting)}"] if fitting else [])
