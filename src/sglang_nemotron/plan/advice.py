"""Which flags a workload asks for, and what else would start where nothing does: a GPU, a checkpoint and a load in.

By the arithmetic of `server.py` and the rows of the launch table; nothing here has figures of its own.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from sglang_nemotron.config.decoder import check_groups, check_parallel
from sglang_nemotron.plan import offers
from sglang_nemotron.plan.gpus import Gpu
from sglang_nemotron.plan.models import PUBLISHED, Model, of_published
from sglang_nemotron.plan.server import (
    Flags,
    Server,
    least_mem_fraction,
    mem_fraction_without_towers,
    of_class,
    start,
)
from sglang_nemotron.state.capacity import REQUEST_TOKENS

_COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Choice:
    """A flag or a variable to start with, and why."""

    name: str
    value: str
    why: str


# ---- splits


def check_split(model: Model, count: int) -> None:
    """ValueError of two lines where so many GPUs cannot share the checkpoint."""
    try:
        _divide(model, count)
    except ValueError as error:
        raise ValueError(f"{error}\n  remedy: give --count one of {', '.join(map(str, _dividing(model)))}") from None


def _divide(model: Model, count: int) -> None:
    check_parallel(model.decoder, count)
    if model.quantization in ("nvfp4", "mixed"):
        check_groups(model.decoder, count)


def _dividing(model: Model) -> list[int]:
    fitting = []
    for count in _COUNTS:
        with suppress(ValueError):
            _divide(model, count)
            fitting.append(count)
    return fitting


# ---- flags


def flags(gpu: Gpu, model: Model, given: Flags, tokens: int, concurrency: int) -> Flags:
    """Room to start at all, the hint, no more requests than will come, and graphs for as many as run."""
    advised = replace(given, request_tokens=tokens)
    if given.mem_fraction is None and model.omni is not None and not start(gpu, model, given).starts:
        # towers shrink SGLang's share; where it is below the weights, the share of text may do
        raised = replace(advised, mem_fraction=mem_fraction_without_towers(gpu, given))
        advised = raised if start(gpu, model, raised).starts else advised
    bounded = replace(advised, max_running_requests=concurrency)
    if start(gpu, model, bounded).at_once(tokens) >= concurrency:
        advised = bounded
    advised = _with_graphs(gpu, model, advised, tokens, concurrency)
    if advised.max_running_requests is not None and start(gpu, model, advised).at_once(tokens) < concurrency:
        # the graphs took what the last requests would have had
        advised = replace(advised, max_running_requests=None)
    return advised


def _with_graphs(gpu: Gpu, model: Model, advised: Flags, tokens: int, concurrency: int) -> Flags:
    """With a CUDA graph for each batch that will run, where SGLang's own end below it; they take memory themselves."""

    def running(largest: int) -> int:
        return min(start(gpu, model, replace(advised, graphs_to=largest)).at_once(tokens), concurrency)

    usual = of_class(gpu.total_mib, advised.tp_size)[1]
    largest = min(start(gpu, model, advised).at_once(tokens), concurrency)
    if advised.graphs_to is not None or largest <= usual:
        return advised
    # as far down as graphs still reach what runs beside them
    while largest > usual and running(largest - 1) <= largest - 1:
        largest -= 1
    return replace(advised, graphs_to=largest)


def choices(gpu: Gpu, model: Model, given: Flags, plain: Server, advised: Server) -> list[Choice]:
    """The flags of the advised server, each with its reason. given: what the user fixed of them."""
    found, made = [], advised.flags
    if model.revision is not None:
        found.append(Choice("--revision", model.revision, "as given"))
    if made.request_tokens is not None:
        why = f"states and KV pages share memory for this length; {advised.slots_each} slots a request"
        found.append(Choice(REQUEST_TOKENS, str(made.request_tokens), why))
    if made.tp_size > 1:
        found.append(Choice("--tp", str(made.tp_size), "one rank on each GPU"))
    if made.context != model.decoder.max_positions:
        found.append(Choice("--context-length", str(made.context), "no longer request is let in"))
    if made.max_running_requests is not None:
        why = "no more will come: other slots keep cached prefixes"
        found.append(Choice("--max-running-requests", str(made.max_running_requests), why))
    if made.graphs_to is not None:
        usual = of_class(gpu.total_mib, made.tp_size)[1]
        why = f"CUDA graphs end at {usual} here, and a batch beyond them is slow"
        found.append(Choice("--cuda-graph-max-bs-decode", str(made.graphs_to), why))
    if made.mem_fraction is not None:
        why = "as given" if given.mem_fraction is not None else f"SGLang's own, {plain.mem_fraction:.3f}, has no room"
        found.append(Choice("--mem-fraction-static", f"{made.mem_fraction:g}", why))
    for name, value in (("--kv-cache-dtype", made.kv_dtype), ("--mamba-ssm-dtype", made.ssm_dtype)):
        if value is not None:
            found.append(Choice(name, value, "as given"))
    return found + [Choice(one.flag, one.value, one.why) for one in offers.flags(gpu, model, made.tp_size)]


# ---- where nothing starts


def ways_out(gpu: Gpu, model: Model, given: Flags, tokens: int) -> list[str]:
    """Shares of memory, counts of this GPU and published formats with which a server starts."""
    ways = []
    share = least_mem_fraction(gpu, model, given, tokens)
    # more than SGLang would ever take leaves too little for activations
    if share is not None and share <= mem_fraction_without_towers(gpu, given):
        own = "leave it out, or " if _starts(gpu, model, replace(given, mem_fraction=None)) else ""
        ways.append(f"{own}give --mem-fraction-static {share:g} or more")
    for count in (count for count in _dividing(model) if count > given.tp_size):
        if _starts(gpu, model, replace(given, tp_size=count)):
            ways.append(f"it would on {count} of them (--count {count})")
            break
    kin = [name for name, (omni, _) in PUBLISHED.items() if omni == (model.omni is not None)]
    smaller = [other for other in map(of_published, kin) if other.file_bytes < model.file_bytes]
    fitting = [other.name for other in smaller if _starts(gpu, other, given)]
    return ways + ([f"on this one starts {' or '.join(fitting)}"] if fitting else [])


def _starts(gpu: Gpu, model: Model, flags_: Flags) -> bool:
    """Whether it is offered there, and has room."""
    if offers.refusal_of_format(gpu, model, flags_.tp_size) or offers.refusal_of_published(gpu, model, flags_.tp_size):
        return False
    return start(gpu, model, flags_).starts
