"""A whole plan: a GPU, how many, a checkpoint and a workload in; two servers, what they run at once and how fast, out.

The first server is what SGLang makes without further flags; the second has the flags that this workload asks for, each
with its reason. Arithmetic and committed measurements alone.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

from sglang_nemotron.launch.kinds import Refusal
from sglang_nemotron.plan import advice, offers, speeds
from sglang_nemotron.plan import media as media_tokens
from sglang_nemotron.plan.advice import Choice
from sglang_nemotron.plan.gpus import Gpu
from sglang_nemotron.plan.media import Media
from sglang_nemotron.plan.models import Model
from sglang_nemotron.plan.server import Flags, Server, start

# FP4 products need Blackwell's matrix units
_FP4 = (10, 0)


@dataclass(frozen=True, slots=True)
class Workload:
    """What clients ask for. prompt: tokens of text, media come on top. concurrency: requests sent at once."""

    prompt: int
    answer: int
    concurrency: int
    media: Media = Media()


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
        return self.advised.starts

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

    ValueError of two lines for a split that does not divide, for what the launch table refuses, and for a request that
    is longer than the context.
    """
    advice.check_split(model, count)
    _refuse(offers.refusal_of_format(gpu, model, count))
    tokens_by_kind = media_tokens.tokens_of(workload.media, model.omni, given.context)
    prompt = workload.prompt + sum(tokens_by_kind.values())
    tokens = prompt + workload.answer
    _check_context(model, given.context, tokens)
    plain = start(gpu, model, given)
    advised = start(gpu, model, advice.flags(gpu, model, given, tokens, workload.concurrency))
    if advised.starts:
        _refuse(offers.refusal_of_published(gpu, model, count))
    speed = speeds.expected(
        gpu=gpu.name,
        kind="text" if model.omni is None else "omni",
        quantization=model.quantization,
        tp_size=count,
        batch=max(min(advised.at_once(tokens), workload.concurrency), 1),
        prompt=prompt,
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
        choices=tuple(advice.choices(gpu, model, given, plain, advised)),
        speed=speed,
        remarks=(),
    )
    return replace(made, remarks=tuple(_remarks(made, given)))


def _refuse(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise ValueError(f"{refusal.reason}\n  remedy: {refusal.remedy}")


def _check_context(model: Model, context: int, tokens: int) -> None:
    if tokens > context:
        raise ValueError(
            f"a request takes {tokens:,} tokens, prompt and answer together, and the context is {context:,}\n"
            "  remedy: give a shorter --input or --output, or a longer --context"
        )
    if context > model.decoder.max_positions:
        raise ValueError(
            f"--context is {context:,}, and the checkpoint promises {model.decoder.max_positions:,}\n"
            f"  remedy: give at most {model.decoder.max_positions}"
        )


def _remarks(plan: Plan, given: Flags) -> list[str]:
    """What a reader must know beside the figures: what does not fit, and what nobody measured."""
    if not plan.fits:
        ways = advice.ways_out(plan.gpu, plan.model, given, plan.tokens)
        return [f"no server starts: {plan.advised.reason}", *ways, *_unmeasured(plan)]
    server, said = plan.advised, []
    at_once = server.at_once(plan.tokens)
    if at_once < plan.workload.concurrency:
        said.append(f"{at_once} of {plan.workload.concurrency} requests run at once; the others wait for their turn")
    if server.pools and server.pools.num_tokens < given.context:
        entries = server.pools.num_tokens
        said.append(
            f"one request of the whole context ({given.context:,} tokens) does not fit the {entries:,} KV entries; "
            f"give --context {entries} or less"
        )
    if given.mem_fraction is not None:
        own = start(plan.gpu, plan.model, replace(server.flags, mem_fraction=None))
        left = "left for activations"
        if own.starts and own.mem_fraction < given.mem_fraction:
            said.append(
                f"--mem-fraction-static {given.mem_fraction:g} leaves {server.memory[left]:.1f} GiB for activations; "
                f"SGLang's own, {own.mem_fraction:.3f}, leaves {own.memory[left]:.1f}"
            )
    if not plan.plain.starts:
        said.append(f"without these flags no server starts: {plan.plain.reason}; nobody has run it with them")
    return said + _unmeasured(plan)


def _unmeasured(plan: Plan) -> list[str]:
    """What nobody measured of this set-up, and its figures take as elsewhere or leave out."""
    server, gpu, said = plan.advised, plan.gpu, []
    if not server.free_measured:
        said.append(
            f"what CUDA holds before the first weight was not measured on {plan.count} x {gpu.label}: "
            f"{server.memory['CUDA and driver']:.2f} GiB a rank, as on H200"
        )
    if plan.count > 1:
        said.append("nobody has served on several GPUs yet; shares are those of the tested splits")
    if gpu.capability is not None and plan.model.quantization in ("nvfp4", "mixed") and gpu.capability < _FP4:
        said.append(
            f"{gpu.label} has no FP4 units: SGLang repacks NVFP4 weights for Marlin, whose memory was not measured"
        )
    if plan.fits and server.memory["CUDA graphs"] == 0:
        said.append(f"memory of CUDA graphs up to {server.captured_to} was not measured; it is part of what is left")
    if plan.media.get("video"):
        said.append("the text between a video's frames is not counted: it needs the tokenizer")
    return said
